"""split_heads: W_O concat(z_1..z_H) + b = sum_h W_O[:, h] z_h + b, and split_ports.

An attention layer is one value with three readings.  `Attention` knows where its output
projection is; `body` copies the layer for any subset of its heads, with the norm and the
projections in front of q, k and v duplicated as far as the readings are to differ.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx

from rewrite.ir.flow import CONTRACTIONS, Flow, args, shape
from rewrite.rules.picks import Every, Indices, Pick
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
    """An axis of the result that may hold the heads; `folded` if the batch is in it too."""

    axis: int
    heads: int
    folded: bool = False

    def pick(self, heads: tuple[int, ...]) -> dict[int, Indices]:
        """Some heads as a pick on the result."""
        if heads == tuple(range(self.heads)):
            return {}
        return {self.axis: Every(self.heads, heads) if self.folded else heads}


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
    `tail` leads from the projection (excluded) to the value that the layer writes.
    """

    cores: tuple[tuple[Core, HeadAxis], ...]
    projection: fx.Node
    tail: tuple[fx.Node, ...] = field(default=())

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
    def bias(self) -> fx.Node | None:
        """The projection's bias."""
        position = CONTRACTIONS[self.projection.target][2]
        if position is None or len(args(self.projection)) <= position:
            return None
        return args(self.projection)[position]

    def features(self, heads: Iterable[int]) -> tuple[int, ...]:
        """Input features of the output projection that belong to `heads`."""
        data = args(self.projection)[CONTRACTIONS[self.projection.target][0]]
        width = shape(data)[-1] // self.heads
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
        slicer.passed.get(core.result) != axis.pick(heads) for core, axis in layer.cores
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
        else:
            found = ", ".join(node.name for node in reached) or "none"
            notes.append(f"heads not split: {core.result.name} should lead to one output "
                         f"projection, it leads to {found}")
    for projection, members in joined.items():
        found = [(core, axis) for core in members if (axis := _head_axis(flow, core, projection))]
        heads = {axis.heads for _, axis in found}
        if len(found) == len(members) and len(heads) == 1:
            tail = _linear_tail(flow, projection)
            layers.append(Attention(tuple(found), projection, tail))
        else:
            names = ", ".join(core.result.name for core in members)
            stops = _stops(flow, members, projection)
            notes.append(f"heads not split: no features of {projection.name} belong to one head "
                         f"of {names}{f'; a slice stops at {stops}' if stops else ''}")
    return layers, notes


def _head_axis(flow: Flow, core: Core, projection: fx.Node) -> HeadAxis | None:
    """The axis of the result from which equal shares of the projection's inputs come."""
    data = args(projection)[CONTRACTIONS[projection.target][0]]
    width, last = shape(data)[-1], len(shape(data)) - 1
    for axis in core.axes:
        if not isinstance(width, int) or width % axis.heads:
            continue
        size = width // axis.heads
        asked = []
        for head in (0, axis.heads - 1):
            slicer = Slicer(None, flow, (core.result,))
            slicer.emit(data, {last: tuple(range(head * size, (head + 1) * size))})
            asked.append(slicer.read.get(core.result) == [axis.pick((head,))])
        if all(asked):
            return axis
    return None


def _stops(flow: Flow, cores: Sequence[Core], projection: fx.Node) -> str:
    """The operators between cores and projection that no slice of features passes."""
    data = args(projection)[CONTRACTIONS[projection.target][0]]
    slicer = Slicer(None, flow, [core.result for core in cores])
    if isinstance(shape(data)[-1], int):
        slicer.emit(data, {len(shape(data)) - 1: (0,)})
    whole = [f"{node.name} ({node.target})" for node, pick in slicer.passed.items()
             if not pick and shape(node)[-1:] == (1,)]  # it sums over all features
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
    data, weight, _ = CONTRACTIONS[node.target]
    features = layer.features(heads)
    rank = len(shape(args(node)[data]))
    picked = slicer.emit(args(node)[data], {**pick, rank - 1: features})
    axis = 1 if node.target is aten.linear.default else len(shape(args(node)[weight])) - 2
    weights = slicer.emit(args(node)[weight], {axis: features})
    slicer.count(args(node)[weight], {axis: features})
    target: Any = aten.mm.default if node.target is aten.addmm.default else node.target
    return slicer.graph.call_function(target, (picked, weights))


def _is_tensor(node: fx.Node) -> bool:
    return isinstance(node.meta.get("val"), Tensor)
