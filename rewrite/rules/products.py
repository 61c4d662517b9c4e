"""Products with a weight, and sums, by the axis that they sum over."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from rewrite.ir.flow import Flow, args, shape
from rewrite.rules.matching import arguments

aten = torch.ops.aten
CONVOLUTIONS = {aten.conv1d.default, aten.conv2d.default}
PLACES: dict[Any, tuple[int, int, int | None]] = {  # of data, weight and bias
    aten.linear.default: (0, 1, 2), aten.addmm.default: (1, 2, 0), aten.mm.default: (0, 1, None),
    aten.matmul.default: (0, 1, None), aten.conv1d.default: (0, 1, 2),
    aten.conv2d.default: (0, 1, 2),
}


@dataclass(frozen=True)
class Contraction:
    """What sums over one `axis` of the operand `data`: a product with a weight, or a plain sum.

    `weight` is the position of the weight and its axis that is summed over, `bias` that of
    the bias, `made` the axis of the result that holds the product's own features.
    """

    data: int
    axis: int
    weight: tuple[int, int] | None = None
    bias: int | None = None
    made: int = -1


def contraction(flow: Flow, node: fx.Node) -> Contraction | None:
    """What a product with a weight, or a sum over one axis, sums over; None for all else.

    A convolution that looks at one place alone is a product with a weight at each place.
    """
    if node.target is aten.sum.dim_IntList:
        dims = args(node)[1]
        return Contraction(0, dims[0] % len(shape(args(node)[0]))) if (
            dims and len(dims) == 1 and flow.flows(args(node)[0])) else None
    if node.target not in PLACES:
        return None
    if flow.weight_first(node):
        weight, data = (len(shape(operand)) for operand in args(node))
        return Contraction(1, data - 2, (0, weight - 1), None, len(shape(node)) - 2) if (
            weight > 1 < data) else None
    data, weight, bias = PLACES[node.target]
    given = arguments(node)
    rank, last = len(shape(given[weight])), len(shape(node)) - 1
    added = None if bias is None else given[bias]
    plain = flow.flows(given[data]) and flow.from_weights(given[weight]) and rank >= 2
    scaled = node.target is aten.addmm.default and given[3:] != (1, 1)
    if not plain or scaled or (isinstance(added, fx.Node) and flow.flows(added)):
        return None
    if node.target in CONVOLUTIONS:
        return Contraction(0, 1, (1, 1), 2, 1) if _looks_at_one_place(node) else None
    axis = 1 if node.target is aten.linear.default else rank - 2
    return Contraction(data, len(shape(given[data])) - 1, (weight, axis), bias, last)


def _looks_at_one_place(node: fx.Node) -> bool:
    _, weight, _, *window, groups = arguments(node)
    plain = all(set(given) == {wanted} for given, wanted in zip(window, (1, 0, 1), strict=True))
    return plain and groups == 1 and all(size == 1 for size in shape(weight)[2:]) and (
        len(shape(node)) == len(shape(weight)))
