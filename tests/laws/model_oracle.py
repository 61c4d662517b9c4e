"""Treeification of Hugging Face models by brute force, from their own submodules.

A head reads three residual streams, one each for q, k and v, and every stream is built anew
for the path that goes on from it.  Nothing here uses `rewrite`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tests.laws.oracle import Chooser, Word


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal attention of one head, `[batch, seq, d_head]` each."""
    length = q.shape[1]
    scores = q @ k.transpose(1, 2) / q.shape[-1] ** 0.5
    future = torch.ones(length, length, dtype=torch.bool).triu(1)
    return scores.masked_fill(future, float("-inf")).softmax(-1) @ v


@dataclass
class GPT2:
    """Pieces of `GPT2LMHeadModel`."""

    model: nn.Module

    @property
    def layers(self) -> int:
        return self.model.config.n_layer

    @property
    def heads(self) -> int:
        return self.model.config.n_head

    def embed(self, ids: Tensor) -> Tensor:
        return self.model.transformer.wte(ids)

    def constants(self, layer: int | None, length: int) -> Tensor | float:
        """What is added to the stream before a layer (None: at the start) and is no path."""
        if layer is None:
            return self.model.transformer.wpe(torch.arange(length))[None]
        return self.model.transformer.h[layer].attn.c_proj.bias

    def head(self, layer: int, head: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        block, width = self.model.transformer.h[layer], self.model.config.n_embd
        size = width // self.heads
        weight, bias = block.attn.c_attn.weight, block.attn.c_attn.bias
        made = []
        for index, stream in enumerate((q, k, v)):
            columns = slice(index * width + head * size, index * width + (head + 1) * size)
            made.append(block.ln_1(stream) @ weight[:, columns] + bias[columns])
        rows = slice(head * size, (head + 1) * size)
        return attend(*made) @ block.attn.c_proj.weight[rows]

    def mlp(self, layer: int, stream: Tensor) -> Tensor:
        block = self.model.transformer.h[layer]
        return block.mlp(block.ln_2(stream))

    def logits(self, stream: Tensor) -> Tensor:
        return self.model.lm_head(self.model.transformer.ln_f(stream))


@dataclass
class Llama:
    """Pieces of `LlamaForCausalLM`, also with norms of queries and keys (`Qwen3ForCausalLM`)."""

    model: nn.Module

    @property
    def layers(self) -> int:
        return self.model.config.num_hidden_layers

    @property
    def heads(self) -> int:
        return self.model.config.num_attention_heads

    def embed(self, ids: Tensor) -> Tensor:
        return self.model.model.embed_tokens(ids)

    def constants(self, layer: int | None, length: int) -> Tensor | float:
        return 0.0

    def head(self, layer: int, head: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        block, config = self.model.model.layers[layer], self.model.config
        attention, size = block.self_attn, config.head_dim
        shared = config.num_attention_heads // config.num_key_value_heads
        cos, sin = self.model.model.rotary_emb(q, torch.arange(q.shape[1])[None])

        def project(name: str, index: int, stream: Tensor) -> Tensor:
            weight = getattr(attention, f"{name}_proj").weight[index * size : (index + 1) * size]
            made = block.input_layernorm(stream) @ weight.T
            norm = getattr(attention, f"{name}_norm", None)
            return made if norm is None else norm(made)

        def turn(x: Tensor) -> Tensor:
            first, second = x[..., : size // 2], x[..., size // 2 :]
            return x * cos + torch.cat([-second, first], -1) * sin

        queries, keys = project("q", head, q), project("k", head // shared, k)
        mixed = attend(turn(queries), turn(keys), project("v", head // shared, v))
        return mixed @ attention.o_proj.weight[:, head * size : (head + 1) * size].T

    def mlp(self, layer: int, stream: Tensor) -> Tensor:
        block = self.model.model.layers[layer]
        return block.mlp(block.post_attention_layernorm(stream))

    def logits(self, stream: Tensor) -> Tensor:
        return self.model.lm_head(self.model.model.norm(stream))


PIECES: dict[str, Callable[[nn.Module], GPT2 | Llama]] = {
    "gpt2": GPT2, "llama": Llama, "qwen3": Llama,
}


@torch.no_grad()
def treeified(
    family: str, model: nn.Module, inputs: Mapping[str, Tensor], choose: Chooser
) -> Tensor:
    """Logits if each path reads the tokens of the run that `choose` gives it."""
    pieces = PIECES[family](model)
    length = next(iter(inputs.values())).shape[1]

    def stream(layer: int, with_heads: bool, after: Word) -> Tensor:
        """The residual stream before `layer`, or between its attention and its MLP."""
        run = choose(("tokens", "embed", *after))
        total = pieces.embed(inputs[run]) + pieces.constants(None, length)
        for index in range(layer + with_heads):
            for head in range(pieces.heads):
                name = f"a{index}.h{head}"
                reads = [stream(index, False, (f"{name}.{port}", *after)) for port in "qkv"]
                total = total + pieces.head(index, head, *reads)
            total = total + pieces.constants(index, length)
            if index < layer:
                total = total + pieces.mlp(index, stream(index, True, (f"m{index}", *after)))
        return total

    return pieces.logits(stream(pieces.layers, False, ("logits",)))
