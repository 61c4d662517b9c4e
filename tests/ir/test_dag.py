"""The wiring as a value."""

from __future__ import annotations

import pytest

from rewrite.ir.dag import Constant, Dag, Join, Node, Part, Port, Source, symbols_of

NODES: tuple[Node, ...] = (
    Source("x"), Constant("c"), Part("a", (Port("a.q", "x"), Port("a.k", "x"))),
    Join("r", ("x", "a", "c")), Join("s", ("r", "x")), Part("y", (Port("y", "s"),)),
)


def test_edges_cross_sums_once() -> None:
    dag = Dag(NODES, ("y",))
    assert dag.edges == (("x", "a.q"), ("x", "a.k"), ("x", "y"), ("a", "y"))
    assert dag.symbols == ("x", "a.q", "a.k", "y")
    assert dag.sources == ("x",) and dag["r"] is NODES[3]
    assert [symbols_of(node) for node in NODES] == [("x",), (), ("a.q", "a.k"), (), (), ("y",)]


@pytest.mark.parametrize(("nodes", "outputs", "message"), [
    ((Part("a", (Port("a", "x"),)), Source("x")), ("a",), "do not come before it"),
    ((Source("x"), Source("x")), ("x",), "two nodes are called x"),
    ((Source("x"),), ("y",), "are not nodes"),
    ((Join("r", ("r",)),), ("r",), "do not come before it"),
])
def test_errors(nodes: tuple[Node, ...], outputs: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Dag(nodes, outputs)


def test_a_dag_is_a_value() -> None:
    assert Dag(NODES, ("y",)) == Dag(NODES, ("y",)) != Dag(NODES, ("a",))
