"""How a model is told of padding is found by what it does, whatever the input is called."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from rewrite.ir.padding import with_padding
from tests.zoo import trace

IDS = torch.randint(0, 20, (3, 5), generator=torch.Generator().manual_seed(0))
REAL = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 1, 1, 1, 0]]).bool()
LOOKS_BACK = torch.ones(5, 5).tril().bool()
BOTH = REAL[:, None, None] & LOOKS_BACK  # queries by keys, causal
Use = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]  # x, scores, what was told


class Told(nn.Module):
    """One layer of attention; `use` changes x and scores by what it is told."""

    def __init__(self, use: Use) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.out, self.use = nn.Embedding(20, 16), nn.Linear(16, 20), use
        self.q, self.k, self.v, self.o = (nn.Linear(16, 16, bias=False) for _ in range(4))

    def forward(self, ids: Tensor, told_mask: Tensor) -> Tensor:
        x = self.embed(ids)
        q, k, v = (f(x).unflatten(-1, (4, 4)).transpose(1, 2) for f in (self.q, self.k, self.v))
        x, scores = self.use(x, q @ k.mT, told_mask)
        return self.out(x + self.o((scores.softmax(-1) @ v).transpose(1, 2).flatten(2)))


def hidden(where: Callable[[Tensor], Tensor]) -> Use:
    return lambda x, scores, m: (x, scores.masked_fill(where(m), -1e9))


CASES: dict[str, tuple[Tensor, Use, bool]] = {
    "real is one": (REAL.long(), hidden(lambda m: m[:, None, None] == 0), True),
    "real is true": (REAL, hidden(lambda m: ~m[:, None, None]), True),
    "padding is true": (~REAL, hidden(lambda m: m[:, None, None]), True),
    "padding is one": ((~REAL).long(), hidden(lambda m: m[:, None, None] == 1), True),
    "real is two": (1 + REAL.long(), hidden(lambda m: m[:, None, None] == 1), True),
    "a float": (REAL.float(), hidden(lambda m: m[:, None, None] < 0.5), True),
    "added to scores": (torch.zeros(3, 5).masked_fill(~REAL, -1e4),
                        lambda x, s, m: (x, s + m[:, None, None]), True),
    "added, queries by keys": (torch.zeros(3, 1, 5, 5).masked_fill(~BOTH, -1e4),
                               lambda x, s, m: (x, s + m), True),
    "queries by keys": (BOTH, hidden(lambda m: ~m), True),
    "keys": (REAL[:, None, None].expand(3, 1, 5, 5), hidden(lambda m: ~m), True),
    "lengths": (REAL.sum(1), hidden(
        lambda m: (torch.arange(5) >= m[:, None])[:, None, None]), True),
    "lengths, looking back": (REAL.sum(1), hidden(
        lambda m: ~((torch.arange(5) < m[:, None])[:, None, None] & LOOKS_BACK)), True),
    "prefixes seen from both sides": (REAL.sum(1), hidden(
        lambda m: ~((torch.arange(5) < m[:, None])[:, None, None] | LOOKS_BACK)), False),
    "kinds of tokens": (REAL.long(), lambda x, s, m: (x + m[..., None], s), False),
    "numbers of examples": (REAL.sum(1), lambda x, s, m: (x + m[:, None, None], s),
                            False),
}


@pytest.mark.parametrize(("told", "use", "tells"), CASES.values(), ids=CASES)
def test_what_hides_tokens_is_padding(told: Tensor, use: Use, tells: bool) -> None:
    inputs = {"ids": IDS, "told_mask": told}
    layout = with_padding(trace(Told(use).eval(), inputs), [inputs])
    found = layout.real(inputs)
    assert bool(found) == tells
    for mask in found.values():
        assert (mask == REAL).all()


def test_without_padding_nothing_is_asked() -> None:
    use = CASES["padding is true"][1]
    inputs = {"ids": IDS, "told_mask": torch.zeros(3, 5).bool()}
    assert not with_padding(trace(Told(use).eval(), inputs), [inputs]).padding
