"""Weights that are dispatched, offloaded or quantised: traced, or refused with what to do."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import accelerate
import pytest
import torch
import transformers as tf
from accelerate.hooks import (
    AlignDevicesHook,
    add_hook_to_module,
    attach_align_device_hook,
    remove_hook_from_module,
)
from torch import Tensor, nn

import rewrite as rw
from rewrite.errors import TraceError
from tests.zoo import logits, tiny, tokens, traced

CPU = torch.device("cpu")


def ops(graph: rw.Graph) -> list[str]:
    return [str(node.target) for node in graph.module.graph.nodes]


def check(model: Any) -> None:
    plain = traced("llama").graph
    graph, ids = rw.trace(model), tokens(2, 9)
    assert graph.certificate is not None and graph.certificate.difference == 0.0
    assert torch.equal(graph(input_ids=ids).logits, logits(model, input_ids=ids))
    assert ops(graph) == ops(plain)  # moves that change nothing leave no trace


def test_dispatched_models() -> None:
    everywhere = tiny("llama")
    attach_align_device_hook(everywhere, execution_device=CPU)
    outside = tiny("llama")
    add_hook_to_module(outside, AlignDevicesHook(CPU, io_same_device=True))
    forced = accelerate.dispatch_model(tiny("llama"), device_map={"": "cpu"}, force_hooks=True)
    for model in (everywhere, outside, forced):
        assert any(hasattr(module, "_hf_hook") for module in model.modules())
        check(model)
        assert any(hasattr(module, "_hf_hook") for module in model.modules())


@pytest.mark.parametrize("device_map", ["auto", {"": "cpu"}], ids=["auto", "cpu"])
def test_a_device_map(device_map: Any, tmp_path: Path) -> None:
    tiny("llama").save_pretrained(tmp_path)
    model = tf.AutoModelForCausalLM.from_pretrained(tmp_path, device_map=device_map).eval()
    check(model)


def test_offloaded_weights_are_refused(tmp_path: Path) -> None:
    on_cpu = accelerate.cpu_offload(tiny("llama"), execution_device=CPU)
    on_disk = accelerate.disk_offload(tiny("llama"), tmp_path / "disk", execution_device=CPU)
    tiny("llama").save_pretrained(tmp_path / "model")
    partly = tf.AutoModelForCausalLM.from_pretrained(
        tmp_path / "model", device_map={"model": "cpu", "lm_head": "disk"},
        offload_folder=tmp_path / "offload").eval()
    for model, first in ((on_cpu, "model.embed_tokens"), (on_disk, "model.embed_tokens"),
                         (partly, "lm_head")):
        with pytest.raises(TraceError, match=f"keeps weights on disk(.|\n)*'{first}' first"):
            rw.trace(model)
    assert rw.trace(partly.config).weightless  # what the error offers
    for model in (on_cpu, on_disk):  # and so does this
        remove_hook_from_module(model, recurse=True)
        assert rw.trace(model).certificate.difference == 0.0  # type: ignore[union-attr]


def test_packed_weights_are_refused() -> None:
    from torch.ao.quantization import quantize_dynamic

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch deprecates what it does itself
        model = quantize_dynamic(tiny("llama"), {nn.Linear}, dtype=torch.qint8)
    message = ("LlamaForCausalLM is quantised: 'model.layers.0.self_attn.q_proj' is a "
               "torch.ao.nn.quantized.dynamic.modules.linear.Linear, which keeps its weight packed "
               "in '_packed_params._packed_params'")
    with pytest.raises(TraceError, match=re.escape(message) + "(.|\n)*before it is quantised"):
        rw.trace(model)


def test_a_quantised_tensor_is_refused() -> None:
    class Quantised(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self.table = torch.quantize_per_tensor(torch.ones(2, 2), 0.1, 0, torch.qint8)

        def forward(self, x: Tensor) -> Tensor:
            return x @ self.table.dequantize()

    with pytest.raises(TraceError, match=r"Quantised is quantised(.|\n)*packed in 'table'"):
        rw.trace(Quantised().eval(), inputs={"x": torch.ones(3, 2)})


class Int8(nn.Module):
    """A linear layer with its weight in whole numbers, one scale for each row."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight = linear.weight.detach()
        scale = weight.abs().amax(1, keepdim=True) / 127
        self.register_buffer("weight", (weight / scale).round().to(torch.int8))
        self.register_buffer("scale", scale)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.weight.to(x.dtype) * self.scale)


def test_weights_in_plain_integers() -> None:
    """What dequantises in forward is a model like any other, heads and all."""
    model: Any = tiny("llama")
    for layer in model.model.layers:
        for block in (layer.self_attn, layer.mlp):
            for name, linear in list(block.named_children()):
                if isinstance(linear, nn.Linear):
                    setattr(block, name, Int8(linear))
    graph, ids = rw.trace(model), tokens(2, 9)
    assert graph.certificate is not None and graph.certificate.difference == 0.0
    parts = graph.components()
    assert parts.heads[:2] == ("a0.h0", "a0.h1") and len(parts.heads) == 8
    with torch.no_grad():
        found = parts(input_ids=ids).logits
    torch.testing.assert_close(found, logits(model, input_ids=ids))
    stored = dict(graph.module.named_buffers())
    assert stored["model.layers.0.self_attn.q_proj.weight"].dtype == torch.int8
