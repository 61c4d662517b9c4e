"""Selections are sets: laws on random graphs, with sets of Python as the oracle."""

from __future__ import annotations

import operator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, fx, nn

import rewrite as rw
from rewrite.errors import ArgumentError, MatchError
from rewrite.ir import match as m
from tests.ir.random_graphs import graphs, random_graph
from tests.zoo import traced

property_test = settings(derandomize=True, deadline=None, max_examples=60)

leaves = st.sampled_from([
    m.everything, m.nothing, m.inputs, m.weights, m.name("add*"), m.name("x"), m.op("add"),
    m.op(torch.tanh), m.module("a.b"), m.module("a.*.c"), m.regex("neg.*"), m.reads("x"),
    m.read_by("add*"), m.ancestors_of("tanh*"), m.descendants_of("y"), m.between("x", "add*"),
    m.where(lambda node: len(node.args) == 2),
])
matches = st.recursive(leaves, lambda inner: st.one_of(
    st.builds(operator.and_, inner, inner), st.builds(operator.or_, inner, inner),
    st.builds(operator.sub, inner, inner), st.builds(operator.invert, inner)), max_leaves=5)


@property_test
@given(graphs, matches, matches)
def test_algebra_is_that_of_sets(graph: rw.Graph, a: m.Match, b: m.Match) -> None:
    everything = {node for node in graph.module.graph.nodes if node.op != "output"}
    left, right = a.select(graph), b.select(graph)
    assert (a & b).select(graph) == left & right
    assert (a | b).select(graph) == left | right
    assert (a - b).select(graph) == left - right
    assert (~a).select(graph) == everything - left
    assert (~~a).select(graph) == left
    assert (~(a & b)).select(graph) == (~a | ~b).select(graph)
    assert (~(a | b)).select(graph) == (~a & ~b).select(graph)
    assert m.everything.select(graph) == everything and not m.nothing.select(graph)


@property_test
@given(matches)
def test_repr_is_the_expression(a: m.Match) -> None:
    if "where" not in repr(a):
        names: dict[str, Any] = {name: getattr(m, name) for name in m.__all__}
        assert eval(repr(a), names | {"tanh": torch.tanh}) == a


@property_test
@given(graphs)
def test_relatives_agree_with_paths_one_by_one(graph: rw.Graph) -> None:
    """n is an ancestor of k exactly if k is a descendant of n, and if a path leads there."""
    nodes = [node.name for node in graph.module.graph.nodes if node.op != "output"]
    before = {name: set(graph.ancestors(name)) for name in nodes}
    after = {name: set(graph.descendants(name)) for name in nodes}
    for first in nodes:
        for last in nodes:
            leads = first != last and bool(graph.paths_between(first, last, limit=1))
            assert (first in before[last]) == (last in after[first]) == leads
            on_paths = {n for p in graph.paths_between(first, last) for n in p}
            assert set(graph.find(m.between(first, last))) == on_paths
            reads = graph.get(first) in graph.get(last).all_input_nodes
            assert (last in graph.find(m.reads(first))) == reads
            assert (first in graph.find(m.read_by(last))) == reads


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Sequential(nn.Linear(4, 6), nn.ReLU())
        self.down = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.up(x)) + x + x.mean(1, keepdim=True)


@pytest.fixture(scope="module")
def net() -> rw.Graph:
    return rw.trace(Net().eval(), inputs={"x": torch.ones(3, 5, 4)})


@pytest.mark.parametrize(("what", "names"), [
    ("linear*", ("linear", "linear_1")),
    (m.name("rel?") | "mean", ("relu", "mean")),
    (m.regex("linear(_1)?"), ("linear", "linear_1")),
    (m.op("add"), ("add", "add_1")),
    (m.op("add.Tensor") & m.reads("mean"), ("add_1",)),
    (m.op("aten.add"), ("add", "add_1")),
    (m.op(torch.ops.aten.relu.default), ("relu",)),
    (m.op(torch.ops.aten.mean), ("mean",)),
    (m.op("add.Scalar"), ()),
    (m.module("up") - m.weights, ("linear", "relu")),
    (m.module("up.0") & m.weights, ("up_0_weight", "up_0_bias")),
    (m.module("*.0") - m.weights, ("linear",)),
    (m.module("u"), ()),
    (m.shape("batch", "seq", 4) - "x", ("linear_1", "add", "add_1")),
    (m.shape("batch", 1, None), ("mean",)),
    (m.shape(..., 6), ("up_0_bias", "down_weight", "linear", "relu")),
    (m.shape(6), ("up_0_bias",)),
    (m.shape(4, ..., 6, 1), ()),
    (m.dtype(torch.float32) & m.inputs, ("x",)),
    (m.dtype(torch.int64), ()),
    (m.where(lambda node: len(node.users) == 3), ("x",)),
    (m.read_by("add"), ("x", "linear_1")),
    (m.between("relu", "add"), ("relu", "linear_1", "add")),
    (m.ancestors_of("mean"), ("x",)),
    (m.descendants_of("linear_1" and m.name("linear_1")), ("add", "add_1")),
])
def test_terms(net: rw.Graph, what: m.Match | str, names: tuple[str, ...]) -> None:
    assert set(net.find(what)) == set(names) and net.count(what) == len(names)
    assert net.expect(what, len(names)) == net.find(what)


