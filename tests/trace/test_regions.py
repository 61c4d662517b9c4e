"""Regions of autocast and of gradients, and what nobody reads: the graph equals the model."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import dropout, scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint

import rewrite as rw

Step = Callable[["Model", Tensor], Any]


class Model(nn.Module):
    """Two linear layers, put together as it is told."""

    def __init__(self, step: Step) -> None:
        super().__init__()
        self.one, self.two, self.step = nn.Linear(4, 4), nn.Linear(4, 4), step

    def forward(self, x: Tensor) -> Any:
        return self.step(self, x)


def _within(*settings: Any) -> Step:
    """The second layer under settings, the outermost first."""
    def step(model: Model, x: Tensor) -> Tensor:
        outer, inner = (*(make() for make in settings), nullcontext())[:2]
        with outer, inner:
            found = model.two(model.one(x).relu())
        return found.float() + x

    return step


REGIONS: dict[str, Step] = {
    "autocast off": _within(lambda: torch.autocast("cpu", enabled=False)),
    "autocast on": _within(lambda: torch.autocast("cpu", dtype=torch.bfloat16)),
    "off in on": _within(lambda: torch.autocast("cpu", dtype=torch.bfloat16),
                         lambda: torch.autocast("cpu", enabled=False)),
    "autocast of another device": _within(lambda: torch.autocast("cuda", enabled=False)),
    "no gradients": _within(torch.no_grad),
    "gradients": _within(torch.enable_grad),
    "gradients in none": _within(torch.no_grad, torch.enable_grad),
    "checkpoint": lambda m, x: checkpoint(m.two, m.one(x), use_reentrant=False) + x,
}


def _dead(make: Callable[[Model, Tensor], Any]) -> Step:
    """A model that makes something, and returns something else."""
    def step(model: Model, x: Tensor) -> Tensor:
        found = model.one(x)
        make(model, found)
        return found

    return step


DEAD: dict[str, Step] = {
    "attention": _dead(lambda m, y: scaled_dot_product_attention(y, y, y)),
    "a layer": _dead(lambda m, y: m.two(y)),
    "dropout": _dead(lambda m, y: dropout(y, 0.5, training=True)),
    "random numbers": _dead(lambda m, y: torch.rand(3) + torch.randn_like(y).sum()),
    "a write into a copy": _dead(lambda m, y: y.clone().add_(1)),
    "a check": _dead(lambda m, y: torch._assert(y.ndim == 3, "three axes")),
}


@pytest.mark.parametrize("name", [*REGIONS, *DEAD])
def test_the_graph_is_the_model(name: str) -> None:
    torch.manual_seed(0)
    model = Model({**REGIONS, **DEAD}[name]).eval()
    graph = rw.trace(model, inputs={"x": torch.randn(3, 5, 4)})
    for shape in ((2, 7, 4), (1, 3, 4)):
        x = torch.randn(shape)
        with torch.no_grad():
            assert torch.equal(graph(x=x), model(x))
    if name in DEAD:
        assert graph.nodes == ("linear",), "what nobody reads is gone"
    assert graph.components().names
