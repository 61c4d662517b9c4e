"""Graphs with far more paths than can be listed."""

from __future__ import annotations

import pytest

from rewrite.ir.dag import Part
from rewrite.paths import Automaton, assign, check_reachable, count_paths, example_paths
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


def visits(automaton: Automaton) -> list[tuple[str, int]]:
    """The pairs (node, state) in which paths of the graph come to its nodes."""
    found = dict.fromkeys((name, automaton.start) for name in DAG.outputs)
    for node in reversed(DAG.nodes):
        for name, state in list(found):
            if name == node.name and isinstance(node, Part):
                found |= dict.fromkeys(
                    (p.reads, automaton.step(state, p.symbol)) for p in node.ports
                )
            elif name == node.name:
                found |= dict.fromkeys((read, automaton.enter(state, read)) for read in node.reads)
    return list(found)


def test_states_follow_the_pattern_and_not_the_graph() -> None:
    exact = "tokens -> embed -> a0.h1.v -> m0 -> a5.h5.k -> logits"
    chain = "a1 -> ... -> a2 -> ... -> a3 -> ... -> a4"
    for runs, most in (
        ({"clean": exact}, 8),
        ({"clean": chain}, 6),
        ({"clean": exact, "other": "a9.h9 - m9"}, 16),
    ):
        automaton = assign(runs, "corrupt", DAG)
        assert len({state for _, state in visits(automaton)}) <= most


def test_a_path_that_can_no_longer_be_in_a_set_forgets_it() -> None:
    """Which of the later heads a path has passed matters only until the earlier one is passed."""
    edges = " | ".join(f"a{layer}.h0 -> ... -> a{layer + 1}.h1" for layer in range(20))
    automaton = assign({"clean": edges}, "corrupt", DAG)
    assert len(visits(automaton)) < 4 * len(DAG.nodes)
    automaton = assign({"clean": "a1.h1 -> m5"}, "corrupt", DAG)
    missed = [automaton.step(automaton.start, s) for s in ("m4", "a3.h1.q", "m0")]
    missed.append(automaton.step(automaton.step(automaton.start, "m5"), "a1.h2.q"))
    assert len(set(missed)) == 1 and missed[0] != automaton.start


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
