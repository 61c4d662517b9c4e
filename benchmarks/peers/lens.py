"""TransformerLens: what its `get_act_patch_direct_path` does for each pair of heads."""

from __future__ import annotations

from typing import Any

import torch
from given import Edge, Given, Head, serve
from torch import Tensor
from transformer_lens.model_bridge.sources import build_bridge_from_module


class Lens:
    """A sender's difference is added to the pre-norm query input of one head, by a hook."""

    def __init__(self, given: Given) -> None:
        self.given = given
        self.model: Any = build_bridge_from_module(
            given.model, "GPT2LMHeadModel", hf_config=given.model.config)
        self.model.eval()

    def keep(self) -> Tensor:
        self.runs = [
            self.model.run_with_cache(ids, names_filter=lambda name: name.endswith("hook_z"))[1]
            for ids in (self.given.patch, self.given.base)]
        return torch.empty(0)

    def forward(self) -> Tensor:
        return self.given.metric(self.model(self.given.base))[None]

    def edges(self, which: list[Edge]) -> Tensor:
        self.model.set_use_split_qkv_input(True)
        found = [self._hooked(f"blocks.{layer}.attn.hook_q_input", self._write(sender), head)
                 for sender, (layer, head) in which]
        self.model.set_use_split_qkv_input(False)
        return torch.stack(found)

    def direct(self, which: list[Head]) -> Tensor:
        name = f"blocks.{self.model.cfg.n_layers - 1}.hook_resid_post"
        return torch.stack([self._hooked(name, self._write(head), None) for head in which])

    def _write(self, sender: Head) -> Tensor:
        layer, head = sender
        patch, base = (run[f"blocks.{layer}.attn.hook_z"][:, :, head] for run in self.runs)
        return (patch - base) @ self.model.blocks[layer].attn.W_O[head]

    def _hooked(self, name: str, difference: Tensor, head: int | None) -> Tensor:
        def add(value: Tensor, hook: Any) -> Tensor:
            value = value.clone()
            value[(slice(None), slice(None), *(() if head is None else (head,)))] += difference
            return value
        return self.given.metric(
            self.model.run_with_hooks(self.given.base, fwd_hooks=[(name, add)]))


if __name__ == "__main__":
    serve(Lens)
