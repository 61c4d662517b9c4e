"""Legality: every mutation of a legal graph is caught by the clause that is meant for it."""

from __future__ import annotations

import operator
from collections.abc import Callable
from random import Random
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, fx, nn

import rewrite as rw
from rewrite.errors import SpecError
from rewrite.ir.graph import Graph
from rewrite.ir.spec import STAGES, TABLE, check, violations
from rewrite.ir.surgery import copy_module
from tests.models.traced import grouped
from tests.models.traced import traced as family_traced
from tests.zoo import traced

aten = torch.ops.aten
TINY = ("gpt2", "llama", "gemma3", "mixtral", "mamba", "bert", "deberta_v2", "t5", "clip", "resnet")


class Random_(nn.Module):
    """A random program over `[batch, 4]`, with weights, sums, slices and a transpose."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.seed = seed
        torch.manual_seed(seed)
        self.weight = nn.Parameter(torch.randn(4, 4))
        self.bias = nn.Parameter(torch.randn(4))

    def forward(self, x: Tensor) -> Tensor:
        random, values = Random(self.seed), [x]
        steps: list[Callable[[Tensor, Tensor], Tensor]] = [
            lambda a, b: a + b, lambda a, b: a * b, lambda a, _: torch.relu(a),
            lambda a, _: nn.functional.linear(a, self.weight, self.bias),
            lambda a, b: torch.cat([a, b], -1)[:, 2:6], lambda a, b: a.sum(-1, keepdim=True) - b,
            lambda a, b: torch.stack([a, b]).amax(0), lambda a, _: a @ self.weight.T,
        ]
        for _ in range(random.randint(3, 9)):
            values.append(random.choice(steps)(random.choice(values[-2:]), random.choice(values)))
        return torch.stack([value.expand(x.shape) for value in values]).sum(0)


def random_graph(seed: int) -> Graph:
    return rw.trace(Random_(seed).eval(), inputs={"x": torch.randn(3, 4)})


def calls(module: fx.GraphModule) -> list[fx.Node]:
    return [node for node in module.graph.nodes if node.op == "call_function"]


# Each mutation damages a graph in place; it answers False where it does not apply.


def no_definition(module: fx.GraphModule, random: Random) -> Any:
    node = random.choice(calls(module))
    stranger = fx.Graph().placeholder("stranger")
    stranger.meta["val"] = node.meta["val"]
    node.replace_input_with(random.choice(node.all_input_nodes), stranger)


def late_definition(module: fx.GraphModule, random: Random) -> Any:
    node = random.choice(calls(module)[:-1])
    next(iter(reversed(module.graph.nodes))).prepend(node)


def same_name(module: fx.GraphModule, random: Random) -> Any:
    a, b = random.sample(calls(module), 2)
    a.name = b.name  # the graph itself would choose another one


def another_input(module: fx.GraphModule, random: Random) -> Any:
    module.graph.find_nodes(op="placeholder")[0].target = "y"


def input_of_another_type(module: fx.GraphModule, random: Random) -> Any:
    node = module.graph.find_nodes(op="placeholder")[0]
    node.meta["val"] = node.meta["val"].to(torch.float64)


def bare_output(module: fx.GraphModule, random: Random) -> Any:
    end = next(iter(reversed(module.graph.nodes)))
    end.args = end.args[0]


def two_results(module: fx.GraphModule, random: Random) -> Any:
    end = next(iter(reversed(module.graph.nodes)))
    end.args = (end.args[0] * 2,)


def a_function_of_the_user(module: fx.GraphModule, random: Random) -> Any:
    random.choice(calls(module)).target = torch.tanh


def a_method(module: fx.GraphModule, random: Random) -> Any:
    node = random.choice(calls(module))
    node.op, node.target = "call_method", "relu"


def no_such_weight(module: fx.GraphModule, random: Random) -> Any:
    node = next(iter(module.graph.find_nodes(op="get_attr")), None)
    if node is None:
        return False
    node.target = "weihgt"


def another_weight(module: fx.GraphModule, random: Random) -> Any:
    node = next(iter(module.graph.find_nodes(op="get_attr")), None)
    if node is None:
        return False
    setattr(module, str(node.target), nn.Parameter(torch.zeros(5, 4)))


def in_place(module: fx.GraphModule, random: Random) -> Any:
    found = [n for n in calls(module) if n.target is aten.relu.default]
    for node in found:
        node.target = aten.relu_.default
    return bool(found)


def too_many_arguments(module: fx.GraphModule, random: Random) -> Any:
    node = random.choice(calls(module))
    node.args = (*node.args, *([1] * 9))


def unknown_keyword(module: fx.GraphModule, random: Random) -> Any:
    random.choice(calls(module)).kwargs = {"axes": 1}


def no_arguments(module: fx.GraphModule, random: Random) -> Any:
    found = [n for n in calls(module) if len(n.all_input_nodes) < len(n.args)] or calls(module)
    random.choice(found).args = ()


def a_string_for_a_tensor(module: fx.GraphModule, random: Random) -> Any:
    node = random.choice(calls(module))
    node.args = ("x", *node.args[1:])


def dead(module: fx.GraphModule, random: Random) -> Any:
    node = random.choice(calls(module))
    with module.graph.inserting_after(node):
        made = module.graph.call_function(aten.relu.default, (node,))
    made.meta["val"] = node.meta["val"]


def no_value(module: fx.GraphModule, random: Random) -> Any:
    del random.choice(calls(module)).meta["val"]


def another_type(module: fx.GraphModule, random: Random) -> Any:
    node = random.choice(calls(module))
    if not isinstance(node.meta["val"], Tensor):
        return False
    node.meta["val"] = node.meta["val"].to(torch.float16)


def another_shape(module: fx.GraphModule, random: Random) -> Any:
    node = random.choice(calls(module))
    if not isinstance(node.meta["val"], Tensor):
        return False
    node.meta["val"] = node.meta["val"].unsqueeze(0)


def operands_that_do_not_fit(module: fx.GraphModule, random: Random) -> Any:
    found = [n for n in calls(module) if n.target is aten.linear.default]
    for node in found:
        node.args = (node.args[0], node.args[2], node.args[2])
    for node in module.graph.find_nodes(op="get_attr"):
        if not node.users:
            module.graph.erase_node(node)
    return bool(found)


MUTATIONS: dict[Callable[..., Any], str] = {
    no_definition: "defined", late_definition: "defined", same_name: "named",
    another_input: "inputs", input_of_another_type: "inputs", bare_output: "outputs",
    two_results: "outputs", a_function_of_the_user: "targets", a_method: "targets",
    no_such_weight: "attributes", another_weight: "attributes", in_place: "pure",
    too_many_arguments: "arguments", unknown_keyword: "arguments", no_arguments: "arguments",
    a_string_for_a_tensor: "arguments", dead: "alive", no_value: "values",
    another_type: "shapes", another_shape: "shapes", operands_that_do_not_fit: "shapes",
}
GRAPHS = {seed: random_graph(seed) for seed in range(8)}


@pytest.mark.parametrize("mutate", MUTATIONS, ids=lambda f: f.__name__)
@settings(max_examples=12, derandomize=True, deadline=None)
@given(which=st.integers(0, 7), seed=st.integers(0, 999))
def test_each_mutation_is_caught_by_its_clause(
    mutate: Callable[..., Any], which: int, seed: int
) -> None:
    graph = GRAPHS[which]
    assert violations(graph, "traced", deep=True) == []
    module = copy_module(graph.module)
    if mutate(module, Random(seed)) is False:
        return
    damaged = graph.with_module(module)
    found = violations(damaged, "traced", deep=True)
    assert MUTATIONS[mutate] in {violation.clause.name for violation in found}
    with pytest.raises(SpecError, match="is not a legal graph at the stage 'traced': %"):
        check(damaged, "traced", deep=True)


def test_every_clause_has_a_mutation() -> None:
    assert {row.name for row in TABLE} == {*MUTATIONS.values(), "arity", "joins"}
    assert all(set(row.stages) <= set(STAGES) for row in TABLE)


@pytest.mark.parametrize("name", grouped(TINY))
def test_tiny_models_are_legal_at_every_stage(name: str) -> None:
    graph, parts = family_traced(name).graph, family_traced(name).parts
    check(graph, "traced", deep=True)
    check(parts.graph, "spelled", deep=True)
    check(parts.as_graph(), "components", deep=True)
    assert all("val" in node.meta for node in parts.module.graph.nodes if node.op != "output")
    middle = parts.names[len(parts.names) // 2]
    expanded = rw.expand(rw.Hypothesis(parts, {"clean": middle}))
    check(expanded.module, "expanded", deep=True)


@pytest.mark.parametrize("last", [False, True])
def test_expansions_are_legal(last: bool) -> None:
    parts = traced("gpt2").parts
    expanded = rw.expand(rw.Hypothesis(parts, {"clean": "a0.h1.v -> a1.h2.q | m0 -> logits"}),
                         last=last, columns=(3, 5) if last else None)
    check(expanded.module, "expanded", deep=True)
    several = rw.expand([rw.Hypothesis(parts, {"clean": f"a1.h{i}"}) for i in range(2)])
    check(several.module, "expanded", deep=True)


def test_bodies_are_checked() -> None:
    module = copy_module(traced("gpt2").parts.module)
    head = next(n for n in module.graph.nodes if n.name == "a0_h1")
    join = next(n for n in module.graph.nodes if n.target is rw.ir.ops.total)
    head.args = (*head.args, head.args[0])
    join.args[1].meta["val"] = join.args[0].meta["val"].sum(-1)
    found = {v.clause.name: v for v in violations(module, "components")}
    assert set(found) == {"arity", "joins"}
    assert found["arity"].node == "a0_h1" and "5 arguments are given" in found["arity"].found
    assert found["joins"].fix == "add terms of one shape"


def test_a_body_may_be_at_fault() -> None:
    module = copy_module(traced("gpt2").parts.module)
    body = module.m0 = copy_module(module.m0)
    calls(body)[0].args = ()
    (found,) = violations(module, "components")
    assert found.node.startswith("m0.") and found.clause.name == "arguments"


def test_what_each_stage_allows() -> None:
    parts = traced("gpt2").parts
    split, edited = parts.as_graph(), parts.graph.insert("layer_norm", torch.tanh)
    assert "targets" in {v.clause.name for v in violations(split, "traced")}
    assert violations(edited, "edited") == []
    assert {v.clause.name for v in violations(edited, "rewritten")} == {"targets"}
    with pytest.raises(SpecError, match="no stage 'expand'; did you mean expanded"):
        check(split, "expand")


def test_values_are_inferred_at_new_nodes_only() -> None:
    graph = GRAPHS[0]
    module = copy_module(graph.module)
    first, second = [n for n in calls(module) if isinstance(n.meta["val"], Tensor)][:2]
    first.meta["val"] = first.meta["val"].to(torch.float16)
    found = violations(graph.with_module(module), "rewritten", deep=True, new={first.name})
    assert {v.node for v in found} == {first.name}
    everywhere = violations(graph.with_module(module), "rewritten", deep=True)
    assert {v.node for v in everywhere} == {first.name, second.name}


def test_an_error_says_what_to_do() -> None:
    module = copy_module(GRAPHS[0].module)
    with module.graph.inserting_after(calls(module)[-1]):
        made = module.graph.call_function(operator.getitem, (calls(module)[-1], 0))
    made.meta["val"] = made.args[0].meta["val"][0]
    with pytest.raises(SpecError) as error:
        check(GRAPHS[0].with_module(module), "rewritten")
    assert str(error.value) == (
        "Random_ is not a legal graph at the stage 'rewritten': %getitem: nobody reads it "
        "(alive: every node leads to the output); call graph.eliminate_dead_code()")
