"""Compiled expansions: the numbers and gradients of eager ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch._inductor import config as inductor
from torch._inductor.cpp_builder import get_cpp_compiler
from torch._inductor.exc import InvalidCxxCompiler

import rewrite as rw
from rewrite.errors import BackendError, DataError
from rewrite.expand import Expansion
from rewrite.expand.stackable import Unstackable
from rewrite.run.compiled import MODES, REPLAYED, Compiled, compiled
from tests.zoo import error, tiny, tokens, traced

RUNS = {run: {"input_ids": tokens(3, 6, seed)} for seed, run in enumerate(("clean", "corrupt"), 1)}
CALL: dict[str, Any] = {
    "pairs": rw.Pairs.from_tensors(RUNS), "metric": rw.kl_divergence(position=-1)}


def expansion(parts: rw.Components) -> Expansion:
    head, reader = parts.heads[0], next(b for a, b in parts.edges if a == "m0")
    return rw.expand([rw.Hypothesis(parts, {"corrupt": f"{head} | m0 -> {reader}"}, "clean"),
                      rw.Hypothesis(parts, {"corrupt": head}, "clean")])


@pytest.fixture
def no_kernels(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """torch.compile up to the point where kernels are made, which takes a minute; the modes."""
    modes: list[str] = []

    def capture(module: Any, mode: str) -> Any:
        modes.append(mode)
        return real(module, backend="aot_eager", fullgraph=True)

    real = torch.compile
    monkeypatch.setattr(torch, "compile", capture)
    return modes


def agree(eager: Expansion, other: Expansion, parts: rw.Components) -> None:
    """Values, and the gradients of all weights."""
    found, wanted = other.run(**RUNS), eager.run(**RUNS)
    assert all(error(a.logits, b.logits) < 1e-5 for a, b in zip(found, wanted, strict=True))
    weights = [p for p in parts.graph.module.parameters() if p.requires_grad]
    gradients = [torch.autograd.grad(sum(o.logits.square().sum() for o in outputs), weights)
                 for outputs in (found, wanted)]
    assert all(error(a, b) < 1e-4 for a, b in zip(*gradients, strict=True) if b.any())


@pytest.mark.parametrize("family", ["gpt2", "llama", "bert"])
def test_values_and_gradients(family: str, no_kernels: list[str]) -> None:
    parts = traced(family).parts
    eager = expansion(parts)
    agree(eager, compiled(eager), parts)
    assert no_kernels == ["default"]


def test_evaluations_and_sweeps(no_kernels: list[str]) -> None:
    parts = traced("gpt2").parts
    hypothesis = rw.Hypothesis(parts, {"corrupt": "a0.h1 -> m1"}, "clean")
    found = rw.evaluate(hypothesis, **CALL, compile=True)
    np.testing.assert_allclose(found.effects, rw.evaluate(hypothesis, **CALL).effects, atol=1e-5)
    swept = rw.sweep(parts, "a1.h*", **CALL, compile="reduce-overhead")
    wanted = rw.sweep(parts, "a1.h*", **CALL)
    np.testing.assert_allclose(swept.table["effect"], wanted.table["effect"], atol=1e-5)
    assert no_kernels == ["default", "reduce-overhead"]


def test_what_a_cuda_graph_overwrites_is_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for CUDA graphs: every call writes its results where those before it lie."""
    def replayed(module: Any, mode: str) -> Any:
        static: list[torch.Tensor] = []

        def run(*args: Any) -> tuple[torch.Tensor, ...]:
            found = module(*args)
            static.extend(value.clone() for value in found if not static)
            return tuple(kept.copy_(value) for kept, value in zip(static, found, strict=True))

        return run

    monkeypatch.setattr(torch, "compile", replayed)
    eager = expansion(traced("gpt2").parts)
    swapped = {"clean": RUNS["corrupt"], "corrupt": RUNS["clean"]}
    with torch.no_grad():
        for mode in MODES:
            made = compiled(eager, mode)
            kept = made.run(**RUNS)[0].logits
            made.run(**swapped)
            assert torch.equal(kept, eager.run(**RUNS)[0].logits) == (mode in REPLAYED)


def has_compiler() -> bool:
    try:
        get_cpp_compiler()
    except InvalidCxxCompiler:
        return False
    return True


@pytest.mark.slow
@pytest.mark.skipif(not has_compiler(), reason="no C++ compiler: install g++")
def test_kernels() -> None:
    parts = rw.trace(tiny("gpt2", n_layer=1)).components()
    eager = rw.expand(rw.Hypothesis(parts, {"corrupt": "a0.h1 -> m0"}, "clean"))
    with torch.no_grad():
        found = [compiled(eager, mode).run(**RUNS).logits
                 for mode in ("default", "reduce-overhead")]
        assert torch.equal(*found) and error(found[0], eager.run(**RUNS).logits) < 1e-5


def test_without_a_compiler() -> None:
    parts = traced("gpt2").parts
    with inductor.patch({"cpp.cxx": ("no-such-compiler",), "fx_graph_cache": False}), \
            pytest.raises(BackendError, match=r"C\+\+ compiler, and finds none: install one"):
        compiled(rw.expand(rw.Hypothesis(parts, {"corrupt": "m1"}, "clean"))).run(**RUNS)


def test_modes() -> None:
    exp = expansion(traced("gpt2").parts)
    assert compiled(exp, False) is exp
    assert set(MODES) <= set(torch._inductor.list_mode_options())
    with pytest.raises(DataError, match=r"no mode 'reduce_overhead'; did you mean reduce-over"):
        compiled(exp, "reduce_overhead")
    with pytest.raises(DataError, match="no mode 'quick'"):
        rw.sweep(exp.parts, **CALL, compile="quick")
    made = compiled(exp, "max-autotune")
    assert isinstance(made, Compiled) and made.mode == "max-autotune"
    assert made.copies == exp.copies and made.code == exp.code


def test_models_that_cannot_be_stacked() -> None:
    class PositionsFirst(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = x.transpose(0, 1)
            return (y + self.layer(y)).transpose(0, 1)

    parts = rw.trace(PositionsFirst().eval(), {"x": torch.randn(3, 5, 4)}).components()
    exp = rw.expand(rw.Hypothesis(parts, {"clean": "..."}))
    assert exp.not_stacked
    with pytest.raises(Unstackable):
        compiled(exp)
