"""A mixture of experts whose router also says how much a shared expert counts."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import rewrite as rw


class Weighed(nn.Module):
    """Three experts, of which two are chosen, and a shared one, a batch of one matrix."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.end, self.router = nn.Embedding(11, 8), nn.Linear(8, 11), nn.Linear(8, 4)
        self.into, self.out = (nn.Parameter(torch.randn(3, 8, 8)) for _ in range(2))
        self.up, self.down = (nn.Parameter(torch.randn(1, 8, 8)) for _ in range(2))

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        y = x.flatten(0, 1)
        return self.end(x + self.written(y, self.router(y)).view_as(x))

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
    assert parts.names == ("ids", "embed", "m0.router", "m0.e0", "m0.e1", "m0.e2", "m0.shared",
                           "output")
    exp = rw.expand(rw.Hypothesis(parts, {"clean": "embed -> m0.router -> ..."}))
    given = {"clean": {"ids": clean}, "corrupt": {"ids": corrupt}}
    with torch.no_grad():
        (found,) = exp.module(*exp.arguments({run: given[run] for run in exp.runs}))
        x, y = (model.embed(ids).flatten(0, 1) for ids in (corrupt, clean))
        wanted = model.end(x + model.written(x, model.router(y))).view_as(found)
    assert (wanted - model(corrupt)).abs().max() > 1e-3
    assert (found - wanted).abs().max() <= 1e-10 * wanted.abs().max()
