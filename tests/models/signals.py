"""Tiny configurations of models of images, videos, sounds and time series, one line per family.

Here are also the models with two towers, of which one reads text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from .family import VOCAB, Family, both_stacks, layers_times_heads, one_each

SIZE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
        "intermediate_size": 48}
IMAGE = SIZE | {"image_size": 16, "patch_size": 4}
DINO = IMAGE | {"mlp_ratio": 2}
VIDEO = SIZE | {"image_size": 16, "patch_size": 8, "num_frames": 4}
# after two stages a picture of 32 x 32 is 4 x 4; windows of 4 are shifted in the first stage
SWIN = {"image_size": 32, "patch_size": 4, "embed_dim": 16, "depths": [2, 1], "num_heads": [2, 4],
        "window_size": 4, "mlp_ratio": 2.0}
CONVNEXT = {"image_size": 32, "num_stages": 2, "hidden_sizes": [16, 32], "depths": [1, 1]}
CONV = {"embedding_size": 16, "hidden_sizes": [16, 32], "depths": [1, 1]}
PYRAMID = {"num_encoder_blocks": 2, "depths": [1, 1], "hidden_sizes": [16, 32],
           "strides": [4, 2], "mlp_ratios": [2, 2], "num_attention_heads": [2, 4]}
TEXT = SIZE | {"vocab_size": VOCAB, "max_position_embeddings": 32, "pad_token_id": 0,
               "bos_token_id": 1, "eos_token_id": 2}
TOWERS = {"text_config": TEXT, "vision_config": IMAGE, "projection_dim": 16}
WAVES = SIZE | {
    "vocab_size": VOCAB, "pad_token_id": 0, "conv_dim": (16, 16), "conv_kernel": (4, 3),
    "conv_stride": (3, 2), "num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 2}
CLAP = {"text_config": TEXT, "projection_dim": 16, "audio_config": {
    "spec_size": 32, "num_mel_bins": 8, "window_size": 4, "patch_embeds_hidden_size": 16,
    "hidden_size": 32, "depths": [2, 1], "num_attention_heads": [2, 4], "num_hidden_layers": 2,
    "mlp_ratio": 2.0}}
STACKS = {"d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
          "decoder_attention_heads": 4, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48}
SERIES = STACKS | {"prediction_length": 4, "context_length": 12, "lags_sequence": [1, 2],
                   "num_time_features": 1}
DECISION = {"state_dim": 5, "act_dim": 3, "hidden_size": 32, "max_ep_len": 16, "n_layer": 2,
            "n_head": 4, "n_positions": 32, "bos_token_id": None, "eos_token_id": None}
SHORTCUT = {
    "partition": "a stage begins with two convolutions that are added: no term depends on the "
                 "other, so it is no residual sum, and belongs to what reads it",
    "direct": "the first layer of a stage is a part of the next"}
WORDS = torch.arange(3, 36).reshape(3, 11)


def noise(*shape: int) -> torch.Tensor:
    """Random numbers, the same in every process."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def staged(depths: Sequence[int], heads: Sequence[int]) -> int:
    """Attention heads of stages of layers."""
    return sum(depth * head for depth, head in zip(depths, heads, strict=True))


def window_heads(config: Any) -> int:
    """Attention heads of a model whose stages differ in their number of heads."""
    return staged(config.depths, config.num_heads)


def pyramid_heads(config: Any) -> int:
    """The same under another name."""
    return staged(config.depths, config.num_attention_heads)


def cvt_heads(config: Any) -> int:
    """The same under yet other names."""
    return staged(config.depth, config.num_heads)


def levit_heads(config: Any) -> int:
    """Attention heads of LeViT, which also shrinks its picture by attention."""
    shrinking = sum(size // key for size, key in zip(config.hidden_sizes, config.key_dim[:-1],
                                                     strict=False))
    return staged(config.depths, config.num_attention_heads) + shrinking


def tower_heads(config: Any) -> int:
    """Attention heads of a text tower and an image tower."""
    return layers_times_heads(config.text_config) + layers_times_heads(config.vision_config)


def pooled_heads(config: Any) -> int:
    """The same with an attention that pools the image."""
    return tower_heads(config) + config.vision_config.num_attention_heads


def clap_heads(config: Any) -> int:
    """Attention heads of a text tower and a staged sound tower."""
    return layers_times_heads(config.text_config) + pyramid_heads(config.audio_config)


def clap_blocks(config: Any) -> int:
    """MLPs of both towers, and what leads from stage to stage."""
    return one_each(config.text_config) + one_each(config.audio_config)


def mae_blocks(config: Any) -> int:
    """MLPs of both stacks, and what leads from the one to the other."""
    return config.num_hidden_layers + 1 + config.decoder_num_hidden_layers


def mae_heads(config: Any) -> int:
    """Attention heads of an encoder and of the decoder that restores the picture."""
    return (layers_times_heads(config)
            + config.decoder_num_hidden_layers * config.decoder_num_attention_heads)


def space_and_time(config: Any) -> int:
    """Attention heads of a stack whose layers attend first in time, then in space."""
    return 2 * layers_times_heads(config)


