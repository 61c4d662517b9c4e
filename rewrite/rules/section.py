"""The way from the heads to the stream, as far as it is a linear map of each token's features.

A section starts at the products in which the heads of a layer meet (W_O, or W and A where
there is a LoRA on it) and ends at the value that the layer writes.  All between is linear:
views, transposes, windows put back, casts, scales, further products, sums of branches.  So the
layer is a sum over heads, each of which runs the section on its own features, and of what the
section adds by itself (`rewrite.rules.offset`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, fx

from rewrite.ir.flow import Flow, args, shape
from rewrite.rules.offset import ALIKE, SCALES, SHAPES, SWAPS, UNEVEN, Axes, varies
from rewrite.rules.products import contraction
from rewrite.rules.slicer import Slicer

aten = torch.ops.aten
MOVES = {  # each entry of the result is one of the first operand
    *ALIKE, *SHAPES, *SWAPS, aten.slice.Tensor, aten.flip.default, aten.roll.default,
    aten.index.Tensor, aten.index_select.default, aten.gather.default, aten.repeat.default,
}
FILLS = {  # or what stands at this position of the arguments, if it is zero
    aten.constant_pad_nd.default: 2, aten.pad.default: 3, aten.masked_fill.Scalar: 2,
}
PLACED = {  # where entries are put into zeros
    aten.index_put.default: 2, aten.index_copy.default: 3, aten.index_add.default: 3,
    aten.scatter.src: 3, aten.scatter_add.default: 3, aten.slice_scatter.default: 1,
}


def section_of(
    flow: Flow, entries: Sequence[fx.Node], sums: Collection[fx.Node]
) -> tuple[fx.Node, ...]:
    """The nodes of the section that starts at some products, the one that ends it last.

    What follows a further product is in it only if the stream adds that up: an unembedding
    is no part of the heads.  Empty if what the products give does not come together.
    """
    adds: dict[fx.Node, Axes] = {}
    level: dict[fx.Node, int] = {}  # how many further products stand before a node
    ends: list[fx.Node] = []
    places = [flow.order[entry] for entry in entries]
    furthest = min(places)
    for node in list(flow.graph.nodes)[min(places):]:
        if node not in entries:
            if not flow.flows(node) or level.keys().isdisjoint(node.all_input_nodes):
                continue
            if any("part" in o.meta for o in node.all_input_nodes if o in level):
                break  # surgery has made what it reads a part by itself
            if not _is_linear(flow, node, level, sums, entries):
                break
        adds[node] = varies(flow, node, adds)
        if adds[node] is UNEVEN:
            break
        before = [level[o] for o in node.all_input_nodes if o in level]
        further = bool(before) and contraction(flow, node) is not None
        level[node] = max(before, default=0) + further
        if furthest <= flow.order[node] >= max(places):
            ends.append(node)
        read = (user for user in node.users if flow.flows(user) or user.op == "output")
        furthest = max([furthest, *map(_order_in(flow), read)])
    ends = [node for node in ends if not level[node] or any(u in sums for u in node.users)]
    if not ends:
        return ()
    behind = flow.cone(ends[-1], set(entries)) | {*entries}
    return tuple(node for node in level if node in behind)


def _order_in(flow: Flow) -> Any:
    return flow.order.__getitem__


def _is_linear(
    flow: Flow, node: fx.Node, carriers: Collection[fx.Node], sums: Collection[fx.Node],
    entries: Sequence[fx.Node],
) -> bool:
    """Whether a node is linear in carriers, for each token, up to what it adds by itself."""
    given, target = args(node), cast(Any, node.target)
    if not isinstance(node.meta.get("val"), Tensor):
        return False
    if node.target in (aten.add.Tensor, aten.sub.Tensor):
        return _adds(flow, node, carriers, sums, entries)
    others = [o for o in node.all_input_nodes if o not in carriers]
    fixed = node.target is aten.type_as.default or not any(map(flow.flows, others))
    if node in sums or not fixed or _times(given, carriers) != 1:
        return False
    first = given[0] in carriers
    if node.target in SCALES:
        return first or node.target is aten.mul.Tensor
    if node.target in FILLS:
        at = FILLS[target]
        constant = node.target is not aten.pad.default or given[2:3] in ((), ("constant",))
        return first and constant and (given[at:at + 1] or (0,))[0] in (0, None)
    if node.target in PLACED:
        return given[PLACED[target]] in carriers and "zeros" in str(given[0].target)
    if node.target in MOVES:
        return first
    found = contraction(flow, node)
    return found is not None and found.weight is not None and given[found.data] in carriers and (
        _holds_features(flow, given[found.data], found.axis, entries))


def _adds(
    flow: Flow, node: fx.Node, carriers: Collection[fx.Node], sums: Collection[fx.Node],
    entries: Sequence[fx.Node],
) -> bool:
    """Whether a node adds up two branches of a section, or adds a constant to one."""
    left, right = args(node)[:2]
    if node.kwargs or len(args(node)) > 2:
        return False
    if left in carriers and right in carriers:
        return node.target is aten.add.Tensor and shape(left) == shape(right)
    carrier, other = (left, right) if left in carriers else (right, left)
    if node in sums or (carrier is right and node.target is aten.sub.Tensor):
        return False
    if not isinstance(other, fx.Node):
        return other == 0  # where a sum starts
    missing = len(shape(node)) - len(shape(other))
    return flow.from_weights(other) and shape(carrier) == shape(node) and all(
        size == 1 or _holds_features(flow, carrier, axis + missing, entries)
        for axis, size in enumerate(shape(other)))


def _times(given: Iterable[Any], carriers: Collection[fx.Node]) -> int:
    found: list[fx.Node] = []
    fx.map_arg(tuple(given), lambda o: found.append(o) if o in carriers else None)
    return len(found)


def _holds_features(flow: Flow, node: fx.Node, axis: int, entries: Iterable[fx.Node]) -> bool:
    """Whether an index of an axis is a feature, and no token, of what the section starts from."""
    if not isinstance(shape(node)[axis], int):
        return False
    slicer = Slicer(None, flow, entries)
    slicer.emit(node, {axis: (0,)})
    made = {entry: (found.made if (found := contraction(flow, entry)) else -1) % len(shape(entry))
            for entry in entries}
    return not slicer.stuck and all(set(pick) <= {made[entry]} for entry, picks
                                    in slicer.read.items() if entry in made for pick in picks)
