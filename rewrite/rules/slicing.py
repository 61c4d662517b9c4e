"""Where a slice of a result comes from: one rule per kind of operator.

A *pick* maps an axis to the indices wanted on it.  A rule answers, for a node and a pick on
its result, which pick each operand must deliver so that the node, run on those smaller
operands, yields exactly the picked result:  pick(f(x, y)) = f'(pick'(x), pick''(y)).
`None` means that the slice cannot pass this node and stays below it.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import sympy
import torch
from torch import Tensor, fx

from rewrite.ir.flow import args, shape

aten = torch.ops.aten
SPLITS = {aten.split.Tensor, aten.split_with_sizes.default, aten.split.sizes, aten.chunk.default}
Indices = tuple[int, ...]
Pick = Mapping[int, Indices]


@dataclass(frozen=True)
class Pushed:
    """A slice that has passed a node: picks by operand position, and changed arguments."""

    operands: Mapping[int | str, Pick]
    args: Mapping[int, Any] = field(default_factory=dict)
    after: Pick = field(default_factory=dict)  # what is left to pick from the new result
    kwargs: Mapping[str, Any] = field(default_factory=dict)


Rule = Callable[[fx.Node, Pick], Pushed | None]
RULES: dict[Any, Rule] = {}


def push(node: fx.Node, pick: Pick) -> Pushed | None:
    """The rule of `node` applied to `pick`; None if there is none or it does not apply."""
    rule = RULES.get(node.target)
    if rule is None and isinstance(node.target, torch._ops.OpOverload):
        rule = _elementwise if torch.Tag.pointwise in node.target.tags else None
    return rule(node, pick) if rule else None


def rule_for(*targets: Any) -> Callable[[Rule], Rule]:
    """Enter a rule into the table."""

    def enter(rule: Rule) -> Rule:
        RULES.update(dict.fromkeys(targets, rule))
        return rule

    return enter


# f(x, y)[I] = f(x[I], y[I]); an operand of size 1 on the axis broadcasts and stays whole
@rule_for(aten.to.dtype, aten.to.device, aten.to.dtype_layout, aten._to_copy.default,
          aten.contiguous.default, aten.type_as.default)
def _elementwise(node: fx.Node, pick: Pick) -> Pushed:
    return Pushed({
        i: broadcast_pick(node, operand, pick)
        for i, operand in enumerate(args(node)) if _is_tensor(operand)
    })


def broadcast_pick(node: fx.Node, operand: fx.Node, pick: Pick) -> Pick:
    """What an operand that broadcasts to `node` must deliver."""
    sizes, missing = shape(operand), len(shape(node)) - len(shape(operand))
    return {
        dim - missing: indices for dim, indices in pick.items()
        if dim >= missing and not (sizes[dim - missing] == 1 and shape(node)[dim] != 1)
    }


# x.permute(p)[.., I at d, ..] = x[.., I at p[d], ..].permute(p)
@rule_for(aten.transpose.int, aten.permute.default, aten.t.default)
def _permute(node: fx.Node, pick: Pick) -> Pushed:
    rank = len(shape(node))
    order = list(range(rank))
    if node.target is aten.permute.default:
        order = [dim % rank for dim in args(node)[1]]
    else:
        a, b = (args(node)[1:] if node.target is aten.transpose.int else (0, 1))
        order[a % rank], order[b % rank] = order[b % rank], order[a % rank]
    return Pushed({0: {order[dim]: indices for dim, indices in pick.items()}})


@rule_for(aten.unsqueeze.default)
def _unsqueeze(node: fx.Node, pick: Pick) -> Pushed | None:
    new = args(node)[1] % len(shape(node))
    if new in pick:
        return None
    return Pushed({0: {dim - (dim > new): indices for dim, indices in pick.items()}})


@rule_for(aten.expand.default)
def _expand(node: fx.Node, pick: Pick) -> Pushed:
    operand, out = shape(args(node)[0]), shape(node)
    missing = len(out) - len(operand)
    sizes = list(args(node)[1])
    inner: dict[int, Indices] = {}
    for dim, indices in pick.items():
        sizes[dim] = len(indices)  # x.expand(n)[I] = x.expand(|I|)
        if dim >= missing and not (operand[dim - missing] == 1 and out[dim] != 1):
            inner[dim - missing] = indices  # the axis was there before
    return Pushed({0: inner}, {1: sizes})


# x.view(s)[I] = x[I'].view(s'), where I' are the same elements counted in the old shape
@rule_for(aten.view.default, aten.reshape.default, aten._unsafe_view.default)
def _view(node: fx.Node, pick: Pick) -> Pushed | None:
    before, after = shape(args(node)[0]), shape(node)
    sizes = list(args(node)[1])
    inner: dict[int, Indices] = {}
    rest: dict[int, Indices] = {}
    for old, new in aligned(before, after):
        wanted = {new.index(dim): pick[dim] for dim in new if dim in pick}
        if not wanted:
            continue
        if len(old) == len(new) == 1:
            box = Box({0: wanted[0]}, {}, {0: len(wanted[0])})
        else:
            box = regroup([before[d] for d in old], [after[d] for d in new], wanted)
        if box is None:
            return None
        inner.update({old[i]: indices for i, indices in box.picks.items()})
        rest.update({new[i]: indices for i, indices in box.left.items()})
        for i, size in box.sizes.items():
            sizes[new[i]] = size
    return Pushed({0: inner}, {1: sizes}, rest)


def aligned(before: tuple, after: tuple) -> list[tuple[list[int], list[int]]]:
    """Groups of axes of two shapes that hold the same elements in the same order."""
    groups, i, j = [], 0, 0
    while i < len(before) or j < len(after):
        old, new = [i] if i < len(before) else [], [j] if j < len(after) else []
        a = before[i] if old else sympy.Integer(1)
        b = after[j] if new else sympy.Integer(1)
        i, j = i + len(old), j + len(new)
        while a != b:
            ratio = sympy.cancel(sympy.sympify(a) / b)
            if ratio.is_Integer or sympy.fraction(ratio)[1] == 1:
                if j == len(after):
                    return [*groups, ([*old, *range(i, len(before))], new)]
                b, j = b * after[j], j + 1
                new.append(j - 1)
            else:
                if i == len(before):
                    return [*groups, (old, [*new, *range(j, len(after))])]
                a, i = a * before[i], i + 1
                old.append(i - 1)
        groups.append((old, new))
    return groups


@dataclass(frozen=True)
class Box:
    """Elements picked after a view, as picks before it, and what is left to pick after it."""

    picks: Pick
    left: Pick
    sizes: Mapping[int, int]  # of the picked axes, before `left` is taken


def regroup(before: Sequence[Any], after: Sequence[Any], wanted: Pick) -> Box | None:
    """Elements picked in shape `after`, as picks in shape `before` of the same elements.

    They must form a box in `before`.  If one axis is picked and they do not (heads 0, 1, 2
    of 4 that share keys in pairs), the smallest box around them is taken, and the rest of
    the pick is left for afterwards.  None if sizes vary or no box will do.

    >>> regroup([12], [3, 4], {0: (1,)}).picks
    {0: (4, 5, 6, 7)}
    """
    if not all(isinstance(size, int) for size in (*before, *after)):
        return None
    flat = np.arange(math.prod(after)).reshape(after)
    for dim, indices in wanted.items():
        flat = flat.take(indices, axis=dim)
    elements = flat.ravel().tolist()
    digits = np.unravel_index(elements, before)
    corners = [tuple(dict.fromkeys(digit.tolist())) for digit in digits]
    inside = np.arange(math.prod(before)).reshape(before)[np.ix_(*corners)].ravel().tolist()
    picks = {d: c for d, c in enumerate(corners) if c != tuple(range(before[d]))}
    if inside == elements:
        return Box(picks, {}, {dim: len(indices) for dim, indices in wanted.items()})
    if len(after) > 1:
        return None
    place = {element: index for index, element in enumerate(inside)}
    return Box(picks, {0: tuple(place[e] for e in elements)}, {0: len(inside)})


# x[a:b][.., I at another axis, ..] = x[.., I, ..][a:b]
@rule_for(aten.slice.Tensor)
def _slice(node: fx.Node, pick: Pick) -> Pushed | None:
    dim = (args(node)[1] if len(args(node)) > 1 else 0) % len(shape(node))
    return None if dim in pick else Pushed({0: dict(pick)})


# x[a:b:s], split(x)[k] and chunk(x)[k] are all x[indices of an axis]
def as_slice(node: fx.Node) -> tuple[fx.Node, int, range] | None:
    """Operand, axis and indices of a node that slices an axis of fixed size."""
    dim: Any
    if node.target is aten.slice.Tensor:
        operand, *rest = args(node)
        dim, start, end, step = (*rest, *(0, None, None, 1)[len(rest):])
        part = slice(start, end, step)
    elif node.target is operator.getitem and args(node)[0].target in SPLITS:
        operand, _, *rest = args(args(node)[0])
        dim = rest[0] if rest else 0
        pieces = [piece.shape[dim] for piece in args(node)[0].meta["val"]]
        if not all(isinstance(size, int) for size in pieces):
            return None
        start = sum(pieces[: args(node)[1]])
        part = slice(start, start + pieces[args(node)[1]])
    else:
        return None
    size = shape(operand)[dim]
    bounds = (size, part.start or 0, part.stop or 0, part.step or 1)
    fixed = all(isinstance(value, int) for value in bounds)
    return (operand, dim % len(shape(operand)), range(size)[part]) if fixed else None


# concat(x, y; d)[I] = concat(x[I], y[I]; d) for another axis than d
@rule_for(aten.cat.default)
def _cat(node: fx.Node, pick: Pick) -> Pushed | None:
    dim = (args(node)[1] if len(args(node)) > 1 else 0) % len(shape(node))
    return None if dim in pick else Pushed({0: dict(pick)})


# linear(x, W, b)[.., J] = linear(x, W[J], b[J])
@rule_for(aten.linear.default)
def _linear(node: fx.Node, pick: Pick) -> Pushed:
    last = len(shape(node)) - 1
    rows = {0: pick[last]} if last in pick else {}
    operands: dict[int | str, Pick] = {0: {d: i for d, i in pick.items() if d != last}, 1: rows}
    if len(args(node)) > 2 and args(node)[2] is not None:
        operands[2] = rows
    return Pushed(operands)


# (x W + b)[I, J] = x[I] W[:, J] + b[J]
@rule_for(aten.addmm.default)
def _addmm(node: fx.Node, pick: Pick) -> Pushed:
    rows = {0: pick[0]} if 0 in pick else {}
    columns = {1: pick[1]} if 1 in pick else {}
    return Pushed({0: broadcast_pick(node, args(node)[0], pick), 1: rows, 2: columns})


# (a b)[B, I, J] = a[B, I, :] b[B, :, J]
@rule_for(aten.matmul.default, aten.bmm.default, aten.mm.default)
def _matmul(node: fx.Node, pick: Pick) -> Pushed | None:
    a, b = args(node)
    rank = len(shape(node))
    if min(len(shape(a)), len(shape(b))) < 2:
        return None
    batch = {d: i for d, i in pick.items() if d < rank - 2}
    left, right = (broadcast_pick(node, operand, batch) for operand in (a, b))
    if rank - 2 in pick:
        left = {**left, len(shape(a)) - 2: pick[rank - 2]}
    if rank - 1 in pick:
        right = {**right, len(shape(b)) - 1: pick[rank - 1]}
    return Pushed({0: left, 1: right})


# attention is independent per head, per query row, and per value column
@rule_for(aten.scaled_dot_product_attention.default)
def _attention(node: fx.Node, pick: Pick) -> Pushed | None:
    names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
    given = dict(zip(names, args(node), strict=False)) | node.kwargs
    rank = len(shape(node))
    heads, rows, columns = (pick.get(axis) for axis in (1, 2, 3))
    if rank != 4 or 0 in pick or (rows is not None and given.get("is_causal")):
        return None
    query = {axis: pick[axis] for axis in (1, 2) if axis in pick}
    shared = shape(args(node)[0])[1] // shape(args(node)[1])[1]
    key: dict[int, Indices] = {}
    if heads is not None and shape(args(node)[1])[1] != 1:
        key[1] = tuple(h // shared for h in heads)  # grouped: head h reads key h // shared
    value = key if columns is None else {**key, 3: columns}
    operands: dict[int | str, Pick] = {0: query, 1: key, 2: value}
    mask = given.get("attn_mask")
    if isinstance(mask, fx.Node):
        where = "attn_mask" if "attn_mask" in node.kwargs else 3
        operands[where] = broadcast_pick(node, mask, query)
    ungrouped = {"enable_gqa": False} if key and given.get("enable_gqa") else {}
    return Pushed(operands, kwargs=ungrouped)


# reductions and norms act within their own axes
@rule_for(aten.softmax.int, aten._softmax.default, aten.layer_norm.default,
          aten.rms_norm.default, aten.mean.dim, aten.sum.dim_IntList, aten.var.dim,
          aten.var.correction, aten.amax.default, aten.cumsum.default)
def _reduction(node: fx.Node, pick: Pick) -> Pushed | None:
    rank = len(shape(args(node)[0]))
    if node.target in {aten.layer_norm.default, aten.rms_norm.default}:
        reduced = set(range(rank - len(args(node)[1]), rank))
    else:
        dims = args(node)[1] if len(args(node)) > 1 and args(node)[1] is not None else range(rank)
        reduced = {d % rank for d in ([dims] if isinstance(dims, int) else dims)}
    kept = [d for d in range(rank) if d not in reduced]
    if len(shape(node)) == rank:
        kept = list(range(rank))
    inner = {kept[d]: indices for d, indices in pick.items()}
    return None if reduced & set(inner) else Pushed({0: inner})


# W[ids][.., J] = W[:, J][ids]
@rule_for(aten.embedding.default)
def _embedding(node: fx.Node, pick: Pick) -> Pushed:
    last = len(shape(node)) - 1
    columns = {1: pick[last]} if last in pick else {}
    return Pushed({0: columns, 1: {d: i for d, i in pick.items() if d != last}})


# repeat_interleave(x, n)[I] = x[I // n]
@rule_for(aten.repeat_interleave.self_int)
def _repeat(node: fx.Node, pick: Pick) -> Pushed | None:
    repeats: Any = args(node)[1]
    dim: Any = node.kwargs.get("dim", (*args(node), None, None)[2])
    if dim is None or not isinstance(repeats, int):
        return None
    dim %= len(shape(node))
    if dim not in pick:
        return Pushed({0: dict(pick)})
    inner = dict(pick) | {dim: tuple(i // repeats for i in pick[dim])}
    unsized = {"output_size": None} if "output_size" in node.kwargs else {}  # it was the whole's
    return Pushed({0: inner}, {1: 1}, kwargs=unsized)


def _is_tensor(value: Any) -> bool:
    return isinstance(value, fx.Node) and isinstance(value.meta.get("val"), Tensor)


def compose(outer: Pick, inner: Mapping[int, Indices]) -> dict[int, Indices]:
    """`x[inner][outer]` as one pick."""
    result = dict(inner)
    for dim, indices in outer.items():
        result[dim] = tuple(inner[dim][i] for i in indices) if dim in inner else tuple(indices)
    return result
