"""Which axes vary is said by the user, or guessed and reported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import rewrite as rw
from rewrite.errors import InputError, RewriteError, TraceError

EDGES = {"x": torch.randn(5, 4), "edge_index": torch.tensor([[0, 1, 2, 3], [1, 2, 3, 4]])}
NAMES = {"x": {0: "nodes"}, "edge_index": {1: "edges"}}


class Messages(nn.Module):
    """Each node adds up what a linear layer makes of its neighbours."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 8)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        sent = self.linear(x)[edge_index[0]]
        return x.new_zeros(x.shape[0], 8).index_add(0, edge_index[1], sent)


class Of(nn.Module):
    """A function of one tensor, behind a layer on its last axis."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.conv = nn.Conv2d(3, 4, 3, padding=1) if kind == "image" else nn.Conv1d(1, 4, 5)
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "image":
            return self.conv(x).relu().mean((2, 3))
        if self.kind == "wave":
            return self.conv(x[:, None]).mean(-1)
        return self.linear(x).cumsum(0)


@pytest.mark.parametrize(("kind", "shape", "axes", "other"), [
    ("image", (2, 3, 8, 8), {0: "batch", 2: "height", 3: "width"}, (5, 3, 7, 11)),
    ("wave", (2, 50), {0: "batch", -1: "samples"}, (3, 77)),
    ("time first", (7, 3, 4), {0: "seq", 1: "batch"}, (4, 5, 4)),
])
def test_any_axis(
    kind: str, shape: tuple[int, ...], axes: dict[int, str], other: tuple[int, ...]
) -> None:
    model, x = Of(kind).eval(), torch.randn(other)
    graph = rw.trace(model, {"x": torch.randn(shape)}, dynamic={"x": axes})
    assert torch.allclose(graph(x=x), model(x), atol=1e-6)
    wanted: list[Any] = list(shape)
    for axis, name in axes.items():
        wanted[axis] = name
    assert graph.inputs[0].shape == tuple(wanted)
    assert graph.certificate is not None
    assert f"sizes as asked: x [{', '.join(map(str, wanted))}]" in str(graph.certificate)


def test_edge_lists(tmp_path: Path) -> None:
    """Nodes and edges vary apart; names are in inputs, errors and costs, and are saved."""
    model = Messages().eval()
    graph = rw.trace(model, EDGES, dynamic=NAMES)
    x, edges = torch.randn(9, 4), torch.randint(0, 9, (2, 30))
    assert torch.equal(graph(x=x, edge_index=edges), model(x, edges))
    again = rw.load(rw.save(graph, tmp_path / "graph.graph"))
    for one in (graph, again):
        assert [spec.shape for spec in one.inputs] == [("nodes", 4), (2, "edges")]
        assert torch.equal(one(x=x, edge_index=edges), model(x, edges))
    assert {str(s) for s in rw.cost(graph).elementwise.free_symbols} == {"nodes", "edges"}
    with pytest.raises(InputError, match=r"expected x: float32 \[nodes, 4\] with size 4"):
        graph(x=torch.randn(9, 5), edge_index=edges)


def test_one_name_is_one_size() -> None:
    class Both(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return x.sum() + y

    given = {"x": torch.randn(4, 3), "y": torch.randn(4, 3)}
    graph = rw.trace(Both().eval(), given, dynamic={"x": {0: "rows"}, "y": {0: "rows"}})
    with pytest.raises(InputError, match=r"y: float32 \[rows, 3\] with size 5 \(rows=5\)"):
        graph(x=torch.randn(5, 3), y=torch.randn(4, 3))


def test_no_axis() -> None:
    graph = rw.trace(Messages().eval(), EDGES, dynamic={})
    assert [spec.shape for spec in graph.inputs] == [(5, 4), (2, 4)]
    with pytest.raises(InputError, match="fixed when the model was traced"):
        graph(x=torch.randn(6, 4), edge_index=EDGES["edge_index"])


def test_a_guess_is_reported() -> None:
    certificate = rw.trace(nn.Linear(4, 4).eval(), {"input": torch.randn(3, 4)}).certificate
    assert "which sizes vary was guessed: input [batch, 4]" in str(certificate)


@pytest.mark.parametrize(("dynamic", "message"), [
    ({"y": {0: "nodes"}}, "names the input 'y'; known names: x, edge_index"),
    ({"x": {2: "nodes"}}, r"axis 2 of x, which is \[5, 4\]: its axes are 0 to 1"),
    ({"x": {"0": "nodes"}}, "must be a whole number, found the text '0'"),
    ({"x": {0: "n"}, "edge_index": {1: "n"}}, "'n' is 5 in axis 0 of x and 4 in axis 1"),
    ({"x": {0: 7}}, "must be a text, found the int 7"),
    ({"x": ["nodes"]}, r"dynamic\['x'\] must be a dict of whole number: text"),
    (["x"], "dynamic must be a dict of text: dict of whole number: text"),
    ({"x": {0: "nodes", 1: "width"}},
     r"the model fixes axis 1 of x \('width'\): leave it out, dynamic=\{'x': \{0: 'nodes'\}\}"),
])
def test_what_cannot_vary(dynamic: Any, message: str) -> None:
    with pytest.raises(RewriteError, match=message):
        rw.trace(Messages().eval(), EDGES, dynamic=dynamic)


def test_sizes_of_one_and_sizes_that_are_equal() -> None:
    with pytest.raises(InputError, match=r"axis 0 of input \('batch'\) has size 1"):
        rw.trace(nn.Linear(4, 4).eval(), {"input": torch.randn(1, 4)},
                 dynamic={"input": {0: "batch"}})

    class Square(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x @ x

    with pytest.raises(TraceError, match="makes 'a' and 'b' equal: give them one name"):
        rw.trace(Square().eval(), {"x": torch.randn(4, 4)}, dynamic={"x": {0: "a", 1: "b"}})


class TimeFirst(nn.Module):
    """Attention over the first axis of `[length, batch, 8]`, then a layer for each token."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o, self.m = (nn.Linear(8, 8) for _ in range(5))

    def forward(self, x: Tensor) -> Tensor:
        length, batch, width = x.shape
        q, k, v = (f(x).reshape(length, batch, 2, 4).permute(1, 2, 0, 3)
                   for f in (self.q, self.k, self.v))
        mixed = ((q @ k.mT).softmax(-1) @ v).permute(2, 0, 1, 3).reshape(length, batch, width)
        x = x + self.o(mixed)
        return x + self.m(x).relu()


