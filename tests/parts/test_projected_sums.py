"""Attention that adds something to its queries, keys or values before they meet.

A convolution in time, a further product or a network on the keys, beside the keys themselves, is
no stream: it is inside the heads, and a head is read as any other.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import rewrite as rw

Change = Callable[["Added", str, int, Tensor], Tensor]


def in_time(model: Added, port: str, layer: int, x: Tensor) -> Tensor:
    """A causal convolution of each feature by itself."""
    past = nn.functional.pad(x.transpose(1, 2), (2, 0))
    return model.convolutions[f"{port}{layer}"](past).transpose(1, 2)


def product(model: Added, port: str, layer: int, x: Tensor) -> Tensor:
    """A further product."""
    return model.matrices[f"{port}{layer}"](x)


def network(model: Added, port: str, layer: int, x: Tensor) -> Tensor:
    """A network."""
    return product(model, port, layer, torch.tanh(product(model, port, layer, x)))


class Added(nn.Module):
    """Two layers of two heads; `change` is added to the ports that it is asked for."""

    def __init__(self, change: Change, ports: str, times: int = 1, scale: float = 1.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.change, self.added, self.times, self.scale = change, ports, times, scale
        self.embed = nn.Embedding(11, 8)
        self.projections = nn.ModuleDict({f"{p}{i}": nn.Linear(8, 8) for p in "qkvo"
                                          for i in range(2)})
        self.matrices = nn.ModuleDict({f"{p}{i}": nn.Linear(8, 8) for p in "qkv"
                                       for i in range(2)})
        self.convolutions = nn.ModuleDict({f"{p}{i}": nn.Conv1d(8, 8, 3, groups=8)
                                           for p in "qkv" for i in range(2)})
        self.norm, self.end = nn.LayerNorm(8), nn.Linear(8, 11)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        for layer in range(2):
            x = x + self.written(layer, self.features(layer, x, x, x))
        return self.end(self.norm(x))

    def written(self, layer: int, features: Tensor) -> Tensor:
        return self.projections[f"o{layer}"](features)

    def read(self, port: str, layer: int, x: Tensor) -> Tensor:
        y = self.projections[f"{port}{layer}"](self.norm(x))
        for _ in range(self.times if port in self.added else 0):
            y = y * self.scale + self.change(self, port, layer, y)
        return y.view(*y.shape[:2], 2, 4).transpose(1, 2)

    def features(self, layer: int, *inputs: Tensor) -> Tensor:
        """The heads side by side, of what queries, keys and values read."""
        q, k, v = (self.read(p, layer, x) for p, x in zip("qkv", inputs, strict=True))
        z = (q @ k.transpose(-2, -1) / 2).softmax(-1) @ v
        return z.transpose(1, 2).flatten(2)

    def one_edge(self, clean: Tensor, corrupt: Tensor, port: str) -> Tensor:
        """Head 1 of the first layer is clean where a port of the last layer's head 0 reads it."""
        x, y = self.embed(corrupt), self.embed(clean)
        base, other = (self.features(0, s, s, s) for s in (x, y))
        x = x + self.written(0, base)
        mixed = base.clone()
        mixed[..., 4:] = other[..., 4:]
        other = x + self.written(0, mixed) - self.written(0, base)
        changed = self.features(1, *(other if port == p else x for p in "qkv"))
        found = torch.cat([changed[..., :4], self.features(1, x, x, x)[..., 4:]], -1)
        return self.end(self.norm(x + self.written(1, found)))


@pytest.mark.parametrize("made", [
    (in_time, "k"), (in_time, "kv"), (in_time, "qkv", 2), (product, "v", 2, 0.5), (network, "q"),
    (network, "kv", 2)], ids=lambda made: f"{made[0].__name__}-{'-'.join(map(str, made[1:]))}")
def test_what_is_added_to_keys_is_inside_the_heads(made: tuple[Change, str]) -> None:
    model = Added(*made).double().eval()
    clean, corrupt = torch.randint(11, (2, 3, 5), generator=torch.Generator().manual_seed(1))
    parts = rw.trace(model, {"ids": clean}).components()
    assert parts.heads == ("a0.h0", "a0.h1", "a1.h0", "a1.h1")
    assert {c.name.kind for c in parts.components.values()} == {"embed", "attention", "output"}
    for port in "qkv":
        exp = rw.expand(rw.Hypothesis(parts, {"clean": f"a0.h1 -> a1.h0.{port} -> ..."}))
        given = {"clean": {"ids": clean}, "corrupt": {"ids": corrupt}}
        with torch.no_grad():
            (found,) = exp.module(*exp.arguments({run: given[run] for run in exp.runs}))
            wanted, base = model.one_edge(clean, corrupt, port), model(corrupt)
        assert (wanted - base).abs().max() > 1e-4
        assert (found - wanted).abs().max() <= 1e-10 * wanted.abs().max()


class Pooled(nn.Module):
    """A stream of two MLPs, pooled by attention that projects, or that reads it as it is."""

    def __init__(self, projected: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.projected = projected
        self.embed, self.query = nn.Embedding(11, 8), nn.Parameter(torch.randn(1, 2, 1, 4))
        self.mlps = nn.ModuleList(nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8))
                                  for _ in range(2))
        self.k, self.v, self.o = (nn.Linear(8, 8) for _ in range(3))

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        for mlp in self.mlps:
            x = x + mlp(x)
        k, v = (self.k(x), self.v(x)) if self.projected else (x, x)
        k, v = (y.view(*y.shape[:2], 2, 4).transpose(1, 2) for y in (k, v))
        z = (self.query @ k.transpose(-2, -1)).softmax(-1) @ v
        return self.o(z.transpose(1, 2).flatten(2))


@pytest.mark.parametrize("projected", [True, False])
def test_a_stream_that_only_an_attention_reads_is_one(projected: bool) -> None:
    ids = torch.randint(11, (3, 5), generator=torch.Generator().manual_seed(1))
    parts = rw.trace(Pooled(projected).eval(), {"ids": ids}).components()
    assert {"embed", "m0", "m1"} <= set(parts.names)
