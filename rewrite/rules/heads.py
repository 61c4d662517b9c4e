"""split_heads: W_O concat(z_1..z_H) + b = sum_h W_O[:, h] z_h + b, and split_ports.

An attention layer is one value with three readings.  `Attention` knows where its output
projection is; `body` copies the layer for any subset of its heads, with the norm and the
projections in front of q, k and v duplicated as far as the readings are to differ.

Where heads do not enter one projection each by features of its own (a norm over all heads
stands in between, or experts that project), what they write is concat(z_1..z_H) itself, the
sum of the z_h at their places and zeros elsewhere; what follows is a part of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx

from rewrite.ir.flow import CONTRACTIONS, Flow, args, shape
from rewrite.ir.ops import as_ranges, spread
from rewrite.rules.picks import Every, Pick
from rewrite.rules.slicer import Body, Slicer

aten = torch.ops.aten

VIEWS = {
    aten.view.default, aten.reshape.default, aten._unsafe_view.default, aten.contiguous.default,
    aten.clone.default,
}


@dataclass(frozen=True)
class HeadAxis:
    """An axis of the result that may hold the heads; `folded` if the batch is in it too.

    `groups` are the indices of the axis that make up each head: mostly one, two where a head
    is the difference of two patterns.
    """

    axis: int
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
            indices = pick.get(self.axis, tuple(range(size)))
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
    """One attention: its result, its softmax, and the operand positions that are q, k and v.

    `ports[(node, i)]` is the port by which operand `i` of `node` enters.  `axes` are the
    axes of the result that may be its heads: which one is, the output projection tells.
    """

    result: fx.Node
    softmax: fx.Node
    ports: dict[tuple[fx.Node, int], str]
    axes: tuple[HeadAxis, ...]


@dataclass(frozen=True)
class Attention:
    """An attention layer: cores, output projection, and the linear steps after it.

    `cores` are the attentions whose heads the projection joins, each with the axis of its
    result that holds them (mostly one; two where a head takes the difference of two patterns).
    `tail` leads from the projection (excluded) to the value that the layer writes.  If the
    heads are `side_by_side`, `projection` is the value in which they stand on that axis.
    """

    cores: tuple[tuple[Core, HeadAxis], ...]
    projection: fx.Node
    tail: tuple[fx.Node, ...] = field(default=())
    side_by_side: int | None = None

    @property
    def heads(self) -> int:
        """How many heads the layer has."""
        return self.cores[0][1].heads

    @property
    def ports(self) -> dict[tuple[fx.Node, int], str]:
        """The operand positions that are q, k and v, of all cores."""
        return {place: port for core, _ in self.cores for place, port in core.ports.items()}

    @property
    def results(self) -> tuple[fx.Node, ...]:
        """What the cores compute."""
        return tuple(core.result for core, _ in self.cores)

    @property
    def output(self) -> fx.Node:
        """The value that the heads add up to."""
        return self.tail[-1] if self.tail else self.projection

    @property
    def joined(self) -> fx.Node:
        """The value that holds the features of all heads."""
        return self.projection if self.side_by_side is not None else data_of(self.projection)

    @property
    def along(self) -> int:
        """The axis of `joined` on which they stand."""
        last = len(shape(self.joined)) - 1
        return last if self.side_by_side is None else self.side_by_side

    @property
    def bias(self) -> fx.Node | None:
        """The projection's bias."""
        if self.side_by_side is not None:
            return None
        position = CONTRACTIONS[self.projection.target][2]
        if position is None or len(args(self.projection)) <= position:
            return None
        return args(self.projection)[position]

    def features(self, heads: Iterable[int]) -> tuple[int, ...]:
        """Places on the axis `along` of `joined` that belong to `heads`."""
        width = shape(self.joined)[self.along] // self.heads
        return tuple(i for head in heads for i in range(head * width, (head + 1) * width))


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
    if heads is not None:
        slicer.special[layer.projection] = lambda pick: _partial(slicer, layer, heads, pick)
    return slicer


def bias_body(owner: torch.nn.Module, flow: Flow, layer: Attention) -> Body | None:
    """What the layer adds beside its heads: the projection's bias, behind the linear tail."""
    if layer.bias is None:
        return None
    slicer = Slicer(owner, flow, ())
    value, before = slicer.emit(layer.bias), layer.projection
    for node in layer.tail:
        if node.target not in VIEWS:
            target: Any = node.target
            value = slicer.graph.call_function(
                target,
                tuple(value if arg is before else fx.map_arg(arg, slicer.emit)
                      for arg in args(node)),
                fx.map_arg(dict(node.kwargs), slicer.emit),
            )
        before = node
    return slicer.finish(value)


def _partial(
    slicer: Slicer, layer: Attention, heads: tuple[int, ...], pick: Pick
) -> fx.Node:
    """W_O[:, heads] concat(z_h for h in heads), without the bias."""
    node = layer.projection
    features = layer.features(heads)
    if layer.side_by_side is not None:
        del slicer.special[node]  # it is itself what is sliced
    picked = slicer.emit(layer.joined, {**pick, layer.along: features})
    if layer.side_by_side is not None:
        return slicer.graph.call_function(
            spread, (picked, layer.along, as_ranges(features), shape(node)[layer.along]))
    _, weight, _ = CONTRACTIONS[node.target]
    axis = 1 if node.target is aten.linear.default else len(shape(args(node)[weight])) - 2
    weights = slicer.emit(args(node)[weight], {axis: features})
    slicer.count(args(node)[weight], {axis: features})
    target: Any = aten.mm.default if node.target is aten.addmm.default else node.target
    return slicer.graph.call_function(target, (picked, weights))


def data_of(projection: fx.Node) -> fx.Node:
    """What a product with a weight multiplies with it."""
    return args(projection)[CONTRACTIONS[projection.target][0]]
