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
from rewrite.rules.push_down_slice import Body, Slicer
from rewrite.rules.slicing import Pick

aten = torch.ops.aten

VIEWS = {
    aten.view.default, aten.reshape.default, aten._unsafe_view.default, aten.contiguous.default,
    aten.clone.default,
}
SCALINGS = {aten.mul.Tensor, aten.div.Tensor, aten.neg.default, aten.mul.Scalar, aten.div.Scalar,
            aten.to.dtype, aten.to.dtype_layout, aten.to.device}


@dataclass(frozen=True)
class Attention:
    """An attention layer: core, output projection, and the linear steps after it.

    `tail` leads from the projection (excluded) to the value that the layer writes.
    """

    result: fx.Node
    ports: dict[tuple[fx.Node, int], str]
    heads: int
    projection: fx.Node
    tail: tuple[fx.Node, ...] = field(default=())

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
    if heads is not None and slicer.passed.get(layer.result) != _expected(layer, heads):
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


def find_layer(
    flow: Flow, result: fx.Node, ports: dict[tuple[fx.Node, int], str], heads: int
) -> tuple[Attention | None, str]:
    """The layer around an attention core, or the reason why it has no heads to split."""
    reached = _first_products(flow, result)
    if len(reached) != 1:
        found = ", ".join(node.name for node in reached) or "none"
        return None, f"{result.name} should lead to one output projection, it leads to {found}"
    projection = reached[0]
    data = args(projection)[CONTRACTIONS[projection.target][0]]
    if not isinstance(shape(data)[-1], int) or shape(data)[-1] % heads:
        return None, f"{projection.name} has {shape(data)[-1]} inputs for {heads} heads"
    return Attention(result, ports, heads, projection, _linear_tail(flow, projection)), ""


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


def _expected(layer: Attention, heads: tuple[int, ...]) -> dict[int, tuple[int, ...]]:
    return {} if heads == tuple(range(layer.heads)) else {1: heads}


def _is_tensor(node: fx.Node) -> bool:
    return isinstance(node.meta.get("val"), Tensor)
