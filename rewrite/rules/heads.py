"""split_heads: W_O concat(z_1..z_H) + b = sum_h W_O[:, h] z_h + b, and split_ports.

An attention layer is one value with three readings.  `Attention` knows the products in which
its heads meet and the section from there to what it writes; `body` copies the layer for any
subset of its heads, with the norm and the projections in front of q, k and v duplicated as far
as the readings are to differ.

Where heads do not enter such products each by features of its own (a norm over all heads
stands in between, or experts that project), what they write is concat(z_1..z_H) itself, the
sum of the z_h at their places and zeros elsewhere; what follows is a part of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx

from rewrite.ir.flow import Flow, args, shape
from rewrite.ir.ops import as_ranges, spread
from rewrite.rules.offset import offset, varies
from rewrite.rules.picks import Every, Pick
from rewrite.rules.products import contraction
from rewrite.rules.slicer import Body, Share, Slicer

aten = torch.ops.aten


@dataclass(frozen=True)
class HeadAxis:
    """An axis of the result that may hold the heads; `folded` if the batch is in it too.

    `groups` are the indices of the axis that make up each head: mostly one, two where a head
    is the difference of two patterns, none for a head that another core computes.  Without an
    `axis` the whole result belongs to one head.
    """

    axis: int | None
    groups: tuple[tuple[int, ...], ...]
    folded: bool = False

    @property
    def heads(self) -> int:
        """How many heads the axis holds."""
        return len(self.groups)

    def covered(self, picks: Iterable[Pick]) -> tuple[int, ...] | None:
        """The indices of the axis that some picks on the result have together.

        None if they pick on another axis too, or by another period.
        """
        size, found = sum(map(len, self.groups)), set[int]()
        for pick in picks:
            indices = pick.get(self.axis, tuple(range(size)))  # type: ignore[arg-type]
            if set(pick) - {self.axis} or isinstance(indices, Every) > self.folded:
                return None
            if isinstance(indices, Every) and indices.period != size:
                return None
            found.update(indices.rest if isinstance(indices, Every) else indices)
        return tuple(sorted(found))

    def holds(self, picks: Iterable[Pick], heads: Iterable[int]) -> bool:
        """Whether some picks on the result are these heads together and nothing else."""
        return self.covered(picks) == tuple(sorted(i for h in heads for i in self.groups[h]))


@dataclass(frozen=True)
class Core:
    """One attention: its result, its pattern, and the operand positions that are q, k and v.

    The pattern `[..., rows, columns]` is a node that has its shape: the softmax, or the fused
    attention itself; None where keys and values are summed up before a query meets them.
    `ports[(node, i)]` is the port by which operand `i` of `node` enters.  `axes` are the
    axes of the result that may be its heads: which one is, the output projection tells.
    """

    result: fx.Node
    pattern: fx.Node | None
    ports: dict[tuple[fx.Node, int], str]
    axes: tuple[HeadAxis, ...]


@dataclass(frozen=True)
class Entry:
    """A product in which heads meet, and which of the features that it sums over are whose."""

    node: fx.Node
    features: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Attention:
    """An attention layer: cores, the products in which heads meet, the section after them.

    `cores` are the attentions whose heads the layer joins, each with the axis of its result
    that holds them (mostly one; two where a head takes the difference of two patterns).
    `section` leads from the entries (included) to the value that the layer writes.  If the
    heads are `side_by_side`, there is neither: they stand on that axis of `joined`, with
    `features` whose are whose.  `beside` are the ports of further places at which the layer
    reads queries, keys and values (`rewrite.rules.head_uses`).
    """

    cores: tuple[tuple[Core, HeadAxis], ...]
    entries: tuple[Entry, ...] = ()
    section: tuple[fx.Node, ...] = ()
    joined: fx.Node | None = None
    side_by_side: int | None = None
    features: tuple[tuple[int, ...], ...] = ()
    beside: Mapping[tuple[fx.Node, int], str] = field(default_factory=dict)

    @property
    def heads(self) -> int:
        """How many heads the layer has."""
        return self.cores[0][1].heads

    @property
    def ports(self) -> dict[tuple[fx.Node, int], str]:
        """The operand positions that are q, k and v, of all cores and beside them."""
        known = {place: port for core, _ in self.cores for place, port in core.ports.items()}
        return known | dict(self.beside)

    @property
    def results(self) -> tuple[fx.Node, ...]:
        """What the cores compute."""
        return tuple(core.result for core, _ in self.cores)

    @property
    def output(self) -> fx.Node:
        """The value that the heads add up to."""
        return self.joined or self.section[-1]

    def has_offset(self, flow: Flow) -> bool:
        """Whether the layer adds something beside its heads (a bias)."""
        axes: dict[fx.Node, Any] = {}
        for node in self.section:
            axes[node] = varies(flow, node, axes)
        return bool(self.section) and axes[self.output] is not None


def body(
    owner: torch.nn.Module,
    flow: Flow,
    leaves: Iterable[fx.Node],
    layer: Attention,
    slots: Sequence[tuple[str, fx.Node]],
    heads: tuple[int, ...] | None,
    alike: dict[str, str],
) -> tuple[Body, str]:
    """The layer for `heads` (None: all, with the bias), and why it could not be split, or "".

    `alike` maps each port to the name under which it reads.
    """
    slicer = slicer_of(owner, flow, leaves, layer, slots, heads, alike)
    result = slicer.emit(layer.output)
    reason = ""
    if heads is not None and any(
        not axis.holds(slicer.passed.get(core.result, ()), heads) for core, axis in layer.cores
    ):
        stops = ", ".join(slicer.stuck) or "the order of its features"
        reason = f"the slice of heads {list(heads)} stops at {stops}"
    return slicer.finish(result), reason


def last_row(
    owner: torch.nn.Module,
    flow: Flow,
    leaves: Iterable[fx.Node],
    layer: Attention,
    slots: Sequence[tuple[str, fx.Node]],
    heads: tuple[int, ...] | None,
    alike: dict[str, str],
) -> Body | None:
    """What `body` writes at the last position, given only the last row of what q reads.

    None if the query cannot be restricted to one position.
    """
    if layer.side_by_side == 1:  # positions stand elsewhere
        return None
    slicer = slicer_of(owner, flow, leaves, layer, slots, heads, alike, {1: (-1,)})
    result = slicer.emit(layer.output, {1: (-1,)})
    return None if slicer.reads_whole or slicer.stuck else slicer.finish(result)


def slicer_of(
    owner: torch.nn.Module,
    flow: Flow,
    leaves: Iterable[fx.Node],
    layer: Attention,
    slots: Sequence[tuple[str, fx.Node]],
    heads: tuple[int, ...] | None,
    alike: dict[str, str],
    rows: Pick | None = None,
) -> Slicer:
    """What copies the layer for `heads`; with `rows`, q and what is beside it hold those only."""
    slicer = Slicer(owner, flow, set(leaves) - {layer.output}, layer.ports, alike, rows)
    slicer.open_slots(slots)
    if heads is not None and layer.joined is not None:
        slicer.special[layer.joined] = lambda pick: _placed(slicer, layer, heads, pick)
    elif heads is not None:
        _restrict(slicer, layer, heads)
    return slicer


def bias_body(owner: torch.nn.Module, flow: Flow, layer: Attention) -> Body | None:
    """What the layer adds beside its heads: the projection's bias, behind the section."""
    return offset(owner, flow, layer.section) if layer.section else None


