"""Example inputs: made for models that name their inputs, resized for the parity check."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from rewrite.errors import TraceError
from rewrite.trace.flat import Flat
from rewrite.trace.support import first_line, quiet, remedy

# Different from each other and unlikely to be numbers of the model's configuration.
BATCH, LENGTH, DECODER_LENGTH, FRAMES = 3, 11, 7, 32
SAMPLES = 1203
# Sequences of numbers: their second axis is a length.
WAVES = {"input_values", "input_features", "past_values"}


def default_inputs(model: nn.Module) -> dict[str, Tensor]:
    """Random inputs for a model whose forward takes inputs of known names.

    Tokens are `[3, 11]`, decoder tokens `[3, 7]`, or fewer for a shorter context; images and
    spectrograms take their sizes from the model's configuration.
    Raises `TraceError` that shows the call to write for every other model.
    """
    parameters = inspect.signature(model.forward).parameters
    makers = {name: maker for name, maker in MAKERS.items() if name in parameters}
    draw = torch.Generator().manual_seed(0)
    made = {name: value for name, maker in makers.items()
            if (value := maker(model, draw)) is not None}
    main = str(getattr(model, "main_input_name", next(iter(made), "")))
    config = getattr(model, "config", None)
    first = [name for name in (main,) if name in made]
    if first and getattr(config, "is_encoder_decoder", False) and "decoder_input_ids" in made:
        first.append("decoder_input_ids")
    tried = []
    for names in dict.fromkeys((tuple(first), tuple(n for n in made if n not in EMBEDDED))):
        if not names:
            continue
        inputs = _placed(model, {name: made[name] for name in names})
        reason = _refusal(model, inputs)
        if reason is None:
            return inputs
        if (short := _shortened(model, inputs)) is not None:
            return short
        tried.append(f"with {_described(inputs)} it fails: {reason}")
    given = [name for name in parameters if name not in {"self", "args", "kwargs"}]
    shown = ", ".join(f"{name!r}: tensor" for name in given[:3])
    why = "".join(f"\n  {line}" for line in tried)
    raise TraceError(f"{type(model).__name__} needs example inputs: "
                     f"rw.trace(model, inputs={{{shown}}}){why}")


def _shortened(model: nn.Module, inputs: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """The longest inputs that a model with a short context runs on."""
    for length in SHORTER if SEQUENCES & set(inputs) else ():
        short = {name: value[:, :length].contiguous() if name in SEQUENCES else value
                 for name, value in inputs.items()}
        if _refusal(model, short) is None:
            return short
    return None


def _refusal(model: nn.Module, inputs: Mapping[str, Tensor]) -> str | None:
    """Why the model does not run on `inputs`: the only way to know which of them it needs."""
    flat = Flat(model, tuple(inputs))
    try:
        with torch.no_grad(), flat.eagerly(), quiet():
            model(**flat.given(inputs))
    except (TypeError, ValueError, RuntimeError, AttributeError, NotImplementedError,
            IndexError) as error:
        return first_line(error) + remedy(model, error)
    return None


def _described(inputs: Mapping[str, Tensor]) -> str:
    return ", ".join(f"{name} {list(value.shape)}" for name, value in inputs.items())


def _placed(model: nn.Module, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inputs on the model's first device, floating ones in its dtype."""
    weight = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
    embed = getattr(model, "get_input_embeddings", lambda: None)
    try:
        first = embed()
    except (NotImplementedError, AttributeError):
        first = None
    device = next((p.device for p in first.parameters()), weight.device) if isinstance(
        first, nn.Module) else weight.device
    device = torch.device("cpu") if device.type == "meta" else device
    return {name: value.to(device, weight.dtype if value.is_floating_point() else value.dtype)
            for name, value in inputs.items()}


# One maker for each known name; None if the model's configuration does not give the sizes.

Maker = Callable[[nn.Module, torch.Generator], "Tensor | None"]


def _config(model: nn.Module, *parts: str) -> Any:
    config = getattr(model, "config", None)
    for part in parts:
        config = getattr(config, part, None) or config
    return config


def _size(config: Any, *names: str) -> int | None:
    for name in names:
        value = getattr(config, name, None)
        if isinstance(value, int):
            return value
    return None


def _tokens(length: int) -> Maker:
    def make(model: nn.Module, draw: torch.Generator) -> Tensor | None:
        config = _config(model, "text_config")
        vocabulary = _size(config, "vocab_size", "n_vocab") or _embedded(model)
        if vocabulary is None:
            return None
        ids = torch.randint(1, vocabulary, (BATCH, length), generator=draw)
        special: set[int] = set()  # padding would be masked, some models pool at the first end
        for name in ("pad_token_id", "eos_token_id"):
            value = getattr(config, name, None)
            special.update(value if isinstance(value, list) else [value] if value else [])
        other = next((i for i in range(1, vocabulary) if i not in special), 0)
        for value in special:
            ids[ids == value] = other
        return ids

    return make


