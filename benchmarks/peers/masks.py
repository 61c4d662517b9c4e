"""AutoCircuit: a mask over all edges with one entry set."""

from __future__ import annotations

import torch
from auto_circuit.utils.ablation_activations import src_ablations
from auto_circuit.utils.graph_utils import patch_mode, patchable_model, set_all_masks
from given import Edge, Given, Head, serve
from torch import Tensor
from transformer_lens import HookedTransformer, HookedTransformerConfig
from transformer_lens.pretrained.weight_conversions.gpt2 import convert_gpt2_weights


class Masks:
    """Every reader adds up the differences of all earlier writers, weighted by the mask."""

    def __init__(self, given: Given) -> None:
        self.given, config = given, given.model.config
        shape = HookedTransformerConfig(
            n_layers=config.n_layer, n_heads=config.n_head, d_model=config.n_embd,
            d_head=config.n_embd // config.n_head, d_mlp=4 * config.n_embd,
            n_ctx=config.n_positions, d_vocab=config.vocab_size, act_fn="gelu_new",
            normalization_type="LN", eps=config.layer_norm_epsilon, use_attn_result=True,
            use_split_qkv_input=True, use_hook_mlp_in=True, default_prepend_bos=False)
        model = HookedTransformer(shape)
        model.load_and_process_state_dict(
            convert_gpt2_weights(given.model, shape), fold_ln=False,
            center_writing_weights=False, center_unembed=False, fold_value_biases=False)
        self.model = patchable_model(
            model.eval(), factorized=True, separate_qkv=True, slice_output="last_seq")

    def keep(self) -> Tensor:
        self.patch = src_ablations(self.model, self.given.patch)
        return torch.empty(0)

    def forward(self) -> Tensor:
        return self.given.metric(self.model(self.given.base))[None]

    def edges(self, which: list[Edge]) -> Tensor:
        return self._masked([f"A{a}.{b}->A{c}.{d}.Q" for (a, b), (c, d) in which])

    def direct(self, which: list[Head]) -> Tensor:
        return self._masked([f"A{layer}.{head}->Resid End" for layer, head in which])

    def _masked(self, names: list[str]) -> Tensor:
        found = []
        for name in names:
            edge = self.model.edge_name_dict[None][name]
            set_all_masks(self.model, 0.0)
            edge.patch_mask(self.model).data[edge.patch_idx] = 1.0
            with patch_mode(self.model, self.patch):
                found.append(self.given.metric(self.model(self.given.base)))
        return torch.stack(found)


if __name__ == "__main__":
    serve(Masks)
