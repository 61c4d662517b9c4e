"""Slices through operators that move entries, and slices that operators themselves are."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx

from rewrite.ir.flow import args, shape
from rewrite.rules.picks import (
    Every,
    Indices,
    Pick,
    Pushed,
    SizeOf,
    aligned,
    through_view,
)
from rewrite.rules.slicing_table import is_tensor, push, rule_for

aten = torch.ops.aten
SPLITS = {aten.split.Tensor, aten.split_with_sizes.default, aten.split.sizes, aten.chunk.default}


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


# unsqueeze(x, d)[.., I at another axis, ..] = unsqueeze(x[.., I, ..], d)
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
        there = dim >= missing and not (operand[dim - missing] == 1 and out[dim] != 1)
        if isinstance(indices, Every) and not there:
            return None
        sizes[dim] = -1 if isinstance(indices, Every) else len(indices)
        if there:  # x.expand(n)[I] = x[I].expand(|I|), else x.expand(|I|)
            inner[dim - missing] = indices
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
        i: dict(pick) for i, operand in enumerate(args(node)) if is_tensor(operand)}
    fewer = any(shape(args(node)[int(i)])[d] != shape(node)[d] for i in picks for d in pick
                if d != dim and node.target is not aten.select_scatter.default)
    if dim in pick or fewer:  # gather and scatter may use a corner of an operand
        return None
    if node.target is aten.select_scatter.default:
        picks[1] = {d - (d > dim): indices for d, indices in pick.items()}
    return Pushed(picks)


# x.repeat(n)[I] = x[I mod |x|], and other axes are left alone
@rule_for(aten.repeat.default)
def _tiled(node: fx.Node, pick: Pick) -> Pushed | None:
    before, times = shape(args(node)[0]), list(args(node)[1])
    if len(times) != len(before):
        return None
    inner = dict(pick)
    for dim, indices in pick.items():
        if times[dim] == 1:
            continue
        if not isinstance(indices, tuple) or not isinstance(before[dim], int):
            return None
        inner[dim] = tuple(i % before[dim] for i in indices)
        times[dim] = 1
    return Pushed({0: inner}, {1: times})


# flip(x; d)[I] = flip(x[I]; d) for another axis than d, and the same of roll and pad
@rule_for(aten.flip.default, aten.roll.default, aten.constant_pad_nd.default,
          aten.pad.default)
def _other_axes(node: fx.Node, pick: Pick) -> Pushed | None:
    rank = len(shape(node))
    if node.target in {aten.constant_pad_nd.default, aten.pad.default}:
        pads = args(node)[1]
        changed = {rank - 1 - i for i in range(len(pads) // 2) if pads[2 * i: 2 * i + 2] != [0, 0]}
    elif node.target is aten.roll.default and not args(node)[2:3]:
        return None  # it rolls all entries in one row
    else:
        changed = {dim % rank for dim in args(node)[-1]}
    return None if changed & set(pick) else Pushed({0: dict(pick)})


# tril(x)[I] = tril(x[I]) for axes in front of rows and columns
@rule_for(aten.tril.default, aten.triu.default)
def _triangle(node: fx.Node, pick: Pick) -> Pushed | None:
    rank = len(shape(node))
    return None if {rank - 2, rank - 1} & set(pick) else Pushed({0: dict(pick)})


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
