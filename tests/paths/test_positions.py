"""Positions and windows in patterns: reading, spelling, trees of states, errors."""

from __future__ import annotations

import pytest

from rewrite.errors import HypothesisError, PathError
from rewrite.ir.dag import Dag, Join, Motion, Part, Port, Source
from rewrite.paths import assign, bind, check_reachable, count_paths, paths
from rewrite.paths.tree import HERE, HOP, THERE, Condition, combine, hop, is_split, leaves, split


def layers(motion: Motion | None = None, middle: str = "m0") -> Dag:
    """Two layers of one head each, an MLP between them."""
    def head(name: str, reads: str) -> Part:
        return Part(name, tuple(
            Port(f"{name}.{port}", reads, hops=port != "q") for port in "qkv"))

    return Dag((
        Source("tokens"), Part("embed", (Port("embed", "tokens"),)), head("a0.h0", "embed"),
        Join("mid", ("embed", "a0.h0")), Part(middle, (Port(middle, "mid"),)),
        Join("late", ("mid", middle)), head("a1.h0", "late"), Join("end", ("late", "a1.h0")),
        Part("logits", (Port("logits", "end"),)),
    ), ("logits",), motion=motion or Motion())


class Ahead(Motion):
    """A model that looks both ways and convolves."""

    def looks_ahead(self) -> bool:
        return True

    def keeps_positions(self, part: str) -> bool:
        return part != "conv"


@pytest.mark.parametrize("text", [
    "tokens@S2", "a5.h3@END.v@IO", "a5.h3.k@[0]", "m3@[-2:] -> ...", "a0.h1.v[-1]", "...[-3:0]",
    "(a0.h1 -> m0)[:-1] -> a1", "((a0 | m0)[-1:])?", "~tokens@[1:4]", "a[0-3].h{1,2}.k[-2]",
])
def test_spelling_reads_back(text: str) -> None:
    assert str(paths(text)) == text
    assert paths(str(paths(text))) == paths(text)


def test_a_port_is_where_it_reads_a_head_where_it_writes() -> None:
    dag = layers()
    tests = {}
    for text in ("a1.h0@S", "a1.h0.k@S", "a1.h0.q@S"):
        bound = bind(text, dag)
        symbol = "a1.h0.q" if ".q" in text else "a1.h0.k"
        tree = bound.tree(bound.step(bound.start, "logits"), symbol)
        tests[text] = tree.test.kind if is_split(tree) else None
    assert tests == {"a1.h0@S": HERE, "a1.h0.k@S": THERE, "a1.h0.q@S": HERE}


def test_windows_make_as_many_states_as_they_are_wide() -> None:
    for width in (1, 4, 9):
        automaton = assign({"clean": f"tokens -> ...[-{width}:0] -> a1.h0.k"}, "rest", layers())
        state = automaton.step(automaton.start, "logits")
        tree = automaton.step(state, "a1.h0.k")
        assert not is_split(tree)  # the window starts behind the key
        hops = automaton.step(tree, "a0.h0.v")
        assert len(list(leaves(hops))) == 2  # inside, outside: no further hop can come
        across = assign({"clean": f"tokens -> ...[-{width}:0] -> logits"}, "rest", layers())
        state = across.step(across.start, "logits")
        assert len(list(leaves(across.step(state, "a1.h0.v")))) == width + 2


def test_a_window_that_limits_nothing_is_none() -> None:
    dag = layers()
    bound, plain = bind("tokens -> ...[:1] -> a1.h0.k", dag), bind("tokens -> ... -> a1.h0.k", dag)
    assert count_paths("tokens -> ...[:1] -> a1.h0.k", dag) == 8
    assert not is_split(bound.tree(bound.step(bound.start, "logits"), "a1.h0.k"))
    assert count_paths(plain.dag and "a0.h0.q[-1]", dag) == 0


@pytest.mark.parametrize("text", ["m0[-1]", "a0.h0.v[1]", "tokens -> ...[-1] -> a0.h0"])
def test_windows_that_no_path_fits(text: str) -> None:
    with pytest.raises(PathError) as error:
        check_reachable(text, layers())
    assert text.split(" -> ")[0].split("[")[0] in str(error.value)


def test_several_hops_in_a_model_that_looks_ahead() -> None:
    dag = layers(Ahead())
    assert count_paths("a1.h0.k[-1]", dag) == 8  # the window ends at the port
    assert count_paths("tokens -> ...[-1:2] -> a1.h0.k", dag) == 8  # one hop is left
    with pytest.raises(PathError, match=r"also looks ahead.*\nput the window on the port: a"):
        count_paths("tokens -> ...[-1] -> logits", dag)


def test_no_window_across_a_convolution() -> None:
    dag = layers(Ahead(), "conv")
    with pytest.raises(PathError, match="cannot be followed through conv, which mixes positions"):
        count_paths("tokens -> ...[-1] -> a1.h0.k", dag)
    assert count_paths("tokens -> ... -> conv -> a1.h0.k[-1]", dag) == 4


def test_runs_at_groups_that_may_overlap() -> None:
    dag = layers()
    with pytest.raises(HypothesisError, match="both claim the path tokens"):
        assign({"a": "tokens@S1", "b": "tokens@S2"}, "rest", dag)
    assert assign({"a": "tokens@S1", "b": "tokens@S2 - tokens@S1"}, "rest", dag)


def test_trees_ask_each_test_once_in_order() -> None:
    a, b = Condition(HERE, 0, "A"), Condition(THERE, 0, "B")
    x, y = split(a, 1, 2), split(b, 10, 20)
    both = combine(lambda m, n: m + n, x, y)
    assert both == split(a, split(b, 11, 21), split(b, 12, 22))
    assert combine(lambda m, n: m + n, y, x) == both
    near = split(hop(0), "a", split(hop(-1), "b", "c"))
    assert combine(lambda m, n: (m, n), near, split(hop(-1), True, False)) == split(
        hop(0), ("a", True), split(hop(-1), ("b", True), ("c", False)))
    assert [t.kind for t in sorted([b, hop(-2), a])] == [HERE, HOP, THERE]
