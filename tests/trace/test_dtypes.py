"""A graph holds for one floating type: that of the model that was traced."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import nn

import rewrite as rw
from rewrite.errors import InputError, TraceError
from rewrite.trace.examples import default_inputs
from rewrite.trace.parity import tolerance
from tests.models.table import TABLE
from tests.zoo import tiny, tokens

DTYPES = [torch.bfloat16, torch.float16, torch.float64]
# A decoder with rotary buffers, one without, an encoder, an encoder-decoder, images.
# One layer of each: types go through all layers alike.
ONE = {"num_hidden_layers": 1}
FAMILIES = {"llama": ONE, "gpt2": {"n_layer": 1}, "bert": ONE, "t5": {"num_layers": 1}, "vit": ONE}


def first(output: Any) -> torch.Tensor:
    return next(value for value in output.values() if isinstance(value, torch.Tensor))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_bit_for_bit_in_every_type(family: str, dtype: torch.dtype) -> None:
    model = TABLE[family].build(dtype, **FAMILIES[family])
    graph = rw.trace(model)
    assert graph.dtype == dtype
    assert graph.certificate is not None and graph.certificate.difference == 0.0
    given = default_inputs(model)
    assert all(value.dtype == dtype for value in given.values() if value.is_floating_point())
    with torch.no_grad():
        assert first(graph(**given)).dtype == dtype
        assert torch.equal(first(graph(**given)), first(model(**given)))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_inputs_of_another_type_are_refused(dtype: torch.dtype) -> None:
    graph = rw.trace(TABLE["vit"].build(dtype, **ONE))
    name = str(dtype).removeprefix("torch.")
    image = default_inputs(TABLE["vit"].build())["pixel_values"]
    with pytest.raises(InputError, match=f"expected pixel_values: {name}(.|\n)*found float32"):
        graph(pixel_values=image)


@pytest.mark.parametrize("part", ["model", "lm_head"])
def test_conversion_after_the_trace_is_noticed(part: str) -> None:
    """The weights are shared, so a conversion of the model changes them under the graph."""
    model, ids = tiny("llama"), tokens(2, 7)
    graph = rw.trace(model)
    parts = graph.components()
    exp = rw.expand(rw.Hypothesis(parts, {"clean": "a0.h1"}))
    (model if part == "model" else model.lm_head).to(torch.float64)
    run = {"input_ids": ids}
    for call in (lambda: graph(**run), lambda: parts(**run), lambda: exp(clean=run, corrupt=run)):
        with pytest.raises(InputError, match=r"is float64 now and was float32 when(.|\n)*trace the "
                                             r"model again, or undo(.|\n)*model\.to\(torch\.float"):
            call()
    model.to(torch.float32)
    with torch.no_grad():
        assert graph(**run).logits.dtype == torch.float32


def test_conversion_of_one_inner_layer_is_explained() -> None:
    """Neither the first nor the last weight changes: what torch then says is explained."""
    model = tiny("llama")
    graph = rw.trace(model)
    model.model.layers[0].mlp.up_proj.to(torch.float64)
    with pytest.raises(InputError, match=r"layers\.0\.mlp\.up_proj\.weight is float64 now"):
        graph(input_ids=tokens(2, 7))


def test_tokens_that_the_model_does_not_know() -> None:
    graph = rw.trace(tiny("gpt2"))
    with pytest.raises(InputError, match="a number for which a table of the model has no row"):
        graph(input_ids=tokens(2, 7) + 1000)


def test_a_module_is_not_converted() -> None:
    asked = "asked for bfloat16, and GPT2LMHeadModel is float32"
    with pytest.raises(TraceError, match=f"{asked}(.|\n)*" + re.escape("model.to(torch.bfloat16)")):
        rw.trace(tiny("gpt2"), dtype=torch.bfloat16)
    assert rw.trace(tiny("gpt2"), dtype=torch.float32).dtype == torch.float32


def test_what_is_tolerated() -> None:
    """Rounding steps of the coarsest type that the graph computes in, and never much."""
    given = {"input": torch.ones(3, 4)}

    def limit(dtype: torch.dtype) -> float:
        inputs = {name: value.to(dtype) for name, value in given.items()}
        return tolerance(rw.trace(nn.Linear(4, 4, dtype=dtype).eval(), inputs).module)

    assert limit(torch.float32) == pytest.approx(1e-5, rel=0.01)
    assert limit(torch.float64) < 1e-13
    assert limit(torch.bfloat16) == limit(torch.float16) == 0.03
    # A model in float64 that computes its norms in float32 rounds as float32 does.
    assert tolerance(rw.trace(tiny("llama", torch.float64)).module) == limit(torch.float32)


class Poles(nn.Module):
    """Returns infinities and NaN where its input is not positive."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.log()


def test_infinite_and_undefined_outputs() -> None:
    """They agree with the model's own, and do not make any difference acceptable."""
    x = torch.tensor([[0.0, -1.0, 1.0], [1.0, 0.0, 2.0], [-1.0, 3.0, 0.0]])
    graph = rw.trace(Poles().eval(), inputs={"x": x})
    assert graph.certificate is not None and graph.certificate.difference == 0.0
    assert graph.certificate.scale == pytest.approx(float(torch.tensor(3.0).log()))


def test_experts_in_double_precision() -> None:
    model: Any = TABLE["mixtral"].build(torch.float64, num_hidden_layers=1)
    with pytest.raises(TraceError, match=r"grouped_mm(.|\n)*set_experts_implementation\(.batched"):
        rw.trace(model)
    ids = {"input_ids": tokens(3, 11)}
    with pytest.raises(TraceError, match=r"itself fails on input_ids \[3, 11\](.|\n)*batched_mm"):
        rw.trace(model, inputs=ids)
    model.set_experts_implementation("batched_mm")
    graph = rw.trace(model)
    assert graph.certificate is not None and graph.certificate.difference == 0.0
    with torch.no_grad():
        assert torch.equal(graph(**ids).logits, model(**ids).logits)
