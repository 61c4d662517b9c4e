"""Edits of edges and values, each against a forward written by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import rewrite as rw
from rewrite.errors import InputError, MatchError, SurgeryError, UnknownName
from rewrite.ir import match as m
from tests.ir.random_graphs import graphs
from tests.zoo import logits, tokens, traced


class Net(nn.Module):
    """x -> linear -> relu -> down, then (down + x) * relu's mean."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(4, 6), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.relu(self.up(x))
        return (self.down(hidden) + x) * hidden.mean(-1, keepdim=True)


X = torch.linspace(-2, 2, 24).reshape(3, 2, 4)


@pytest.fixture(scope="module")
def net() -> Net:
    torch.manual_seed(0)
    return Net().eval()


@pytest.fixture(scope="module")
def graph(net: Net) -> rw.Graph:
    """Nodes: linear, relu, linear_1, add, mean, mul."""
    return rw.trace(net, inputs={"x": X})


@torch.no_grad()
def test_rewire_and_cut(net: Net, graph: rw.Graph) -> None:
    hidden = torch.relu(net.up(X))
    rest, scale = net.down(hidden), hidden.mean(-1, keepdim=True)
    assert torch.equal(graph.rewire("add", "x", "linear_1")(x=X), (rest + rest) * scale)
    assert torch.equal(graph.rewire("mean", "relu", "linear")(x=X),
                       (rest + X) * net.up(X).mean(-1, keepdim=True))
    assert torch.equal(graph.cut("linear_1", "add")(x=X), X * scale)
    assert torch.equal(graph.rewire("add", "x", 2.0)(x=X), (rest + 2) * scale)
    assert torch.equal(graph.rewire("add", "x", X[0])(x=X[:, :2]), (rest + X[0]) * scale)


@torch.no_grad()
def test_one_operand_of_several() -> None:
    at, ids = traced("gpt2"), tokens(2, 5)
    graph = at.parts.as_graph()
    whole = graph.rewire("a1.h2", "resid2", "resid0")
    each = graph
    for operand in range(3):
        each = each.rewire("a1.h2", "resid2", "resid0", operand)
    assert torch.equal(whole(input_ids=ids).logits, each(input_ids=ids).logits)
    one = graph.rewire("a1.h2", "resid2", "resid0", 1)
    assert [n.name for n in one.get("a1.h2").args[:3]] == ["resid2", "resid0", "resid2"]
    ends = graph.rewire("output", "logits", "logits", 0)
    assert torch.equal(ends(input_ids=ids).logits, graph(input_ids=ids).logits)


@torch.no_grad()
def test_splice_is_a_function_at_one_edge(net: Net, graph: rw.Graph) -> None:
    adapter = nn.Sequential(nn.Linear(6, 2, bias=False), nn.Linear(2, 6))
    spliced = graph.splice("relu", "linear_1", adapter, name="adapter")
    hidden = torch.relu(net.up(X))
    wanted = (net.down(adapter(hidden)) + X) * hidden.mean(-1, keepdim=True)
    assert torch.equal(spliced(x=X), wanted)
    assert spliced.module.get_submodule("adapter") is adapter
    assert spliced.get("adapter").meta["from"] == "relu"
    assert torch.equal(graph.splice("mul", "output", torch.neg)(x=X), -graph(x=X))


@torch.no_grad()
def test_insert_with_error_gives_the_value_back(net: Net, graph: rw.Graph) -> None:
    coder = nn.Linear(6, 6)
    same = graph.insert("relu", coder, name="sae", error=True)
    assert torch.allclose(same(x=X), graph(x=X), atol=1e-6)
    hidden = torch.relu(net.up(X))
    edited = same.ablate("sae", "zero")  # the error is that of the coder as it was
    wanted = (net.down(hidden - coder(hidden)) + X) * (hidden - coder(hidden)).mean(
        -1, keepdim=True)
    assert torch.allclose(edited(x=X), wanted, atol=1e-6)


@torch.no_grad()
def test_duplicate(net: Net, graph: rw.Graph) -> None:
    hidden = torch.relu(net.up(X))
    two = graph.duplicate("relu", readers=["mean"])
    assert torch.equal(two(x=X), graph(x=X))
    assert torch.equal(two.replace("relu_copy", torch.neg)(x=X),
                       (net.down(hidden) + X) * (-net.up(X)).mean(-1, keepdim=True))
    chain = graph.duplicate("relu", "linear_1", upto="x")
    assert {"linear_copy", "relu_copy"} <= set(chain.nodes)
    assert torch.equal(chain.ablate("linear_copy")(x=X),
                       (net.down.bias + X) * hidden.mean(-1, keepdim=True))


