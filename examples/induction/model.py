"""A 2-layer attention-only transformer whose positions reach only the queries and the keys.

    x  = embedding(tokens)
    x += attention(norm(x))      twice, 8 heads each
    logits = unembed(norm(x))

In each layer q and k are read from norm(x) + positions, v from norm(x) ("shortformer": Press,
Smith and Lewis, 2021), so the residual stream holds no positions and no head can copy one.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import pad, scaled_dot_product_attention


@dataclass(frozen=True)
class Shape:
    """Sizes of the model; those of the weights that ship are the defaults."""

    vocabulary: int = 2048
    context: int = 300
    heads: int = 8
    d_model: int = 256
    positions: tuple[float, ...] = (4.0, 0.4)  # amplitude in each layer

    @property
    def layers(self) -> int:
        """How many layers of attention."""
        return len(self.positions)

    @property
    def d_head(self) -> int:
        """Width of one head's queries, keys and values."""
        return self.d_model // self.heads


def sinusoids(length: int, width: int) -> Float[Tensor, "length width"]:
    """Sines and cosines of the position, with wavelengths from 3 to 1,000 tokens.

    They fill a quarter of the directions, so that heads can easily leave positions alone.
    """
    waves = width // 8
    wavelengths = 3 * (1000 / 3) ** torch.linspace(0, 1, waves)
    angles = 2 * torch.pi * torch.arange(length)[:, None] / wavelengths
    filled = torch.cat([angles.sin(), angles.cos()], dim=1)
    return pad(filled, (0, width - 2 * waves))


class Attention(nn.Module):
    """Causal attention of several heads, with the positions added to what q and k read."""

    positions: Tensor

    def __init__(self, shape: Shape, amplitude: float) -> None:
        super().__init__()
        self.shape = shape
        width = shape.d_model
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width, bias=False)
        self.output = nn.Linear(width, width, bias=False)
        positions = amplitude * sinusoids(shape.context, width)
        self.register_buffer("positions", positions, persistent=False)

    def split(self, x: Float[Tensor, "batch seq model"]) -> Float[Tensor, "batch head seq d"]:
        """One slice per head."""
        return x.unflatten(-1, (self.shape.heads, self.shape.d_head)).transpose(1, 2)

    def read(self, x: Float[Tensor, "batch seq model"]) -> list[Float[Tensor, "batch head seq d"]]:
        """Queries, keys and values."""
        placed = x + self.positions[: x.shape[1]]
        return [self.split(self.query(placed)), self.split(self.key(placed)),
                self.split(self.value(x))]

    def forward(self, x: Float[Tensor, "batch seq model"]) -> Float[Tensor, "batch seq model"]:
        q, k, v = self.read(x)
        mixed = scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.output(mixed.transpose(1, 2).flatten(2))

    def pattern(self, x: Float[Tensor, "batch seq model"]) -> Float[Tensor, "batch head q k"]:
        """How much each query attends to itself and to what is before it; rows sum to one."""
        q, k, _ = self.read(x)
        later = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1)
        scores = q @ k.transpose(2, 3) / math.sqrt(self.shape.d_head)
        return scores.masked_fill(later, -torch.inf).softmax(-1)


class Layer(nn.Module):
    """Layer norm and attention, added to the stream."""

    def __init__(self, shape: Shape, amplitude: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(shape.d_model)
        self.attention = Attention(shape, amplitude)

    def forward(self, x: Float[Tensor, "batch seq model"]) -> Float[Tensor, "batch seq model"]:
        return x + self.attention(self.norm(x))


class Output(NamedTuple):
    """What the model returns."""

    logits: Float[Tensor, "batch seq vocabulary"]


class Transformer(nn.Module):
    """Embedding, layers of attention, final norm and unembedding.

    Raises `ValueError` for more tokens than the context of its shape.
    """

    def __init__(self, shape: Shape | None = None) -> None:
        super().__init__()
        self.shape = shape or Shape()
        self.embedding = nn.Embedding(self.shape.vocabulary, self.shape.d_model)
        self.layers = nn.ModuleList(Layer(self.shape, size) for size in self.shape.positions)
        self.norm = nn.LayerNorm(self.shape.d_model)
        self.unembed = nn.Linear(self.shape.d_model, self.shape.vocabulary, bias=False)
        for name, weight in self.named_parameters():
            if weight.ndim == 2:  # attention starts small beside the embedding
                small = 0.25 if name.endswith("output.weight") else 1.0
                nn.init.normal_(weight, std=small * self.shape.d_model ** -0.5)

    def forward(self, input_ids: Int[Tensor, "batch seq"]) -> Output:
        x = self.embedding(input_ids)
        for layer in self.layers:
            x = layer(x)
        return Output(self.unembed(self.norm(x)))

    def patterns(
        self, input_ids: Int[Tensor, "batch seq"]
    ) -> Float[Tensor, "layer batch head q k"]:
        """The attention of every layer."""
        x, found = self.embedding(input_ids), []
        for layer in self.layers:
            assert isinstance(layer, Layer)
            found.append(layer.attention.pattern(layer.norm(x)))
            x = layer(x)
        return torch.stack(found)

    def save(self, file: Path) -> None:
        """Write the weights in half precision, with the shape beside them."""
        weights = {name: value.half().contiguous() for name, value in self.state_dict().items()}
        save_file(weights, file, metadata={"shape": json.dumps(asdict(self.shape))})


WEIGHTS = Path(__file__).with_name("model.safetensors")


def load(file: Path = WEIGHTS) -> Transformer:
    """The trained model, in eval mode and single precision."""
    with safe_open(file, framework="pt") as opened:
        model = Transformer(Shape(**json.loads(opened.metadata()["shape"])))
    model.load_state_dict({name: value.float() for name, value in load_file(file).items()})
    return model.eval()
