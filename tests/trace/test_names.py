"""Modules of any names: code, texts, files and paths write each one, and weights are found."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import rewrite as rw

NAMES = [("class", "lambda"), ("in", "None"), ("it's", 'say "hi"'), ("a/b", "c\\d"),
         ("é", "名前"), ("0", "1"), ("a-b", "a_b"), ("a__b", "-> b"), ("{c}", "a*"),
         ("x", "x_part"), ("pos", "resid0"), ("\n", " "), ("@w", "%x"), ("output", "tokens")]


class Named(nn.Module):
    """Layers that are called as they are told to."""

    def __init__(self, *names: str) -> None:
        super().__init__()
        self.layers = nn.ModuleDict()
        for name in names:
            self.add_module(name, nn.Linear(4, 4))
        self.names = names

    def forward(self, x: Tensor) -> Tensor:
        for name in self.names:
            x = x + getattr(self, name)(x).relu()
        return x


@pytest.mark.parametrize("names", NAMES, ids=repr)
def test_modules_of_any_name(names: tuple[str, ...], tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Named(*names).eval()
    graph = rw.trace(model, {"x": torch.randn(3, 5, 4)})
    x = torch.randn(2, 7, 4)
    want = model(x)
    assert torch.equal(graph(x=x), want)
    compile(graph.code, "code", "exec")
    again = rw.from_text(graph.text(), model)
    assert again.text() == graph.text() and torch.equal(again(x=x)["output"], want)
    for granularity in ("stream", "module"):
        parts = graph.components(granularity=granularity)
        assert torch.allclose(parts(x=x), want, atol=1e-5)
        split = parts.as_graph()
        assert rw.from_text(split.text(), split).text() == split.text()
        for part in parts.names[1:-1]:
            assert rw.count_paths(f"... -> {part} -> ...", parts.dag) >= 1
        assert parts.draw() is not None
        parts.draw(tmp_path / "parts.dot")
    loaded = rw.load(rw.save(graph, tmp_path / "graph.graph"))
    assert loaded.text() == graph.text() and torch.equal(loaded(x=x), want)
    other = Named(*names).eval()
    for weights in (other, other.state_dict()):
        assert torch.equal(graph.with_weights(weights, {"x": x})(x=x), other(x))
    assert len([n for n, _ in graph.module.named_parameters()]) == 4
