"""Inputs of other sizes, made of the example inputs so that their structure stays."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

Shapes = Mapping[str, tuple[int | str, ...]]  # of each input: sizes, and names of those that vary
Sizes = dict[str, int]


def sizes_of(inputs: Mapping[str, Tensor], shapes: Shapes) -> Sizes:
    """The sizes that vary, by their names.

    >>> sizes_of({"x": torch.ones(3, 5)}, {"x": ("batch", 5)})
    {'batch': 3}
    """
    return {dim: size for name, shape in shapes.items()
            for dim, size in zip(shape, inputs[name].shape, strict=True) if isinstance(dim, str)}


def rows_of(shapes: Shapes) -> set[str]:
    """Names of sizes that are the first axis of an input."""
    return {str(shape[0]) for shape in shapes.values() if shape and isinstance(shape[0], str)}


def usual(sizes: Sizes, rows: set[str]) -> Iterator[Sizes]:
    """All sizes larger, and all smaller."""
    yield {dim: n + (1 if dim in rows else 6) for dim, n in sizes.items()}
    yield {dim: 2 if dim in rows else max(2, n - 4) for dim, n in sizes.items()}


def others(sizes: Sizes, wanted: str) -> Iterator[Sizes]:
    """Sizes at which a model may run that refuses the usual ones: `wanted` is another in each."""
    n = sizes[wanted]
    yield sizes | {wanted: n + 1}
    yield {dim: 2 * size for dim, size in sizes.items()}
    yield {dim: max(1, size // 2) for dim, size in sizes.items()}
    for new in dict.fromkeys((2 * n, n + 6, n + 2, n - 1, n - 2, n // 2, 2, 1)):
        if new > 0 and new != n:
            yield sizes | {wanted: new}


def resized(
    inputs: Mapping[str, Tensor], shapes: Shapes, new: Sizes
) -> Iterator[dict[str, Tensor]]:
    """The inputs at other sizes, in the ways in which a model may accept them, likely ones first.

    Axes are stretched, ends on ends, so that masks stay aligned, indices sorted and vectors
    whole; then whole numbers also grow with the axis that they seem to count.
    """
    old = sizes_of(inputs, shapes)
    plain = {name: _stretched(value, shapes[name], new) for name, value in inputs.items()}
    yield plain
    counted = {name: _rescaled(name, value, inputs, shapes, old, new)
               for name, value in plain.items()}
    if any(not torch.equal(counted[name], value) for name, value in plain.items()):
        yield counted


def masked(inputs: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """The inputs with the end of the first row turned over in every mask that has one value only.

    A mask `[batch, length]` of ones says nothing about how a model treats padding.
    """
    found = {name: _turned(value) for name, value in inputs.items() if _is_even_mask(value)}
    return dict(inputs) | found if found else None


def _is_even_mask(value: Tensor) -> bool:
    if value.is_floating_point() or value.is_complex() or value.ndim != 2 or value.shape[1] < 2:
        return False
    first = int(value[0, 0]) if len(value) else 2
    return first in (0, 1) and bool((value == value[0, 0]).all())


def _turned(value: Tensor) -> Tensor:
    result = value.clone()
    result[0, -max(1, value.shape[1] // 4):] = not bool(value[0, 0])
    return result


def _stretched(value: Tensor, shape: tuple[int | str, ...], new: Sizes) -> Tensor:
    for axis, dim in enumerate(shape):
        old = value.shape[axis]
        if isinstance(dim, str) and new[dim] != old:
            index = torch.linspace(0, max(old - 1, 0), new[dim]).round().long()
            shares = _sums_to_one(value, axis)
            value = value.index_select(axis, index.to(value.device)).contiguous()
            if shares:
                value = value / value.sum(axis, keepdim=True)
    return value.clone()


def _sums_to_one(value: Tensor, axis: int) -> bool:
    """Whether the entries along an axis are probabilities."""
    if not value.is_floating_point() or not value.numel() or bool((value < 0).any()):
        return False
    return bool(((value.float().sum(axis) - 1).abs() < 1e-3).all())


def _rescaled(
    name: str, value: Tensor, inputs: Mapping[str, Tensor], shapes: Shapes, old: Sizes, new: Sizes
) -> Tensor:
    """Whole numbers that may count an axis of another input, or of their own, grow with it."""
    if value.is_floating_point() or value.dtype == torch.bool or not value.numel():
        return value
    largest = int(inputs[name].max())
    own = {dim for dim in shapes[name] if isinstance(dim, str)}
    other = {dim for n, shape in shapes.items() if n != name for dim in shape
             if isinstance(dim, str)}
    for dims in (other - own, own):
        fitting = sorted((old[dim], dim) for dim in dims if old[dim] >= largest)
        if fitting and largest > 0:
            size, dim = fitting[0]
            return value * new[dim] // size
    return value
