"""Costs of models, component graphs and expansions, beside what real runs take."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from sympy import Poly, Symbol, degree
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import rewrite as rw
from rewrite.errors import InputError
from rewrite.expand import cost
from tests.symbolic.counting import counted
from tests.zoo import FAMILIES, tiny, tokens, traced

FIVE = ("gpt2", "llama", "qwen3", "gemma3", "bert")
BATCH, SEQ = (Symbol(name, integer=True, positive=True) for name in ("batch", "seq"))
WIDE: dict[str, Any] = {"hidden_size": 256, "intermediate_size": 512, "head_dim": 64,
                        "max_position_embeddings": 256}


@cache
def wide(family: str) -> rw.Components:
    """Two layers of width 256, so that tensors take megabytes."""
    options = {"n_embd": 256, "n_positions": 256} if family == "gpt2" else dict(WIDE)
    if family == "bert":
        del options["head_dim"]
    return rw.trace(tiny(family, **options)).components()


def expanded(parts: rw.Components, text: str = "a0.h1 -> ... -> a1.h2", **how: Any) -> Any:
    return rw.expand(rw.Hypothesis(parts, {"clean": text}), **how)


@pytest.mark.parametrize("family", ["gpt2", "qwen3", "gemma3", "bert"])
def test_predicted_is_counted(family: str) -> None:
    parts = wide(family)
    exp = expanded(parts)
    for thing, runs in ((parts.graph, 1), (parts, 1), (exp, 2)):
        found = cost(thing)
        for batch, length in ((8, 128), (3, 50)):
            given = [tokens(batch, length, seed) for seed in range(runs)]
            real = counted(lambda module=thing.module, given=given: module(*given))
            predicted = found.at(batch=batch, seq=length)
            assert (predicted.flops, predicted.kernels) == (real.flops, real.kernels)
            assert predicted.peak == pytest.approx(real.peak, rel=0.15)


@pytest.mark.parametrize(("text", "how"), [
    ("a1.h3.v -> logits", {"last": True, "columns": (3, 5)}),
    ("a0.h1.q | m0 -> a1.h2.k", {}), ("a0.h1.q | m0 -> a1.h2.k", {"last": True}),
    ("...", {}), ("...", {"last": True, "columns": (3, 5)})])
def test_expansions(text: str, how: dict[str, Any]) -> None:
    exp = expanded(traced("llama").parts, text, **how)
    given = [tokens(4, 9, seed) for seed in range(len(exp.runs))]
    real = counted(lambda: exp.module(*given))
    predicted = exp.cost.at(batch=4, seq=9)
    assert (predicted.flops, predicted.kernels) == (real.flops, real.kernels)
    assert predicted.peak == pytest.approx(real.peak, rel=0.15)


@pytest.mark.parametrize("family", FIVE)
def test_attention_by_hand_has_the_same_flops(family: str) -> None:
    """Without fused kernels torch counts every product by itself."""
    graph, given = traced(family).graph, tokens(3, 9)
    with torch.no_grad(), sdpa_kernel([SDPBackend.MATH]), FlopCounterMode(display=False) as flops:
        graph.module(given)
    assert cost(graph).at(batch=3, seq=9).flops == flops.get_total_flops()


@pytest.mark.parametrize("family", FAMILIES)
def test_flops_are_a_polynomial(family: str) -> None:
    flops = cost(traced(family).graph).flops
    assert (degree(flops, SEQ), degree(flops, BATCH)) == (2, 1)
    assert all(c > 0 for c in Poly(flops, BATCH, SEQ).coeffs())


def test_every_layer_costs_the_same() -> None:
    two, three, four = (cost(graph) for graph in (
        traced("llama").graph, *(rw.trace(tiny("llama", num_hidden_layers=n)) for n in (3, 4))))
    for name in ("flops", "elementwise", "bytes", "kernels"):
        values = [getattr(each, name) for each in (two, three, four)]
        assert values[2] - values[1] == values[1] - values[0] != 0
    assert three.peak == four.peak


def test_one_run_costs_what_the_model_costs() -> None:
    parts = traced("gpt2").parts
    exp = expanded(parts, "...")
    assert exp.cost.flops == cost(parts.graph).flops and exp.cost.kernels == 66


def test_a_body_that_occurs_again_is_run_once(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = traced("gpt2").parts
    called: list[str] = []
    for name, body in parts.module.named_children():
        forward = body.forward
        monkeypatch.setattr(body, "forward", lambda *a, name=name, forward=forward: (
            called.append(name), forward(*a))[1])
    cost(parts)
    assert "a0_h3" in called and "a1_h3" not in called and "m1" not in called


def test_without_weights() -> None:
    _, config, options = FAMILIES["llama"]
    empty = rw.trace(config(**options, architectures=["LlamaForCausalLM"]))
    full = traced("llama")
    for a, b in ((empty, full.graph), (empty.components(), full.parts)):
        one, other = cost(a), cost(b)
        for name in ("flops", "elementwise", "bytes", "peak", "kernels"):
            assert getattr(one, name) == getattr(other, name)


def test_expressions_of_an_expansion_are_made_when_asked_for() -> None:
    exp = expanded(traced("gpt2").parts)
    assert "work" not in vars(exp.cost)
    assert str(exp.cost).startswith("20 nodes") or "copies" in str(exp.cost)
    assert exp.cost.flops == cost(exp).flops and "work" in vars(exp.cost)
    for name in ("elementwise", "bytes", "peak", "kernels"):
        assert getattr(exp.cost, name) == getattr(cost(exp), name)
    assert exp.cost.at(batch=2, seq=5) == cost(exp).at(batch=2, seq=5)
    assert exp.cost.table().equals(cost(exp).table())


def test_tables_add_up() -> None:
    parts = traced("gpt2").parts
    found, sizes = cost(parts), {"batch": 2, "seq": 5}
    table, at = found.table(**sizes), found.at(**sizes)
    for column in table.columns:
        assert table[column].sum() == getattr(at, column)
    assert {"embed", "a0.h0", "a1.h3", "m1", "logits"} <= set(table.index)
    assert found.table().loc["m0", "flops"] == 16384 * BATCH * SEQ
    modules = cost(parts.graph).table(**sizes)
    assert any(label.endswith("h.1.mlp.c_fc") for label in modules.index)


def test_around() -> None:
    graph = traced("gpt2").graph
    assert cost(graph, around={"seq": 40}).flops == cost(graph).flops
    exp = expanded(traced("gpt2").parts)
    assert cost(exp, around={"seq": 40}).flops == exp.cost.flops
    with pytest.raises(InputError, match="no size 'length'"):
        cost(graph, around={"length": 40})


def test_what_has_no_cost() -> None:
    hypothesis = rw.Hypothesis(traced("gpt2").parts, {"clean": "m0"})
    with pytest.raises(InputError, match=r"found Hypothesis.*rw.cost\(rw.expand\(hypothesis\)\)"):
        cost(hypothesis)
