"""One spelling for sums: operators that add on the way, and other names of plain ones.

Fused operators round once where two steps round twice, so results agree to rounding.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx

from rewrite.ir.flow import args, shape
from rewrite.rules.declare import Match, Rule, rule, rule_on
from rewrite.rules.matching import arguments
from rewrite.rules.site import Miss, Site

aten = torch.ops.aten

plain_names = rule(
    "plain_names", "multiply(x, y) = x * y", "divide(x, y) = x / y", "true_divide(x, y) = x / y",
    "negative(x) = -x", "subtract(x, y, a) = sub(x, y, a)",
    examples=("multiply(x, y) | x: b s d, y: b s d", "divide(x, y) | x: b s d, y: d",
              "true_divide(x, 2) | x: b s d", "negative(x) | x: b s d",
              "subtract(x, y, 2) | x: b s d, y: b s d"),
    refuses=("x * y | x: b s d, y: b s d", "x - y | x: b s d, y: b s d"),
)
rsub_as_sub = rule(
    "rsub_as_sub", "rsub(x, y, a) = sub(y, x, a)",
    where=lambda m: m.is_node("x", "y") or Miss("it is subtracted from a number"),
    examples=("rsub(x, y) | x: b s d, y: b s d", "rsub(x, y, 2) | x: b s d, y: b s d"),
    refuses="y - x | x: b s d, y: b s d",
)
fused_sum = rule(
    "fused_sum", "addcmul(x, a, c, v) = add(x, a * c, v)", "addcdiv(x, a, c, v) = add(x, a / c, v)",
    "lerp(x, a, w) = x * (-w + 1) + a * w",
    examples=("addcmul(x, a, c) | x: b s d, a: b s d, c: d",
              "addcdiv(x, a, c, 3) | x: b s d, a: b s d, c: b s d",
              "lerp(x, a, w) | x: b s d, a: b s d, w: d"),
    refuses="x + a * c | x: b s d, a: b s d, c: b s d",
)


def _is_whole(match: Match) -> bool | Miss:
    """The term beside the product has the shape of the sum, and is no bias."""
    node = match.site.node
    whole = match.is_node("x") and match.x.op != "get_attr" and shape(match.x) == shape(node)
    return whole or Miss("what is added to the product is a bias, or broadcasts")


product_and_sum = rule(
    "product_and_sum", "addmm(x, y, W) = x + y @ W", "baddbmm(x, y, W) = x + y @ W",
    where=_is_whole,
    examples=("addmm(gelu(x), y, W) | x: b d, y: b s, W: s d",
              "baddbmm(gelu(x), y, W) | x: b s e, y: b s d, W: b d e"),
    refuses=("addmm(c, y, W) | c: d, y: b s, W: s d",
             "addmm(gelu(x), y, W, 2) | x: b d, y: b s, W: s d"),
)


@rule_on(aten.sum.dim_IntList, name="sum_of_stack",
         equation="sum(stack([x, y, z], d), d) = x + y + z",
         examples=("sum(stack([x, y, z], 1), [1]) | x: b s, y: b s, z: b s",
                   "sum(cat([unsqueeze(x, 0), unsqueeze(y, 0)], 0), [0]) | x: b s, y: b s"),
         refuses=("sum(stack([x, y], 0), [1]) | x: b s, y: b s",
                  "sum(cat([x, y], 0), [0]) | x: b s, y: b s"))
def sum_of_stack(site: Site) -> fx.Node | Miss | None:
    """Values that are laid side by side only to be added."""
    stacked, axes, keep, dtype = arguments(site.node)
    if keep or dtype is not None or axes is None or len(axes) != 1:
        return Miss("it keeps the axis, or sums over others too")
    terms = _side_by_side(stacked, axes[0] % len(shape(stacked)))
    if terms is None:
        return Miss("its operand is no stack along that axis")
    if any(shape(term) != shape(site.node) for term in terms):
        return Miss("the terms have other shapes than the sum")
    made, *rest = terms
    for term in rest:
        made = site.call(aten.add.Tensor, made, term)
    return made


def _side_by_side(stacked: fx.Node, axis: int) -> list[fx.Node] | None:
    """The values that a stack, or a concatenation of single rows, holds along an axis."""
    if stacked.target not in {aten.stack.default, aten.cat.default}:
        return None
    pieces, *rest = args(stacked)
    along = (rest[0] if rest else 0) % len(shape(stacked))
    if along != axis or stacked.kwargs:
        return None
    if stacked.target is aten.stack.default:
        return list(pieces)
    rows = [args(piece)[0] for piece in pieces if piece.target is aten.unsqueeze.default
            and args(piece)[1] % len(shape(piece)) == axis]
    return rows if len(rows) == len(pieces) else None


@rule_on(aten.mean.dim, name="mean_of_stack",
         equation="mean(stack([x, y, z], d), d) = sum(stack([x, y, z], d), d) / 3",
         examples=("mean(stack([x, y, z], 1), [1]) | x: b s, y: b s, z: b s",),
         refuses=("mean(stack([x, y], 0), [1]) | x: b s, y: b s",))
def mean_of_stack(site: Site) -> fx.Node | Miss | None:
    stacked, axes, keep, dtype = arguments(site.node)
    if keep or dtype is not None or axes is None or len(axes) != 1:
        return Miss("it keeps the axis, or averages over others too")
    terms = _side_by_side(stacked, axes[0] % len(shape(stacked)))
    if terms is None:
        return Miss("its operand is no stack along that axis")
    return site.write("sum(x, axes) / n", x=stacked, axes=list(axes), n=len(terms))


@rule_on(aten.einsum.default, name="einsum_as_sum",
         equation="einsum('nij->ij', [x]) = sum(x, letters that are gone)",
         examples=("einsum('nij->ij', [x]) | x: 2 b s", "einsum('ijn->ji', [x]) | x: b s 2"),
         refuses=("einsum('ij->ji', [x]) | x: b s", "einsum('ij,jk->ik', [x, y]) | x: b s, y: s d"))
def einsum_as_sum(site: Site) -> fx.Node | Miss | None:
    equation, operands = str(args(site.node)[0]).replace(" ", ""), args(site.node)[1]
    if len(operands) != 1 or "->" not in equation or "." in equation:
        return Miss("it is no sum of one operand")
    letters, out = equation.split("->")
    gone = [i for i, letter in enumerate(letters) if letter not in out]
    if not gone or len(set(letters)) < len(letters):
        return Miss("no letter is gone, or one stands twice")
    made = site.call(aten.sum.dim_IntList, operands[0], gone)
    kept = [letter for letter in letters if letter in out]
    order = [kept.index(letter) for letter in out]
    return made if order == sorted(order) else site.call(aten.permute.default, made, order)


@rule_on(aten.einsum.default, name="einsum_as_factor",
         equation="einsum('bsd,d->bsd', [x, y]) = x * y",
         examples=("einsum('bsd,d->bsd', [x, y]) | x: b s d, y: d",
                   "einsum('d,bsd->bsd', [y, x]) | x: b s d, y: d"),
         refuses=("einsum('ij,jk->ik', [x, y]) | x: b s, y: s d",))
def einsum_as_factor(site: Site) -> fx.Node | Miss | None:
    """A factor along the last axes of the other operand."""
    equation, operands = str(args(site.node)[0]).replace(" ", ""), args(site.node)[1]
    if len(operands) != 2 or "->" not in equation or "." in equation:
        return Miss("it has no two operands")
    inputs, out = equation.split("->")
    for letters, x, factor, y in zip(
            inputs.split(","), operands, reversed(inputs.split(",")), reversed(operands),
            strict=True):
        if letters == out and len(set(out)) == len(out) and out.endswith(factor):
            return site.write("x * y", x=x, y=y)
    return Miss("no operand has the letters of the result, and the other one its last ones")


# Of some rows: their axis, and how many are before and behind them (None: all but the first).
Rows = tuple[int, int, int | None]


@rule_on(aten.slice_scatter.default, aten.select_scatter.default, name="sum_in_place",
         equation="x[d: i:j] <- x[d: i:j] + y  =  x + pad(y)",
         examples=("slice_scatter(x, slice(x, 0, 1, 3) + y, 0, 1, 3) | x: 4 s d, y: 2 s d",
                   "slice_scatter(x, slice(x, 1, -2) + y, 1, -2) | x: b 4 d, y: 2 d",
                   "slice_scatter(x, slice(x, 1, 1) - y, 1, 1) | x: b s d, y: d",
                   "select_scatter(x, y + select(x, 1, 2), 1, 2) | x: b 3 d, y: b d",
                   "slice_scatter(x, slice(x, 1, 1, -1) + y, 1, 1, -1) | x: b 3*s d, y: d",
                   "slice_scatter(x, slice(x, 0, 1, 3), 0, 1, 3) | x: 4 s d",
                   "select_scatter(x, select(x, 1, 0) + y, 1, 0) | x: b 3*s d, y: b d",
                   "slice_scatter(x, y, 1) | x: b s d, y: b s d"),
         refuses=("slice_scatter(x, slice(x, 0, 1, 3) + y, 0, 0, 2) | x: 4 s d, y: 2 s d",
                  "slice_scatter(x, slice(z, 0, 1, 3) + y, 0, 1, 3) | x: 4 s d, z: 4 s d, y: 2 s d",
                  "slice_scatter(x, y, 0, 1, 3) | x: 4 s d, y: 2 s d",
                  "slice_scatter(x, y - slice(x, 0, 1, 3), 0, 1, 3) | x: 4 s d, y: 2 s d",
                  "slice_scatter(x, slice(x, 0, 0, 4, 2) + y, 0, 0, 4, 2) | x: 4 s d, y: 2 s d"))
def sum_in_place(site: Site) -> fx.Node | Miss | None:
    """What is added to some rows of the stream, and to the others nothing."""
    x, new, *where = arguments(site.node)
    at = _rows(site.node, x, *where)
    if at is None:
        return Miss("which rows are written varies, or they are not side by side")
    if at[1:] == (0, 0):
        return new if new.meta["val"].dtype == x.meta["val"].dtype else None
    if _read(new, x) == at:
        return x
    if new.target not in {aten.add.Tensor, aten.sub.Tensor} or new.kwargs:
        return Miss("what is written is no sum")
    terms = args(new)
    kept = next((i for i in (0, 1) if isinstance(terms[i], fx.Node) and _read(terms[i], x) == at),
                None)
    if kept is None or (kept == 1 and new.target is aten.sub.Tensor):
        return Miss("no term of it is what stood there before")
    y = terms[1 - kept]
    if not isinstance(y, fx.Node) or len({n.meta["val"].dtype for n in (x, y)}) > 1:
        return Miss("a number is added, or a value of another type")
    axis, before, behind = at
    if behind is None:
        behind = site.call(operator.sub, site.size(x, axis), 1)
    y = site.call(aten.expand.default, y, [site.size(new, d) for d in range(len(shape(new)))])
    if site.node.target is aten.select_scatter.default:
        y = site.call(aten.unsqueeze.default, y, axis)
    pads = [0, 0] * (len(shape(x)) - axis - 1) + [before, behind]
    return site.call(new.target, x, site.call(aten.constant_pad_nd.default, y, pads))


def _read(node: fx.Node, x: fx.Node) -> Rows | None:
    """Which rows of `x` a node is."""
    if node.target is aten.squeeze.dim and args(node)[0].target is aten.slice.Tensor:
        inner = args(node)[0]
        at = _read(inner, x)
        return at if at is not None and at[0] == args(node)[1] % len(shape(x)) else None
    if node.target not in {aten.slice.Tensor, aten.select.int}:
        return None
    of, *where = arguments(node)
    return _rows(node, x, *where) if _same(of, x) else None


def _same(a: fx.Node, b: fx.Node) -> bool:
    """Whether two nodes are one, or the same rows of one."""
    if a is b or not a.target is b.target is aten.slice.Tensor:
        return a is b
    (one, *rows), (other, *others) = arguments(a), arguments(b)
    return rows == others and _same(one, other)


def _rows(node: fx.Node, x: fx.Node, *where: Any) -> Rows | None:
    """The rows that a slice, or a place, says; None if their numbers are not known."""
    axis = where[0] % len(shape(x))
    size = shape(x)[axis]
    if node.target in {aten.select.int, aten.select_scatter.default}:
        start, end, step = where[1], where[1] + 1, 1
        end = size if end == 0 else end
    else:
        start, end, step = where[1] or 0, where[2], where[3]
    if not isinstance(start, int) or step != 1:
        return None
    if isinstance(size, int):
        start, stop, _ = slice(start, end).indices(size)
        return (axis, start, size - stop) if start < stop else None
    if (start, end) == (0, 1):
        return axis, 0, None
    if start < 0 or (isinstance(end, int) and 0 <= end < 2**62):
        return None
    if isinstance(end, int) and end < 0:
        return axis, start, -end
    return (axis, start, 0) if isinstance(end, int | None) or end == size else None


SUM_SPELLINGS: tuple[Rule, ...] = (
    plain_names, rsub_as_sub, fused_sum, product_and_sum, sum_of_stack, mean_of_stack,
    einsum_as_sum, einsum_as_factor, sum_in_place,
)
