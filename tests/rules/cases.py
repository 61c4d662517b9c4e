"""Operators with operands, for every rule of slicing: each maker lists the branches of a kind."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import torch
from torch import fx

from tests.rules.oracle import aten, entry_of, node_of, rand

Case = tuple[Any, ...]  # operator, operands, and a dict of keyword arguments if there are any
FUSED = aten.scaled_dot_product_attention.default


def elementwise(r: Random) -> list[Case]:
    shape = r.choice([(2, 3, 4), (4,), (1,), (3, 1), (2, 1, 4), (1, 3, 1), ()])
    x, y = rand(2, 3, 4), rand(*shape)
    return [
        (aten.add.Tensor, x, y), (aten.mul.Tensor, y, x), (aten.add.Tensor, x, 2.0),
        (aten.gelu.default, x), (aten.pow.Tensor_Scalar, x, 2), (aten.clamp.default, x, -1.0),
        (aten.lerp.Tensor, x, y, y), (aten.where.self, x > 0, x, y),
        (aten.where.ScalarOther, x > 0, x, 1.0), (aten.where.ScalarSelf, y > 0, 1.0, x),
        (aten.where.Scalar, x > 0, 1.0, 0.0), (aten.masked_fill.Scalar, x, y > 0, 0.0),
        (aten.masked_fill.Tensor, x, y > 0, rand()), (aten.__and__.Tensor, x > 0, y > 0),
        (aten.__or__.Tensor, y > 0, x > 0), (aten.alias.default, x), (aten.detach.default, x),
        (aten.hardswish.default, x), (aten.hardsigmoid.default, x), (aten.hardtanh.default, x),
        (aten.leaky_relu.default, x), (aten.elu.default, x), (aten.relu6.default, x),
        (aten.to.dtype, x, torch.float32), (aten.contiguous.default, x.transpose(0, 1)),
        (aten.type_as.default, x, rand(4).float()), (aten._to_copy.default, x),
        (aten.to.device, x, torch.device("cpu"), torch.float32), (aten.to.dtype_layout, x),
    ]


def reductions(r: Random) -> list[Case]:
    x, dim, keep = rand(2, 3, 4), r.choice([-1, 0, 1]), r.random() < 0.5
    return [
        (aten.softmax.int, x, dim), (aten._softmax.default, x, dim, False),
        (aten._safe_softmax.default, x, dim),
        (aten.log_softmax.int, x, dim), (aten.cumsum.default, x, dim),
        (aten.layer_norm.default, x, [4], rand(4), rand(4)), (aten.layer_norm.default, x, [3, 4]),
        (aten.rms_norm.default, x, [4], rand(4)), (aten.mean.dim, x, [dim], keep),
        (aten.mean.dim, x, None, True), (aten.sum.dim_IntList, x, [0, 2], True),
        (aten.sum.dim_IntList, x, [], True), (aten.sum.dim_IntList, x, [1]),
        (aten.var.dim, x, [dim], True, keep), (aten.var.correction, x, [dim]),
        (aten.var.correction, x, [dim], {"correction": 0, "keepdim": keep}),
        (aten.amax.default, x, [dim], keep), (aten.amax.default, x, [], True),
        (aten.logsumexp.default, x, [dim], keep), (aten.logsumexp.default, x, [0, -1], keep),
        (aten.linalg_vector_norm.default, x, 2, [dim], keep),
        (aten.linalg_vector_norm.default, x, 1, None, True),
        (aten.max.dim, x, dim, keep), (aten.topk.default, x, 2, dim), (aten.topk.default, x, 2),
        (aten.sort.default, x, dim, True), (aten.sort.default, x),
        (aten.argmax.default, x, dim, keep), (aten.argmax.default, x, None, True),
    ]


def products(r: Random) -> list[Case]:
    bias = r.choice([(), (None,), (rand(5),)])
    added = rand(*r.choice([(2, 3, 5), (1, 3, 5), (3, 5), (3, 1), (5,), (1,)]))
    return [
        (aten.linear.default, rand(2, 3, 4), rand(5, 4), *bias),
        (aten.linear.default, rand(4), rand(5, 4), *bias),
        (aten.addmm.default, rand(5), rand(3, 4), rand(4, 5)),
        (aten.addmm.default, rand(3, 5), rand(3, 4), rand(4, 5), {"beta": 2, "alpha": 0.5}),
        (aten.addmm.default, rand(3, 1), rand(3, 4), rand(4, 5)),
        (aten.baddbmm.default, added, rand(2, 3, 4), rand(2, 4, 5), {"beta": 0.5, "alpha": 2}),
        (aten.mm.default, rand(3, 4), rand(4, 5)),
        (aten.bmm.default, rand(2, 3, 4), rand(2, 4, 5)),
        (aten.matmul.default, rand(2, 3, 4), rand(4, 5)),
        (aten.matmul.default, rand(2, 1, 3, 4), rand(6, 4, 5)),
        (aten.matmul.default, rand(3, 4), rand(2, 4, 5)),
        (aten.einsum.default, "bij, bkj -> bki", [rand(2, 3, 4), rand(2, 5, 4)]),
        (aten.einsum.default, "ij,jk,k->ik", [rand(3, 4), rand(4, 5), rand(5)]),
        (aten.einsum.default, "iij->ij", [rand(3, 3, 4)]),
        (aten.einsum.default, "bij,bj->bi", [rand(1, 3, 4), rand(2, 4)]),  # b broadcasts
        (aten.einsum.default, "ij,kj->ik", [rand(3, 1), rand(5, 4)]),
        (aten.embedding.default, rand(7, 4), torch.tensor([[1, 2, 6], [0, 0, 3]])),
    ]


def convolutions(r: Random) -> list[Case]:
    bias = r.choice([(), (None,), (rand(6),)])
    given, further = (bias[0] if bias else None), ([1], [1], [1])
    stored = (rand(3), rand(3).abs() + 1)
    scale = r.choice([(None, None), (rand(3), rand(3))])
    return [
        (aten.conv1d.default, rand(2, 4, 7), rand(6, 4, 3), *bias),
        (aten.conv1d.default, rand(2, 4, 7), rand(6, 4, 3), given, [2], [1]),
        (aten.conv1d.default, rand(2, 6, 7), rand(6, 1, 3), given, *further, 6),
        (aten.conv1d.default, rand(2, 4, 7), rand(6, 2, 3), given, *further, 2),
        (aten.conv1d.default, rand(2, 3, 7), rand(6, 1, 3), given, *further, 3),
        (aten.conv1d.default, rand(4, 7), rand(6, 4, 3), *bias),  # without a batch
        (aten.conv2d.default, rand(2, 4, 5, 5), rand(6, 4, 3, 3), *bias),
        (aten.conv2d.default, rand(2, 6, 5, 5), rand(6, 1, 3, 3), given, [1, 1], [0, 0], [1, 1], 6),
        (aten.conv2d.default, rand(4, 5, 5), rand(6, 4, 3, 3), *bias),
        (aten.batch_norm.default, rand(2, 3, 4), *scale, *stored, False, 0.1, 1e-5, False),
        (aten.batch_norm.default, rand(2, 3), *scale, *stored, False, 0.1, 1e-5, False),
        (aten.batch_norm.default, rand(2, 3, 4), *scale, None, None, True, 0.1, 1e-5, False),
    ]


def moves(r: Random) -> list[Case]:
    x, dim = rand(2, 3, 4), r.choice([0, 1, -1])
    return [
        (aten.transpose.int, x, *r.sample([0, 1, -1], 2)), (aten.t.default, rand(3, 4)),
        (aten.permute.default, x, r.sample([0, 1, -1], 3)),
        (aten.unsqueeze.default, x, r.choice([0, 1, -1, 3])),
        (aten.squeeze.dim, rand(2, 1, 4), r.choice([1, -2])), (aten.squeeze.dim, x, dim),
        (aten.squeeze.dims, rand(1, 3, 1, 4), [0, 2]), (aten.squeeze.dims, x, [0, -1]),
        (aten.expand.default, rand(2, 1, 4), [2, 3, 4]), (aten.expand.default, rand(1), [1]),
        (aten.expand.default, rand(3, 1), [2, 3, 4]),
        (aten.expand.default, rand(2, 1, 4), [5, -1, 6, -1]),
        (aten.slice.Tensor, x, dim, 1, 3), (aten.slice.Tensor, x, 1, 0, 3, 2),
        (aten.slice.Tensor, x), (aten.cat.default, [x, x]),
        (aten.cat.default, [x, rand(2, 3, 4)], dim), (aten.stack.default, [x, x]),
        (aten.stack.default, [x, rand(2, 3, 4)], r.choice([0, 1, 2, 3, -1])),
        (aten.split.Tensor, x, 2, dim), (aten.split.Tensor, x, 1),
        (aten.split.sizes, x, [1, 2], 1), (aten.split_with_sizes.default, x, [1, 3], -1),
        (aten.chunk.default, x, 2, dim), (aten.chunk.default, x, 2),
        (aten.repeat_interleave.self_int, x, 3, dim),
        (aten.repeat_interleave.self_int, x, 3, dim, {"output_size": 3 * x.shape[dim]}),
        (aten.view_as_real.default, torch.view_as_complex(rand(3, 4, 2))),
        (aten.view_as_complex.default, rand(3, 4, 2)),
        (aten.repeat.default, x, [1, r.choice([1, 2]), 3]), (aten.repeat.default, x, [2, 1, 1, 1]),
        (aten.flip.default, x, [dim]), (aten.flip.default, x, [0, -1]),
        (aten.tril.default, x), (aten.triu.default, x, 1),
        (aten.roll.default, x, [1], [dim]), (aten.roll.default, x, [1, 2], [0, -1]),
        (aten.roll.default, x, [1]),  # of all entries in one row
        (aten.constant_pad_nd.default, x, [1, 0]), (aten.constant_pad_nd.default, x, [0, 0, 1, 2]),
        (aten.pad.default, x, [2, 1], "reflect"), (aten.pad.default, x, [0, 0, 0, 1, 0, 0]),
    ]


def placed(r: Random) -> list[Case]:
    """Operators that take their places from indices."""
    x, dim = rand(2, 3, 4), r.choice([0, 1, -1])
    ids, start = torch.randint(0, x.shape[dim], (2, 3, 4)), torch.tensor([1, 0, 1, 1])
    fewer = torch.randint(0, 3, (2, 2, 3))
    table, pair = rand(5, 6, 7), torch.tensor([[0, 4], [2, 2], [3, 1]])
    where = torch.arange(12).reshape(3, 4) % 3 != 0
    return [
        (aten.gather.default, x, dim, ids), (aten.gather.default, x, 1, fewer),
        (aten.gather.default, x, 1, torch.tensor([[[2, 1, 0, 0]] * 5] * 2)),
        (aten.scatter.value, x, dim, ids, 7.0), (aten.scatter.src, x, 1, ids[:, :1] % 3, x),
        (aten.scatter.value, x, 1, fewer, 7.0), (aten.scatter.src, x, 1, fewer, x),
        (aten.slice_scatter.default, x, rand(2, 2, 4), 1, 1, 3),
        (aten.slice_scatter.default, x, rand(1, 3, 4), 0, 1),
        (aten.slice_scatter.default, x, rand(2, 3, 4)),
        (aten.select_scatter.default, x, rand(2, 4), 1, 2),
        (aten.select_scatter.default, x, rand(2, 3), -1, 0),
        (aten.select_scatter.default, x, rand(3, 4), 0, 1),
        (aten.index.Tensor, table, [start]), (aten.index.Tensor, table, [None, start]),
        (aten.index.Tensor, table, [None, None, start]), (aten.index.Tensor, table, [pair]),
        (aten.index.Tensor, table, [None, pair]), (aten.index.Tensor, table, [None, start[0]]),
        (aten.index.Tensor, table, [start, start]), (aten.index.Tensor, rand(3, 4, 6), [where]),
        (aten.index.Tensor, rand(6, 3, 4, 5), [None, where]),
        (aten.index_select.default, table, dim, start),
        (aten.index_select.default, table, dim, start[0]),
    ]


SHAPES = [
    ((2, 3, 8), (2, 3, 2, 4)), ((2, 3, 2, 4), (2, 3, 8)), ((2, 6), (12,)), ((12,), (3, 4)),
    ((2, 3, 2, 2, 2), (2, 3, 4, 2)), ((2, 3, 4), (2, -1)), ((2, 1, 6), (2, 3, 2)),
    ((4, 6), (2, 2, 3, 2)), ((4, 6), (8, 3)), ((6, 4), (6, 1, 4)), ((2, 3, 4), (-1, 2, 2)),
    ((2, 3), (2, 3, 1)), ((2, 3, 1), (2, 3)), ((2, 3), (1, 2, 3, 1, 1)),
]


def views(r: Random) -> list[Case]:
    target = r.choice([aten.view.default, aten.reshape.default, aten._unsafe_view.default])
    return [(target, rand(*before), list(after)) for before, after in SHAPES]


def attentions(r: Random) -> list[Case]:
    shared = r.choice([1, 2, 4])
    q, k, v = rand(2, 4, 3, 5), rand(2, 4 // shared, 6, 5), rand(2, 4 // shared, 6, 7)
    options: dict[str, Any] = {"enable_gqa": True} if shared > 1 else {}
    mask = r.choice([None, rand(3, 6), rand(2, 1, 3, 6), rand(2, 4, 3, 6), rand(1, 4, 1, 6)])
    causal = mask is None and r.random() < 0.5
    return [
        (FUSED, q, k, v, options | {"attn_mask": mask}), (FUSED, q, k, v, mask, 0.0, causal,
                                                          options),
        (FUSED, q, k[:1], v[:1], mask, 0.0, causal, options),  # one batch of keys for all
        (FUSED, q[0], rand(4, 6, 5), rand(4, 6, 7), None, 0.0, causal),
        (FUSED, q[0, 0], rand(6, 5), rand(6, 7)),
    ]


MAKERS: list[Callable[[Random], list[Case]]] = [
    elementwise, reductions, products, convolutions, moves, placed, views, attentions]


def nodes(make: Callable[[Random], list[Case]], random: Random) -> list[fx.Node]:
    """The cases of a maker as nodes; of several results, each is a further node."""
    made = []
    for target, *args in make(random):
        kwargs = args.pop() if args and isinstance(args[-1], dict) else {}
        node = node_of(target, tuple(args), kwargs)
        made.append(node)
        if isinstance(node.meta["val"], (tuple, list)):
            made += [entry_of(node, index) for index in range(len(node.meta["val"]))]
    return made
