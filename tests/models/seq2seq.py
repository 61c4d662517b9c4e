"""Tiny configurations of encoder-decoders, one line per family: text to text, speech to text.

Padding is token 0, which random inputs do not contain.  LED pads its input to whole windows
and asks on the way whether any token is global, and Switch Transformers converts weights
while it runs, so neither can be traced.
"""

from __future__ import annotations

from typing import Any

import torch

from .family import VOCAB, Family, both_stacks

TOKENS = {"vocab_size": VOCAB, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
          "decoder_start_token_id": 2, "forced_eos_token_id": None}
BART = TOKENS | {
    "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48,
    "max_position_embeddings": 64,
}
T5 = {"vocab_size": VOCAB, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2,
      "num_decoder_layers": 2, "num_heads": 4, "relative_attention_num_buckets": 8,
      "relative_attention_max_distance": 16, "decoder_start_token_id": 0}
GEMMA = {"vocab_size": VOCAB, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
         "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "sliding_window": 8,
         "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
PROPHETNET = TOKENS | {
    "hidden_size": 32, "num_encoder_layers": 2, "num_decoder_layers": 2,
    "num_encoder_attention_heads": 4, "num_decoder_attention_heads": 4, "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48, "max_position_embeddings": 64, "num_buckets": 8,
    "relative_max_distance": 16}
SPEECH = BART | {"max_source_positions": 16, "max_target_positions": 32}
MOONSHINE = {
    "vocab_size": VOCAB, "hidden_size": 32, "intermediate_size": 48,
    "encoder_num_hidden_layers": 2, "decoder_num_hidden_layers": 2,
    "encoder_num_attention_heads": 4, "decoder_num_attention_heads": 4,
    "max_position_embeddings": 64, "pad_token_id": 0}
PREDICTED = {
    "partition": "one product projects the main and the predicted stream, laid one behind the "
                 "other: what the main one makes of it is a part of its own, and the heads of the "
                 "predicted one hold the same weights"}
# three convolutions of fixed strides leave 3 frames of it
SOUND = torch.randn(3, 2000, generator=torch.Generator().manual_seed(1))
WORDS = torch.arange(3, 24).reshape(3, 7)
# while it is exported, the encoder of Switch Transformers makes no mask of its own
MASKED = {"input_ids": torch.arange(5, 38).reshape(3, 11), "decoder_input_ids": WORDS,
          "attention_mask": torch.ones(3, 11, dtype=torch.long)}


def t5_heads(config: Any) -> int:
    """Attention heads of T5: encoder, decoder, cross attention."""
    return (config.num_layers + 2 * config.num_decoder_layers) * config.num_heads


def t5_blocks(config: Any) -> int:
    """MLPs of T5."""
    return config.num_layers + config.num_decoder_layers


def gemma_blocks(config: Any) -> int:
    """MLPs of T5Gemma."""
    return config.encoder.num_hidden_layers + config.decoder.num_hidden_layers


def moonshine_blocks(config: Any) -> int:
    """MLPs of Moonshine."""
    return config.encoder_num_hidden_layers + config.decoder_num_hidden_layers


def gemma_heads(config: Any) -> int:
    """Attention heads of T5Gemma, which nests one configuration per stack."""
    encoder, decoder = config.encoder, config.decoder
    return (encoder.num_hidden_layers * encoder.num_attention_heads
            + 2 * decoder.num_hidden_layers * decoder.num_attention_heads)


def prophetnet_heads(config: Any) -> int:
    """Attention heads: encoder, and in the decoder main stream, predicted stream and cross."""
    return (config.num_encoder_layers * config.num_encoder_attention_heads
            + 3 * config.num_decoder_layers * config.num_decoder_attention_heads)


def moonshine_heads(config: Any) -> int:
    """Attention heads of Moonshine."""
    return (config.encoder_num_hidden_layers * config.encoder_num_attention_heads
            + 2 * config.decoder_num_hidden_layers * config.decoder_num_attention_heads)


def generator(name: str, stem: str, options: dict[str, Any] = BART, **more: Any) -> Family:
    """A family whose class and configuration begin with the same stem."""
    return Family(name, f"{stem}ForConditionalGeneration", f"{stem}Config", options,
                  **({"heads": both_stacks} | more))


SEQ2SEQ: tuple[Family, ...] = (
    generator("t5", "T5", T5, heads=t5_heads, blocks=t5_blocks),
    generator("mt5", "MT5", T5 | {"feed_forward_proj": "gated-gelu"}, heads=t5_heads,
              blocks=t5_blocks),
    generator("umt5", "UMT5", T5, heads=t5_heads, blocks=t5_blocks),
    generator("switch_transformers", "SwitchTransformers", T5 | {
        "num_experts": 4, "num_sparse_encoder_layers": 1, "num_sparse_decoder_layers": 1},
        heads=t5_heads, blocks=t5_blocks, inputs=MASKED,
        fails="forward casts the weights of the router in place"),
    generator("t5gemma", "T5Gemma", {"encoder": GEMMA, "decoder": GEMMA, "vocab_size": VOCAB},
              heads=gemma_heads, blocks=gemma_blocks),
    generator("bart", "Bart"),
    generator("mbart", "MBart"),
    Family("marian", "MarianMTModel", "MarianConfig", BART, both_stacks),
    generator("pegasus", "Pegasus"),
    generator("m2m_100", "M2M100"),
    generator("blenderbot", "Blenderbot"),
    generator("blenderbot_small", "BlenderbotSmall"),
    generator("bigbird_pegasus", "BigBirdPegasus", BART | {"attention_type": "original_full"}),
    generator("prophetnet", "ProphetNet", PROPHETNET, heads=prophetnet_heads, known=PREDICTED,
              blocks=lambda c: c.num_encoder_layers + c.num_decoder_layers),
    generator("led", "LED", BART | {
        "attention_window": 8, "max_encoder_position_embeddings": 64,
        "max_decoder_position_embeddings": 64}, fails="data-dependent shapes"),
    generator("whisper", "Whisper", SPEECH | {"num_mel_bins": 8}, fixed=True),
    generator("speech_to_text", "Speech2Text", SPEECH | {
        "input_feat_per_channel": 8, "conv_channels": 16, "conv_kernel_sizes": (3, 3)}),
    generator("moonshine", "Moonshine", MOONSHINE, heads=moonshine_heads, blocks=moonshine_blocks,
              inputs={"input_values": SOUND, "decoder_input_ids": WORDS}),
)
