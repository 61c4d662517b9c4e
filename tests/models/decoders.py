"""Tiny random decoders: causal language models of `transformers`, one `Family` each.

Sizes are the smallest that still exercise the family: where layers differ in kind (local and
global, recurrent and attention, dense and mixture of experts, with and without rotation), each
kind occurs at least once.  Nothing is downloaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .family import VOCAB, Family, layers_times_heads

TEXT = {"vocab_size": VOCAB, "bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
WIDTH = TEXT | {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
SMALL = WIDTH | {"intermediate_size": 48, "max_position_embeddings": 64}
KV = SMALL | {"num_key_value_heads": 2}
GQA = KV | {"head_dim": 8}
GPT = TEXT | {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
GPT2 = {"vocab_size": VOCAB, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64,
        "bos_token_id": None, "eos_token_id": None}

FALCON = WIDTH | {"ffn_hidden_size": 48}
BART = TEXT | {"d_model": 32, "max_position_embeddings": 64} | {
    f"{stack}_{name}": value for stack in ("encoder", "decoder")
    for name, value in (("layers", 2), ("attention_heads", 4), ("ffn_dim", 48))}
REFORMER = TEXT | {
    "hidden_size": 32, "num_attention_heads": 4, "attention_head_size": 8,
    "feed_forward_size": 48, "axial_pos_shape": [8, 8], "axial_pos_embds_dim": [8, 24],
    "local_attn_chunk_length": 4, "lsh_attn_chunk_length": 4, "num_buckets": 4, "hash_seed": 0,
    "is_decoder": True, "pad_token_id": 0, "max_position_embeddings": 64}
INTEGERS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}

LOCAL_GLOBAL = {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]}
PAIRS = {"num_hidden_layers": 4, "sliding_window": 8,
         "layer_types": ["sliding_attention", "full_attention"] * 2}
LINEAR_FULL = {"layer_types": ["linear_attention", "full_attention"]}
TOP2 = {"num_experts_per_tok": 2}
EXPERTS = {"num_experts": 4, "moe_intermediate_size": 16} | TOP2
LOCAL_EXPERTS = {"num_local_experts": 4} | TOP2
ROUTED = {"n_routed_experts": 4, "n_shared_experts": 1, "moe_intermediate_size": 16} | TOP2
DENSE_SPARSE = {"mlp_layer_types": ["dense", "sparse"]}
LATENT = {"kv_lora_rank": 8, "q_lora_rank": 12, "qk_nope_head_dim": 8, "qk_rope_head_dim": 4,
          "v_head_dim": 8}
MLA = SMALL | LATENT | {"num_key_value_heads": 4}
INDEX = {"index_n_heads": 2, "index_head_dim": 8, "index_topk": 4}
SCALED = {"embedding_multiplier": 2.0, "logits_scaling": 2.0, "residual_multiplier": 0.5,
          "attention_multiplier": 0.25}
SHORT = {"layer_types": ["hybrid_sliding", "hybrid"], "sliding_window_size": 8,
         "swa_num_attention_heads": 4, "swa_num_key_value_heads": 2, "swa_head_dim": 8,
         "d_rel": 4, "rel_extent": 8, "conv_kernel_size": 4}
DELTA = {"linear_conv_kernel_dim": 4, "linear_num_key_heads": 2, "linear_num_value_heads": 4,
         "linear_key_head_dim": 8, "linear_value_head_dim": 8}
MAMBA = TEXT | {"hidden_size": 32, "num_hidden_layers": 2,
                "state_size": 4, "conv_kernel": 4, "expand": 2}
MAMBA1 = {"mamba_d_state": 4, "mamba_d_conv": 4, "mamba_expand": 2, "mamba_dt_rank": 4,
          "use_mamba_kernels": False}
MAMBA2 = {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_n_groups": 2, "mamba_d_state": 4,
          "mamba_d_conv": 4, "mamba_expand": 2, "mamba_chunk_size": 8}


def without(options: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """Options less those that a family does not have."""
    return {name: value for name, value in options.items() if name not in names}


def rope(kind: str, **options: Any) -> dict[str, Any]:
    """Options that select a kind of rotary position embedding."""
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 10000.0, **options}}


def no_heads(config: Any) -> int:
    """A model without attention."""
    return 0


def differences(config: Any) -> int:
    """Heads of a model whose configuration counts the two patterns of each."""
    return layers_times_heads(config) // 2


def attending(config: Any) -> int:
    """Heads of the layers that attend, in a stack whose other layers convolve or recur."""
    return config.num_attention_heads * sum(
        kind != "linear_attention" and ("attention" in kind or "hybrid" in kind)
        for kind in config.layer_types)


def mixers(config: Any) -> int:
    """An MLP in each layer, and a mixer in those that do not attend."""
    return 2 * config.num_hidden_layers - attending(config) // config.num_attention_heads


def mixed(config: Any) -> int:
    """An MLP and a mixer in each layer."""
    return 2 * config.num_hidden_layers


def behind_shared(config: Any) -> int:
    """A mixer in each layer, in some behind an attention and an MLP that these layers share."""
    return config.num_hidden_layers + config.layer_types.count("hybrid")


def listed(config: Any) -> int:
    """Heads of a stack that lists them by layer."""
    return sum(config.num_attention_heads_per_layer)


DECODERS: tuple[Family, ...] = (
    # Position embeddings that are learned, sinusoidal or linear biases of the scores.
    Family("gpt2", "GPT2LMHeadModel", "GPT2Config", GPT2),
    Family("openai_gpt", "OpenAIGPTLMHeadModel", "OpenAIGPTConfig", GPT),
    Family("gpt_neo", "GPTNeoForCausalLM", "GPTNeoConfig",
           TEXT | {"hidden_size": 32, "num_layers": 2, "num_heads": 4, "intermediate_size": 48,
           "attention_types": [[["global", "local"], 1]], "window_size": 8,
           "max_position_embeddings": 64}),
    Family("gpt_bigcode", "GPTBigCodeForCausalLM", "GPTBigCodeConfig", GPT),
    Family("opt", "OPTForCausalLM", "OPTConfig",
           WIDTH | {"ffn_dim": 48, "max_position_embeddings": 64}),
    Family("biogpt", "BioGptForCausalLM", "BioGptConfig", SMALL),
    Family("xglm", "XGLMForCausalLM", "XGLMConfig", TEXT | {"d_model": 32, "num_layers": 2,
           "attention_heads": 4, "ffn_dim": 48, "max_position_embeddings": 64}),
    Family("ctrl", "CTRLLMHeadModel", "CTRLConfig", GPT | {"dff": 48}),
    Family("xlnet", "XLNetLMHeadModel", "XLNetConfig",
           TEXT | {"d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 48}, known={
               "direct": "the module that holds the matrices adds the stream itself, so the "
                         "oracle freezes both; frozen in front of that sum, the edges agree"}),
    Family("bloom", "BloomForCausalLM", "BloomConfig",
           TEXT | {"hidden_size": 32, "n_layer": 2, "n_head": 4}),
    Family("mpt", "MptForCausalLM", "MptConfig", TEXT | {"d_model": 32, "n_heads": 4, "n_layers": 2,
           "max_seq_len": 64, "expansion_ratio": 2}),
    Family("cpmant", "CpmAntForCausalLM", "CpmAntConfig", {"vocab_size": VOCAB, "hidden_size": 32,
           "num_hidden_layers": 2, "num_attention_heads": 4, "dim_head": 8, "dim_ff": 48,
           "prompt_length": 4, "prompt_types": 4, "segment_types": 4,
           "position_bias_num_buckets": 8, "position_bias_max_distance": 16}, fixed=True, known={
               "partition": "biases of positions depend on the input, and each layer of attention "
                            "looks them up by itself in the table that all share"}),
    Family("xlm", "XLMWithLMHeadModel", "XLMConfig", TEXT | {"emb_dim": 32, "n_layers": 2,
           "n_heads": 4, "max_position_embeddings": 64, "causal": True, "pad_token_id": 0}),
    Family("bert_decoder", "BertLMHeadModel", "BertConfig", SMALL | {"is_decoder": True}),
    Family("roformer_decoder", "RoFormerForCausalLM", "RoFormerConfig",
           SMALL | {"is_decoder": True, "pad_token_id": 0, "embedding_size": 32}),
    Family("bart_decoder", "BartForCausalLM", "BartConfig", BART),
    Family("trocr_decoder", "TrOCRForCausalLM", "TrOCRConfig",
           TEXT | {"d_model": 32, "decoder_layers": 2, "decoder_attention_heads": 4,
           "decoder_ffn_dim": 48, "max_position_embeddings": 64}),
    Family("prophetnet_decoder", "ProphetNetForCausalLM", "ProphetNetConfig",
           TEXT | {"hidden_size": 32, "num_encoder_layers": 2, "num_encoder_attention_heads": 4,
           "num_decoder_layers": 2, "num_decoder_attention_heads": 4, "encoder_ffn_dim": 48,
           "decoder_ffn_dim": 48, "max_position_embeddings": 64, "ngram": 2, "num_buckets": 8,
           "relative_max_distance": 16, "add_cross_attention": False, "is_decoder": True,
           "pad_token_id": 0}, heads=lambda c: 16, known={  # a main and a predicted stream
               "partition": "one product projects both streams, laid one behind the other: what "
                            "the main one makes of it is a part of its own, and the heads of the "
                            "predicted one hold the same weights"}),
    Family("reformer_local", "ReformerModelWithLMHead", "ReformerConfig",
           REFORMER | {"attn_layers": ["local", "local"]}),
    Family("reformer", "ReformerModelWithLMHead", "ReformerConfig",
           REFORMER | {"attn_layers": ["local", "lsh"]}),

    # Rotary position embeddings, layer norms, parallel blocks.
    Family("gptj", "GPTJForCausalLM", "GPTJConfig", GPT | {"rotary_dim": 4}),
    Family("codegen", "CodeGenForCausalLM", "CodeGenConfig",
           without(GPT, "pad_token_id") | {"n_ctx": 64, "rotary_dim": 4}),
    Family("gpt_neox", "GPTNeoXForCausalLM", "GPTNeoXConfig", SMALL),
    Family("falcon_rotary", "FalconForCausalLM", "FalconConfig", FALCON),
    Family("falcon_alibi", "FalconForCausalLM", "FalconConfig",
           FALCON | {"alibi": True, "multi_query": False, "parallel_attn": False, "bias": True}),
    Family("falcon_new", "FalconForCausalLM", "FalconConfig",
           FALCON | {"new_decoder_architecture": True, "num_kv_heads": 2}),
    Family("phi", "PhiForCausalLM", "PhiConfig", KV),
    Family("phi_qk_norm", "PhiForCausalLM", "PhiConfig", SMALL | {"qk_layernorm": True}),
    Family("persimmon", "PersimmonForCausalLM", "PersimmonConfig", SMALL),
    Family("stablelm", "StableLmForCausalLM", "StableLmConfig", KV),
    Family("stablelm_parallel", "StableLmForCausalLM", "StableLmConfig",
           KV | {"use_parallel_residual": True, "qk_layernorm": True, "use_qkv_bias": True}),
    Family("starcoder2", "Starcoder2ForCausalLM", "Starcoder2Config", KV),
    Family("nemotron", "NemotronForCausalLM", "NemotronConfig", GQA),
    Family("cohere", "CohereForCausalLM", "CohereConfig", KV),
    Family("cohere_qk_norm", "CohereForCausalLM", "CohereConfig", KV | {"use_qk_norm": True}),
    Family("cohere2", "Cohere2ForCausalLM", "Cohere2Config", KV | LOCAL_GLOBAL),
    Family("gpt_neox_japanese", "GPTNeoXJapaneseForCausalLM", "GPTNeoXJapaneseConfig",
           WIDTH | {"intermediate_multiple_size": 2, "max_position_embeddings": 64}),
    Family("jais2", "Jais2ForCausalLM", "Jais2Config", GQA),
    Family("modernbert_decoder", "ModernBertDecoderForCausalLM", "ModernBertDecoderConfig",
           SMALL | INTEGERS | {"cls_token_id": 1, "sep_token_id": 2, "local_attention": 8,
           "layer_types": ["sliding_attention", "full_attention"]}),

    # Rotary position embeddings and root mean square norms.
    Family("llama", "LlamaForCausalLM", "LlamaConfig", GQA),
    Family("llama_linear_rope", "LlamaForCausalLM", "LlamaConfig",
           GQA | rope("linear", factor=2.0)),
    Family("llama_dynamic_rope", "LlamaForCausalLM", "LlamaConfig",
           GQA | rope("dynamic", factor=2.0)),
    Family("llama_yarn", "LlamaForCausalLM", "LlamaConfig",
           GQA | rope("yarn", factor=4.0, original_max_position_embeddings=16)),
    Family("llama_llama3_rope", "LlamaForCausalLM", "LlamaConfig", GQA | rope("llama3", factor=4.0,
           low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=16)),
    Family("mistral", "MistralForCausalLM", "MistralConfig", GQA | {"sliding_window": 8}),
    Family("ministral", "MinistralForCausalLM", "MinistralConfig", GQA | LOCAL_GLOBAL),
    Family("qwen2", "Qwen2ForCausalLM", "Qwen2Config", KV),
    Family("qwen3", "Qwen3ForCausalLM", "Qwen3Config", GQA),
    Family("gemma", "GemmaForCausalLM", "GemmaConfig", GQA),
    Family("gemma2", "Gemma2ForCausalLM", "Gemma2Config",
           GQA | LOCAL_GLOBAL | {"query_pre_attn_scalar": 8}),
    Family("gemma3", "Gemma3ForCausalLM", "Gemma3TextConfig", GQA | {"sliding_window": 8}),
    Family("gemma3_global", "Gemma3ForCausalLM", "Gemma3TextConfig",
           GQA | LOCAL_GLOBAL | {"query_pre_attn_scalar": 8}),
    Family("vaultgemma", "VaultGemmaForCausalLM", "VaultGemmaConfig",
           GQA | LOCAL_GLOBAL | {"query_pre_attn_scalar": 8}),
    Family("phi3", "Phi3ForCausalLM", "Phi3Config", KV),
    Family("phi3_longrope", "Phi3ForCausalLM", "Phi3Config",
           KV | {"original_max_position_embeddings": 16} | rope("longrope",
           short_factor=[1.0, 1.1, 1.2, 1.3], long_factor=[1.0, 1.5, 2.0, 4.0],
           original_max_position_embeddings=16)),
    Family("olmo", "OlmoForCausalLM", "OlmoConfig", KV),
    Family("olmo_clip", "OlmoForCausalLM", "OlmoConfig", KV | {"clip_qkv": 1.0}),
    Family("olmo2", "Olmo2ForCausalLM", "Olmo2Config", KV),
    Family("olmo3", "Olmo3ForCausalLM", "Olmo3Config", KV | LOCAL_GLOBAL),
    Family("granite", "GraniteForCausalLM", "GraniteConfig", KV | SCALED),
    Family("smollm3", "SmolLM3ForCausalLM", "SmolLM3Config", KV | {"no_rope_layers": [1, 0]}),
    Family("glm", "GlmForCausalLM", "GlmConfig", GQA),
    Family("glm4", "Glm4ForCausalLM", "Glm4Config", GQA),
    Family("exaone4", "Exaone4ForCausalLM", "Exaone4Config", KV | LOCAL_GLOBAL),
    Family("helium", "HeliumForCausalLM", "HeliumConfig", GQA),
    Family("arcee", "ArceeForCausalLM", "ArceeConfig", GQA),
    Family("apertus", "ApertusForCausalLM", "ApertusConfig", KV),
    Family("ernie4_5", "Ernie4_5ForCausalLM", "Ernie4_5Config", GQA),
    Family("seed_oss", "SeedOssForCausalLM", "SeedOssConfig", GQA),
    Family("hunyuan_v1_dense", "HunYuanDenseV1ForCausalLM", "HunYuanDenseV1Config", GQA),
    Family("bitnet", "BitNetForCausalLM", "BitNetConfig", KV),
    Family("diffllama", "DiffLlamaForCausalLM", "DiffLlamaConfig", GQA, differences),
    Family("doge", "DogeForCausalLM", "DogeConfig", KV | {"keep_window_size": 8}),
    Family("nanochat", "NanoChatForCausalLM", "NanoChatConfig", KV),
    Family("cwm", "CwmForCausalLM", "CwmConfig", GQA | LOCAL_GLOBAL | INTEGERS),
    Family("ministral3", "Ministral3ForCausalLM", "Ministral3Config", GQA),
    Family("hyperclovax", "HyperCLOVAXForCausalLM", "HyperCLOVAXConfig", GQA | SCALED),
    Family("granite_swa", "GraniteSWAForCausalLM", "GraniteSWAConfig",
           KV | SCALED | LOCAL_GLOBAL | {"layer_rope_theta": [10000.0, 0.0]}),
    Family("gemma3n", "Gemma3nForCausalLM", "Gemma3nTextConfig",
           GQA | PAIRS | {"vocab_size_per_layer_input": VOCAB, "hidden_size_per_layer_input": 8,
           "altup_num_inputs": 2, "laurel_rank": 4, "num_kv_shared_layers": 2,
           "activation_sparsity_pattern": [0.5, 0.0, 0.0, 0.0]},
           # beside the MLP, one of low rank, and one that reads the embeddings of the layer
           blocks=lambda c: 3 * c.num_hidden_layers),
    Family("gemma4", "Gemma4ForCausalLM", "Gemma4TextConfig",
           GQA | PAIRS | {"vocab_size_per_layer_input": VOCAB, "hidden_size_per_layer_input": 8,
           "num_kv_shared_layers": 2, "global_head_dim": 16, "num_global_key_value_heads": 1,
           "attention_k_eq_v": True, "use_double_wide_mlp": True},
           # beside the MLP, one that reads the embeddings of the layer
           blocks=lambda c: 2 * c.num_hidden_layers),
    Family("gemma4_moe", "Gemma4ForCausalLM", "Gemma4TextConfig",
           GQA | LOCAL_GLOBAL | {"vocab_size_per_layer_input": VOCAB,
           "hidden_size_per_layer_input": 0, "global_head_dim": 16, "enable_moe_block": True,
           "num_experts": 4, "top_k_experts": 2, "moe_intermediate_size": 16}),
    Family("hrm_text", "HrmTextForCausalLM", "HrmTextConfig",
           SMALL | {"head_dim": 8, "num_hidden_layers": 1, "H_cycles": 2, "L_cycles": 1}),
    Family("moshi", "MoshiForCausalLM", "MoshiConfig", WIDTH | {"num_key_value_heads": 2,
           "head_dim": 8, "ffn_dim": 48, "max_position_embeddings": 64, "sliding_window": 8}),

    # Mixtures of experts.
    Family("mixtral", "MixtralForCausalLM", "MixtralConfig", GQA | LOCAL_EXPERTS),
    Family("phimoe", "PhimoeForCausalLM", "PhimoeConfig", KV | LOCAL_EXPERTS),
    Family("qwen2_moe", "Qwen2MoeForCausalLM", "Qwen2MoeConfig",
           KV | EXPERTS | {"shared_expert_intermediate_size": 16, "mlp_only_layers": [0]}),
    Family("qwen3_moe", "Qwen3MoeForCausalLM", "Qwen3MoeConfig",
           GQA | EXPERTS | {"mlp_only_layers": [0]}),
    Family("olmoe", "OlmoeForCausalLM", "OlmoeConfig", KV | {"num_experts": 4} | TOP2),
    Family("granitemoe", "GraniteMoeForCausalLM", "GraniteMoeConfig", KV | SCALED | LOCAL_EXPERTS),
    Family("gpt_oss", "GptOssForCausalLM", "GptOssConfig", GQA | LOCAL_GLOBAL | LOCAL_EXPERTS),
    Family("glm4_moe", "Glm4MoeForCausalLM", "Glm4MoeConfig",
           GQA | ROUTED | {"first_k_dense_replace": 1, "use_qk_norm": True}),
    Family("dots1", "Dots1ForCausalLM", "Dots1Config",
           KV | ROUTED | LOCAL_GLOBAL | {"first_k_dense_replace": 1}),
    Family("llama4", "Llama4ForCausalLM", "Llama4TextConfig",
           GQA | {"intermediate_size_mlp": 48, "num_local_experts": 4, "num_experts_per_tok": 2,
           "interleave_moe_layer_step": 2, "no_rope_layers": [1, 0], "attention_chunk_size": 8}),
    Family("dbrx", "DbrxForCausalLM", "DbrxConfig",
           TEXT | {"d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": 64,
           "attn_config": {"kv_n_heads": 2, "clip_qkv": 8.0, "rope_theta": 10000.0},
           "ffn_config": {"ffn_hidden_size": 16, "moe_num_experts": 4, "moe_top_k": 2}}),
    Family("jetmoe", "JetMoeForCausalLM", "JetMoeConfig", TEXT | LOCAL_EXPERTS | {"hidden_size": 32,
           "num_hidden_layers": 2, "num_key_value_heads": 2, "kv_channels": 8,
           "intermediate_size": 48, "max_position_embeddings": 64}, known={
               "partition": "the router of a layer of attention decides what enters its heads and "
                            "what they write, which are two parts"}),
    Family("afmoe", "AfmoeForCausalLM", "AfmoeConfig", GQA | EXPERTS | LOCAL_GLOBAL
           | {"num_dense_layers": 1, "num_shared_experts": 1, "mup_enabled": True}),
    Family("cohere2_moe", "Cohere2MoeForCausalLM", "Cohere2MoeConfig",
           GQA | LOCAL_GLOBAL | DENSE_SPARSE | TOP2 | {"num_experts": 4, "num_shared_experts": 1}),
    Family("ernie4_5_moe", "Ernie4_5_MoeForCausalLM", "Ernie4_5_MoeConfig",
           KV | {"moe_intermediate_size": 16, "moe_k": 2, "moe_num_experts": 4,
           "moe_num_shared_experts": 1, "moe_layer_start_index": 1}),
    Family("flint", "FlintForCausalLM", "FlintConfig", GQA | EXPERTS | LOCAL_GLOBAL
           | {"shared_expert_intermediate_size": 16, "mlp_only_layers": [0]}),
    Family("granitemoeshared", "GraniteMoeSharedForCausalLM", "GraniteMoeSharedConfig",
           KV | SCALED | LOCAL_EXPERTS | {"shared_intermediate_size": 16}),
    Family("hunyuan_v1_moe", "HunYuanMoEV1ForCausalLM", "HunYuanMoEV1Config",
           GQA | {"num_experts": 4, "moe_topk": 2}),
    Family("laguna", "LagunaForCausalLM", "LagunaConfig",
           GQA | EXPERTS | LOCAL_GLOBAL | DENSE_SPARSE | {"shared_expert_intermediate_size": 16,
           "num_attention_heads_per_layer": [4, 2]}, heads=listed),
    Family("mimo_v2_flash", "MiMoV2FlashForCausalLM", "MiMoV2FlashConfig",
           GQA | LOCAL_GLOBAL | DENSE_SPARSE | TOP2 | {"n_routed_experts": 4,
           "moe_intermediate_size": 16, "v_head_dim": 4}),
    Family("minimax_m2", "MiniMaxM2ForCausalLM", "MiniMaxM2Config", GQA | LOCAL_EXPERTS),
    Family("minimax_m3", "MiniMaxM3VLForCausalLM", "MiniMaxM3VLTextConfig", GQA | LOCAL_EXPERTS
           | DENSE_SPARSE | {"layer_types": ["full_attention", "minimax_m3_sparse"],
           "rotary_dim": 4, "dense_intermediate_size": 48, "shared_intermediate_size": 16,
           "index_n_heads": 2, "index_head_dim": 8, "index_block_size": 4, "index_topk_blocks": 1,
           "index_local_blocks": 1}),
    Family("beam", "BeamForCausalLM", "BeamConfig",
           GQA | EXPERTS | LOCAL_GLOBAL | DENSE_SPARSE | {"n_group": 2, "topk_group": 1}),
    Family("zaya", "ZayaForCausalLM", "ZayaConfig", without(GQA, "intermediate_size") | EXPERTS
           | {"num_experts_per_tok": 1, "router_hidden_size": 8}),

    # Multi-head latent attention, some with an indexer that selects what is attended to.
    Family("deepseek_v2", "DeepseekV2ForCausalLM", "DeepseekV2Config",
           MLA | ROUTED | {"first_k_dense_replace": 1}),
    Family("deepseek_v2_lite", "DeepseekV2ForCausalLM", "DeepseekV2Config",
           MLA | ROUTED | {"first_k_dense_replace": 1, "q_lora_rank": None}),
    Family("deepseek_v3", "DeepseekV3ForCausalLM", "DeepseekV3Config",
           MLA | ROUTED | {"first_k_dense_replace": 1, "n_group": 2, "topk_group": 1}),
    Family("deepseek_v32", "DeepseekV32ForCausalLM", "DeepseekV32Config",
           MLA | ROUTED | INDEX | DENSE_SPARSE | {"n_group": 2, "topk_group": 1}),
    Family("deepseek_v4", "DeepseekV4ForCausalLM", "DeepseekV4Config",
           without(SMALL, "intermediate_size") | ROUTED | INDEX | {"num_hidden_layers": 3,
           "num_key_value_heads": 1, "head_dim": 8, "q_lora_rank": 12,
           "layer_types": ["sliding_attention", "compressed_sparse_attention",
                           "heavily_compressed_attention"],
           "sliding_window": 4, "compress_rates": {"compressed_sparse_attention": 2,
           "heavily_compressed_attention": 4}, "mlp_layer_types": ["moe", "moe", "moe"],
           "hc_mult": 2, "hc_sinkhorn_iters": 2, "o_groups": 2, "o_lora_rank": 4,
           "partial_rotary_factor": 0.5}),
    Family("glm_moe_dsa", "GlmMoeDsaForCausalLM", "GlmMoeDsaConfig",
           MLA | ROUTED | INDEX | DENSE_SPARSE | {"indexer_types": ["full", "shared"]}, known={
               "partition": "layers share what the indexer selects, and each of them holds its "
                            "weights; what makes its queries is a part of its own"}),
    Family("hy_v4", "HYV4ForCausalLM", "HYV4Config", MLA | ROUTED | INDEX | DENSE_SPARSE
           | {"hc_mult": 2, "indexer_types": ["full", "shared"]}, known={
               "partition": "layers share what the indexer selects, and each of them holds its "
                            "weights; what makes its queries is a part of its own, and so is a "
                            "dense MLP, which is scaled by what a matrix makes of the streams"}),
    Family("longcat_flash", "LongcatFlashForCausalLM", "LongcatFlashConfig",
           TEXT | LATENT | {"hidden_size": 32, "num_layers": 1, "num_attention_heads": 4,
           "num_key_value_heads": 4, "head_dim": 4, "ffn_hidden_size": 48,
           "expert_ffn_hidden_size": 16, "moe_topk": 2, "n_routed_experts": 4, "zero_expert_num": 2,
           "max_position_embeddings": 64}),
    Family("mistral4", "Mistral4ForCausalLM", "Mistral4Config",
           MLA | ROUTED | {"first_k_dense_replace": 1, "n_group": 1, "topk_group": 1}),
    Family("axk2", "AXK2ForCausalLM", "AXK2Config",
           MLA | ROUTED | INDEX | DENSE_SPARSE | {"gated_norm_rank": 4}),
    Family("minicpm3", "MiniCPM3ForCausalLM", "MiniCPM3Config",
           MLA | {"scale_emb": 2, "dim_model_base": 16}),
    Family("youtu", "YoutuForCausalLM", "YoutuConfig", MLA),
    Family("kimi_linear", "KimiLinearForCausalLM", "KimiLinearConfig",
           MLA | LINEAR_FULL | DENSE_SPARSE | TOP2 | {"num_local_experts": 4,
           "moe_intermediate_size": 16, "linear_head_dim": 8, "linear_num_heads": 4,
           "linear_conv_kernel_dim": 4}, heads=attending, blocks=mixers),

    # Linear attention, state spaces, convolutions and recurrences, some beside attention.
    Family("minimax", "MiniMaxForCausalLM", "MiniMaxConfig",
           GQA | LOCAL_EXPERTS | LINEAR_FULL | {"block_size": 8}, heads=attending, blocks=mixers),
    Family("qwen3_next", "Qwen3NextForCausalLM", "Qwen3NextConfig", GQA | EXPERTS | DELTA
           | LINEAR_FULL | {"shared_expert_intermediate_size": 16}, heads=attending, blocks=mixers),
    Family("mamba", "MambaForCausalLM", "MambaConfig",
           MAMBA | {"time_step_rank": 4}, heads=no_heads, fixed=True),
    Family("falcon_mamba", "FalconMambaForCausalLM", "FalconMambaConfig",
           MAMBA | {"time_step_rank": 4}, heads=no_heads, fixed=True),
    Family("mamba2", "Mamba2ForCausalLM", "Mamba2Config",
           MAMBA | {"num_heads": 8, "head_dim": 8, "n_groups": 2, "chunk_size": 8}, heads=no_heads),
    Family("bamba", "BambaForCausalLM", "BambaConfig",
           KV | MAMBA2 | {"attn_layer_indices": [1]}, heads=attending, blocks=mixers),
    Family("jamba", "JambaForCausalLM", "JambaConfig",
           KV | MAMBA1 | TOP2 | {"num_experts": 4, "attn_layer_period": 2, "attn_layer_offset": 1,
           "expert_layer_period": 2, "expert_layer_offset": 1},
           heads=attending, blocks=mixers, fixed=True),
    Family("zamba2", "Zamba2ForCausalLM", "Zamba2Config",
           KV | {"num_hidden_layers": 3, "layers_block_type": ["mamba", "hybrid", "hybrid"],
           "n_mamba_heads": 8, "mamba_ngroups": 2, "mamba_d_state": 4, "chunk_size": 8,
           "num_key_value_heads": 4, "use_shared_attention_adapter": True, "adapter_rank": 4,
           "use_mem_rope": True, "use_mamba_kernels": False}, heads=attending,
           blocks=behind_shared),
    Family("lfm2", "Lfm2ForCausalLM", "Lfm2Config", KV | {"block_auto_adjust_ff_dim": False,
           "layer_types": ["conv", "full_attention"]}, heads=attending, blocks=mixers),
    Family("recurrent_gemma", "RecurrentGemmaForCausalLM", "RecurrentGemmaConfig",
           WIDTH | {"num_key_value_heads": 2, "intermediate_size": 48, "lru_width": 32,
           "attention_window_size": 8, "block_types": ("recurrent", "attention")},
           heads=attending, blocks=mixers,
           fixed=True),
    Family("rwkv", "RwkvForCausalLM", "RwkvConfig", without(TEXT, "pad_token_id")
           | {"context_length": 64, "hidden_size": 32, "num_hidden_layers": 2,
           "attention_hidden_size": 32, "intermediate_size": 48}, heads=no_heads, fixed=True,
           blocks=mixed),
    Family("falcon_h1", "FalconH1ForCausalLM", "FalconH1Config", KV | MAMBA2 | {"mamba_d_ssm": 64},
           blocks=mixed),  # a mixer beside each attention
    Family("granitemoehybrid", "GraniteMoeHybridForCausalLM", "GraniteMoeHybridConfig",
           KV | MAMBA2 | SCALED | LOCAL_EXPERTS | {"layer_types": ["mamba", "attention"],
           "shared_intermediate_size": 16}, heads=attending, blocks=mixers),
    Family("nemotron_h", "NemotronHForCausalLM", "NemotronHConfig",
           GQA | ROUTED | {"num_hidden_layers": 4,
           "layers_block_type": ["linear_attention", "moe", "full_attention", "mlp"],
           "mamba_num_heads": 8, "mamba_head_dim": 8, "n_groups": 2, "ssm_state_size": 4,
           "chunk_size": 8, "use_mamba_kernels": False, "moe_shared_expert_intermediate_size": 16},
           heads=attending,  # each layer is one of an attention, an MLP, a mixer
           blocks=lambda c: mixers(c) - c.num_hidden_layers),
    Family("zamba", "ZambaForCausalLM", "ZambaConfig", KV | MAMBA1 | {"num_hidden_layers": 3,
           "layers_block_type": ["linear_attention", "hybrid", "hybrid"], "n_mamba_heads": 2,
           "num_key_value_heads": 4}, heads=attending,
           blocks=behind_shared),
    Family("lfm2_moe", "Lfm2MoeForCausalLM", "Lfm2MoeConfig", KV | EXPERTS | {"num_dense_layers": 1,
           "layer_types": ["conv", "full_attention"]}, heads=attending, blocks=mixers),
    Family("lfm3", "Lfm3ForCausalLM", "Lfm3Config",
           GQA | {"num_hidden_layers": 3, "sliding_window": 8,
           "layer_types": ["conv", "sliding_attention", "full_attention"]},
           heads=attending, blocks=mixers),
    Family("inkling", "InklingForCausalLM", "InklingTextConfig",
           GQA | ROUTED | DENSE_SPARSE | SHORT | {"logits_mup_width_multiplier": 2.0},
           # a convolution in time behind each attention, and behind each MLP
           blocks=lambda c: 3 * c.num_hidden_layers),
    Family("inkling2", "Inkling2ForCausalLM", "Inkling2TextConfig",
           without(GQA | ROUTED | SHORT, "intermediate_size", "n_shared_experts")
           | {"unpadded_vocab_size": VOCAB, "n_layers_per_attn_res_block": 1, "route_scale": 1.0},
           blocks=lambda c: 3 * c.num_hidden_layers),  # as in Inkling
    Family("olmo_hybrid", "OlmoHybridForCausalLM", "OlmoHybridConfig",
           KV | DELTA | LINEAR_FULL, heads=attending, blocks=mixers),
    Family("qwen3_5", "Qwen3_5ForCausalLM", "Qwen3_5TextConfig",
           GQA | DELTA | LINEAR_FULL, heads=attending, blocks=mixers),
    Family("qwen3_5_moe", "Qwen3_5MoeForCausalLM", "Qwen3_5MoeTextConfig",
           without(GQA, "intermediate_size") | EXPERTS | DELTA | LINEAR_FULL
           | {"shared_expert_intermediate_size": 16}, heads=attending, blocks=mixers),
    Family("qwen4_exp", "Qwen4ExpForCausalLM", "Qwen4ExpTextConfig",
           without(GQA, "intermediate_size") | EXPERTS | DELTA
           | {"layer_types": ["linear_attention", "indexed_attention"],
           "shared_expert_intermediate_size": 16, "hc_count": 2, "hc_lowrank": 4,
           "indexer_n_heads": 2, "indexer_kv_heads": 1, "indexer_head_dim": 8, "indexer_budget": 4,
           "indexer_compress_ratio": 2}, heads=attending, blocks=mixers),
    Family("xlstm", "xLSTMForCausalLM", "xLSTMConfig", TEXT | {
        "hidden_size": 64, "num_hidden_layers": 2, "num_heads": 4, "qk_dim_factor": 1.0,
        "chunk_size": 16}, heads=no_heads),
)
