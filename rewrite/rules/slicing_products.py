"""Slices through products, norms, reductions and attention: where axes are mixed."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from rewrite.ir.flow import args, shape
from rewrite.rules.picks import (
    Every,
    Indices,
    Pick,
    Pushed,
    broadcast_pick,
)
from rewrite.rules.slicing_table import is_tensor, rule_for

aten = torch.ops.aten


def enter_rules() -> None:
    """Importing this module enters its rules into the table; calling this says so."""


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
    operands: dict[int | str, Any] = {i: channels for i in range(1, 5) if is_tensor(args(node)[i])}
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
@rule_for(aten.softmax.int, aten._softmax.default, aten._safe_softmax.default,
          aten.layer_norm.default,
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


# W[ids][.., J] = W[:, J][ids]
@rule_for(aten.embedding.default)
def _embedding(node: fx.Node, pick: Pick) -> Pushed:
    last = len(shape(node)) - 1
    columns = {1: pick[last]} if last in pick else {}
    return Pushed({0: columns, 1: {d: i for d, i in pick.items() if d != last}})