def _embedded(model: nn.Module) -> int | None:
    embed = getattr(model, "get_input_embeddings", lambda: None)()
    return embed.num_embeddings if isinstance(embed, nn.Embedding) else None


def _image(model: nn.Module, draw: torch.Generator) -> Tensor | None:
    config = _config(model, "vision_config")
    size = getattr(config, "image_size", None)
    if size is None:
        size = 64  # convolutions take any size
    height, width = (size, size) if isinstance(size, int) else tuple(size)
    channels = _size(config, "num_channels", "in_channels", "in_chans") or 3
    frames = _size(config, "num_frames")
    shape = (BATCH, frames, channels) if frames else (BATCH, channels)
    return torch.randn(*shape, height, width, generator=draw)


def _features(model: nn.Module, draw: torch.Generator) -> Tensor | None:
    config = _config(model, "audio_config")
    bins = _size(config, "num_mel_bins", "feature_size", "input_feat_per_channel")
    if bins is None:
        return None
    positions = _size(config, "max_source_positions")
    if hasattr(config, "spec_size"):
        return torch.randn(BATCH, 1, config.spec_size, bins, generator=draw)
    if hasattr(config, "conv_kernel_sizes") or positions is None:
        return torch.randn(BATCH, FRAMES, bins, generator=draw)
    return torch.randn(BATCH, bins, 2 * positions, generator=draw)


def _values(model: nn.Module, draw: torch.Generator) -> Tensor | None:
    config = _config(model, "audio_config")
    bins = _size(config, "num_mel_bins")
    if bins is not None and (length := _size(config, "max_length")) is not None:
        return torch.randn(BATCH, length, bins, generator=draw)
    return torch.randn(BATCH, SAMPLES, generator=draw)


def _series(model: nn.Module, draw: torch.Generator) -> Tensor | None:
    config = _config(model)
    length = _size(config, "context_length")
    channels = _size(config, "num_input_channels", "input_size")
    if length is None or channels is None:
        return None
    return torch.randn(BATCH, length, channels, generator=draw)


def _embeddings(model: nn.Module, draw: torch.Generator) -> Tensor | None:
    width = _size(_config(model, "text_config"), "hidden_size", "d_model", "n_embd")
    return None if width is None else torch.randn(BATCH, LENGTH, width, generator=draw)


MAKERS: dict[str, Maker] = {
    "input_ids": _tokens(LENGTH), "decoder_input_ids": _tokens(DECODER_LENGTH),
    "pixel_values": _image, "pixel_values_videos": _image, "input_features": _features,
    "input_values": _values, "past_values": _series, "inputs_embeds": _embeddings,
}
EMBEDDED = {"inputs_embeds"}
SEQUENCES = {"input_ids", "decoder_input_ids", "inputs_embeds"}
SHORTER = (8, 6, 5, 4, 3, 2, 1)


def fresh(inputs: Mapping[str, Tensor], tile: bool = True) -> dict[str, Tensor]:
    """Contiguous copies, with a batch of one tiled: export takes a size of 1 as fixed."""
    batch = {value.shape[0] for value in inputs.values() if value.ndim}
    times = BATCH if tile and batch == {1} else 1
    return {name: torch.cat([v.detach()] * times).contiguous().clone() if v.ndim else v.clone()
            for name, v in inputs.items()}


def dynamic_axes(name: str, value: Tensor, length: bool = True) -> tuple[int, ...]:
    """Which axes of an input vary from call to call: batch, and length where there is one.

    Integers `[batch, length]`, numbers `[batch, length, features]`, sounds, and additive
    masks `[batch, 1, length, length]` have lengths; images and plain features have none.
    """
    if value.ndim == 0:
        return ()
    if not length:
        return (0,)
    numbers = value.is_floating_point()
    if numbers and value.ndim == 4 and name.endswith("mask"):
        return (0, 2, 3)
    tokens = not numbers and value.ndim == 2
    embedded = numbers and value.ndim == 3
    wave = numbers and value.ndim == 2 and name in WAVES
    return (0, 1) if tokens or embedded or wave else (0,)


def resized(
    inputs: Mapping[str, Tensor], axes: Mapping[str, tuple[int, ...]],
    batch: int, length: Callable[[int], int],
) -> dict[str, Tensor]:
    """Inputs of another batch size and other lengths, with rows drawn from the given ones.

    Equal lengths stay equal: `length` maps each old one to the new one.
    """
    draw = torch.Generator().manual_seed(1)
    result = dict(inputs)
    picked: dict[tuple[int, int], Tensor] = {}
    for name, dims in axes.items():
        for axis in dims:
            old = inputs[name].shape[axis]
            new = batch if axis == 0 else length(old)
            if (axis == 0, old) not in picked:
                picked[axis == 0, old] = torch.randint(0, old, (new,), generator=draw)
            index = picked[axis == 0, old].to(inputs[name].device)
            result[name] = result[name].index_select(axis, index).contiguous()
    return result
