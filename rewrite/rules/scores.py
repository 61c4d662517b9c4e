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
    aten.tril.default, aten.triu.default,
}
# They normalise an axis, or reduce it to what each row is normalised by.
NORMALISERS = {aten.softmax.int, aten._softmax.default, aten._safe_softmax.default,
               aten.log_softmax.int}
REDUCTIONS = {
    aten.sum.dim_IntList, aten.mean.dim, aten.amax.default, aten.max.dim, aten.logsumexp.default,
    aten.linalg_vector_norm.default,
}
Ports = dict[tuple[fx.Node, int], str]


def readings(flow: Flow, scores: fx.Node) -> Ports | None:
    """Ports of the operands behind `scores`: "q" or "k"; None if no product is found."""
    found = Scores(flow, scores)
    return found.ports if found.products and found.mixed is None else None


class Scores:
    """What is found behind scores, or what is made of them, whose columns are on one axis.

    `ports` are the operands of products by port, `products` the products of two flowing values
    with the place of the columns among their axes, `mixed` a product with a weight that scores
    enter: it mixes those of several heads.
    """

    def __init__(self, flow: Flow, scores: fx.Node, axis: int = -1) -> None:
        self.flow, self.ports, self.mixed = flow, Ports(), None
        self.products: list[tuple[fx.Node, int | None]] = []
        self._follow(scores, axis % len(shape(scores)))

    def _follow(self, scores: fx.Node, start: int) -> None:
        flow = self.flow
        stack: list[tuple[fx.Node, int | None]] = [(scores, start)]
        seen: set[fx.Node] = set()
        while stack:
            node, axis = stack.pop()
            if node in seen or not flow.flows(node):
                continue
            seen.add(node)
            if node.target in PRODUCTS:
                if self._product(node, axis):
                    self.products.append((node, axis))
                addend = args(node)[0]
                if node.target is aten.baddbmm.default:
                    stack.append((addend, _aligned_axis(node, addend, axis)))
                continue
            if not _moves(node):  # made by something else than products
                if flow.contracts(node) and any(_meets(flow, o) for o in node.all_input_nodes):
                    self.mixed = node
                continue
            for position, operand in _operands(flow, node):
                if isinstance(operand.meta.get("val"), Tensor) and not is_float(operand):
                    continue  # a mask
                before = _before(node, operand, axis)
                computed = flow.contracts(operand) and operand.target not in PRODUCTS
                by_row = _is_row(node, operand, axis)
                if computed and any(_meets(flow, each) for each in operand.all_input_nodes):
                    self.mixed = operand
                elif by_row and (reduced := _reduced(flow, operand)):
                    stack += reduced
                elif computed or by_row:
                    by_row = by_row or before in (None, len(shape(operand)) - 1)
                    if args(node)[position] is operand:  # a bias that each row or column computes
                        self.ports[node, position] = "q" if by_row else "k"
                else:
                    stack.append((operand, before))

    def _product(self, node: fx.Node, axis: int | None) -> bool:
        """Fill the ports of a product; returns whether it makes scores."""
        flow, (left, right) = self.flow, PRODUCTS[node.target]
        last = len(shape(node)) - 1
        keys = left if axis == last - 1 else right
        flowing = [i for i in (left, right) if flow.flows(args(node)[i])]
        if len(flowing) == 2:
            self.ports[node, keys] = "k"
            self.ports[node, left + right - keys] = "q"
            return True
        if any(_meets(flow, args(node)[i]) for i in flowing):
            self.mixed = node
        for position in flowing:  # with learned queries, or with relative positions
            self.ports[node, position] = (
                "k" if axis is not None and position == keys else "q")
        return axis is not None and flowing == [keys]


def _meets(flow: Flow, node: fx.Node) -> bool:
    """Whether values are scores, or made of scores: a product of two flowing ones is behind."""
    seen, stack = set(), [node]
    while stack:
        node = stack.pop()
        if node in seen or not flow.flows(node):
            continue
        seen.add(node)
        if node.target in PRODUCTS and all(flow.flows(args(node)[i]) for i in PRODUCTS[
                node.target]) and not flow.contracts(node):
            return True
        if _moves(node) or node.target in REDUCTIONS:
            stack += [operand for _, operand in _operands(flow, node) if is_float(operand)]
    return False


def _reduced(flow: Flow, node: fx.Node) -> list[tuple[fx.Node, int | None]]:
    """Scores that were reduced to one number for each row, and the axis that was."""
    found: list[tuple[fx.Node, int | None]] = []
    seen, stack = set(), [node]
    while stack:
        node = stack.pop()
        if node in seen or not flow.flows(node):
            continue
        seen.add(node)
        if node.target in REDUCTIONS:
            dims = args(node)[2 if node.target is aten.linalg_vector_norm.default else 1:][:1]
            axes = [dims[0]] if dims and isinstance(dims[0], int) else list((dims or ([],))[0])
            operand = args(node)[0]
            if len(axes) == 1 and _meets(flow, operand):
                found.append((operand, axes[0] % len(shape(operand))))
        elif _moves(node):
            stack += [operand for _, operand in _operands(flow, node)]
    return found


def _moves(node: fx.Node) -> bool:
    """Whether a node scales, shifts, masks or moves scores, or adds them up."""
    known = VIEWS | SWAPS | STILL | SQUEEZES | NORMALISERS | {
        aten.index.Tensor, operator.getitem}
    return _pointwise(node) or node.target in known


def _pointwise(node: fx.Node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and (
        torch.Tag.pointwise in node.target.tags)


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
    spreads = _pointwise(node) or node.target is aten.expand.default
    return spreads and (before is None or shape(operand)[before] == 1 != shape(node)[axis])


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
    if _pointwise(node) or node.target in STILL | NORMALISERS:
        return _aligned_axis(node, operand, axis)
    return None
