"""A mixture of experts whose router also says how much a shared expert counts."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import rewrite as rw


class Weighed(nn.Module):
    """Three experts, of which two are chosen, and a shared one, a batch of one matrix.

    A convolution in time comes before: what it gives has a feature for each token.
    """

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.end, self.router = nn.Embedding(11, 8), nn.Linear(8, 11), nn.Linear(8, 4)
        self.past = nn.Conv1d(8, 8, 3, groups=8)
        self.into, self.out = (nn.Parameter(torch.randn(3, 8, 8)) for _ in range(2))
        self.up, self.down = (nn.Parameter(torch.randn(1, 8, 8)) for _ in range(2))

    def forward(self, ids: Tensor) -> Tensor:
        x = self.stream(ids)
        y = x.flatten(0, 1)
        return self.end(x + self.written(y, self.router(y)).view_as(x))

    def stream(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        return x + self.past(nn.functional.pad(x.transpose(1, 2), (2, 0))).transpose(1, 2)

    def written(self, y: Tensor, scores: Tensor) -> Tensor:
        """What the layer writes to each token of a list, given what the router says of it."""
        chosen = scores[:, :3].topk(2).indices
        weights = torch.cat([scores.gather(1, chosen), scores[:, 3:]], 1).softmax(1)
        numbers, rows = chosen.flatten(), y.repeat_interleave(2, 0).unsqueeze(1)
        rows = torch.bmm(torch.bmm(rows, self.into[numbers]).tanh(), self.out[numbers])
        mixed = (rows.view(-1, 2, 8) * weights[:, :2].unsqueeze(-1)).sum(1)
        both = torch.bmm(torch.bmm(y.unsqueeze(0), self.up).tanh(), self.down)
        return mixed + (both * weights[:, 2:]).sum(0)


def test_the_score_of_a_shared_expert_is_of_the_router_too() -> None:
    model = Weighed().double().eval()
    clean, corrupt = torch.randint(11, (2, 3, 5), generator=torch.Generator().manual_seed(1))
    parts = rw.trace(model, {"ids": clean}).components()
    assert parts.names == ("ids", "embed", "m0", "m1.router", "m1.e0", "m1.e1", "m1.e2",
                           "m1.shared", "output")
    exp = rw.expand(rw.Hypothesis(parts, {"clean": "... -> m1.router -> ..."}))
    given = {"clean": {"ids": clean}, "corrupt": {"ids": corrupt}}
    with torch.no_grad():
        (found,) = exp.module(*exp.arguments({run: given[run] for run in exp.runs}))
        x, y = (model.stream(ids).flatten(0, 1) for ids in (corrupt, clean))
        wanted = model.end(x + model.written(x, model.router(y))).view_as(found)
    assert (wanted - model(corrupt)).abs().max() > 1e-3
    assert (found - wanted).abs().max() <= 1e-10 * wanted.abs().max()
