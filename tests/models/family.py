"""One line per family of models: how to build a tiny random member of it, and what it holds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import transformers
from torch import nn

VOCAB = 97


def layers_times_heads(config: Any) -> int:
    """Attention heads of a plain stack of layers."""
    return config.num_hidden_layers * config.num_attention_heads


def both_stacks(config: Any) -> int:
    """Attention heads of an encoder-decoder: encoder, decoder, cross attention."""
    return (config.encoder_layers * config.encoder_attention_heads
            + 2 * config.decoder_layers * config.decoder_attention_heads)


def one_each(config: Any) -> int:
    """One MLP in each layer, of both stacks or towers if there are two.

    In a model of stages, also what leads from one stage to the next.
    """
    nested = [getattr(config, name, None) for name in ("text_config", "vision_config")]
    if all(nested):
        return sum(map(one_each, nested))
    if hasattr(config, "encoder_layers") and config.is_encoder_decoder:
        return config.encoder_layers + config.decoder_layers
    stages = getattr(config, "depths", None) or getattr(config, "depth", None)
    if isinstance(stages, (list, tuple)):
        return sum(stages) + len(stages) - 1
    return getattr(config, "num_hidden_layers", 0)


@dataclass(frozen=True)
class Family:
    """A family: classes of `transformers` by name, options of a tiny configuration.

    `heads` says from the configuration how many attention heads the model has, `blocks` how many
    MLPs, mixtures of experts and mixers that are no attention write to its stream.  `scale` is
    the standard deviation of the random weight matrices.  `config` may be built from nested
    configurations: `options` then holds plain dicts.  `fixed` marks families whose sequence
    length is fixed when they are traced, `fails` those that cannot be traced, with the reason.
    `known` says of a law that does not hold why not.
    """

    name: str
    model: str
    config: str
    options: Mapping[str, Any]
    heads: Callable[[Any], int] = layers_times_heads
    blocks: Callable[[Any], int] = one_each
    known: Mapping[str, str] = field(default_factory=dict)
    scale: float = 0.3
    fixed: bool = False
    fails: str = ""
    inputs: Mapping[str, Any] = field(default_factory=dict)

    def configuration(self, **changes: Any) -> Any:
        """The tiny configuration."""
        return getattr(transformers, self.config)(**(dict(self.options) | changes))

    def build(self, dtype: torch.dtype = torch.float32, **changes: Any) -> nn.Module:
        """A random model in eval mode, with weights large enough that every head matters."""
        torch.manual_seed(0)
        model = getattr(transformers, self.model)(self.configuration(**changes)).to(dtype).eval()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.ndim >= 2:
                    parameter.normal_(0, self.scale)
                elif "bias" in name:
                    parameter.normal_(0, 0.1)
        return model
