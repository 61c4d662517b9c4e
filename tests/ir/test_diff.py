"""What changed between two graphs, found and told."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import rewrite as rw
from rewrite.ir.diff import Edge, diff
from rewrite.ir.surgery import copy_module
from rewrite.rules.flatten_sums import flatten_sums
from tests.ir.test_spec import GRAPHS
from tests.zoo import traced

aten = torch.ops.aten


class Small(nn.Module):
    """x -> linear -> relu -> (+ x) -> scaled."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return (torch.relu(self.linear(x)) + x) * 2


@pytest.fixture(scope="module")
def small() -> rw.Graph:
    return rw.trace(Small().eval(), inputs={"x": torch.randn(3, 4)})


def test_nothing_changed(small: rw.Graph) -> None:
    same = diff(small, small.with_module(copy_module(small.module)))
    assert not same and str(same) == "Small: no node differs"
    assert same.added == same.removed == same.changed == same.rewired == ()


def test_a_replaced_node(small: rw.Graph) -> None:
    change = diff(small, small.replace("relu", torch.tanh))
    assert (change.added, change.removed, change.changed) == ((), (), ("relu",))
    assert change.rewired == ()
    assert str(change) == """\
Small: 1 changed
   %linear = linear(%x, @linear.weight, @linear.bias) : float32[batch, 4]  # linear
-  %relu = relu(%linear) : float32[batch, 4]
+  %relu = `torch.tanh`(%linear) : float32[batch, 4]
   %add = add.Tensor(%relu, %x) : float32[batch, 4]"""


def test_inserted_and_deleted_nodes(small: rw.Graph) -> None:
    more = small.insert("linear", torch.tanh)
    assert diff(small, more).added == diff(more, small).removed == ("tanh",)
    fewer = diff(small, small.delete("add"))
    assert fewer.removed == ("add",) and fewer.rewired == (Edge("mul", "add", "relu"),)


def test_changed_arguments_and_weights(small: rw.Graph) -> None:
    module = copy_module(small.module)
    scaled = next(n for n in module.graph.nodes if n.name == "mul")
    scaled.args = (scaled.args[0], 3)
    module.linear.bias = nn.Parameter(torch.ones(4))
    change = diff(small, small.with_module(module))
    assert change.changed == ("linear_bias", "mul") and not change.rewired
    assert "+  @linear.bias : float32[4]  (other values)" in str(change)
    assert "-  %mul = mul.Tensor(%add, 2)" in str(change)


def test_renamed_nodes_are_no_change(small: rw.Graph) -> None:
    module = copy_module(small.module)
    for node in module.graph.nodes:
        if node.op == "call_function":
            node.name = f"n_{node.name}"
    change = diff(small, small.with_module(module))
    assert not change and change.names["relu"] == "n_relu"


def test_origin_tells_what_a_node_was(small: rw.Graph) -> None:
    """Two equal nodes in another order: `meta["from"]` says which is which."""
    module = copy_module(small.module)
    graph = module.graph
    relu = next(n for n in graph.nodes if n.name == "relu")
    linear = relu.args[0]
    with graph.inserting_after(linear):
        first = graph.call_function(aten.relu.default, (linear,))
    with graph.inserting_after(first):
        second = graph.call_function(aten.relu.default, (first,))
    second.meta = {**relu.meta, "from": "relu"}
    relu.replace_all_uses_with(second)
    graph.erase_node(relu)
    first.name, second.name = "a", "b"
    change = diff(small, small.with_module(module))
    assert change.names["relu"] == "b" and change.added == ("a",)
    assert change.rewired == (Edge("b", "linear", "a"),)


def test_guards_and_bodies_are_told(small: rw.Graph) -> None:
    from dataclasses import replace

    guarded = replace(small, guards=("x.shape[0] <= 8",))
    assert "+guard x.shape[0] <= 8" in str(diff(small, guarded))
    parts = traced("gpt2").parts.as_graph()
    change = diff(parts, parts.delete("m1"))
    assert change.removed == ("m1",) and str(change).endswith("-  body m1")


def test_a_rule_over_a_whole_model() -> None:
    graph = traced("gpt2").graph
    change = diff(graph, flatten_sums(graph))
    assert len(change.changed) == 5 and not change.added and not change.removed
    assert all(f"+  %{name} = rewrite.total(" in str(change) for name in change.changed)


@settings(max_examples=40, derandomize=True, deadline=None)
@given(st.integers(0, 7), st.integers(0, 99))
def test_swapping_the_graphs_swaps_the_signs(which: int, seed: int) -> None:
    graph = GRAPHS[which]
    names = [n.name for n in graph.module.graph.nodes
             if n.op == "call_function" and isinstance(n.meta["val"], Tensor)]
    other = graph.insert(names[seed % len(names)], torch.tanh)
    there, back = diff(graph, other), diff(other, graph)
    assert there.added == back.removed and there.removed == back.added == ()
    assert {(e.reader, e.before, e.after) for e in there.rewired} == {
        (e.reader, e.after, e.before) for e in back.rewired}
    assert len(there.names) == len(graph.module.graph.nodes)
