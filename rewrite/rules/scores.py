"""Where attention scores come from: which products deliver the rows (q) and the columns (k).

Scores are a product of queries and keys, or a sum of several (content with content, content
with relative position), scaled, masked, shifted.  From the softmax back, the axis that it
normalises is followed through each operator: the operand of a product that supplies this
axis is read as keys, the other one as queries.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor, fx

from rewrite.ir.flow import Flow, args, is_float, shape
from rewrite.rules.picks import aligned

aten = torch.ops.aten
PRODUCTS: dict[Any, tuple[int, int]] = {
    aten.matmul.default: (0, 1), aten.bmm.default: (0, 1), aten.mm.default: (0, 1),
    aten.baddbmm.default: (1, 2),
}
VIEWS = {aten.view.default, aten.reshape.default, aten._unsafe_view.default}
SWAPS = {aten.transpose.int, aten.permute.default, aten.t.default}
SQUEEZES = {aten.squeeze.dim, aten.squeeze.dims, aten.unsqueeze.default}
# They move entries within axes or join axes of equal rank: the axis stays where it is.
STILL = {
    aten.cat.default, aten.slice.Tensor, aten.gather.default, aten.index_select.default,
    aten.contiguous.default, aten.clone.default, aten.dropout.default, aten.to.dtype,
    aten.to.dtype_layout, aten._to_copy.default, aten.masked_fill.Tensor, aten.masked_fill.Scalar,
    aten.where.self, aten.where.ScalarOther, aten.where.ScalarSelf, aten.where.Scalar,
    aten.type_as.default, aten.to.device, aten.pad.default, aten.slice_scatter.default,
    aten.scatter.value, aten.scatter.src, aten.constant_pad_nd.default, aten.expand.default,
}
Ports = dict[tuple[fx.Node, int], str]


def readings(flow: Flow, scores: fx.Node) -> Ports | None:
    """Ports of the operands behind `scores`: "q" or "k"; None if no product is found."""
    ports: Ports = {}
    products = _follow(flow, scores, ports)
    return ports if products else None


def _follow(flow: Flow, scores: fx.Node, ports: Ports) -> int:
    """Fill `ports`; returns how many products of two flowing values were found."""
    stack: list[tuple[fx.Node, int | None]] = [(scores, len(shape(scores)) - 1)]
    seen: set[fx.Node] = set()
    products = 0
    while stack:
        node, axis = stack.pop()
        if node in seen or not flow.flows(node):
            continue
        seen.add(node)
        if node.target in PRODUCTS:
            products += _product(flow, node, axis, ports)
            addend = args(node)[0]
            if node.target is aten.baddbmm.default:
                stack.append((addend, _aligned_axis(node, addend, axis)))
            continue
        if not _moves(node):
            continue  # made by something else than products
        for position, operand in _operands(flow, node):
            if isinstance(operand.meta.get("val"), Tensor) and not is_float(operand):
                continue  # a mask
            before = _before(node, operand, axis)
            computed = flow.contracts(operand) and operand.target not in PRODUCTS
            if computed or _is_row(node, operand, axis):
                by_row = _is_row(node, operand, axis) or before in (None, len(shape(operand)) - 1)
                if args(node)[position] is operand:  # a bias that each row or column computes
                    ports[node, position] = "q" if by_row else "k"
            else:
                stack.append((operand, before))
    return products


def _moves(node: fx.Node) -> bool:
    """Whether a node scales, shifts, masks or moves scores, or adds them up."""
    known = VIEWS | SWAPS | STILL | SQUEEZES | {aten.index.Tensor, operator.getitem}
    return _pointwise(node) or node.target in known


def _pointwise(node: fx.Node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and (
        torch.Tag.pointwise in node.target.tags)


def _product(flow: Flow, node: fx.Node, axis: int | None, ports: Ports) -> int:
    left, right = PRODUCTS[node.target]
    last = len(shape(node)) - 1
    keys = left if axis == last - 1 else right
    flowing = [i for i in (left, right) if flow.flows(args(node)[i])]
    if len(flowing) == 2:
        ports[node, keys] = "k"
        ports[node, left + right - keys] = "q"
        return 1
    for position in flowing:  # with learned queries, or with relative positions
        ports[node, position] = "k" if axis is not None and position == keys else "q"
    return int(axis is not None and flowing == [keys])


def _operands(flow: Flow, node: fx.Node) -> list[tuple[int, fx.Node]]:
    """Flowing operands by position; those inside lists count as their list."""
    found = []
    used = args(node)[:1] if node.target is aten.type_as.default else args(node)
    for position, arg in enumerate(used):
        several = arg if isinstance(arg, (list, tuple)) else [arg]
        found += [(position, a) for a in several if isinstance(a, fx.Node) and flow.flows(a)]
    return found


def _is_row(node: fx.Node, operand: fx.Node, axis: int | None) -> bool:
    """Whether an operand is the same for all columns, and others of the node are not."""
    before = _aligned_axis(node, operand, axis)
    if axis is None or not isinstance(operand.meta.get("val"), Tensor):
        return False
    return _pointwise(node) and (before is None or shape(operand)[before] == 1 != shape(node)[axis])


def _aligned_axis(node: fx.Node, operand: fx.Node, axis: int | None) -> int | None:
    """The axis of an operand that broadcasts to `node`; None if it lacks it."""
    if axis is None or not isinstance(operand.meta.get("val"), Tensor):
        return None
    before = axis - len(shape(node)) + len(shape(operand))
    return before if before >= 0 else None


def _before(node: fx.Node, operand: fx.Node, axis: int | None) -> int | None:
    """Where `axis` of a result lies in an operand; None if that cannot be told."""
    if axis is None:
        return None
    rank = len(shape(node))
    if node.target in SWAPS:
        order = list(range(rank))
        if node.target is aten.permute.default:
            order = [dim % rank for dim in args(node)[1]]
        else:
            a, b = args(node)[1:] if node.target is aten.transpose.int else (0, 1)
            order[a % rank], order[b % rank] = order[b % rank], order[a % rank]
        return order[axis]
    if node.target in VIEWS:
        for old, new in aligned(shape(operand), shape(node)):
            if new == [axis] and len(old) == 1:
                return old[0]
        return None
    if node.target is aten.unsqueeze.default:
        new = args(node)[1] % rank
        return None if axis == new else axis - (axis > new)
    if node.target in SQUEEZES and node.target is not aten.unsqueeze.default:
        before = shape(operand)
        given = [args(node)[1]] if isinstance(args(node)[1], int) else args(node)[1]
        gone = {dim % len(before) for dim in given if before[dim] == 1}
        return [dim for dim in range(len(before)) if dim not in gone][axis]
    if _pointwise(node) or node.target in STILL:
        return _aligned_axis(node, operand, axis)
    return None
