"""Interventions and patches done by hand, with forward hooks on Hugging Face models.

A *site* is a value of the model.  `change[site]` is an intervention: what stands there instead.
Nothing here knows graphs, parts or paths.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

Values = dict[str, Tensor]
Change = Callable[[Tensor, Values], Tensor]


def modules(model: nn.Module) -> dict[str, nn.Module]:
    """The modules of a decoder, one name for each kind in both families."""
    if hasattr(model, "transformer"):
        body = model.transformer
        found = {"embed": body.wte, "norm": body.ln_f, "unembed": model.lm_head}
        for i, block in enumerate(body.h):
            found |= {f"block{i}": block, f"a{i}": block.attn, f"m{i}": block.mlp,
                      f"o{i}": block.attn.c_proj, f"q{i}": block.attn.c_attn,
                      f"na{i}": block.ln_1, f"nm{i}": block.ln_2}
        return found
    body = model.model
    found = {"embed": body.embed_tokens, "norm": body.norm, "unembed": model.lm_head}
    for i, block in enumerate(body.layers):
        found |= {f"block{i}": block, f"a{i}": block.self_attn, f"m{i}": block.mlp,
                  f"o{i}": block.self_attn.o_proj, f"q{i}": block.self_attn.q_proj,
                  f"na{i}": block.input_layernorm, f"nm{i}": block.post_attention_layernorm}
    return found


class Hands:
    """A model of which sites can be changed: `embed`, `a0` (what the attention writes), `m0`,
    `z0` (what enters its output projection), `q0` (queries), `block0` (the stream in front of a
    layer), `na0`, `nm0`, `norm` (norms), and with `>` in front what they read."""

    def __init__(self, model: nn.Module, heads: int, change: Mapping[str, Change]) -> None:
        self.model, self.heads, self.change = model, heads, dict(change)
        self.at = modules(model)

    def run(self, ids: Tensor, patch: Mapping[str, Change] | None = None) -> tuple[Tensor, Values]:
        """Logits, and what stood at each site."""
        seen: Values = {}

        def visit(site: str, value: Tensor) -> Tensor:
            for table in (self.change, patch or {}):
                value = table[site](value, seen) if site in table else value
            seen[site] = value
            return value

        with ExitStack() as stack, torch.no_grad():
            for name, module in self.at.items():
                before, after = _sites(name)
                if before:
                    stack.callback(module.register_forward_pre_hook(
                        lambda module, args, site=before: (visit(site, args[0]), *args[1:])).remove)
                if after:
                    stack.callback(module.register_forward_hook(
                        lambda module, args, out, site=after: (visit(site, out[0]), *out[1:])
                        if isinstance(out, tuple) else visit(site, out)).remove)
            return self.model(input_ids=ids).logits, seen

    def share(self, layer: int, head: int) -> slice:
        """The features of a head in `z`."""
        width = self.weight(layer).shape[1] // self.heads
        return slice(head * width, (head + 1) * width)

    def weight(self, layer: int) -> Tensor:
        """The output projection [d_model, heads * d_head]."""
        module: Any = self.at[f"o{layer}"]
        return (module.weight if isinstance(module, nn.Linear) else module.weight.T).detach()

    def written(self, part: str, seen: Values) -> Tensor:
        """What a part wrote to the stream."""
        if ".h" not in part:
            return seen[part]
        layer, head = map(int, part[1:].split(".h"))
        features = self.share(layer, head)
        return seen[f"z{layer}"][..., features] @ self.weight(layer)[:, features].T

    def node(self, part: str, clean: Tensor, corrupt: Tensor) -> Tensor:
        """Logits of the corrupt run with what one part writes taken from the clean one."""
        theirs = self.run(clean)[1]
        if ".h" not in part:
            return self.run(corrupt, {part: lambda value, seen: theirs[part]})[0]
        layer, head = map(int, part[1:].split(".h"))
        features = self.share(layer, head)

        def put(value: Tensor, seen: Values) -> Tensor:
            value = value.clone()
            value[..., features] = theirs[f"z{layer}"][..., features]
            return value

        return self.run(corrupt, {f"z{layer}": put})[0]

    def edge(self, part: str, reader: str, clean: Tensor, corrupt: Tensor) -> Tensor:
        """Logits of the corrupt run where one reader reads one part from the clean run."""
        change = self.written(part, self.run(clean)[1]) - self.written(part, self.run(corrupt)[1])
        norm = {"a": "na", "m": "nm", "l": "norm"}[reader[0]] + (
            reader[1:] if reader != "logits" else "")
        return self.run(corrupt, {f">{norm}": lambda value, seen: value + change})[0]


def _sites(name: str) -> tuple[str, str]:
    """What a module reads and what it writes, as sites."""
    if name.startswith("block"):
        return name, ""
    if name[0] == "a":
        return "", name
    return (f"z{name[1:]}", "") if name[0] == "o" else (f">{name}", name)
