"""Tiny configurations of text encoders, one line per family.

Most of them end in a head that predicts masked tokens.  Padding is token 0, which random
inputs do not contain.  Longformer pads its input to whole windows and asks on the way whether
any token is global, so it cannot be traced.
"""

from __future__ import annotations

from typing import Any

from .family import VOCAB, Family

BASE = {
    "vocab_size": VOCAB, "bos_token_id": None, "eos_token_id": None, "pad_token_id": 0,
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
    "intermediate_size": 48, "max_position_embeddings": 64,
}
DISTIL = {"vocab_size": VOCAB, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48,
          "max_position_embeddings": 64}
XLM = {"vocab_size": VOCAB, "emb_dim": 32, "n_layers": 2, "n_heads": 4, "pad_token_id": 0,
       "bos_token_id": None, "eos_token_id": None, "max_position_embeddings": 64}
FUNNEL = {"vocab_size": VOCAB, "block_sizes": [1, 1], "num_decoder_layers": 1, "d_model": 32,
          "n_head": 4, "d_head": 8, "d_inner": 48}
DEBERTA = BASE | {"relative_attention": True, "pos_att_type": ["c2p", "p2c"],
                  "position_biased_input": False}
GROUPS = dict.fromkeys(
    ["q_groups", "k_groups", "v_groups", "intermediate_groups", "output_groups"], 2)
NAMED = {"cls_token_id": 1, "sep_token_id": 2}


def funnel_heads(config: Any) -> int:
    """Attention heads of a funnel: its blocks and the decoder after them."""
    return (sum(config.block_sizes) + config.num_decoder_layers) * config.n_head


def convbert_heads(config: Any) -> int:
    """Attention heads of ConvBERT, which replaces a part of them by convolutions."""
    return config.num_hidden_layers * config.num_attention_heads // config.head_ratio


def no_heads(config: Any) -> int:
    """Of a model without attention."""
    return 0


def masked(name: str, stem: str, options: dict[str, Any] = BASE, **more: Any) -> Family:
    """A family whose class and configuration begin with the same stem."""
    return Family(name, f"{stem}ForMaskedLM", f"{stem}Config", options, **more)


ENCODERS: tuple[Family, ...] = (
    masked("bert", "Bert"),
    masked("roberta", "Roberta"),
    masked("xlm_roberta", "XLMRoberta"),
    masked("camembert", "Camembert"),
    masked("data2vec_text", "Data2VecText"),
    masked("distilbert", "DistilBert", DISTIL),
    masked("electra", "Electra", BASE | {"embedding_size": 16}),
    masked("albert", "Albert", BASE | {"embedding_size": 16}),
    masked("mobilebert", "MobileBert", BASE | {
        "hidden_size": 48, "embedding_size": 16, "intra_bottleneck_size": 32,
        "num_feedforward_networks": 2},
        # of each layer: into the bottleneck, the networks, out of it
        blocks=lambda c: c.num_hidden_layers * (c.num_feedforward_networks + 2)),
    masked("convbert", "ConvBert", BASE | {"embedding_size": 16, "conv_kernel_size": 3},
           heads=convbert_heads),
    masked("deberta", "Deberta", DEBERTA),
    masked("deberta_v2", "DebertaV2", DEBERTA | {
        "position_buckets": 8, "norm_rel_ebd": "layer_norm", "share_att_key": True}),
    masked("modernbert", "ModernBert", BASE | NAMED | {"local_attention": 8}),
    masked("esm", "Esm", BASE | {"mask_token_id": 3, "position_embedding_type": "rotary"}),
    masked("fnet", "FNet", BASE, heads=no_heads),
    masked("big_bird", "BigBird", BASE | {"attention_type": "original_full"}),
    masked("nystromformer", "Nystromformer", BASE | {"conv_kernel_size": 5}),
    masked("funnel", "Funnel", FUNNEL, heads=funnel_heads, fixed=True,
           blocks=lambda c: sum(c.block_sizes) + c.num_decoder_layers, known={
               "direct": "the module that holds the matrices adds the stream itself, so the "
                         "oracle freezes both; frozen in front of that sum, the edges agree"}),
    masked("mpnet", "MPNet"),
    masked("rembert", "RemBert", BASE | {"input_embedding_size": 16, "output_embedding_size": 24}),
    masked("roformer", "RoFormer", BASE | {"embedding_size": 16}),
    masked("squeezebert", "SqueezeBert", BASE | GROUPS | {"embedding_size": 32}),
    masked("ibert", "IBert"),
    Family("xlm", "XLMWithLMHeadModel", "XLMConfig", XLM),
    Family("flaubert", "FlaubertWithLMHeadModel", "FlaubertConfig", XLM),
    masked("layoutlm", "LayoutLM", BASE | {"max_2d_position_embeddings": 32}),
    masked("megatron_bert", "MegatronBert"),
    masked("eurobert", "EuroBert", BASE | {"num_key_value_heads": 2, "mask_token_id": 3}),
    masked("longformer", "Longformer", BASE | {"attention_window": 8, "sep_token_id": 2},
           fails="data-dependent shapes"),
)
