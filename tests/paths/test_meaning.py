"""Every reading of a path set agrees with brute force on random graphs."""

from __future__ import annotations

import pytest
from hypothesis import given, settings

from rewrite.errors import HypothesisError, PathError
from rewrite.ir.dag import Constant, Dag, Join, Part, Port, Source, symbols_of
from rewrite.paths import (
    Automaton,
    PathSet,
    assign,
    bind,
    check_reachable,
    count_paths,
    example_paths,
    paths,
)
from tests.paths.dags import dags
from tests.paths.oracle import Word, holds, words
from tests.paths.patterns import path_sets, texts

quick = settings(derandomize=True, deadline=None, max_examples=120)


def held(path_set: PathSet, dag: Dag) -> set[Word]:
    return {word for word in words(dag) if holds(path_set.pattern, word, dag)}


def read(path_set: PathSet, dag: Dag) -> set[Word]:
    bound = bind(path_set, dag)
    return {word for word in words(dag) if word in bound}


@quick
@given(dags(), path_sets)
def test_a_set_holds_the_paths_that_its_pattern_means(dag: Dag, a: PathSet) -> None:
    assert read(a, dag) == held(a, dag)


@quick
@given(dags(), path_sets)
def test_paths_are_counted_and_listed(dag: Dag, a: PathSet) -> None:
    expected = held(a, dag)
    listed = example_paths(a, dag, n=len(expected) + 1)
    assert count_paths(a, dag) == len(expected) == len(listed)
    assert set(listed) == expected
    assert example_paths(a, dag, n=2) == listed[:2]


@quick
@given(dags(), path_sets)
def test_empty_sets_are_reported(dag: Dag, a: PathSet) -> None:
    if held(a, dag):
        check_reachable(a, dag)
    else:
        with pytest.raises(PathError) as error:
            check_reachable(a, dag)
        assert str(a) in str(error.value)


@quick
@given(dags(), path_sets, path_sets)
def test_the_algebra_is_that_of_sets(dag: Dag, a: PathSet, b: PathSet) -> None:
    every, in_a, in_b = set(words(dag)), held(a, dag), held(b, dag)
    assert read(a | b, dag) == in_a | in_b
    assert read(a & b, dag) == in_a & in_b
    assert read(a - b, dag) == read(a & ~b, dag) == in_a - in_b
    assert read(~a, dag) == every - in_a
    assert read(~(a | b), dag) == read(~a & ~b, dag)
    assert read(~(a & b), dag) == read(~a | ~b, dag)
    assert read(a | PathSet.none(), dag) == read(a & PathSet.all(), dag) == in_a
    assert ~~a == a


@quick
@given(dags(), texts)
def test_the_text_of_a_set_reads_back(dag: Dag, text: str) -> None:
    a = paths(text)
    assert paths(str(a)) == a
    assert read(paths(str(a)), dag) == held(a, dag)


@quick
@given(texts, texts)
def test_the_text_of_operators_reads_back(one: str, two: str) -> None:
    a, b = paths(one), paths(two)
    for c in (a | b, a & b, a - b, ~a, (a - b) & a, a & (b - a), a - (b - a), ~(a | b)):
        assert paths(str(c)) == c


def run_by_nodes(automaton: Automaton, word: Word, dag: Dag) -> str:
    """The run of a path, told of every part that it arrives at."""
    parts = {symbol: node.name for node in dag.nodes for symbol in symbols_of(node)}
    state = automaton.start
    for symbol in reversed(word):
        state = automaton.step(automaton.enter(state, parts[symbol]), symbol)
    return automaton.run(state)


@quick
@given(dags(), path_sets, path_sets)
def test_each_path_reads_its_run(dag: Dag, a: PathSet, b: PathSet) -> None:
    in_a, in_b = held(a, dag), held(b - a, dag)
    automaton = assign({"one": a, "two": b - a}, "rest", dag)
    for word in words(dag):
        state = automaton.start
        for symbol in reversed(word):
            state = automaton.step(state, symbol)
        expected = "one" if word in in_a else "two" if word in in_b else "rest"
        assert automaton.run(state) == expected
        assert run_by_nodes(automaton, word, dag) == expected


@quick
@given(dags(), path_sets, path_sets)
def test_overlapping_runs_are_refused(dag: Dag, a: PathSet, b: PathSet) -> None:
    shared = held(a, dag) & held(b, dag)
    if not shared:
        assign({"one": a, "two": b}, "rest", dag)
        return
    with pytest.raises(HypothesisError) as error:
        assign({"one": a, "two": b}, "rest", dag)
    assert any(
        f"one and two both claim the path {' -> '.join(w)}\n" in str(error.value) for w in shared
    )


@quick
@given(path_sets)
def test_values(a: PathSet) -> None:
    assert hash(a) == hash(paths(str(a)))
    assert repr(a) == f"paths({str(a)!r})"
    assert len({a, paths(str(a))}) == 1


def test_an_output_that_is_read_on() -> None:
    nodes = (
        Source("x"),
        Part("y", (Port("y", "x"),)),
        Constant("c"),
        Join("s", ("y", "x", "c", "y")),
        Part("z", (Port("z.q", "s"), Port("z.q", "s"), Port("z.k", "x"))),
    )
    dag = Dag(nodes, ("y", "z"))
    assert set(example_paths("...", dag, n=9)) == {
        ("x", "y"),
        ("x", "y", "z.q"),
        ("x", "z.q"),
        ("x", "z.k"),
    }
    assert count_paths("y", dag) == 2
    assert count_paths("x -> z", dag) == 2
