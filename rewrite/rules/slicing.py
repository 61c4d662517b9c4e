"""Where a slice of a result comes from: one rule per kind of operator.

A *pick* maps an axis to the indices wanted on it.  A rule answers, for a node and a pick on
its result, which pick each operand must deliver so that the node, run on those smaller
operands, yields exactly the picked result:  pick(f(x, y)) = f'(pick'(x), pick''(y)).
`None` means that the slice cannot pass this node and stays below it.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx

from rewrite.ir.flow import args, shape
from rewrite.rules.picks import (
    Every,
    Indices,
    Pick,
    Pushed,
    SizeOf,
    aligned,
    broadcast_pick,
    through_view,
)

aten = torch.ops.aten
SPLITS = {aten.split.Tensor, aten.split_with_sizes.default, aten.split.sizes, aten.chunk.default}
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
          aten.contiguous.default, aten.type_as.default, aten.masked_fill.Scalar,
          aten.masked_fill.Tensor, aten.where.self, aten.where.ScalarOther, aten.where.ScalarSelf,
          aten.where.Scalar, aten.__and__.Tensor, aten.__or__.Tensor,
          aten.alias.default, aten.detach.default, aten.hardswish.default, aten.hardsigmoid.default,
          aten.hardtanh.default, aten.leaky_relu.default, aten.elu.default, aten.relu6.default)
def _elementwise(node: fx.Node, pick: Pick) -> Pushed:
    return Pushed({
        i: broadcast_pick(node, operand, pick)
        for i, operand in enumerate(args(node)) if _is_tensor(operand)
    })


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
def _expand(node: fx.Node, pick: Pick) -> Pushed | None:
    operand, out = shape(args(node)[0]), shape(node)
    missing = len(out) - len(operand)
    sizes = list(args(node)[1])
    inner: dict[int, Indices] = {}
    for dim, indices in pick.items():
        if isinstance(indices, Every):
            return None
        sizes[dim] = len(indices)  # x.expand(n)[I] = x.expand(|I|)
        if dim >= missing and not (operand[dim - missing] == 1 and out[dim] != 1):
            inner[dim - missing] = indices  # the axis was there before
    return Pushed({0: inner}, {1: sizes})


# x.view(s)[I] = x[I'].view(s'), where I' are the same elements counted in the old shape
@rule_for(aten.view.default, aten.reshape.default, aten._unsafe_view.default)
def _view(node: fx.Node, pick: Pick) -> Pushed | None:
    found = through_view(shape(args(node)[0]), shape(node), pick)
    if found is None:
        return None
    sizes = list(args(node)[1])
    for dim, size in found.sizes.items():
        sizes[dim] = size
    if sizes.count(-1) > 1:  # only one size may be left open
        before, after = shape(args(node)[0]), shape(node)
        groups = aligned(before, after)
        single = {new[0]: old[0] for old, new in groups if len(old) == len(new) == 1}
        for dim, size in enumerate(sizes):
            if size == -1 and dim not in pick and isinstance(after[dim], int):
                sizes[dim] = after[dim]
            elif size == -1 and dim not in pick and dim in single:
                sizes[dim] = SizeOf(single[dim])
    return None if sizes.count(-1) > 1 else Pushed({0: found.picks}, {1: sizes}, found.left)


# squeeze(x)[I] = squeeze(x[I]), unless I leaves one index of an axis that squeeze looks at
@rule_for(aten.squeeze.dim, aten.squeeze.dims)
def _squeeze(node: fx.Node, pick: Pick) -> Pushed | None:
    before = shape(args(node)[0])
    given = [args(node)[1]] if isinstance(args(node)[1], int) else args(node)[1]
    gone = {dim % len(before) for dim in given if before[dim] == 1}
    kept = [dim for dim in range(len(before)) if dim not in gone]
    inner = {kept[dim]: indices for dim, indices in pick.items()}
    return None if {dim % len(before) for dim in given} & set(inner) else Pushed({0: inner})


# the last axis of view_as_real holds (real, imaginary); all others are those of the operand
@rule_for(aten.view_as_real.default, aten.view_as_complex.default)
def _complex(node: fx.Node, pick: Pick) -> Pushed | None:
    added = node.target is aten.view_as_real.default and len(shape(node)) - 1 in pick
    return None if added else Pushed({0: dict(pick)})


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


# stack(x, y; d)[I] = stack(x[I], y[I]; d) for another axis than the new one
@rule_for(aten.stack.default)
def _stack(node: fx.Node, pick: Pick) -> Pushed | None:
    new = (args(node)[1] if len(args(node)) > 1 else 0) % len(shape(node))
    if new in pick:
        return None
    return Pushed({0: {dim - (dim > new): indices for dim, indices in pick.items()}})


# x[.., a:b at d, ..] <- y and gather along d are independent for each index of other axes
@rule_for(aten.slice_scatter.default, aten.gather.default, aten.scatter.value, aten.scatter.src,
          aten.select_scatter.default)
def _along(node: fx.Node, pick: Pick) -> Pushed | None:
    if node.target is aten.slice_scatter.default:
        dim = args(node)[2] if len(args(node)) > 2 else 0
    else:
        dim = args(node)[2 if node.target is aten.select_scatter.default else 1]
    dim %= len(shape(node))
    picks: dict[int | str, Pick] = {
        i: dict(pick) for i, operand in enumerate(args(node)) if _is_tensor(operand)}
    fewer = any(shape(args(node)[i])[d] != shape(node)[d] for i in picks for d in pick
                if d != dim and node.target is not aten.select_scatter.default)
    if dim in pick or fewer:  # gather and scatter may use a corner of an operand
        return None
    if node.target is aten.select_scatter.default:
        picks[1] = {d - (d > dim): indices for d, indices in pick.items()}
    return Pushed(picks)


# x.repeat(1, n)[I, :] = x[I, :].repeat(1, n); flip, roll and pad leave other axes alone
@rule_for(aten.repeat.default, aten.flip.default, aten.roll.default, aten.constant_pad_nd.default,
          aten.pad.default)
def _other_axes(node: fx.Node, pick: Pick) -> Pushed | None:
    rank = len(shape(node))
    if node.target is aten.repeat.default:
        changed = {dim for dim, times in enumerate(args(node)[1]) if times != 1}
        if len(args(node)[1]) != len(shape(args(node)[0])):
            return None
    elif node.target in {aten.constant_pad_nd.default, aten.pad.default}:
        pads = args(node)[1]
        changed = {rank - 1 - i for i in range(len(pads) // 2) if pads[2 * i: 2 * i + 2] != [0, 0]}
    elif node.target is aten.roll.default and not args(node)[2:3]:
        return None  # it rolls all entries in one row
    else:
        changed = {dim % rank for dim in args(node)[-1]}
    return None if changed & set(pick) else Pushed({0: dict(pick)})


# x[:, ids][.., J] = x[.., J][:, ids]; the axes of `ids` stand where the indexed axis stood
@rule_for(aten.index.Tensor, aten.index_select.default)
def _index(node: fx.Node, pick: Pick) -> Pushed | None:
    if node.target is aten.index_select.default:
        at, width = args(node)[1] % len(shape(node)), 1
    else:
        places = [(i, entry) for i, entry in enumerate(args(node)[1]) if entry is not None]
        if len(places) != 1:
            return None
        (at, ids), = places
        width = len(shape(ids))
        if ids.meta["val"].dtype in (torch.bool, torch.uint8):  # a mask takes several axes
            return None
    if any(at <= dim < at + width for dim in pick):
        return None
    return Pushed({0: {d if d < at else d - width + 1: i for d, i in pick.items()}})


# conv(x, W, b)[:, J] = conv(x, W[J], b[J]); a depthwise one conv(x[:, J], W[J], b[J])
@rule_for(aten.conv1d.default, aten.conv2d.default)
def _convolution(node: fx.Node, pick: Pick) -> Pushed | None:
    operands: list[Any] = list(args(node))
    groups = operands[6] if len(operands) > 6 else 1
    batched = len(shape(node)) == len(shape(operands[1]))
    if not batched or set(pick) - {0, 1} or not isinstance(groups, int):
        return None
    rows = {0: pick[1]} if 1 in pick else {}
    data = {0: pick[0]} if 0 in pick else {}
    changed: dict[int, Any] = {}
    if groups != 1 and rows:
        depthwise = groups == shape(node)[1] == shape(operands[0])[1]
        if not depthwise or isinstance(pick[1], Every):
            return None
        data, changed = {**data, 1: pick[1]}, {6: len(pick[1])}
    bias = {2: rows} if len(operands) > 2 and operands[2] is not None else {}
    return Pushed({0: data, 1: rows, **bias}, changed)


# a batch norm with stored statistics acts on each channel for itself
@rule_for(aten.batch_norm.default)
def _batch_norm(node: fx.Node, pick: Pick) -> Pushed | None:
    if args(node)[5] and set(pick) != {1}:  # it takes the statistics of what it is given
        return None
    channels = {0: pick[1]} if 1 in pick else {}
    operands: dict[int | str, Any] = {i: channels for i in range(1, 5) if _is_tensor(args(node)[i])}
    return Pushed({0: dict(pick), **operands})


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


# einsum("ij,jk->ik", a, b)[I, K] = einsum("ij,jk->ik", a[I], b[:, K])
@rule_for(aten.einsum.default)
def _einsum(node: fx.Node, pick: Pick) -> Pushed | None:
    equation = str(args(node)[0]).replace(" ", "")
    if "->" not in equation or "." in equation:
        return None
    inputs, out = equation.split("->")
    wanted = {out[dim]: (shape(node)[dim], indices) for dim, indices in pick.items()}
    picks = []
    for letters, operand in zip(inputs.split(","), args(node)[1], strict=True):
        asked = {i: wanted[c] for i, c in enumerate(letters) if c in wanted}
        picks.append({i: indices for i, (size, indices) in asked.items()
                      if not shape(operand)[i] == 1 != size})  # such an axis broadcasts
    return Pushed({1: tuple(picks)})


# (c + a b)[B, I, J] = c[B, I, J] + a[B, I, :] b[B, :, J]
@rule_for(aten.baddbmm.default)
def _baddbmm(node: fx.Node, pick: Pick) -> Pushed:
    batch = {0: pick[0]} if 0 in pick else {}
    left = {**batch, 1: pick[1]} if 1 in pick else batch
    right = {**batch, 2: pick[2]} if 2 in pick else batch
    return Pushed({0: broadcast_pick(node, args(node)[0], pick), 1: left, 2: right})


# attention is independent per head, per query row, and per value column
@rule_for(aten.scaled_dot_product_attention.default)
def _attention(node: fx.Node, pick: Pick) -> Pushed | None:
    names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
    given = dict(zip(names, args(node), strict=False)) | node.kwargs
    rank = len(shape(node))
    heads, rows, columns = (pick.get(axis) for axis in (1, 2, 3))
    if rank == 3:
        return _along_batch(node, pick)
    if rank != 4 or (rows is not None and given.get("is_causal")):
        return None
    if 0 in pick or isinstance(heads, Every):
        return None if rows is not None or columns is not None else _along_batch(node, pick)
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


def _along_batch(node: fx.Node, pick: Pick) -> Pushed | None:
    if set(pick) != {0}:
        return None
    mask = node.kwargs.get("attn_mask", (*args(node), None, None, None, None)[3])
    operands: dict[int | str, Pick] = {
        i: broadcast_pick(node, args(node)[i], pick) for i in range(3)}
    if isinstance(mask, fx.Node):
        where = "attn_mask" if "attn_mask" in node.kwargs else 3
        operands[where] = broadcast_pick(node, mask, pick)
    return Pushed(operands)


# reductions and norms act within their own axes
@rule_for(aten.softmax.int, aten._softmax.default, aten.layer_norm.default,
          aten.rms_norm.default, aten.mean.dim, aten.sum.dim_IntList, aten.var.dim,
          aten.var.correction, aten.amax.default, aten.cumsum.default, aten.logsumexp.default,
          aten.linalg_vector_norm.default, aten.max.dim, aten.topk.default, aten.sort.default,
          aten.argmax.default, aten.log_softmax.int)
def _reduction(node: fx.Node, pick: Pick) -> Pushed | None:
    rank = len(shape(args(node)[0]))
    if node.target in {aten.layer_norm.default, aten.rms_norm.default}:
        reduced = set(range(rank - len(args(node)[1]), rank))
    else:
        place = 2 if node.target in {aten.linalg_vector_norm.default, aten.topk.default} else 1
        dims = args(node)[place] if len(args(node)) > place else None
        if dims is None or dims == []:
            dims = [-1] if node.target in {aten.topk.default, aten.sort.default} else range(rank)
        reduced = {d % rank for d in ([dims] if isinstance(dims, int) else dims)}
    kept = [d for d in range(rank) if d not in reduced]
    if len(shape(node)) == rank:
        kept = list(range(rank))
    inner = {kept[d]: indices for d, indices in pick.items()}
    return None if reduced & set(inner) else Pushed({0: inner})


# topk(x)[k][I] = topk(x[I])[k]
@rule_for(operator.getitem)
def _entry(node: fx.Node, pick: Pick) -> Pushed | None:
    several = isinstance(args(node)[0].meta.get("val"), (tuple, list))
    passes = several and push(args(node)[0], pick) is not None  # no pick can stay in between
    return Pushed({0: dict(pick)}) if passes else None


# split(x; d)[k][I] = split(x[I]; d)[k] for another axis than d
@rule_for(*SPLITS)
def _split(node: fx.Node, pick: Pick) -> Pushed | None:
    dim = (args(node)[2] if len(args(node)) > 2 else 0) % len(shape(node))
    return None if dim in pick else Pushed({0: dict(pick)})


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
    if isinstance(pick[dim], Every):
        return None
    inner = dict(pick) | {dim: tuple(i // repeats for i in pick[dim])}
    unsized = {"output_size": None} if "output_size" in node.kwargs else {}  # it was the whole's
    return Pushed({0: inner}, {1: 1}, kwargs=unsized)


def _is_tensor(value: Any) -> bool:
    return isinstance(value, fx.Node) and isinstance(value.meta.get("val"), Tensor)