@torch.no_grad()
def test_freeze(net: Net, graph: rw.Graph) -> None:
    other = X.flip(0) + 1
    frozen = graph.freeze("linear_1", {"x": other})
    hidden = torch.relu(net.up(X))
    wanted = (net.down(torch.relu(net.up(other))) + X) * hidden.mean(-1, keepdim=True)
    assert torch.equal(frozen(x=X), wanted)
    assert frozen.guards == ("x.shape[0] == 3", "x.shape[1] == 2")
    with pytest.raises(InputError, match=r"x.shape\[0\] == 3"):
        frozen(x=X[:2])
    filled = graph.freeze("linear_1", 0.0)
    assert filled.guards == () and torch.equal(
        filled(x=X[:, :1]), X[:, :1] * hidden[:, :1].mean(-1, keepdim=True))
    both = graph.freeze(m.op("linear"), 1.0)
    assert torch.equal(both(x=X), 1 + X)
    full = graph.freeze("linear_1", X)  # its sizes are those of the inputs, as before
    assert full.get("linear_1").meta["val"].shape == graph.get("linear_1").meta["val"].shape


def test_a_constant_has_the_shape_of_what_it_replaces() -> None:
    """Also where sizes are products of the inputs' and readers want the full shape."""
    at, ids = traced("gpt2"), tokens(2, 5)
    frozen = at.graph.freeze("addmm_3", 0.0)
    module = at.model.transformer.h[0].mlp.c_proj
    handle = module.register_forward_hook(lambda *_: torch.zeros(2, 5, 32))
    assert torch.equal(frozen(input_ids=ids).logits, logits(at.model, input_ids=ids))
    handle.remove()


def test_new_nodes_know_what_they_are(graph: rw.Graph) -> None:
    edited = graph.insert("relu", torch.tanh)
    node = edited.get("tanh")
    assert node.meta["from"] == "relu" and node.meta["val"].shape == graph.get(
        "relu").meta["val"].shape
    assert node.meta["module"] == graph.get("relu").meta["module"]
    replaced = graph.replace("relu", nn.ReLU())
    assert replaced.get("relu").op == "call_module" and "relu" in replaced.nodes
    assert edited.find(m.shape("batch", "seq", 6)) == ("linear", "relu", "tanh")


def test_edits_hold_for_sizes_of_the_user(graph: rw.Graph) -> None:
    """What a function asks about sizes is not taken for a promise."""
    asking = graph.insert("relu", lambda x: x * 2 if x.shape[0] == 3 else x)
    assert torch.equal(asking(x=X[:2]), graph(x=X[:2]))
    assert asking.find(m.shape("batch", "seq", 4)) == graph.find(m.shape("batch", "seq", 4))
    with_values = graph.insert("relu", lambda x: x if x.sum() > 0 else -x)
    assert torch.equal(with_values(x=X), graph(x=X))
    constant = torch.ones(6)
    assert torch.equal(graph.insert("relu", lambda x: x * constant)(x=X), graph(x=X))


@settings(derandomize=True, deadline=None, max_examples=40)
@given(graphs, st.randoms(use_true_random=False))
def test_laws_on_random_graphs(graph: rw.Graph, random: Any) -> None:
    """Copies change nothing, an edge to itself changes nothing, cut edges agree with zeros."""
    x, y = torch.randn(2, 2, 3, generator=torch.Generator().manual_seed(1)).unbind(0)
    before = graph(x=x, y=y)
    reader = random.choice(graph.nodes)
    writer = random.choice(graph.get(reader).all_input_nodes).name
    for same in (graph.rewire(reader, writer, writer), graph.splice(writer, reader, torch.clone),
                 graph.insert(writer, torch.clone)):
        assert all(torch.equal(a, b) for a, b in zip(
            same(x=x, y=y).values(), before.values(), strict=True))
    assert _equal(graph.cut(writer, reader)(x=x, y=y),
                  graph.splice(writer, reader, torch.zeros_like)(x=x, y=y))
    if writer in graph.nodes:
        assert _equal(graph.duplicate(writer, [reader])(x=x, y=y), before)
        assert _equal(graph.freeze(writer, {"x": x, "y": y})(x=x, y=y), before)
    assert _equal(graph(x=x, y=y), before)


@settings(derandomize=True, deadline=None, max_examples=60)
@given(graphs, st.randoms(use_true_random=False))
def test_rewire_equals_evaluation_by_recursion(graph: rw.Graph, random: Any) -> None:
    x, y = torch.randn(2, 2, 3, generator=torch.Generator().manual_seed(1)).unbind(0)
    given_values = {"x": x, "y": y, "w": graph.module.w}
    reader = random.choice(graph.nodes)
    old = random.choice(graph.get(reader).all_input_nodes).name
    new = random.choice([*given_values, *graph.nodes])
    def value(name: str, edited: bool = True) -> Tensor:
        if name in given_values:
            return given_values[name]
        node = graph.get(name)
        read = [new if edited and name == reader and o.name == old else o.name for o in node.args]
        return node.target(*(value(operand, edited) for operand in read))

    assume(value(old, False).shape == value(new, False).shape)
    if new == reader or new in graph.descendants(reader):
        with pytest.raises(SurgeryError, match=f"cycle: {reader} -> .*{reader}; read"):
            graph.rewire(reader, old, new)
        return

    found = graph.rewire(reader, old, new)(x=x, y=y)
    ends = [node.name for node in graph.module.graph.output_node().args[0]]
    assert _equal(found, dict(zip("uv", map(value, ends), strict=True)))


