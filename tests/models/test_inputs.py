"""Masks, padding, embeddings and unequal lengths: inputs of any kind, against eager PyTorch."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import rewrite as rw
from rewrite.errors import InputError
from rewrite.trace.examples import default_inputs
from tests.models.examine import distance
from tests.models.patching import Hand
from tests.models.table import TABLE
from tests.models.traced import grouped, traced
from tests.zoo import Traced, trace

MASKED = ["gpt2", "llama", "bloom", "falcon_alibi", "gemma3", "mixtral", "opt", "bert", "deberta",
          "t5", "bart"]


def padded(side: str, batch: int, length: int) -> Tensor:
    """A mask whose rows have different numbers of ones, to the left or to the right."""
    mask = torch.ones(batch, length, dtype=torch.int64)
    for row in range(batch):
        hidden = row % (length - 2)
        if hidden:
            mask[row, :hidden] = 0
    return mask if side == "left" else mask.flip(1)


def inputs_of(model: nn.Module, side: str, batch: int, length: int, seed: int) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    inputs = {"input_ids": torch.randint(1, 97, (batch, length), generator=draw)}
    if side != "none":
        inputs["attention_mask"] = padded(side, batch, length)
    else:
        inputs["attention_mask"] = torch.ones(batch, length, dtype=torch.int64)
    if "decoder_input_ids" in default_inputs(model):
        inputs["decoder_input_ids"] = torch.randint(1, 97, (batch, length - 3), generator=draw)
    return inputs


def eager(model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    with torch.no_grad():
        return model(**inputs, use_cache=False).logits if hasattr(
            model.config, "use_cache") else model(**inputs).logits


@cache
def masked(name: str) -> Traced:
    """A family, traced with a mask."""
    model = TABLE[name].build()
    graph = trace(model, inputs_of(model, "right", 3, 11, 0))
    return Traced(model, graph, graph.components())


@pytest.mark.parametrize("name", grouped(MASKED))
def test_padding(name: str) -> None:
    at = masked(name)
    model, graph, parts = at.model, at.graph, at.parts
    given = {"use": inputs_of(model, "left", 4, 9, 5), "other": inputs_of(model, "left", 4, 9, 6)}
    for side in ("left", "right", "none"):
        inputs = inputs_of(model, side, 4, 9, 1)
        kept = inputs["attention_mask"].bool()
        wanted = eager(model, inputs)
        found = graph(**inputs).logits
        with torch.no_grad():
            split = parts(**inputs).logits
        if "decoder_input_ids" not in inputs:  # what stands at padding itself means nothing
            found, split, wanted = found[kept], split[kept], wanted[kept]
        assert distance([found.detach()], [wanted]) <= 1e-5
        assert distance([split], [wanted]) <= 1e-4
    head = parts.heads[-1]
    exp = rw.expand(rw.Hypothesis(parts, {"use": head}, default="other"))
    with torch.no_grad():
        mixed = exp(**given).logits
    by_hand = Hand(parts, given["use"], given["other"]).through(head)
    index = graph.outputs.names.index("logits")
    assert distance([mixed], [by_hand[index]]) <= 1e-4


@pytest.mark.xdist_group("traced llama")
def test_runs_with_different_masks_are_refused() -> None:
    model, parts = masked("llama").model, masked("llama").parts
    exp = rw.expand(rw.Hypothesis(parts, {"clean": "a0.h1"}))
    with pytest.raises(InputError, match="attention_mask differs between the runs"):
        exp(clean=inputs_of(model, "left", 4, 9, 1), corrupt=inputs_of(model, "right", 4, 9, 1))


@pytest.mark.parametrize("name", ["gpt2", "llama", "bert"])
def test_embeddings_as_inputs(name: str) -> None:
    model = TABLE[name].build()
    draw = torch.Generator().manual_seed(0)
    graph = trace(model, {"inputs_embeds": torch.randn(3, 11, 32, generator=draw)})
    inputs = {"inputs_embeds": torch.randn(5, 8, 32, generator=draw)}
    assert distance([graph(**inputs).logits.detach()], [eager(model, inputs)]) == 0
    parts = graph.components()
    assert parts.names[0] == "inputs_embeds" and len(parts.heads) == 8
    with torch.no_grad():
        assert distance([parts(**inputs).logits], [eager(model, inputs)]) <= 1e-4


@pytest.mark.xdist_group("traced bart")
def test_an_encoder_decoder_reads_two_lengths() -> None:
    model, graph = traced("bart").model, traced("bart").graph
    names = {spec.name: spec.shape for spec in graph.inputs}
    assert names["input_ids"][1] != names["decoder_input_ids"][1]
    draw = torch.Generator().manual_seed(0)
    inputs = {"input_ids": torch.randint(1, 97, (2, 5), generator=draw),
              "decoder_input_ids": torch.randint(1, 97, (2, 13), generator=draw)}
    assert distance([graph(**inputs).logits.detach()], [eager(model, inputs)]) == 0
    assert {"enc.a0.h0", "dec.a1.h3", "dec.x0.h2"} <= set(traced("bart").parts.heads)


EXPERTS = [("mixtral", ""), ("mixtral", "batched_mm"), ("gpt_oss", ""), ("gpt_oss", "batched_mm"),
           ("qwen2_moe", ""), ("deepseek_v3", "batched_mm"), ("llama4", "")]


@cache
def experts(name: str, implementation: str) -> Traced:
    """A family whose experts are computed in some way; by "", in its own way.

    Left to itself llama4 multiplies with the weights of all experts at once, the others by
    grouped products, which take no double precision.
    """
    if not implementation:
        return traced(name)
    model: Any = TABLE[name].build(torch.float64 if name == "mixtral" else torch.float32)
    model.set_experts_implementation(implementation)
    graph = trace(model)
    return Traced(model, graph, graph.components())


@pytest.mark.parametrize(("name", "implementation"), [
    pytest.param(*row, marks=pytest.mark.xdist_group(f"traced {row[0]}")) for row in EXPERTS])
def test_experts_are_parts(name: str, implementation: str) -> None:
    parts = experts(name, implementation).parts
    ways = {"": "eager" if name == "llama4" else "grouped_mm"}
    assert experts(name, implementation).model.get_experts_implementation()[""] == (
        ways.get(implementation, implementation))
    numbers = {expert.rpartition(".")[0] for expert in parts.experts}
    assert parts.experts and all(f"{layer}.e{i}" in parts.experts
                                 for layer in numbers for i in range(4))
    draw = torch.Generator().manual_seed(0)
    clean, corrupt = ({"input_ids": torch.randint(1, 97, (4, 9), generator=draw)} for _ in "ab")
    hand = Hand(parts, clean, corrupt)
    for expert in parts.experts[:2]:
        exp = rw.expand(rw.Hypothesis(parts, {"clean": expert}))
        with torch.no_grad():
            found = exp(clean=clean, corrupt=corrupt).logits
        assert distance([found], hand.through(expert)) <= 1e-4


@pytest.mark.xdist_group("traced mixtral")
def test_an_expert_says_what_the_model_lets_it_say() -> None:
    """Each expert by a loop over the model's own weights: router, choice, product."""
    model: Any = experts("mixtral", "batched_mm").model
    parts = experts("mixtral", "batched_mm").parts
    block = model.model.layers[0].mlp
    x = torch.randn(2, 5, 32, dtype=torch.float64)
    flat = x.view(-1, 32)
    norm = model.model.layers[0].post_attention_layernorm
    with torch.no_grad():
        h = norm(flat)
        logits = h @ block.gate.weight.T
        top, ids = logits.float().softmax(-1).topk(2, -1)  # the router is in single precision
        top = (top / top.sum(-1, keepdim=True)).double()
        for expert in range(4):
            gate, up = (h @ block.experts.gate_up_proj[expert].T).chunk(2, -1)
            said = (nn.functional.silu(gate) * up) @ block.experts.down_proj[expert].T
            wanted = said * (top * (ids == expert)).sum(-1, keepdim=True)
            body = parts.body("m0", (expert,))
            found = body.module(*(x if node is not parts.component("m0.router").region.output
                                  else logits for _, node in body.slots))
            assert distance([found.view(-1, 32)], [wanted]) <= 1e-12
