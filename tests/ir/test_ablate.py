"""Ablations are hooks on the eager model, written by hand here."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import rewrite as rw
from rewrite.errors import InputError, SurgeryError, UnknownName
from rewrite.ir import match as m
from rewrite.ir.ablate import noised, shuffled
from tests.zoo import Traced, logits, tokens, traced

IDS, OTHER = tokens(4, 6), tokens(4, 6, seed=7)
# An MLP of the second layer: the node that writes it, and the module.
MLPS = {"gpt2": ("view_22", "transformer.h.1.mlp"), "llama": ("linear_13", "model.layers.1.mlp")}
Change = Callable[[Tensor], Tensor]


def hooked(at: Traced, path: str, change: Change, ids: Tensor = IDS) -> Tensor:
    """Logits of the eager model when the output of a module is changed."""
    handle = at.model.get_submodule(path).register_forward_hook(lambda mod, args, out: change(out))
    try:
        return logits(at.model, input_ids=ids)
    finally:
        handle.remove()


def written(at: Traced, path: str, ids: Tensor) -> Tensor:
    """What a module of the eager model writes."""
    seen: list[Tensor] = []
    hooked(at, path, lambda out: seen.append(out) or out, ids)
    return seen[0]


@pytest.fixture(params=MLPS)
def case(request: pytest.FixtureRequest) -> tuple[Traced, str, str]:
    return traced(request.param), *MLPS[request.param]


def test_zero_mean_and_other_runs(case: tuple[Traced, str, str]) -> None:
    at, name, path = case
    mine, theirs = written(at, path, IDS), written(at, path, OTHER)
    run = {"input_ids": OTHER}
    cases: list[tuple[rw.Graph, Change, float]] = [
        (at.graph.ablate(name), torch.zeros_like, 0),
        (at.graph.ablate(name, 2.5), lambda x: torch.full_like(x, 2.5), 0),
        (at.graph.ablate(name, torch.arange(32.0)),
         lambda x: torch.arange(32.0).expand(x.shape), 0),
        (at.graph.ablate(name, "mean", inputs=run),
         lambda x: theirs.mean((0, 1)).expand(x.shape), 1e-5),
        (at.graph.ablate(name, "mean", inputs=[run, {"input_ids": IDS}]),
         lambda x: torch.cat([theirs, mine]).mean((0, 1)).expand(x.shape), 1e-5),
        (at.graph.ablate(name, "position_mean", inputs=run),
         lambda x: theirs.mean(0, keepdim=True).expand(x.shape), 1e-5),
        (at.graph.ablate(name, "resample", inputs=run), lambda x: theirs, 0),
    ]
    for graph, change, tolerance in cases:
        found = graph(input_ids=IDS).logits
        wanted = hooked(at, path, change)
        assert torch.allclose(found, wanted, rtol=0, atol=tolerance * float(wanted.abs().max()))


def test_at_some_places(case: tuple[Traced, str, str]) -> None:
    at, name, path = case
    theirs = written(at, path, OTHER)

    def put(index: Any, value: float | Tensor) -> Change:
        def change(out: Tensor) -> Tensor:
            out = out.clone()
            out[index] = value[index] if isinstance(value, Tensor) else value
            return out
        return change

    for index in [(slice(None), -1), (..., slice(0, 8)), (slice(1, 3), slice(2, None)), 0,
                  (slice(None), [0, 3])]:
        zero = at.graph.ablate(name, at=index)
        assert torch.equal(zero(input_ids=IDS).logits, hooked(at, path, put(index, 0.0)))
        other = at.graph.ablate(name, "resample", at=index, inputs={"input_ids": OTHER})
        assert torch.equal(other(input_ids=IDS).logits, hooked(at, path, put(index, theirs)))


def numpy_hash(index: tuple[int, ...], seed: int) -> int:
    """The documented hash, in Python's integers."""
    found = seed
    for step in index:
        x = (found * 0x9E3779B9 + step + 1) % 2**32
        x = ((x ^ (x >> 16)) * 0x7FEB352D) % 2**32
        x = ((x ^ (x >> 15)) * 0x846CA68B) % 2**32
        found = x ^ (x >> 16)
    return found


def test_noise_and_orders_depend_on_index_and_seed_alone(case: tuple[Traced, str, str]) -> None:
    at, name, path = case

    def noise(out: Tensor) -> Tensor:
        entries = []
        for index in np.ndindex(*out.shape):
            a, b = ((numpy_hash((*index, i), 5) + 0.5) / 2**32 for i in range(2))
            entries.append(0.3 * math.sqrt(-2 * math.log(a)) * math.cos(2 * math.pi * b))
        return out + torch.tensor(entries).reshape(out.shape)

    found = at.graph.ablate(name, "noise", std=0.3, seed=5)(input_ids=IDS).logits
    assert torch.allclose(found, hooked(at, path, noise), atol=1e-4)
    order = sorted(range(4), key=lambda row: numpy_hash((row,), 5))
    found = at.graph.ablate(name, "resample", seed=5)(input_ids=IDS).logits
    assert torch.equal(found, hooked(at, path, lambda out: out[order]))


