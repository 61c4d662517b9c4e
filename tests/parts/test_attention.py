"""Attention spelt out, and attention that cannot be read."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import rewrite as rw
from tests.zoo import FAMILIES, tiny, tokens


@pytest.mark.parametrize("family", FAMILIES)
def test_eager_attention_is_split_too(family: str) -> None:
    model = tiny(family, torch.float64)
    model.set_attn_implementation("eager")
    parts = rw.trace(model).components()
    ids = tokens(2, 9)
    with torch.no_grad():
        found, wanted = parts(input_ids=ids).logits, model(ids).logits
    assert len(parts.heads) == 8 and parts.notes == ()
    assert (found - wanted).abs().max() <= 1e-10 * wanted.abs().max()


class Folded(nn.Module):
    """Attention whose heads stand in the batch, as some models compute it."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(8, 8) for _ in range(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, length, _ = x.shape

        def heads(y: torch.Tensor) -> torch.Tensor:
            return y.view(batch, length, 2, 4).transpose(1, 2).reshape(batch * 2, length, 4)

        scores = torch.bmm(heads(self.q(x)), heads(self.k(x)).transpose(1, 2)).softmax(-1)
        z = torch.bmm(scores, heads(self.v(x))).view(batch, 2, length, 4).transpose(1, 2)
        return x + self.o(z.reshape(batch, length, 8))


def test_heads_that_cannot_be_split_are_reported() -> None:
    model = Folded().eval()
    parts = rw.trace(model, inputs={"x": torch.randn(3, 11, 8)}).components()
    assert parts.heads == ()
    assert len(parts.notes) == 1 and "heads not split: bmm_1 attends" in parts.notes[0]
    x = torch.randn(2, 5, 8)
    assert torch.allclose(parts(x=x), model(x), atol=1e-6)
