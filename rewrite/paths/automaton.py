"""Runs for paths: an automaton that says which run each path of a graph reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import accumulate
from typing import Any

from rewrite.errors import HypothesisError
from rewrite.ir.dag import Constant, Dag, Join, Node, Part, Source
from rewrite.paths.bind import BoundSet, bind_all
from rewrite.paths.expressions import Expressions
from rewrite.paths.pathset import PathSet
from rewrite.paths.tree import Tree, combine, leaves
from rewrite.paths.walk import walk_paths
from rewrite.paths.wiring import Arrival, Letters, Place
from rewrite.turn import alone


class _Table:
    """States of all automata of a graph that have these runs and equally many letters.

    A state is one expression for each run.  States are numbered as they are met, and steps are
    remembered: what one automaton has worked out, others of the same form find here.
    """

    def __init__(self, expressions: Expressions, runs: tuple[str, ...], default: str) -> None:
        self.states: list[tuple[int, ...]] = []
        self.decided: list[str | None] = []
        self.entered: dict[tuple[int, Arrival], int] = {}
        self.steps: dict[tuple[int, Place], Tree] = {}
        self._expressions: Expressions = expressions
        self._runs: tuple[str, ...] = runs
        self._default: str = default
        self._numbers: dict[tuple[int, ...], int] = {}

    def run(self, state: int) -> str:
        """The run of a path that has come to its end."""
        rests = zip(self._runs, self.states[state], strict=True)
        return next((run for run, rest in rests if self._expressions.nullable(rest)), self._default)

    def number(self, *rests: int) -> int:
        """The state that has these expressions."""
        every, none = self._expressions.every, self._expressions.none
        if every in rests:  # decided: the sets share no path, so it is in no other
            rests = tuple(every if rest == every else none for rest in rests)
        number = self._numbers.setdefault(rests, len(self.states))
        if number == len(self.states):
            self.states.append(rests)
            clear = all(rest in (every, none) for rest in rests)
            self.decided.append(self.run(number) if clear else None)
        return number


@alone
class Automaton:
    """Which run does a path read?  Walk it from its output to its source, then ask.

    A state says, for each run, what the rest of the path, towards the source, must look like
    to belong to it.  Steps are remembered: one that is made again costs one look-up.

    >>> from rewrite.ir.dag import Dag, Part, Port, Source
    >>> dag = Dag((Source("x"), Part("m0", (Port("m0", "x"),))), ("m0",))
    >>> runs = assign({"clean": "x -> m0"}, "corrupt", dag)
    >>> runs.run(runs.step(runs.step(runs.start, "m0"), "x")), runs.states
    ('clean', 3)

    Made by `assign`; all bound sets share one store of expressions.
    """

    def __init__(self, runs: Mapping[str, BoundSet], default: str, shared: BoundSet) -> None:
        self._runs: tuple[str, ...] = tuple(runs)
        self._default: str = default
        self._shared: BoundSet = shared
        self._letters: Letters = shared.letters
        tables: dict[object, Any] = shared.expressions.tables
        key = self._runs, default
        if key not in tables:
            tables[key] = _Table(shared.expressions, *key)
        self._table: _Table = tables[key]
        self.start: int = self._table.number(*(bound.start for bound in runs.values()))
        self._met: set[int] = {self.start}

    @property
    def states(self) -> int:
        """How many states have been met so far."""
        return len(self._met)

    def step(self, state: int, symbol: str) -> Tree:
        """The state after `symbol`, or a tree of states if it depends on positions.

        Raises `KeyError` for a symbol that the graph lacks, `PathError` if a window cannot be
        followed through it.
        """
        key, table = (state, self._letters.place(symbol)), self._table
        if key not in table.steps:
            rests = [self._shared.tree(rest, symbol) for rest in table.states[state]]
            table.steps[key] = combine(table.number, *rests)
        self._met.update(leaves(table.steps[key]))
        return table.steps[key]

    def enter(self, state: int, node: str) -> int:
        """The same state on arrival at a node: what no path that ends there has is forgotten.

        It changes no answer.  A walk that calls it at sums meets fewer pairs (node, state).
        Raises `KeyError` for a node that the graph lacks.
        """
        if self.decided(state) is not None:
            return state
        key, table = (state, self._letters.arrival(node)), self._table
        if key not in table.entered:
            rests = (self._shared.enter(rest, node) for rest in table.states[state])
            table.entered[key] = table.number(*rests)
        self._met.add(table.entered[key])
        return table.entered[key]

    def reads(self, state: int, node: Node) -> tuple[Tree, ...]:
        """The states in which paths that come to a node in this state come to what it reads."""
        match node:
            case Part(_, ports):
                return tuple(self.step(state, port.symbol) for port in ports)
            case Join(_, terms):
                return tuple(self.enter(state, term) for term in terms)
            case Source() | Constant():
                return ()

    def kind(self, node: str) -> str | int:
        """What nodes share that read the same, and go on with it in the same states."""
        return self._letters.kind(node)

    def unread(self) -> list[str]:
        """The runs, but for the default, that no path of the graph reads: one walk, until all are.

        Raises `PathError` if a window cannot be followed on the way.
        """
        dag, decided, left = self._shared.dag, self._table.decided, dict.fromkeys(self._runs)
        visits = [(name, self.start) for name in dag.outputs]
        seen: set[tuple[str | int, int]] = set()
        while visits and left:
            name, state = visits.pop()
            visit = self.kind(name), state
            if visit in seen:
                continue
            seen.add(visit)
            node, run = dag[name], decided[state]
            if run is not None:
                if any(self._letters.arrival(name)):  # else no path ends there
                    left.pop(run, None)
            elif isinstance(node, Source):
                for rest in leaves(self.step(state, name)):
                    left.pop(self.run(rest), None)
            else:
                for read, tree in zip(node.reads, self.reads(state, node), strict=True):
                    visits += [(read, rest) for rest in leaves(tree)
                               if decided[rest] != self._default]
        return list(left)

    def decided(self, state: int) -> str | None:
        """The run that every path on from this state reads, if that is clear by now."""
        return self._table.decided[state]

    def run(self, state: int) -> str:
        """The run that a path reads, once its source has been stepped over."""
        return self._table.run(state)


@alone
def assign(runs: Mapping[str, PathSet | str], default: str, dag: Dag) -> Automaton:
    """Give each path of the graph one run: that of the set it is in, else `default`.

    >>> from rewrite.ir.dag import Dag, Part, Port, Source
    >>> dag = Dag((Source("x"), Part("m0", (Port("m0", "x"),))), ("m0",))
    >>> assign({"a": "x", "b": "m0"}, "c", dag)
    Traceback (most recent call last):
    ...
    rewrite.errors.HypothesisError: runs a and b both claim the path x -> m0
    make them disjoint: write b as (m0) - (x)

    Raises `HypothesisError` if `default` is among the runs or two sets share a path of the
    graph, `UnknownName` and `PathError` as `bind` does.
    """
    if default in runs:
        raise HypothesisError(
            f"{default} is the default, which reads every path that no other run claims: "
            f"leave it out of the runs {', '.join(runs)}, or name another default"
        )
    nothing, *sets = bind_all([PathSet.none(), *runs.values()], dag)
    bound = dict(zip(runs, sets, strict=True))
    if path := _claimed_twice(bound, nothing):
        first, second, *_ = (run for run in bound if path in bound[run])
        raise HypothesisError(
            f"runs {first} and {second} both claim the path {' -> '.join(path)}\n"
            f"make them disjoint: write {second} as ({runs[second]}) - ({runs[first]})"
        )
    return Automaton(bound, default, nothing)


def _claimed_twice(bound: Mapping[str, BoundSet], nothing: BoundSet) -> tuple[str, ...]:
    """A path of the graph that two of the sets have, or () if there is none."""
    to = nothing.expressions
    if len(bound) < 2:
        return ()
    starts = [each.start for each in bound.values()]
    earlier = accumulate(starts, to.either, initial=to.none)
    twice = to.either(*(to.both(*pair) for pair in zip(starts, earlier, strict=False)))
    return next(walk_paths(replace(nothing, start=twice)), ())