def test_found_in_the_order_of_the_graph(net: rw.Graph) -> None:
    assert [n for n in net.find(m.everything) if n in net.nodes] == list(net.nodes)


def test_expressions_of_sizes() -> None:
    graph = traced("gpt2").graph
    assert graph.find(m.shape("batch*seq", 128)) == ("addmm_2", "view_10", "addmm_6", "view_21")
    assert graph.count(m.shape("batch", 1, "seq", "seq")) == 5


def test_components() -> None:
    graph = traced("gpt2").parts.as_graph()
    assert graph.find("a1.h[13]") == graph.find(m.name("a1_h[13]")) == ("a1_h1", "a1_h3")
    assert graph.count(m.kind("head")) == graph.count(m.kind("attention")) == 8
    assert graph.find(m.kind("mlp")) == ("m0", "m1")
    assert graph.find(m.kind("embed") | m.kind("output")) == ("embed", "logits")
    assert graph.find(m.kind("sum") & "*out") == ("a0_out", "a1_out")
    assert graph.count(m.op(fx.GraphModule) & m.kind("head")) == 8
    assert graph.find(m.kind("constant") & "*bias") == ("a0_bias", "a1_bias")
    assert graph.get_unique(m.kind("mlp") & m.reads("resid1")).name == "m0"


@pytest.mark.parametrize(("ask", "message"), [
    (lambda g: g.expect("relv", 1), r"Net: name\('relv'\) selects 0 nodes, 1 expected; "
                                    "did you mean relu"),
    (lambda g: g.expect(m.op("add"), 3), "selects 2 nodes, 3 expected: add, add_1"),
    (lambda g: g.get_unique("lin*"), "selects 2 nodes, 1 expected: linear, linear_1"),
    (lambda g: g.expect(m.op("rellu")), "0 nodes, at least one expected; did you mean relu"),
    (lambda g: g.expect(m.op("add") & m.module("upp")), "did you mean up"),
    (lambda g: g.expect(m.reads("meen") & "add"), "did you mean mean"),
    (lambda g: g.expect(m.everything, 0), r"selects \d+ nodes, 0 expected: .*, \.\.\."),
    (lambda g: g.find(m.shape("bacth", 4)), "no size of an input is called 'bacth'; "
                                            "did you mean batch"),
    (lambda g: g.find(m.shape("batch+", 4)), "'batch\\+' is not a size"),
    (lambda g: m.shape(..., 4, ...), r"shape\(..., 4, ...\): ... may stand once"),
    (lambda g: m.regex("(a"), r"regex\('\(a'\) cannot be read"),
    (lambda g: m.kind("heads"), r"kind\('heads'\): did you mean head"),
    (lambda g: m.op("add") & 3, "found int 3"),
])
def test_errors(net: rw.Graph, ask: Any, message: str) -> None:
    with pytest.raises(MatchError, match=message):
        ask(net)


def test_what_is_no_match(net: rw.Graph) -> None:
    with pytest.raises(ArgumentError, match="a Match or a text, found the int 3"):
        net.find(3)  # pyright: ignore[reportArgumentType]


def test_a_match_is_a_value() -> None:
    assert m.name("a") & "b" == m.name("a") & m.name("b") != m.name("b") & "a"
    assert len({m.op("add"), m.op("add"), ~m.op("add")}) == 2
    assert repr(~(m.name("a") | "b") & m.shape(..., None, "batch")) == (
        "~(name('a') | name('b')) & shape(..., None, 'batch')")


def test_a_graph_without_values_has_no_shapes() -> None:
    assert random_graph(0, 5).find(m.shape(..., 3) | m.dtype(torch.float32)) == ()
