"""Graphs with far more paths than can be listed."""

from __future__ import annotations

import pytest

from rewrite.paths import assign, check_reachable, count_paths, example_paths
from tests.paths.dags import transformer_dag

LAYERS, HEADS = 30, 10
DAG = transformer_dag(LAYERS, HEADS)

PER_LAYER = (1 + 3 * HEADS) * 2  # around or through one port of a head, then around or through m


def test_all_paths_are_counted() -> None:
    assert PER_LAYER**LAYERS > 10**50
    assert count_paths("...", DAG) == PER_LAYER**LAYERS


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("a5.h3", 3 * 2 * PER_LAYER**29),
        ("a5.h3.q", 2 * PER_LAYER**29),
        ("~a5.h3", PER_LAYER**30 - 3 * 2 * PER_LAYER**29),
        ("a5.h3 -> a9.h9.q", 3 * PER_LAYER**5 * 2 * PER_LAYER**20),
        ("a5.h3 -> ... -> a9.h9.q", 3 * PER_LAYER**5 * 2 * PER_LAYER**3 * 2 * PER_LAYER**20),
        ("tokens -> embed -> (m*)* -> logits", 2**30),
        ("tokens -> embed -> a0.h1.v -> m0 -> a5.h5.k -> logits", 1),
        ("~a* & ~m*", 1),
        ("~m*", (1 + 3 * HEADS) ** 30),
        ("a[0-9] | m{0,1}", PER_LAYER**30 - PER_LAYER**20 * 2**8),
        ("model.layers.7.mlp", PER_LAYER**30 // 2),
        ("a3.kv0", 2 * 2 * 2 * PER_LAYER**29),
        ("tokens -> embed -> a0? -> a1? -> logits", (1 + 3 * HEADS) ** 2),
    ],
)
def test_counts_have_a_closed_form(pattern: str, expected: int) -> None:
    assert count_paths(pattern, DAG) == expected


def test_complements_add_up() -> None:
    asked = "a{1,5}.h{1,3} -> ... -> (m[7-9] | a9) -> ... -> a20.h*.{q,k} - m25"
    assert count_paths(asked, DAG) + count_paths(f"~({asked})", DAG) == PER_LAYER**LAYERS


def test_the_first_paths_come_without_the_others() -> None:
    assert example_paths("m29", DAG, n=1) == [("tokens", "embed", "m29", "logits")]
    found = example_paths("a0.h0.q -> ... -> a29.h9.v", DAG, n=50)
    assert len(set(found)) == 50
    assert all(path[2] == "a0.h0.q" and path[-2:] == ("a29.h9.v", "logits") for path in found)


def test_states_follow_the_pattern_and_not_the_graph() -> None:
    exact = "tokens -> embed -> a0.h1.v -> m0 -> a5.h5.k -> logits"
    automaton = assign({"clean": exact, "other": "a9.h9 - m9"}, "corrupt", DAG)
    states = [automaton.start]
    for state in states:
        states += {automaton.step(state, s) for s in DAG.symbols} - set(states)
    assert automaton.states == len(states) <= 25
    chain = assign({"clean": "a1 -> ... -> a2 -> ... -> a3 -> ... -> a4"}, "corrupt", DAG)
    states = [chain.start]
    for state in states:
        states += {chain.step(state, s) for s in DAG.symbols} - set(states)
    assert chain.states == 5


def test_a_decided_path_stays_in_its_state() -> None:
    automaton = assign({"clean": "a5.h3", "other": "m7 - a5.h3"}, "corrupt", DAG)
    decided = automaton.step(automaton.start, "a5.h3.q")
    assert all(automaton.step(decided, symbol) == decided for symbol in DAG.symbols)
    assert automaton.run(decided) == "clean"


def test_many_runs() -> None:
    runs = {f"run{i}": f"m{i} - (m{i} -> ... -> m*)" for i in range(LAYERS)}
    automaton = assign(runs, "rest", DAG)
    state = automaton.start
    for symbol in ("logits", "a29.h0.q", "m12", "m3", "embed", "tokens"):
        state = automaton.step(state, symbol)
    assert automaton.run(state) == "run12"


def test_reachable_in_a_deep_graph() -> None:
    check_reachable(" -> ".join(f"a{layer}" for layer in range(LAYERS)), DAG)
