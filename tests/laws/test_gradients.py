"""Gradients through expansions: the model's own, and finite differences."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import rewrite as rw
from tests.zoo import FAMILIES, error, tokens, traced

A, B = tokens(3, 7, seed=5), tokens(3, 7, seed=6)


def loss(logits: Tensor) -> Tensor:
    """Cross entropy of the next token."""
    return torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), A[:, 1:].flatten())


@pytest.mark.parametrize("family", FAMILIES)
def test_all_clean_has_the_gradients_of_the_model(family: str) -> None:
    at = traced(family)
    exp = rw.expand(rw.Hypothesis(at.parts, {"clean": "..."}))
    names, parameters = zip(*at.model.named_parameters(), strict=True)
    wanted = torch.autograd.grad(
        loss(at.model(input_ids=A).logits), parameters, allow_unused=True)
    found = torch.autograd.grad(
        loss(exp(clean={"input_ids": A}, corrupt={"input_ids": B}).logits), parameters,
        allow_unused=True)
    assert sum(gradient is not None for gradient in wanted) > 20
    for name, mine, own in zip(names, found, wanted, strict=True):
        assert (mine is None) == (own is None), name
        if own is not None and own.abs().max() > 1e-7:
            assert error(mine, own) < 1e-4, name


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox"])  # other families round in their norms
@pytest.mark.parametrize("pattern", ["a0.h1 -> m0 -> a1.h2.k", "~(a1.h0.v | m0 -> logits)"])
def test_a_mixture_has_the_gradient_of_finite_differences(family: str, pattern: str) -> None:
    at = traced(family, torch.float64)
    if family == "gpt_neox":
        pattern = pattern.replace("m0 -> a1.h2.k", "a1.h2.k")  # its layers run in parallel
    exp = rw.expand(rw.Hypothesis(at.parts, {"clean": pattern}))
    parameters = list(at.model.parameters())
    draw = torch.Generator().manual_seed(0)
    direction = [torch.randn(p.shape, generator=draw, dtype=p.dtype) for p in parameters]
    saved = [parameter.detach().clone() for parameter in parameters]

    def value(step: float) -> Tensor:
        with torch.no_grad():
            for parameter, before, along in zip(parameters, saved, direction, strict=True):
                parameter.copy_(before + step * along)
        return loss(exp(clean={"input_ids": A}, corrupt={"input_ids": B}).logits)

    try:
        gradients = torch.autograd.grad(value(0.0), parameters, allow_unused=True)
        slope = sum(float((g * d).sum()) for g, d in zip(gradients, direction, strict=True)
                    if g is not None)
        with torch.no_grad():
            measured = float(value(1e-6) - value(-1e-6)) / 2e-6
    finally:
        value(0.0)
    assert slope == pytest.approx(measured, rel=1e-6)
