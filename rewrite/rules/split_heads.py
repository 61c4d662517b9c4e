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
from torch import Tensor, fx

from rewrite.ir.flow import CONTRACTIONS, Flow, args, shape
from rewrite.ir.ops import as_ranges, spread
from rewrite.rules.picks import Every, Pick
from rewrite.rules.push_down_slice import Body, Slicer

aten = torch.ops.aten

VIEWS = {
    aten.view.default, aten.reshape.default, aten._unsafe_view.default, aten.contiguous.default,
    aten.clone.default,
}
SCALINGS = {aten.mul.Tensor, aten.div.Tensor, aten.neg.default, aten.mul.Scalar, aten.div.Scalar,
            aten.to.dtype, aten.to.dtype_layout, aten.to.device}


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
    heads are `side_by_side`, `projection` is the value whose last axis holds them instead.
    """

    cores: tuple[tuple[Core, HeadAxis], ...]
    projection: fx.Node
    tail: tuple[fx.Node, ...] = field(default=())
    side_by_side: bool = False

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
        """The value whose last axis holds the features of all heads."""
        return self.projection if self.side_by_side else _data(self.projection)

    @property
    def bias(self) -> fx.Node | None:
        """The projection's bias."""
        if self.side_by_side:
            return None
        position = CONTRACTIONS[self.projection.target][2]
        if position is None or len(args(self.projection)) <= position:
            return None
        return args(self.projection)[position]

    def features(self, heads: Iterable[int]) -> tuple[int, ...]:
        """Features that belong to `heads`, of the value that joins all of them."""
        width = shape(self.joined)[-1] // self.heads
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
    slicer = _slicer(owner, flow, leaves, layer, slots, heads, alike)
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
    slicer = _slicer(owner, flow, leaves, layer, slots, heads, alike, {1: (-1,)})
    result = slicer.emit(layer.output, {1: (-1,)})
    return None if slicer.reads_whole or slicer.stuck else slicer.finish(result)


def _slicer(
    owner: torch.nn.Module,
    flow: Flow,
    leaves: Iterable[fx.Node],
    layer: Attention,
    slots: Sequence[tuple[str, fx.Node]],
    heads: tuple[int, ...] | None,
    alike: dict[str, str],
    rows: Pick | None = None,
) -> Slicer:
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


def find_layers(flow: Flow, cores: Sequence[Core]) -> tuple[list[Attention], list[str]]:
    """The layers around attention cores, and why some have no heads to split."""
    layers, notes = [], []
    joined: dict[fx.Node, list[Core]] = {}
    for core in cores:
        reached = _first_products(flow, core.result)
        if len(reached) == 1:
            joined.setdefault(reached[0], []).append(core)
            continue
        if (layer := _side_by_side(flow, [core])) is not None:
            layers.append(layer)
            continue
        found = ", ".join(node.name for node in reached) or "none"
        notes.append(f"heads not split: {core.result.name} should lead to one output "
                     f"projection, it leads to {found}")
    for projection, members in joined.items():
        if (axes := _head_axes(flow, members, _data(projection))) is not None:
            layers.append(Attention(axes, projection, _linear_tail(flow, projection)))
        elif (layer := _side_by_side(flow, members)) is not None:
            layers.append(layer)
        else:
            names = ", ".join(core.result.name for core in members)
            stops = _stops(flow, members, projection)
            notes.append(f"heads not split: no features of {projection.name} belong to one head "
                         f"of {names}{f'; a slice stops at {stops}' if stops else ''}")
    return layers, notes


def _data(projection: fx.Node) -> fx.Node:
    return args(projection)[CONTRACTIONS[projection.target][0]]


def _side_by_side(flow: Flow, cores: Sequence[Core]) -> Attention | None:
    """A layer whose heads write features of the last value that all their ways pass."""
    for node in reversed(_narrows(flow, [core.result for core in cores])):
        if len(shape(node)) == 3 and (axes := _head_axes(flow, cores, node)) is not None:
            return Attention(axes, node, side_by_side=True)
    return None


def _narrows(flow: Flow, start: Sequence[fx.Node]) -> list[fx.Node]:
    """Values that every way from `start` passes, up to the first product with a weight."""
    behind, furthest, found = set(start), 0, []
    for node in list(flow.graph.nodes)[min(map(flow.order.__getitem__, start)):]:
        if node not in behind and behind.isdisjoint(node.all_input_nodes):
            continue
        if flow.contracts(node) or not _is_tensor(node) or not node.users:
            break
        behind.add(node)
        last = flow.order[node]
        if last >= furthest and last >= max(map(flow.order.__getitem__, start)):
            found.append(node)
        furthest = max(furthest, *map(flow.order.__getitem__, node.users))
    return found


