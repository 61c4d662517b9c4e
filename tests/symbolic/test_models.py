"""Whole tiny models: the model, its op graph and its component graph are one function."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch

import rewrite as rw
from rewrite.symbolic import Space, equal, run
from tests.symbolic.oracle import numeric
from tests.zoo import tiny, trace

SMALL = {"vocab_size": 5, "hidden_size": 4, "num_hidden_layers": 2, "num_attention_heads": 2,
         "intermediate_size": 3}
SHARED = SMALL | {"num_key_value_heads": 1, "head_dim": 2}
SIZES: dict[str, dict[str, Any]] = {
    "gpt2": {"vocab_size": 5, "n_embd": 4, "n_layer": 2, "n_head": 2, "n_inner": 3},
    "gemma3": SHARED | {"sliding_window": 2}, "llama": SHARED, "gpt_neox": SMALL,
}
IDS = {"input_ids": torch.tensor([[1, 2, 3]])}


@cache
def traced(family: str) -> tuple[torch.nn.Module, rw.Graph]:
    model = tiny(family, **SIZES[family])
    ids = torch.tensor([[1, 2, 3, 4, 0, 2, 1]] * 3)
    return model, trace(model, inputs={"input_ids": ids})


@pytest.mark.parametrize("family", SIZES)
def test_the_graph_is_the_model(family: str) -> None:
    model, graph = traced(family)
    assert equal(graph, model, IDS)


@pytest.mark.parametrize("family", SIZES)
def test_the_parts_are_the_model(family: str) -> None:
    _, graph = traced(family)
    assert equal(graph, graph.components().as_graph(), IDS)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_symbols_stand_for_numbers(family: str) -> None:
    options = SIZES[family] | {"n_layer" if family == "gpt2" else "num_hidden_layers": 1}
    model = tiny(family, torch.float64, **options)
    made = run(model, IDS).logits[:, -1, :2]
    with torch.no_grad():
        wanted = model(**IDS).logits[:, -1, :2]
    given = dict(model.named_parameters(remove_duplicate=False))
    # Tables of float32 (rotary embeddings) are read as the decimals that round to them.
    rounding = {"gpt2": 1e-9, "llama": 1e-6}[family]
    torch.testing.assert_close(numeric(made, given), wanted, rtol=rounding, atol=rounding)


@pytest.mark.parametrize("family", SIZES)
def test_what_is_broken_is_found(family: str) -> None:
    _, graph = traced(family)
    sums = [node.name for node in graph.module.graph.nodes
            if node.target is torch.ops.aten.add.Tensor and len(node.all_input_nodes) == 2]
    broken = graph.delete(sums[-1])
    assert equal(graph, broken, IDS).status == "refuted"


def test_a_space_is_shared_by_runs() -> None:
    _, graph = traced("gpt2")
    space = Space()
    one, other = (run(graph, IDS, space=space).logits for _ in range(2))
    assert torch.equal(one.ids, other.ids)
