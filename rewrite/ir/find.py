"""Nodes of a graph by name or by selection, counted, and the paths between them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import fx

from rewrite.errors import MatchError, UnknownName, near
from rewrite.ir.match import ancestors_of, descendants_of
from rewrite.ir.selection import Match, Scope, as_match

if TYPE_CHECKING:
    from rewrite.ir.graph import Graph

SHOWN = 8


def get(graph: fx.Graph, name: str | fx.Node) -> fx.Node:
    """The node called `name`; dots and underscores are the same (`a5.h3` is `a5_h3`)."""
    if isinstance(name, fx.Node):
        name = name.name
    if not isinstance(name, str):
        raise UnknownName(f"a node is known by its name, found {type(name).__name__} {name!r}: "
                          f'graph.get("{next(iter(graph.nodes)).name}")')
    named = {node.name: node for node in graph.nodes}
    for spelling in (name, name.replace(".", "_")):
        if spelling in named:
            return named[spelling]
    raise UnknownName(f"the graph has no node {name!r}; {near(name, named)}")


def find(graph: Graph, what: Match | str) -> tuple[str, ...]:
    """See `Graph.find`."""
    scope = Scope(graph)
    found = as_match(what).within(scope)
    return tuple(node.name for node in scope.nodes if node in found)


def expect(graph: Graph, what: Match | str, n: int | None) -> tuple[str, ...]:
    """See `Graph.expect`; `n` None: one or more."""
    found = find(graph, what)
    if len(found) == n or (n is None and found):
        return found
    match = as_match(what)
    names = ", ".join(found[:SHOWN]) + (", ..." if len(found) > SHOWN else "")
    hint = "" if found else match.hint(Scope(graph))
    raise MatchError(f"{graph.name}: {match!r} selects {len(found)} node{_s(len(found))}, "
                     f"{'at least one' if n is None else n} expected"
                     f"{f': {names}' if names else ''}{f'; {hint}' if hint else ''}")


def relatives(graph: Graph, name: str | fx.Node, before: bool) -> tuple[str, ...]:
    """See `Graph.ancestors` and `Graph.descendants`."""
    node = get(graph.module.graph, name)
    return find(graph, (ancestors_of if before else descendants_of)(node.name))


def paths_between(
    graph: fx.Graph, start: str | fx.Node, end: str | fx.Node, limit: int = 1000
) -> list[tuple[str, ...]]:
    """Up to `limit` paths of node names from `start` to `end`, walking back from `end`."""
    first, last = get(graph, start), get(graph, end)
    leads = {first}
    for node in graph.nodes:
        if any(operand in leads for operand in node.all_input_nodes):
            leads.add(node)
    found: list[tuple[str, ...]] = []
    stack: list[tuple[fx.Node, tuple[str, ...]]] = [(last, (last.name,))] if last in leads else []
    while stack and len(found) < limit:
        node, path = stack.pop()
        if node is first:
            found.append(path)
            continue
        stack.extend((o, (o.name, *path)) for o in reversed(node.all_input_nodes) if o in leads)
    return found


def _s(count: int) -> str:
    return "" if count == 1 else "s"
