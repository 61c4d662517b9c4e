"""open_attention: a layer as its keys, its values, and a core that reads both.

Copies of a layer that differ in the query alone share keys and values, and where copies equal
another one before some position, so do their keys and values there.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import sympy
import torch
from torch import fx

from rewrite.ir.flow import Flow, args, shape
from rewrite.rules.heads import Attention, slicer_of
from rewrite.rules.picks import TAIL, Every, Indices, Pick
from rewrite.rules.slicer import Body, Slicer, Slot

APART = {port: port for port in "qkv"}


@dataclass(frozen=True)
class Opening:
    """How keys or values are computed; positions stand on `axis`, the copies' batch is the first.

    `tail` computes them from a position on, None where a slice of positions cannot be pushed
    up; `slot` is the one of the core that reads them.
    """

    slot: Slot
    axis: int
    whole: Body
    tail: Body | None


@dataclass(frozen=True)
class Opened:
    """Some heads of a layer, opened at keys and values: `ports` are those of k and of v."""

    core: Body
    ports: dict[str, Opening]


def open_attention(
    owner: torch.nn.Module,
    flow: Flow,
    leaves: Iterable[fx.Node],
    layer: Attention,
    slots: Sequence[Slot],
    heads: tuple[int, ...] | None,
    rows: Indices | None = None,
) -> Opened | None:
    """The layer for `heads` (None: all, with the bias), whose core computes the given `rows`.

    None if keys or values are not one value each with a batch and positions, or if the core
    reads more of the query than these rows.
    """
    if layer.side_by_side is not None:
        return None
    entries = {port: {args(node)[i] for (node, i), name in layer.ports.items() if name == port}
               for port in "kv"}
    if any(len(found) != 1 for found in entries.values()) or entries["k"] == entries["v"]:
        return None
    if not all(_of(slots, port) for port in "kv"):  # they are the same for all copies
        return None
    asked: dict[str, list[Pick]] = {"k": [], "v": []}
    pick = {} if rows is None else {1: rows}
    slicer = slicer_of(owner, flow, leaves, layer, _of(slots, "", "q"), heads, APART, pick)
    for port, (entry,) in entries.items():
        slicer.special[entry] = _Given(slicer, entry, port, asked[port])
    result = slicer.emit(layer.output, pick)
    own = {(port, entry) for port, (entry,) in entries.items()}
    beside = {slot for slot in slicer.slots if slot[0] in ("k", "v")} - own
    if beside or (pick and (slicer.reads_whole or slicer.stuck)):
        return None
    core, ports = slicer.finish(result), dict[str, Opening]()
    for port, (entry,) in entries.items():
        first, *others = asked[port] or [None]
        if first is None or any(other != first for other in others):
            return None
        made = _opening(owner, flow, leaves, layer, _of(slots, port), entry, first)
        if made is None:
            return None
        ports[port] = made
    return Opened(core, ports)


@dataclass(frozen=True)
class _Given:
    """Keys or values, which the core is given as it asks for them."""

    slicer: Slicer
    entry: fx.Node
    port: str
    asked: list[Pick]

    def __call__(self, pick: Pick) -> fx.Node:
        self.asked.append(pick)
        return self.slicer.slot(self.entry, self.port)


def _opening(
    owner: torch.nn.Module, flow: Flow, leaves: Iterable[fx.Node], layer: Attention,
    slots: Sequence[Slot], entry: fx.Node, pick: Pick,
) -> Opening | None:
    (port, read), *others = slots
    batch, length, *_ = shape(read)
    axes = [axis for axis, size in enumerate(shape(entry)) if size == length]
    alike = all(shape(other)[:2] == (batch, length) for _, other in others)
    free = isinstance(length, sympy.Symbol) and isinstance(batch, sympy.Symbol)
    if not free or not alike or shape(entry)[0] != batch or len(axes) != 1 or axes[0] in pick:
        return None

    def body(rows: Pick, wanted: Pick) -> Body | None:
        slicer = Slicer(
            owner, flow, set(leaves) - {layer.output}, layer.ports, APART, rows, (port,))
        slicer.open_slots(slots)
        made = slicer.emit(entry, wanted, port)
        return None if rows and (slicer.reads_whole or slicer.stuck) else slicer.finish(made)

    tail = Every(length, TAIL)
    whole = body({}, pick)
    assert whole is not None
    return Opening((port, entry), axes[0], whole, body({1: tail}, {**pick, axes[0]: tail}))


def _of(slots: Sequence[Slot], *ports: str) -> list[Slot]:
    return [slot for slot in slots if slot[0] in ports]