def test_noise_is_normal_and_orders_are_fair() -> None:
    noise = noised(torch.zeros(200, 50, 8), 2.0, seed=1)
    assert abs(float(noise.mean())) < 0.02 and abs(float(noise.std()) - 2) < 0.02
    assert abs(float((noise.abs() < 2).double().mean()) - 0.6827) < 0.01
    flat = noise.reshape(200, -1)
    assert float(torch.corrcoef(flat[:40]).fill_diagonal_(0).abs().max()) < 0.25
    assert not torch.equal(noise, noised(torch.zeros(200, 50, 8), 2.0, seed=2))
    assert torch.equal(noise[:5, :7], noised(torch.zeros(5, 7, 8), 2.0, seed=1))
    firsts = torch.stack([shuffled(torch.arange(5), seed) for seed in range(600)])
    assert all(sorted(row) == [0, 1, 2, 3, 4] for row in firsts.tolist())
    counts = torch.stack([(firsts == value).sum(0) for value in range(5)])
    assert int(counts.min()) > 80 and int(counts.max()) < 160


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_heads_by_name(family: str) -> None:
    """A head is 8 features of what its layer's output projection reads."""
    at = traced(family)
    graph = at.parts.as_graph()
    projection = at.model.get_submodule(
        {"gpt2": "transformer.h.1.attn.c_proj", "llama": "model.layers.1.self_attn.o_proj"}[family])
    features = slice(16, 24)
    seen: list[Tensor] = []

    def run(change: Change, ids: Tensor = IDS) -> Tensor:
        def hook(module: torch.nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
            kept = args[0].clone()
            kept[..., features] = change(kept[..., features])
            return (kept,)

        handle = projection.register_forward_pre_hook(hook)
        try:
            return logits(at.model, input_ids=ids)
        finally:
            handle.remove()

    run(lambda out: seen.append(out.clone()) or out, OTHER)
    inputs = {"input_ids": OTHER}
    order = sorted(range(4), key=lambda row: numpy_hash((row,), 9))
    for ablated, change in [
        (graph.ablate("a1.h2"), torch.zeros_like),
        (graph.ablate("a1.h2", "mean", inputs=inputs), lambda x: seen[0].mean((0, 1))),
        (graph.ablate("a1.h2", "position_mean", inputs=inputs), lambda x: seen[0].mean(0)),
        (graph.ablate("a1.h2", "resample", inputs=inputs), lambda x: seen[0]),
        (graph.ablate("a1.h2", "resample", seed=9), lambda x: x[order]),
        (graph.ablate("a1.h2", at=(slice(None), -1)),
         lambda x: torch.cat([x[:, :-1], torch.zeros_like(x[:, -1:])], 1)),
    ]:
        wanted = run(change)
        assert torch.allclose(ablated(input_ids=IDS).logits, wanted, rtol=0,
                              atol=1e-5 * float(wanted.abs().max()))


def test_several_nodes_read_the_run_before_any_of_them() -> None:
    at = traced("gpt2")
    graph, run = at.parts.as_graph(), {"input_ids": OTHER}
    both = graph.ablate(m.kind("mlp"), "resample", inputs=run)
    values = graph.extract(None, ["m0", "m1"])(**run)
    one_by_one = graph.freeze("m0", values["m0"]).freeze("m1", values["m1"])
    assert torch.equal(both(input_ids=IDS).logits, one_by_one(input_ids=IDS).logits)
    heads = graph.ablate("a1.h*")
    assert torch.equal(heads(input_ids=IDS).logits,
                       heads.ablate("a1.h2")(input_ids=IDS).logits)


@pytest.mark.parametrize(("edit", "error", "message"), [
    (lambda g: g.ablate("m0", "zeros"), SurgeryError, "no ablation 'zeros'; did you mean zero"),
    (lambda g: g.ablate("m7"), UnknownName, "the graph has no node 'm7'"),
    (lambda g: g.ablate("m0", "mean"), SurgeryError, r"'mean' needs the inputs .*inputs=\.\.\."),
    (lambda g: g.ablate("m0", "zero", inputs={"input_ids": IDS}), SurgeryError,
     "'zero' takes no inputs"),
    (lambda g: g.ablate("m0", "resample", inputs=[{"input_ids": IDS}]), SurgeryError,
     "takes the inputs of one run"),
    (lambda g: g.ablate("m0", "position_mean", inputs=[
        {"input_ids": IDS}, {"input_ids": IDS[:, :3]}]), SurgeryError, "inputs of one length"),
    (lambda g: g.ablate("m0", "mean", inputs={"ids": IDS}), InputError, "no input 'ids'"),
    (lambda g: g.ablate("m0", torch.ones(31)), SurgeryError, r"shape \[31\], which does not"),
    (lambda g: g.ablate("m0", torch.ones(32).double()), SurgeryError,
     r"m0' is torch.float32, .* torch.float64: convert it by tensor.to\(torch.float32\)"),
    (lambda g: g.ablate("m0", at=(0, 0, 0, 0)), SurgeryError, "put_at cannot be called on"),
    (lambda g: g.ablate("m0", at=(..., 40)), SurgeryError, "put_at cannot be called on"),
    (lambda g: g.ablate("output"), SurgeryError, "ablate what it returns, 'logits'"),
])
def test_errors(edit: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        edit(traced("gpt2").parts.as_graph())
