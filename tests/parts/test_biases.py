"""Attention whose scores are shifted by what depends on the input."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import rewrite as rw


class Biased(nn.Module):
    """Two layers of two heads; a table of pairs of tokens shifts the scores of both."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.pairs = nn.Embedding(11, 8), nn.Embedding(121, 2)
        self.q, self.k, self.v, self.o = (
            nn.ModuleList(nn.Linear(8, 8) for _ in range(2)) for _ in range(4))
        self.norm, self.end = nn.LayerNorm(8), nn.Linear(8, 11)

    def forward(self, ids: Tensor) -> Tensor:
        return self.end(self.norm(self.stream(ids, 2)))

    def bias(self, ids: Tensor) -> Tensor:
        return self.pairs(11 * ids.unsqueeze(-1) + ids.unsqueeze(-2)).permute(0, 3, 1, 2)

    def heads(self, x: Tensor) -> Tensor:
        return x.view(x.shape[0], x.shape[1], 2, 4).transpose(1, 2)

    def stream(self, ids: Tensor, layers: int, query: Tensor | None = None) -> Tensor:
        """The stream behind some layers; the last reads a `query` given for its first head."""
        x, bias = self.embed(ids), self.bias(ids)
        for i in range(layers):
            y = self.norm(x)
            q, k, v = (self.heads(f[i](y)) for f in (self.q, self.k, self.v))
            if query is not None and i == layers - 1:
                q = torch.cat([query[:, :1], q[:, 1:]], 1)
            z = (q @ k.transpose(-2, -1) / 2 + bias).softmax(-1) @ v
            x = x + self.o[i](z.transpose(1, 2).reshape(x.shape))
        return x


def test_scores_and_their_biases_are_inside_the_heads() -> None:
    """The second layer's scores depend on the bias by way of the first: no residual sum."""
    model = Biased().double().eval()
    clean, corrupt = torch.randint(11, (2, 3, 5), generator=torch.Generator().manual_seed(1))
    parts = rw.trace(model, {"ids": clean}).components()
    assert parts.heads == ("a0.h0", "a0.h1", "a1.h0", "a1.h1")
    assert {c.name.kind for c in parts.components.values()} == {"embed", "attention", "output"}
    exp = rw.expand(rw.Hypothesis(parts, {"clean": "... -> a1.h0.q -> ..."}))
    given = {"clean": {"ids": clean}, "corrupt": {"ids": corrupt}}
    with torch.no_grad():
        (found,) = exp.module(*exp.arguments({run: given[run] for run in exp.runs}))
        query = model.heads(model.q[1](model.norm(model.stream(clean, 1))))
        wanted = model.end(model.norm(model.stream(corrupt, 2, query)))
        base = model(corrupt)
    assert (wanted - base).abs().max() > 1e-3
    assert (found - wanted).abs().max() <= 1e-10 * wanted.abs().max()