def space_and_time_blocks(config: Any) -> int:
    """MLPs of such a stack, and a product behind each attention in time."""
    return 2 * config.num_hidden_layers


def conformer_blocks(config: Any) -> int:
    """Of each layer: an MLP before and one behind the attention, and a convolution."""
    return 3 * config.num_hidden_layers


def git_blocks(config: Any) -> int:
    """MLPs of a text model that reads an image tower."""
    return one_each(config) + one_each(config.vision_config)


def git_heads(config: Any) -> int:
    """Attention heads of a text model that reads an image tower."""
    return layers_times_heads(config) + layers_times_heads(config.vision_config)


def no_heads(config: Any) -> int:
    """Of a model without attention."""
    return 0


def picture(name: str, stem: str, options: dict[str, Any] = IMAGE, **more: Any) -> Family:
    """A classifier of images whose class and configuration begin with the same stem."""
    return Family(name, f"{stem}ForImageClassification", f"{stem}Config", options, **more)


def plain(name: str, stem: str, options: dict[str, Any], **more: Any) -> Family:
    """A base model whose class and configuration begin with the same stem."""
    return Family(name, f"{stem}Model", f"{stem}Config", options, **more)


def speech(name: str, stem: str, options: dict[str, Any] = WAVES, **more: Any) -> Family:
    """A model that writes down what it hears, whose names begin with the same stem."""
    return Family(name, f"{stem}ForCTC", f"{stem}Config", options, **(
        {"blocks": lambda c: c.num_hidden_layers + 1} | more))  # positions by a convolution


