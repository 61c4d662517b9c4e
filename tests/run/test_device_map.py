"""Models whose layers lie on several devices: pretended ones, which no operator may mix."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import fx

import rewrite as rw
from rewrite.ir.values import devices
from tests.machines import (
    FIRST,
    SECOND,
    Placed,
    dispatched,
    from_first,
    machines,
    placed,
    weighted,
)
from tests.zoo import Traced, error, tiny, tokens, traced

# Weights are not tied: accelerate knows tied ones by their memory, and fake ones have none.
LLAMA = {"model.embed_tokens": FIRST, "model.rotary_emb": FIRST, "model.layers.0": FIRST,
         "model.layers.1": SECOND, "model.norm": SECOND, "lm_head": SECOND}
GPT2 = {"transformer.wte": FIRST, "transformer.wpe": FIRST, "transformer.drop": FIRST,
        "transformer.h.0": SECOND, "transformer.h.1": FIRST, "transformer.ln_f": SECOND,
        "lm_head": FIRST}
RUNS = {run: {"input_ids": tokens(3, 6, seed)} for seed, run in enumerate(("clean", "corrupt"), 1)}
LABELS = {"correct": torch.tensor([3, 4, 5]), "wrong": torch.tensor([6, 7, 8])}
PAIRS = rw.Pairs.from_tensors(RUNS, labels=LABELS)
FAMILIES = ["gpt2", pytest.param("llama", marks=pytest.mark.slow)]  # tracing takes seconds
END = {"END": [1, 3, 5]}


@cache
def spread(family: str) -> rw.Components:
    """A tiny model over two devices, its inputs on the first."""
    if family == "llama":
        graph, model = dispatched(tiny("llama"), LLAMA), traced("llama").model
    else:
        model = whole("gpt2").model
        graph = dispatched(tiny("gpt2", tie_word_embeddings=False), GPT2)
    return weighted(from_first(graph), model).components()


@cache
def whole(family: str) -> Traced:
    """The same model on one device."""
    if family == "llama":
        return traced("llama")
    graph = rw.trace(model := tiny("gpt2", tie_word_embeddings=False))
    return Traced(model, graph, graph.components())


def hypotheses(parts: rw.Components) -> list[rw.Hypothesis]:
    return [rw.Hypothesis(parts, {"clean": "a0.h0 | m0 -> a1.h1.q"}, "corrupt"),
            rw.Hypothesis(parts, {"corrupt": "a0.h1@END -> a1.h2.v"}, "clean"),
            rw.Hypothesis(parts, {"clean": "... -> a1.h0.k[-1]"}, "corrupt")]


def on_first(runs: dict[str, Any]) -> dict[str, Any]:
    return {run: {n: placed(v, FIRST) for n, v in given.items()} for run, given in runs.items()}


def test_pretended_devices() -> None:
    a, b = placed(torch.ones(2), FIRST), placed(torch.ones(2), SECOND)
    with machines():
        with pytest.raises(RuntimeError, match=r"aten.add.Tensor has operands on cpu:1, cpu:2"):
            _ = a + b
        for moved in (torch.arange(2, device=SECOND), torch.tensor([1, 2], device=SECOND),
                      b.new_tensor([1, 2]), a.to(SECOND), torch.zeros(2).to(SECOND)):
            assert isinstance(moved, Placed) and moved.device == SECOND and (moved + b)[1].ndim == 0
        assert type((a + 1).cpu()) is torch.Tensor and (a + torch.tensor(1.0)).device == FIRST


@pytest.mark.parametrize("family", FAMILIES)
def test_the_stream_is_the_stream_on_any_device(family: str) -> None:
    """Also where it crosses in front of the first layer, behind the last one, and back."""
    parts, other = spread(family), whole(family)
    assert devices(parts.graph.module) == (FIRST, SECOND)
    assert (parts.names, parts.edges, parts.notes) == (
        other.parts.names, other.parts.edges, other.parts.notes)
    ids = RUNS["clean"]["input_ids"]
    with torch.no_grad(), machines():
        for called in (parts.graph, parts):
            found = called(input_ids=placed(ids, FIRST)).logits
            assert found.device == FIRST
            assert error(found.cpu(), other.graph(input_ids=ids).logits) < 1e-5


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("options", [{}, {"last": True, "columns": [1, 5, 6]}], ids=["all", "last"])
def test_expansions(family: str, options: dict[str, Any]) -> None:
    with torch.no_grad():
        wanted = rw.expand(hypotheses(whole(family).parts), **options)(END, **RUNS)
        with machines():
            exp = rw.expand(hypotheses(spread(family)), **options)
            for found in (exp(END, **on_first(RUNS)), exp.run(END, **on_first(RUNS))):
                for one, right in zip(found, wanted, strict=True):
                    assert error(one.logits.cpu(), right.logits) < 1e-5


def test_evaluations_and_sweeps() -> None:
    def measured(parts: rw.Components) -> list[np.ndarray]:
        swept = rw.sweep(parts, "a0.h0", "a1.h0.q | logits", each=True, pairs=PAIRS,
                         metric=rw.logit_diff(), budget="1GB")
        found = rw.evaluate(hypotheses(parts)[0], PAIRS, rw.loss_diff(position="all"))
        return [found.effects, swept.table["effect"].to_numpy(float)]

    with machines():
        found = measured(spread("gpt2"))
    for one, right in zip(found, measured(whole("gpt2").parts), strict=True):
        np.testing.assert_allclose(one, right, atol=1e-5)


def test_without_a_move_devices_are_mixed() -> None:
    """The pretended devices do find what is missing: each move of the op graph by itself."""
    module = spread("gpt2").graph.module
    moves = [node for node in module.graph.nodes if node.kwargs.get("layout") is torch.strided]
    *moves, _ = moves  # whoever reads the output may do so anywhere
    assert len(moves) == 5  # the stream three times, what the norm makes of it, the mask
    for move in moves:
        place = move.kwargs["device"]
        move.kwargs = {**move.kwargs, "device": SECOND if place == FIRST else FIRST}
        with torch.no_grad(), machines(), pytest.raises(RuntimeError, match="has operands on"):
            fx.Interpreter(module).run(placed(RUNS["clean"]["input_ids"], FIRST))
        move.kwargs = {**move.kwargs, "device": place}