def _head_axes(
    flow: Flow, cores: Sequence[Core], joined: fx.Node
) -> tuple[tuple[Core, HeadAxis], ...] | None:
    """For each core the axis from whose heads equal shares of the features of `joined` come."""
    found = [(core, axis) for core in cores if (axis := _head_axis(flow, core, joined))]
    heads = {axis.heads for _, axis in found}
    return tuple(found) if len(found) == len(cores) and len(heads) == 1 else None


def _head_axis(flow: Flow, core: Core, joined: fx.Node) -> HeadAxis | None:
    """The axis of the result from which equal shares of the features of `joined` come.

    If one index of it is not enough for any share, two of them may be a head.
    """
    width = shape(joined)[-1]
    for each in (1, 2):
        for axis in core.axes:
            if not isinstance(width, int) or axis.heads % each or width % (axis.heads // each):
                continue
            heads = axis.heads // each
            if each == 1:
                asked = {head: _asked(flow, core, joined, head, heads)
                         for head in (0, heads - 1)}
                if all(axis.holds(picks, (head,)) for head, picks in asked.items()):
                    return axis
            elif heads > 1:
                groups = [axis.covered(_asked(flow, core, joined, head, heads))
                          for head in range(heads)]
                if all(g is not None and len(g) == each for g in groups) and (
                        len({i for g in groups for i in g or ()}) == axis.heads):
                    return HeadAxis(axis.axis, tuple(g for g in groups if g), axis.folded)
    return None


def _asked(flow: Flow, core: Core, joined: fx.Node, head: int, heads: int) -> list[Pick]:
    """What one head's share of the features of `joined` reads from a core."""
    size, last = shape(joined)[-1] // heads, len(shape(joined)) - 1
    slicer = Slicer(None, flow, (core.result,))
    slicer.emit(joined, {last: tuple(range(head * size, (head + 1) * size))})
    return slicer.read.get(core.result, [])


def _stops(flow: Flow, cores: Sequence[Core], projection: fx.Node) -> str:
    """The operators between cores and projection that no slice of features passes."""
    data = _data(projection)
    slicer = Slicer(None, flow, [core.result for core in cores])
    if isinstance(shape(data)[-1], int):
        slicer.emit(data, {len(shape(data)) - 1: (0,)})
    whole = [f"{node.name} ({node.target})" for node, picks in slicer.passed.items()
             if {} in picks and shape(node)[-1:] == (1,)]  # it sums over all features
    return ", ".join(dict.fromkeys(slicer.stuck + whole[:1]))


def _first_products(flow: Flow, node: fx.Node) -> list[fx.Node]:
    """The products with a weight that `node` reaches first."""
    found, seen, stack = [], set(), list(node.users)
    while stack:
        user = stack.pop()
        if user in seen or not flow.flows(user):
            continue
        seen.add(user)
        if user.target in CONTRACTIONS and flow.contracts(user):
            found.append(user)
        else:
            stack.extend(user.users)
    return found


def _linear_tail(flow: Flow, projection: fx.Node) -> tuple[fx.Node, ...]:
    """Views and scalings behind the projection: they act on each head's term alone."""
    tail, node = [], projection
    while len(node.users) == 1:
        user = next(iter(node.users))
        others = [o for o in user.all_input_nodes if o is not node and _is_tensor(o)]
        keeps_features = _is_tensor(user) and shape(user)[-1:] == shape(projection)[-1:]
        scales = user.target in SCALINGS and all(
            flow.from_weights(other) and len(shape(other)) <= 1 for other in others)
        if not keeps_features or not (scales or (user.target in VIEWS and not others)):
            break
        tail.append(user)
        node = user
    return tuple(tail)


def _partial(
    slicer: Slicer, layer: Attention, heads: tuple[int, ...], pick: Pick
) -> fx.Node:
    """W_O[:, heads] concat(z_h for h in heads), without the bias."""
    node = layer.projection
    features, last = layer.features(heads), len(shape(layer.joined)) - 1
    picked = slicer.emit(layer.joined, {**pick, last: features})
    if layer.side_by_side:
        return slicer.graph.call_function(
            spread, (picked, last, as_ranges(features), shape(node)[last]))
    _, weight, _ = CONTRACTIONS[node.target]
    axis = 1 if node.target is aten.linear.default else len(shape(args(node)[weight])) - 2
    weights = slicer.emit(args(node)[weight], {axis: features})
    slicer.count(args(node)[weight], {axis: features})
    target: Any = aten.mm.default if node.target is aten.addmm.default else node.target
    return slicer.graph.call_function(target, (picked, weights))


def _is_tensor(node: fx.Node) -> bool:
    return isinstance(node.meta.get("val"), Tensor)
