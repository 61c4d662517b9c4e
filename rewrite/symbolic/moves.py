"""Operators that only move entries: on symbolic tensors they are torch's own, run on places."""

from __future__ import annotations

import torch

aten = torch.ops.aten

MOVES = {
    aten.alias, aten.as_strided, aten.as_strided_copy, aten.cat, aten.chunk, aten.clone,
    aten.concat, aten.contiguous, aten.copy, aten.detach, aten.diagonal, aten.embedding,
    aten.expand, aten.expand_copy, aten.flip, aten.gather, aten.index, aten.index_select,
    aten.lift_fresh, aten.movedim, aten.mT, aten.narrow, aten.permute, aten.permute_copy,
    aten.repeat, aten.repeat_interleave, aten.reshape, aten.roll, aten.scatter, aten.select,
    aten.select_scatter, aten.slice, aten.slice_scatter, aten.split, aten.split_with_sizes,
    aten.squeeze, aten.squeeze_copy, aten.stack, aten.t, aten.take_along_dim, aten.transpose,
    aten.unbind, aten.unfold, aten.unsqueeze, aten.unsqueeze_copy, aten.view, aten.view_copy,
    aten._reshape_alias, aten._unsafe_view, aten.reflection_pad1d, aten.reflection_pad2d,
    aten.replication_pad1d, aten.replication_pad2d, aten.diagonal_scatter, aten.index_put,
    aten.flatten, aten.unflatten, aten.swapaxes, aten.take, aten.tile,
}

# They look at shape and type of an operand only: what they yield is an ordinary tensor.
SHAPES = {
    aten.zeros_like, aten.ones_like, aten.full_like, aten.new_zeros, aten.new_ones, aten.new_full,
    aten.sym_size, aten.sym_numel, aten.sym_stride, aten.size, aten.is_same_size, aten.numel,
    aten.sym_storage_offset, aten.is_contiguous, aten.stride, aten.dim,
}
