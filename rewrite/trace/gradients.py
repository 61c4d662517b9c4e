"""Gradients of the model and of its graph at the same inputs.

A graph is made of operators: a backward that the model defines by itself
(`autograd.Function`, hooks), or leaves out (`torch.no_grad`), is not in it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from rewrite.ir.certificate import GRADIENTS
from rewrite.trace.support import first_line

ENTRIES = 2 ** 24  # of weights whose gradients are compared, the smallest weights first
LOOSE, LARGEST = 10, 0.03  # times the tolerance of outputs, as a share of the largest gradient
STEPS, APART = 8, 0.03  # a small gradient differs by this share of its own, above rounding steps


def compare_gradients(
    graph: nn.Module, model: Callable[..., Sequence[Tensor]], module: nn.Module,
    inputs: Mapping[str, Tensor], order: Sequence[str], limit: float,
    quietly: Callable[[], AbstractContextManager[Any]],
) -> tuple[float | None, tuple[str, ...]]:
    """The largest difference as a share of the largest gradient, and where gradients differ.

    They are those of a weighted sum of all outputs, with respect to inputs of floating type
    and to weights.  None if there are none to compare, or if the model has none.
    """
    weights = _weights(module, inputs)
    names = [name for name, value in inputs.items() if value.is_floating_point()]
    if not weights and not names:
        return None, ()
    try:
        with torch.enable_grad(), quietly():
            want = _gradients(lambda given: model(*given.values()), inputs, names, weights)
            have = _gradients(lambda given: graph(*(given[name] for name in order)), inputs,
                              names, weights)
    except Exception as error:  # whatever it is, it says that the model has no gradients here
        return None, (f"{GRADIENTS}, or cannot be compared: {first_line(error)}",)
    return _difference(want, have, limit)


def _weights(module: nn.Module, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights whose gradients fit into little memory, small ones first: they are everywhere."""
    every = {n: p for n, p in module.named_parameters() if p.is_floating_point()}
    found = {n: p for n, p in every.items() if p.requires_grad}
    if not found and not any(value.is_floating_point() for value in inputs.values()):
        found = {n: p.requires_grad_() for n, p in every.items()}  # whoever traces puts it back
    kept: dict[str, Tensor] = {}
    total = 0
    for name, weight in sorted(found.items(), key=lambda item: item[1].numel()):
        total += weight.numel()
        if kept and total > ENTRIES:
            break
        kept[name] = weight
    return kept


def _gradients(
    function: Callable[[dict[str, Tensor]], Sequence[Tensor]], inputs: Mapping[str, Tensor],
    names: Sequence[str], weights: Mapping[str, Tensor],
) -> dict[str, Tensor]:
    leaves = {name: inputs[name].detach().clone().requires_grad_() for name in names}
    given = {name: leaves[name].clone() if name in leaves else value.clone()
             for name, value in inputs.items()}
    outputs = [value for value in function(given)
               if value.is_floating_point() and value.requires_grad]
    held = leaves | dict(weights)
    if not outputs:
        return {name: torch.zeros_like(value) for name, value in held.items()}
    total = sum(_weighted(value, index) for index, value in enumerate(outputs))
    assert isinstance(total, Tensor)
    found = torch.autograd.grad(total, list(held.values()), allow_unused=True)
    return {name: torch.zeros_like(value) if grad is None else grad.detach()
            for (name, value), grad in zip(held.items(), found, strict=True)}


def _weighted(value: Tensor, seed: int) -> Tensor:
    """A sum in which every entry counts otherwise, so that no gradients cancel by symmetry."""
    draw = torch.Generator().manual_seed(seed)
    weights = torch.randn(value.shape, generator=draw).to(value.device, value.dtype)
    return torch.where(value.isfinite(), value * weights, 0).sum()


def _difference(
    want: Mapping[str, Tensor], have: Mapping[str, Tensor], limit: float
) -> tuple[float | None, tuple[str, ...]]:
    sizes = {name: max(_size(want[name]), _size(have[name])) for name in want}
    top = max(sizes.values(), default=0.0)
    worst, at = 0.0, ""
    for name, grad in want.items():
        off = _size(torch.where(_same(grad, have[name]), 0, grad.double() - have[name].double()))
        share = off / top if top else 0.0
        eps = torch.finfo(grad.dtype).eps
        if off > STEPS * eps * top and off > max(APART, limit) * sizes[name]:
            share = off / sizes[name]
        if share > worst:
            worst, at = share, name
    if worst <= min(LOOSE * limit, LARGEST):
        return worst, ()
    return worst, (f"{GRADIENTS}: with respect to {at} the largest is {_size(want[at]):.3g} in "
                   f"the model and {_size(have[at]):.3g} in the graph, which follows operators "
                   "and no backward that the model defines or leaves out",)


def _same(one: Tensor, other: Tensor) -> Tensor:
    return (one == other) | (one.isnan() & other.isnan())


def _size(values: Tensor) -> float:
    found = values.double().abs().nan_to_num(float("inf"), float("inf"))
    return float(found.max()) if found.numel() else 0.0
