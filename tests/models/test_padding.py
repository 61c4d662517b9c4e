"""Padding on either side: heads patched by hooks on the Hugging Face model, with masks."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest
import torch
from torch import Tensor, nn

import rewrite as rw
from tests.models.table import TABLE
from tests.models.test_inputs import inputs_of, padded
from tests.zoo import trace

# family, head, and the module whose input holds the heads side by side
HEADS = [
    ("llama", "a0.h1", "model.layers.0.self_attn.o_proj"),
    ("llama", "a1.h2", "model.layers.1.self_attn.o_proj"),
    ("bert", "a0.h3", "bert.encoder.layer.0.attention.output.dense"),
    ("bart", "enc.a1.h0", "model.encoder.layers.1.self_attn.out_proj"),
    ("bart", "dec.a0.h2", "model.decoder.layers.0.self_attn.out_proj"),
    ("bart", "dec.x1.h1", "model.decoder.layers.1.encoder_attn.out_proj"),
]


@cache
def traced(name: str) -> tuple[nn.Module, rw.Components]:
    model = TABLE[name].build(torch.float64)
    example = given(model, "right", 3, 11, 0)
    return model, trace(model, example).components()


def given(model: nn.Module, side: str, batch: int, length: int, seed: int) -> dict[str, Tensor]:
    """Random inputs with a mask for each sequence; masks do not depend on the seed."""
    inputs = inputs_of(model, side, batch, length, seed)
    if "decoder_input_ids" in inputs:
        inputs["decoder_attention_mask"] = padded(side, batch, length - 3)
    return inputs


def run(model: nn.Module, inputs: dict[str, Tensor], path: str, hook: Callable) -> Tensor:
    """Logits, with a hook in front of one module."""
    handle = model.get_submodule(path).register_forward_pre_hook(hook)
    try:
        with torch.no_grad():
            return model(**inputs).logits
    finally:
        handle.remove()


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize(("name", "head", "path"), [
    pytest.param(*row, marks=pytest.mark.xdist_group(f"padded {row[0]}")) for row in HEADS])
def test_a_head_of_another_run(name: str, head: str, path: str, side: str) -> None:
    model, parts = traced(name)
    clean, corrupt = (given(model, side, 4, 9, seed) for seed in (1, 2))
    kept: list[Tensor] = []
    run(model, clean, path, lambda module, args: kept.append(args[0]))
    number, width = int(head[-1]), 32 // 4
    at = slice(number * width, (number + 1) * width)

    def patch(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        mixed = args[0].clone()
        mixed[..., at] = kept[0][..., at]
        return (mixed,)

    wanted = run(model, corrupt, path, patch)
    exp = rw.expand(rw.Hypothesis(parts, {"clean": head}))
    found = exp(clean=clean, corrupt=corrupt).logits.detach()
    plain = run(model, corrupt, path, lambda module, args: None)
    mask = corrupt.get("decoder_attention_mask", corrupt["attention_mask"]).bool()
    scale = wanted[mask].abs().max()
    assert (found - wanted)[mask].abs().max() <= 1e-10 * scale
    assert (plain - wanted)[mask].abs().max() > 1e-4 * scale  # the patch changes something