def _equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return all(torch.equal(a[name], b[name]) for name in b)


def _value(x: Tensor) -> Tensor:
    raise ValueError("not today")


@pytest.mark.parametrize(("edit", "error", "message"), [
    (lambda g: g.rewire("linear_1", "relu", "lin"), UnknownName, "no node 'lin'; did you mean"),
    (lambda g: g.rewire("add", "relu", "x"), SurgeryError,
     "'add' does not read 'relu'; it reads linear_1, x"),
    (lambda g: g.rewire("add", "x", "relu"), SurgeryError,
     r"'x' is float32 \[batch, seq, 4\], what is to stand for it \(relu\) is float32 "
     r"\[batch, seq, 6\]"),
    (lambda g: g.rewire("add", "x", "linear_1", 0), SurgeryError,
     "operand 0 of 'add' is not 'x'; it is read as operand 1"),
    (lambda g: g.rewire("linear", "x", "add"), SurgeryError,
     "makes a cycle: linear -> relu -> linear_1 -> add -> linear; read a value that does not "
     "depend on 'linear'"),
    (lambda g: g.insert("relu", _value), SurgeryError,
     r"_value cannot be called on \(relu: float32 \[batch, seq, 6\]\).*not today"),
    (lambda g: g.insert("relu", nn.Linear(5, 6)), SurgeryError, "a Linear cannot be called on"),
    (lambda g: g.insert("relu", nn.Linear(6, 5)), SurgeryError, r"is float32 \[batch, seq, 5\]"),
    (lambda g: g.insert("relu", torch.Tensor.double), SurgeryError, "is float64"),
    (lambda g: g.insert("relu", nn.ReLU(), name="up"), SurgeryError,
     "uses a module or weight called 'up': choose another one by name="),
    (lambda g: g.insert(m.op("linear"), nn.ReLU(), name="r"), SurgeryError,
     "2 nodes are to be followed by one called 'r'"),
    (lambda g: g.insert(m.op("softmax"), torch.neg), MatchError, "0 nodes, at least one"),
    (lambda g: g.insert("lin*x", torch.neg), MatchError, "selects 0 nodes"),
    (lambda g: g.delete("linear"), SurgeryError, "use replace.'linear', function or tensor"),
    (lambda g: g.freeze("relu", torch.ones(5)), SurgeryError,
     r"has shape \[5\], which does not broadcast"),
    (lambda g: g.freeze("relu", torch.ones(1, 1, 1, 6)), SurgeryError, "does not broadcast"),
    (lambda g: g.freeze("x", 0.0), SurgeryError, "'x' is an input of the graph"),
    (lambda g: g.freeze("relu", {"y": X}), InputError, "has no input 'y'"),
    (lambda g: g.duplicate("x", ["add"]), SurgeryError, "'x' is an input of the graph"),
    (lambda g: g.duplicate("relu", ["add"]), SurgeryError, "'add' does not read 'relu'"),
    (lambda g: g.duplicate("relu", ["mean"], upto="mean"), SurgeryError,
     "'relu' does not depend on mean: upto= is where the copy begins"),
])
def test_errors(graph: rw.Graph, edit: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        edit(graph)


def test_readings_of_a_head_by_port() -> None:
    """q, k and v by name are the operands that the body calls so."""
    graph = traced("llama").parts.as_graph()
    writer = graph.get("a1.h2").all_input_nodes[0].name
    given = {s.name: torch.ones(2, 5).long() for s in graph.inputs}
    body = graph.module.get_submodule("a1_h2")
    ports = [n.name for n in body.graph.find_nodes(op="placeholder")]
    for port in "qkv":
        by_name = graph.splice(writer, "a1.h2", torch.tanh, port)
        by_number = graph.splice(writer, "a1.h2", torch.tanh, ports.index(port))
        assert torch.equal(by_name.flat(**given)[0], by_number.flat(**given)[0])
    with pytest.raises(SurgeryError, match=r"'a1_h2' has no reading called 'x'; known names: k, q"):
        graph.cut(writer, "a1.h2", "x")
    with pytest.raises(SurgeryError, match=r"has no reading called 'q'; say which operand by"):
        graph.cut("embed", "resid0", "q")