SIGNALS: tuple[Family, ...] = (
    # images, by attention
    picture("vit", "ViT"),
    picture("deit", "DeiT"),
    picture("ijepa", "IJepa"),
    picture("vit_msn", "ViTMSN"),
    picture("dinov2", "Dinov2", DINO),
    picture("dinov2_with_registers", "Dinov2WithRegisters", DINO | {"num_register_tokens": 2}),
    plain("dinov3_vit", "DINOv3ViT", IMAGE | {"num_register_tokens": 2}),
    picture("beit", "Beit", IMAGE | {
        "use_relative_position_bias": True, "layer_scale_init_value": 1.0}),
    picture("data2vec_vision", "Data2VecVision", IMAGE | {
        "use_shared_relative_position_bias": True, "layer_scale_init_value": 1.0}),
    Family("vit_mae", "ViTMAEForPreTraining", "ViTMAEConfig", IMAGE | {
        "decoder_num_attention_heads": 2, "decoder_hidden_size": 16,
        "decoder_num_hidden_layers": 1, "decoder_intermediate_size": 24}, mae_heads, mae_blocks,
        inputs={"pixel_values": noise(3, 3, 16, 16), "noise": noise(3, 16)}),
    plain("yolos", "Yolos", IMAGE | {"image_size": [16, 16], "num_detection_tokens": 3}),
    picture("swin", "Swin", SWIN, heads=window_heads),
    picture("swinv2", "Swinv2", SWIN, heads=window_heads),
    picture("hiera", "Hiera", {
        "image_size": [32, 32], "embed_dim": 16, "depths": [1, 2], "num_heads": [2, 4],
        "num_query_pool": 1, "masked_unit_size": [2, 2], "masked_unit_attention": [True, False],
        "mlp_ratio": 2.0}, heads=window_heads),
    picture("levit", "Levit", {
        "image_size": 64, "hidden_sizes": [16, 24, 32], "num_attention_heads": [2, 3, 4],
        "depths": [1, 1, 1], "key_dim": [8, 8, 8]}, heads=levit_heads, scale=0.15),
    picture("segformer", "Segformer", PYRAMID | {
        "image_size": 32, "sr_ratios": [2, 1], "patch_sizes": [7, 3]}, heads=pyramid_heads),
    picture("pvt", "Pvt", PYRAMID | {
        "image_size": 32, "sequence_reduction_ratios": [2, 1], "patch_sizes": [4, 2],
        "num_labels": 2},
        heads=pyramid_heads),
    picture("pvt_v2", "PvtV2", PYRAMID | {
        "image_size": 32, "sr_ratios": [2, 1], "patch_sizes": [7, 3]}, heads=pyramid_heads),
    picture("cvt", "Cvt", {
        "embed_dim": [16, 24, 32], "num_heads": [2, 3, 4], "depth": [1, 2, 3],
        "mlp_ratio": [2.0, 2.0, 2.0]}, heads=cvt_heads),
    plain("detr", "Detr", STACKS | {
        "backbone_config": CONV | {"model_type": "resnet", "out_features": ["stage2"]},
        # the decoder's first self-attention reads learned queries only: no input reaches it
        "num_queries": 5}, heads=lambda c: both_stacks(c) - c.decoder_attention_heads,
        # the backbone's first layer; its second, past which no skip leads, with a projection
        blocks=lambda c: one_each(c) + 2),
    # images, by convolution
    picture("convnext", "ConvNext", CONVNEXT | {"layer_scale_init_value": 1.0}, heads=no_heads),
    picture("convnextv2", "ConvNextV2", CONVNEXT, heads=no_heads),
    picture("resnet", "ResNet", CONV, heads=no_heads, known=SHORTCUT),
    picture("regnet", "RegNet", CONV | {"depths": [2, 2], "groups_width": 8}, heads=no_heads,
            blocks=lambda c: sum(c.depths), known={
                "partition": "the first layer adds two convolutions of what is embedded: no skip "
                             "passes it, and it is a part of the embedding"}),
    picture("mobilenet_v2", "MobileNetV2", {
        "image_size": 32, "depth_multiplier": 0.25, "expand_ratio": 2.0}, heads=no_heads,
        blocks=lambda c: 16, known={
            "partition": "no skip passes the first and the last layer: they are parts of the "
                         "embedding and of the logits",
            "direct": "the last layer is a part of the logits, and hooks freeze it"}),
    picture("poolformer", "PoolFormer", {
        "image_size": 32, "num_encoder_blocks": 2, "depths": [1, 1], "hidden_sizes": [16, 32],
        "patch_sizes": [7, 3], "strides": [4, 2], "padding": [2, 1], "mlp_ratio": 2.0,
        "layer_scale_init_value": 1.0}, heads=no_heads),
    picture("focalnet", "FocalNet", {
        "image_size": 32, "embed_dim": 16, "depths": [1, 1], "focal_levels": [2, 2],
        "focal_windows": [3, 3]}, heads=no_heads,
        # a modulation and an MLP in each layer, and what leads from stage to stage
        blocks=lambda c: 2 * sum(c.depths) + len(c.depths) - 1),
    # videos
    Family("videomae", "VideoMAEForVideoClassification", "VideoMAEConfig", VIDEO),
    Family("timesformer", "TimesformerForVideoClassification", "TimesformerConfig", VIDEO,
           space_and_time, space_and_time_blocks),
    Family("vivit", "VivitForVideoClassification", "VivitConfig", VIDEO | {
        "tubelet_size": [2, 8, 8]}),
    # sounds
    speech("wav2vec2", "Wav2Vec2"),
    speech("hubert", "Hubert"),
    speech("wavlm", "WavLM", WAVES | {"num_buckets": 8, "max_bucket_distance": 16}),
    speech("data2vec_audio", "Data2VecAudio", WAVES | {
        "num_conv_pos_embeddings": 2, "conv_pos_kernel_size": 3}),
    speech("wav2vec2_conformer", "Wav2Vec2Conformer", WAVES | {"conv_depthwise_kernel_size": 3},
           blocks=conformer_blocks),
    speech("wav2vec2_bert", "Wav2Vec2Bert", SIZE | {
        "vocab_size": VOCAB, "feature_projection_input_dim": 8, "conv_depthwise_kernel_size": 3},
        blocks=conformer_blocks, inputs={"input_features": noise(3, 12, 8)}),
    Family("audio_spectrogram_transformer", "ASTForAudioClassification", "ASTConfig", SIZE | {
        "patch_size": 4, "frequency_stride": 4, "time_stride": 4, "max_length": 24,
        "num_mel_bins": 8}),
    # two towers, and what reads text and images
    plain("clip", "CLIP", TOWERS, heads=tower_heads),
    plain("siglip", "Siglip", {"text_config": TEXT, "vision_config": IMAGE}, heads=pooled_heads,
          blocks=lambda c: one_each(c) + 1),  # an MLP behind the attention that pools
    plain("aimv2", "Aimv2", TOWERS, heads=pooled_heads),
    plain("clap", "Clap", CLAP, heads=clap_heads, blocks=clap_blocks),
    plain("blip", "Blip", TOWERS, heads=tower_heads),
    plain("clip_text", "CLIPText", TEXT),
    plain("clip_vision", "CLIPVision", IMAGE),
    Family("git", "GitForCausalLM", "GitConfig", TEXT | {"vision_config": IMAGE}, git_heads,
           git_blocks, inputs={"input_ids": WORDS, "pixel_values": noise(3, 3, 16, 16)}),
    # time series and actions
    Family("patchtst", "PatchTSTForPrediction", "PatchTSTConfig", {
        "num_input_channels": 2, "context_length": 32, "patch_length": 8, "patch_stride": 8,
        "d_model": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "ffn_dim": 48,
        "prediction_length": 4, "loss": "mse"}),
    plain("time_series_transformer", "TimeSeriesTransformer", SERIES, heads=both_stacks, inputs={
        "past_values": noise(3, 14), "past_time_features": noise(3, 14, 1),
        "past_observed_mask": torch.ones(3, 14), "future_values": noise(3, 4),
        "future_time_features": noise(3, 4, 1)}),
    plain("decision_transformer", "DecisionTransformer", DECISION, inputs={
        "states": noise(3, 6, 5), "actions": noise(3, 6, 3),
        "rewards": noise(3, 6, 1), "returns_to_go": noise(3, 6, 1),
        "timesteps": torch.arange(6).repeat(3, 1), "attention_mask": torch.ones(3, 6).long()}),
)
