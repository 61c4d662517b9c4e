"""Paths of a graph that a set holds: counted, listed, explained when there are none.

All of it is dynamic programming over pairs (node, state), never over paths, and sums are
crossed one by one, so the cost is linear in (nodes + edges) x states.  It is assumed that a
writer reaches a port by one route of sums only, as in a residual stream.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from itertools import islice

from rewrite.errors import PathError
from rewrite.ir.dag import Constant, Dag, Join, Node, Part, Source
from rewrite.parts import Components
from rewrite.paths.bind import BoundSet, bind
from rewrite.paths.caret import point
from rewrite.paths.pathset import PathSet, paths
from rewrite.paths.pattern import ITEM, Chain, Choice, Dots, Pattern, is_walk, joined, spell

Visit = tuple[str, int]  # a node, and the state in which a path comes to it from its output


def count_paths(
    path_set: PathSet | str | Dag | Components, dag: PathSet | str | Dag | Components
) -> int:
    """The exact number of paths from a source to an output that are in the set.

    `dag` may be a component graph, and the two may be given in either order.

    A path is its sequence of edges; a sum that lists a writer twice counts it once.

    >>> from rewrite.ir.dag import Dag, Join, Part, Port, Source
    >>> dag = Dag((Source("x"), Part("m0", (Port("m0", "x"),)), Join("r", ("x", "m0")),
    ...            Part("y", (Port("y", "r"),))), ("y",))
    >>> count_paths("...", dag), count_paths("m0", dag)
    (2, 1)

    Raises `UnknownName`, and `PathError` for a string that cannot be read.
    """
    if not isinstance(path_set, (PathSet, str)):
        path_set, dag = dag, path_set
    if not isinstance(path_set, (PathSet, str)) or isinstance(dag, (PathSet, str)):
        raise PathError("paths of a component graph are counted: write "
                        'rw.count_paths("a0.h1", parts)')
    bound = bind(path_set, dag if isinstance(dag, Dag) else dag.dag)
    counts = _counts(bound)
    return sum(counts[name, bound.start] for name in dict.fromkeys(bound.dag.outputs))


def example_paths(path_set: PathSet | str, dag: Dag, n: int = 3) -> list[tuple[str, ...]]:
    """The first `n` paths of the set, each from source to output.

    >>> from rewrite.ir.dag import Dag, Part, Port, Source
    >>> example_paths("...", Dag((Source("x"), Part("y", (Port("y", "x"),))), ("y",)))
    [('x', 'y')]

    Raises `UnknownName`, and `PathError` for a string that cannot be read.
    """
    return list(islice(walk_paths(bind(path_set, dag)), n))


def walk_paths(bound: BoundSet) -> Iterator[tuple[str, ...]]:
    """All paths of a bound set, one at a time, without a step into a dead end.

    >>> from rewrite.ir.dag import Dag, Part, Port, Source
    >>> dag = Dag((Source("x"), Part("y", (Port("y", "x"),))), ("y",))
    >>> next(walk_paths(bind("x", dag)))
    ('x', 'y')
    """
    counts = _counts(bound)
    outputs = dict.fromkeys(bound.dag.outputs)
    stack: list[tuple[Visit, tuple[str, ...]]]
    stack = [((name, bound.start), ()) for name in reversed(outputs)]
    while stack:
        visit, word = stack.pop()
        if not counts[visit]:
            continue
        node = bound.dag[visit[0]]
        if isinstance(node, Source):
            yield (node.name, *word)
        moves = reversed(list(_moves(bound, node, visit[1])))
        stack.extend((after, (*spelt, *word)) for spelt, after in moves)


def check_reachable(path_set: PathSet | str, dag: Dag) -> None:
    """Pass if some path of the graph is in the set, else say where the pattern fails.

    >>> from rewrite.ir.dag import Dag, Part, Port, Source
    >>> dag = Dag((Source("x"), Part("m0", (Port("m0", "x"),)),
    ...            Part("m1", (Port("m1", "m0"),))), ("m1",))
    >>> check_reachable("m1 -> m0", dag)
    Traceback (most recent call last):
    ...
    rewrite.errors.PathError: no path goes from m1 on to m0: m0 comes before it
        m1 -> m0
              ^^

    Raises `PathError` if the set is empty, `UnknownName` if a name is not of the graph.
    """
    path_set = paths(path_set)
    if has_paths(path_set, dag):
        return
    pattern = path_set.pattern
    if isinstance(pattern, Choice) or not is_walk(pattern):
        raise PathError(f"no path of the graph is in this set\n{point(spell(pattern), 0)}")
    parts = pattern.parts if isinstance(pattern, Chain) else (pattern,)
    last = next(n for n in range(len(parts)) if _empty(dag, *parts[: n + 1]))
    text, here = spell(pattern), spell(parts[last], ITEM)
    column = sum(len(f"{spell(part, ITEM)} -> ") for part in parts[:last])
    place = point(text, column, min(len(here), len(text)))
    raise PathError(f"{_why(parts[:last], parts[last], dag)}\n{place}")


def has_paths(path_set: PathSet | str, dag: Dag) -> bool:
    """Whether some path of the graph is in the set, at some positions.

    >>> from rewrite.ir.dag import Dag, Part, Port, Source
    >>> dag = Dag((Source("x"), Part("y", (Port("y", "x"),))), ("y",))
    >>> has_paths("x -> y", dag), has_paths("y -> x", dag)
    (True, False)

    Raises `UnknownName`, and `PathError` for what cannot be read or followed.
    """
    return _is_inhabited(bind(path_set, dag))


def _why(before: tuple[Pattern, ...], here: Pattern, dag: Dag) -> str:
    """In words, why no path goes on from `before`, which some path matches, to `here`."""
    named = [part for part in before if part != Dots()]
    b = spell(here, ITEM)
    if not named:
        return f"no path from a source to an output goes through {b}"
    last = named[-1]
    a = spell(last, ITEM)
    if before[-1] is last and not _empty(dag, *before, Dots(), here):
        return f"no edge goes from {a} straight to {b}: write {a} -> ... -> {b} for any between"
    if not _empty(dag, here, Dots(), last):
        return f"no path goes from {a} on to {b}: {b} comes before it"
    if _empty(dag, last, Dots(), here):
        return f"no path goes from {a} on to {b}: {a} never leads to {b}"
    return f"no path goes from {a} on to {b} after what stands before"


def _empty(dag: Dag, *parts: Pattern) -> bool:
    return not has_paths(PathSet(joined(Chain, parts)), dag)


def _is_inhabited(bound: BoundSet) -> bool:
    """Whether some path of the graph is in the set: a search that stops at the first."""
    stack = [(name, bound.start) for name in dict.fromkeys(bound.dag.outputs)]
    seen = set(stack)
    while stack:
        name, state = stack.pop()
        node = bound.dag[name]
        if isinstance(node, Source) and bound.accepts(bound.step(state, name)):
            return True
        after = [visit for _, visit in _moves(bound, node, state) if visit not in seen]
        seen.update(after)
        stack.extend(after)
    return False


def _counts(bound: BoundSet) -> dict[Visit, int]:
    """For each pair that a path can come to, in how many ways it goes on to a source."""
    counts: dict[Visit, int] = {}
    for node, states in _reached(bound):
        for state in states:
            if isinstance(node, Source):
                ways = int(bound.accepts(bound.step(state, node.name)))
            else:
                ways = sum(counts[after] for _, after in _moves(bound, node, state))
            counts[node.name, state] = ways
    return counts


def _reached(bound: BoundSet) -> list[tuple[Node, set[int]]]:
    """The states in which paths come to each node; each node after those that it reads."""
    states: dict[str, set[int]] = defaultdict(set)
    for name in bound.dag.outputs:
        states[name].add(bound.start)
    for node in reversed(bound.dag.nodes):
        for state in states[node.name]:
            for _, (name, after) in _moves(bound, node, state):
                states[name].add(after)
    return [(node, states[node.name]) for node in bound.dag.nodes]


def _moves(bound: BoundSet, node: Node, state: int) -> Iterator[tuple[tuple[str, ...], Visit]]:
    """The ways on from a node towards the sources: what each spells, and where it comes to.

    Ways that no path of the set takes are left out.
    """
    none = bound.expressions.none
    match node:
        case Part(_, ports):
            for port in dict.fromkeys(ports):
                if (after := bound.step(state, port.symbol)) != none:
                    yield (port.symbol,), (port.reads, after)
        case Join(_, terms):
            for term in dict.fromkeys(terms):
                if (after := bound.enter(state, term)) != none:
                    yield (), (term, after)
        case Source() | Constant():
            return