@pytest.mark.parametrize("dynamic", [None, {"x": {0: "seq", 1: "batch"}}])
def test_a_first_axis_that_is_no_batch(dynamic: Any) -> None:
    """Copies stacked along time would attend to each other: 0.3 off, before this was asked."""
    torch.manual_seed(0)
    model = TimeFirst().eval()
    parts = rw.trace(model, {"x": torch.randn(7, 3, 8)}, dynamic=dynamic).components()
    a, b = torch.randn(7, 3, 8), torch.randn(7, 3, 8)
    found = rw.expand(rw.Hypothesis(parts, {"A": "m0"}, default="B"))
    kept: dict[str, Tensor] = {}
    hook = model.m.register_forward_hook(lambda module, given, out: kept.get("out", out))
    with torch.no_grad():
        handle = model.m.register_forward_hook(lambda module, given, out: kept.update(out=out))
        model(a)
        handle.remove()
        wanted = model(b)
        for out in (found(A={"x": a}, B={"x": b}), found.run(A={"x": a}, B={"x": b})):
            assert torch.allclose(out, wanted, atol=1e-6)
    hook.remove()
    with pytest.raises(RewriteError, match=r"must be axis|no batch of examples"):
        rw.expand(rw.Hypothesis(parts, {"A": "m0@[2]"}, default="B"))(A={"x": a}, B={"x": b})
    pairs = rw.Pairs.from_tensors({"clean": {"x": a}, "corrupt": {"x": b}})
    with pytest.raises(RewriteError, match=r"must be axis|no batch of examples"):
        rw.evaluate(rw.Hypothesis(parts, {"clean": "m0"}), pairs, "kl_divergence")
