"""Tiny random models: a family is one line.  Nothing is downloaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import torch._dynamo
import transformers as tf

import rewrite as rw

torch.set_num_threads(1)  # on tensors this small, threads only wait for each other

VOCAB = 97
SMALL = {
    "vocab_size": VOCAB, "bos_token_id": None, "eos_token_id": None, "pad_token_id": None,
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
    "intermediate_size": 48, "max_position_embeddings": 64,
}
GQA = SMALL | {"num_key_value_heads": 2, "head_dim": 8}
GPT2 = {"vocab_size": VOCAB, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64,
        "bos_token_id": None, "eos_token_id": None}

FAMILIES = {
    "gpt2": (tf.GPT2LMHeadModel, tf.GPT2Config, GPT2),
    "gpt_neox": (tf.GPTNeoXForCausalLM, tf.GPTNeoXConfig, SMALL),
    "llama": (tf.LlamaForCausalLM, tf.LlamaConfig, GQA),
    "qwen3": (tf.Qwen3ForCausalLM, tf.Qwen3Config, GQA),
    "gemma3": (tf.Gemma3ForCausalLM, tf.Gemma3TextConfig, GQA | {"sliding_window": 8}),
    "bert": (tf.BertForMaskedLM, tf.BertConfig, SMALL | {"pad_token_id": 0}),
}


def tiny(family: str, dtype: torch.dtype = torch.float32, **changes: object) -> torch.nn.Module:
    """A random model in eval mode, with weights large enough that every head matters."""
    model_class, config_class, options = FAMILIES[family]
    torch.manual_seed(0)
    model = model_class(config_class(**(options | changes))).to(dtype).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim >= 2:
                parameter.normal_(0, 0.3)
            elif "bias" in name:
                parameter.normal_(0, 0.1)
    return model


def trace(
    model: Any, inputs: Mapping[str, torch.Tensor] | None = None, **options: Any
) -> rw.Graph:
    """`rw.trace(model, inputs)` of a few layers, without torch's cache of what ops answer.

    The cache pays when layers repeat; with two layers, filling it is a third of the time.
    The numbers in names of nodes are others than `rw.trace` gives; the nodes are the same.
    """
    with torch._dynamo.config.patch(fake_tensor_cache_enabled=False):
        return rw.trace(model, inputs, **options)


def tokens(batch: int, length: int, seed: int = 1) -> torch.Tensor:
    """Random token ids `[batch, length]`."""
    draw = torch.Generator().manual_seed(seed)
    return torch.randint(1, VOCAB, (batch, length), generator=draw)


@dataclass(frozen=True)
class Traced:
    """A tiny model with its op graph and its component graph."""

    model: torch.nn.Module
    graph: rw.Graph
    parts: rw.Components


@cache
def traced(family: str, dtype: torch.dtype = torch.float32) -> Traced:
    """`tiny(family, dtype)`, traced once per process.  Leave its parameters as they are."""
    model = tiny(family, dtype)
    graph = rw.trace(model)
    return Traced(model, graph, graph.components())


def logits(model: torch.nn.Module, *args: object, **inputs: object) -> torch.Tensor:
    """What the eager model returns, without gradients."""
    with torch.no_grad():
        return model(*args, **inputs).logits


def error(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """Largest difference, relative to the largest wanted entry."""
    found, wanted = found.detach(), wanted.detach()
    return float((found - wanted).abs().max() / wanted.abs().max())
