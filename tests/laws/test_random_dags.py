"""Laws 1, 2, 3 and 5 on random wirings, against brute force."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewrite.expand import Product, expand_dag
from rewrite.ir.dag import Constant, Dag, Join, Node, Part, Port, Source
from rewrite.paths import assign, count_paths
from tests.laws import oracle
from tests.laws.oracle import Tree
from tests.laws.random_dags import dags, hypotheses, path_sets

often = settings(max_examples=400, derandomize=True, deadline=None)
RUNS = ("run0", "run1", "run2", "rest")


def evaluate(product: Product) -> list[tuple[np.ndarray, ...]]:
    """The outputs of each hypothesis, every copy computed once."""
    values: dict[tuple[str, int], np.ndarray] = {}
    for node in product.dag.nodes:
        for copy in product.copies[node.name]:
            readings = [values[read] for read in zip(node.reads, copy.reads, strict=True)]
            place = (node.name, copy.index)
            match node:
                case Source():
                    (run,) = copy.runs
                    values[place] = oracle.given(node.name, run)
                case Constant():
                    values[place] = oracle.given(node.name)
                case Join():
                    values[place] = oracle.add(readings)
                case Part():
                    values[place] = oracle.compute(node.name, readings)
    return [tuple(values[name, i] for name, i in zip(product.dag.outputs, root, strict=True))
            for root in product.roots]


@often
@given(st.data())
def test_1_exact(data: st.DataObject) -> None:
    dag = data.draw(dags())
    runs, choose = data.draw(hypotheses(dag))
    (found,) = evaluate(expand_dag(dag, [assign(runs, "rest", dag)]))
    for name, value in zip(dag.outputs, found, strict=True):
        assert np.array_equal(value, oracle.treeified(dag, name, choose))


@often
@given(st.data())
def test_2_minimal(data: st.DataObject) -> None:
    dag = data.draw(dags())
    runs, choose = data.draw(hypotheses(dag))
    product = expand_dag(dag, [assign(runs, "rest", dag)])
    wanted = Tree(dag).assignments([choose])
    assert {name: len(copies) for name, copies in product.copies.items()} == {
        name: len(distinct) for name, distinct in wanted.items()}
    for name, distinct in wanted.items():
        runs_of = sorted(tuple(sorted({run for _, run in each})) for each in distinct)
        assert sorted(tuple(sorted(copy.runs)) for copy in product.copies[name]) == runs_of
        assert [copy.index for copy in product.copies[name]] == list(range(len(distinct)))


@settings(often, max_examples=150)
@given(st.data())
def test_hypotheses_share_all_that_they_have_in_common(data: st.DataObject) -> None:
    dag = data.draw(dags())
    several = [data.draw(hypotheses(dag, most=2)) for _ in range(data.draw(st.integers(2, 3)))]
    product = expand_dag(dag, [assign(runs, "rest", dag) for runs, _ in several])
    choosers = [choose for _, choose in several]
    for values, choose in zip(evaluate(product), choosers, strict=True):
        for name, value in zip(dag.outputs, values, strict=True):
            assert np.array_equal(value, oracle.treeified(dag, name, choose))
    wanted = Tree(dag).assignments(choosers)
    assert {n: len(c) for n, c in product.copies.items()} == {n: len(d) for n, d in wanted.items()}


@settings(often, max_examples=100)
@given(dags(), st.sampled_from(["...", "~(...)", "x | y", "~x & ~y"]))
def test_3_one_run_gives_the_original_graph(dag: Dag, text: str) -> None:
    product = expand_dag(dag, [assign({"run0": text}, "rest", dag)])
    read = {name for name, after in Tree(dag).after.items() if after}
    assert {name: len(copies) for name, copies in product.copies.items()} == {
        node.name: int(node.name in read) for node in dag.nodes}
    run = "run0" if text in ("...", "x | y") else "rest"
    (found,) = evaluate(product)
    for name, value in zip(dag.outputs, found, strict=True):
        assert np.array_equal(value, oracle.treeified(dag, name, lambda word: run))


@settings(often, max_examples=200)
@given(st.data())
def test_paths_are_counted(data: st.DataObject) -> None:
    """Words, not routes through nested sums, which `count_paths` takes to be unique."""
    dag = data.draw(dags().filter(sums_are_plain))
    asked = data.draw(path_sets(dag))
    assert count_paths(asked.text, dag) == sum(map(asked.holds, Tree(dag).paths()))


def sums_are_plain(dag: Dag) -> bool:
    """Whether every writer reaches every reader by one route of sums."""
    sums = {node.name: node for node in dag.nodes if isinstance(node, Join)}

    def reached(name: str) -> list[str]:
        if name not in sums:
            return [name]
        return [w for term in dict.fromkeys(sums[name].terms) for w in reached(term)]

    return all(len(set(reached(name))) == len(reached(name)) for name in sums)


def test_the_routes_of_the_introduction() -> None:
    """{A -> M -> H, B -> M -> L} without A -> M -> L: M exists twice and mixes in each."""
    nodes: list[Node] = [Source("x")]
    nodes += [Part(name, (Port(name, "x"),)) for name in "AB"]
    nodes += [Join("s", ("A", "B")), Part("M", (Port("M", "s"),)), Part("H", (Port("H", "M"),)),
              Join("t", ("M", "H")), Part("L", (Port("L", "t"),))]
    dag = Dag(tuple(nodes), ("L",))
    asked = {("x", "A", "M", "H", "L"), ("x", "B", "M", "L")}
    runs = {"clean": "A -> M -> H | B -> M -> L"}
    product = expand_dag(dag, [assign(runs, "corrupt", dag)])
    assert product.counts == {"x": 2, "A": 2, "B": 2, "M": 2, "H": 1, "L": 1}
    assert all(len(copy.runs) == 2 for copy in product.copies["M"])
    ((found,),) = evaluate(product)
    assert np.array_equal(
        found, oracle.treeified(dag, "L", lambda word: "clean" if word in asked else "corrupt"))


def layered(layers: int, width: int) -> Dag:
    """A residual stream with `width` parts of three ports in each layer."""
    nodes: list[Node] = [Source("x"), Constant("c"), Join("r0", ("x", "c"))]
    for layer in range(layers):
        names = [f"a{layer}.h{head}" for head in range(width)]
        nodes += [Part(name, tuple(Port(f"{name}.{p}", f"r{layer}") for p in "qkv"))
                  for name in names]
        nodes.append(Join(f"r{layer + 1}", (f"r{layer}", *names)))
    nodes.append(Part("out", (Port("out", f"r{layers}"),)))
    return Dag(tuple(nodes), ("out",))


def number_of_paths(dag: Dag) -> int:
    """By adding up, node by node."""
    ways: dict[str, int] = {}
    for node in dag.nodes:
        ways[node.name] = int(isinstance(node, Source)) + sum(ways[read] for read in node.reads)
    return sum(ways[name] for name in dag.outputs)


@pytest.mark.parametrize("text", [
    "...", "a5.h3", "a5.h3 -> a9.h1.q", "x -> a0.h0.v -> a7.h2.k -> out",
    "a3.h0 -> ... -> a6.h1 -> ... -> a17.h2", "~(a4 | a8.h1.k)",
    "a1.h0 -> a2.h1 | a2.h1 -> a3.h0 - a9.h3",
])
def test_5_cost_does_not_grow_with_paths(text: str) -> None:
    dag = layered(20, 4)
    assert number_of_paths(dag) == 13**20 > 10**22
    assert count_paths("...", dag) == 13**20
    start = time.process_time()
    automaton = assign({"clean": text}, "corrupt", dag)
    product = expand_dag(dag, [automaton])
    assert time.process_time() - start < 1
    assert product.states == automaton.states
    assert max(map(len, product.copies.values())) <= automaton.states
    assert sum(map(len, product.copies.values())) <= 8 * len(dag.nodes)


def test_5_cost_is_linear_in_depth() -> None:
    text = "a3.h0 -> ... -> a6.h1 -> ... -> a9.h2"
    sizes = []
    for layers in (20, 40, 80):
        dag = layered(layers, 4)
        product = expand_dag(dag, [assign({"clean": text}, "corrupt", dag)])
        sizes.append(sum(map(len, product.copies.values())))
    assert sizes[2] - sizes[1] == 2 * (sizes[1] - sizes[0])