def _restrict(slicer: Slicer, layer: Attention, heads: tuple[int, ...]) -> None:
    """Let the section run on the features of some heads, without what it adds by itself."""
    zero: set[fx.Node] = set()
    known = set(layer.section)
    own = {entry.node: entry for entry in layer.entries}
    for node in layer.section:
        found = contraction(slicer.flow, node)
        if node in own:
            features = tuple(i for head in heads for i in own[node].features[head])
            zero |= set() if features else {node}
            assert found is not None
            picks = {found.data: {found.axis: features}}
            if found.weight is not None:
                picks[found.weight[0]] = {found.weight[1]: features}
            slicer.shares[node] = Share(picks, found.bias)
            continue
        carried = [operand for operand in node.all_input_nodes if operand in known]
        if zero.issuperset(carried):
            zero.add(node)
        elif found is not None:
            slicer.shares[node] = Share({}, found.bias)
        elif node.target in (aten.add.Tensor, aten.sub.Tensor):
            kept = [operand for operand in carried if operand not in zero]
            if len(kept) == 1 and len(set(args(node)[:2])) == 2:
                slicer.instead[node] = kept[0]


def _placed(
    slicer: Slicer, layer: Attention, heads: tuple[int, ...], pick: Pick
) -> fx.Node:
    """Heads at their places in the value in which they stand side by side, zeros elsewhere."""
    node, along = layer.joined, layer.side_by_side
    assert node is not None and along is not None
    del slicer.special[node]  # it is itself what is sliced
    features = tuple(sorted(i for head in heads for i in layer.features[head]))
    picked = slicer.emit(node, {**pick, along: features})
    return slicer.graph.call_function(
        spread, (picked, along, as_ranges(features), shape(node)[along]))
