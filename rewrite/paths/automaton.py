"""Runs for paths: an automaton that says which run each path of a graph reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import accumulate

from rewrite.errors import HypothesisError
from rewrite.ir.dag import Dag
from rewrite.paths.bind import BoundSet, Place, bind_all
from rewrite.paths.expressions import Expressions
from rewrite.paths.pathset import PathSet
from rewrite.paths.tree import Tree, combine
from rewrite.paths.walk import walk_paths


class Automaton:
    """Which run does a path read?  Walk it from its output to its source, then ask.

    A state is one expression for each run: what the rest of the path, towards the source,
    must look like to belong to it.  States are numbered from `start` as they are met, and
    steps are remembered, so that a step costs one look-up when it is made again.

    >>> from rewrite.ir.dag import Dag, Part, Port, Source
    >>> dag = Dag((Source("x"), Part("m0", (Port("m0", "x"),))), ("m0",))
    >>> runs = assign({"clean": "x -> m0"}, "corrupt", dag)
    >>> runs.run(runs.step(runs.step(runs.start, "m0"), "x")), runs.states
    ('clean', 3)

    Made by `assign`; all bound sets share one store of expressions.
    """

    def __init__(self, runs: Mapping[str, BoundSet], default: str, shared: BoundSet) -> None:
        self.start: int = 0
        self._runs: tuple[str, ...] = tuple(runs)
        self._default: str = default
        self._shared: BoundSet = shared
        self._places: Mapping[str, Place] = shared.places
        self._within: Mapping[str, int] = shared.within
        self._expressions: Expressions = shared.expressions
        self._states: list[tuple[int, ...]] = []
        self._numbers: dict[tuple[int, ...], int] = {}
        self._entered: dict[tuple[int, int], int] = {}
        self._steps: dict[tuple[int, Place], Tree] = {}
        self._decided: list[str | None] = []
        _ = self._number(tuple(bound.start for bound in runs.values()))

    @property
    def states(self) -> int:
        """How many states have been met so far."""
        return len(self._states)

    def step(self, state: int, symbol: str) -> Tree:
        """The state after `symbol`, or a tree of states if it depends on positions.

        Raises `KeyError` for a symbol that the graph lacks, `PathError` if a window cannot be
        followed through it.
        """
        key = state, self._places[symbol]
        if key not in self._steps:
            rests = [self._shared.tree(rest, symbol) for rest in self._states[state]]
            self._steps[key] = combine(lambda *rests: self._number(rests), *rests)
        return self._steps[key]

    def enter(self, state: int, node: str) -> int:
        """The same state on arrival at a node: what does not lie upstream of it is forgotten.

        It changes no answer.  A walk that calls it at sums meets fewer pairs (node, state).
        Raises `KeyError` for a node that the graph lacks.
        """
        key = state, self._within[node]
        if key not in self._entered:
            rests = (self._expressions.keep(rest, key[1]) for rest in self._states[state])
            self._entered[key] = self._number(tuple(rests))
        return self._entered[key]

    def decided(self, state: int) -> str | None:
        """The run that every path on from this state reads, if that is clear by now."""
        return self._decided[state]

    def run(self, state: int) -> str:
        """The run that a path reads, once its source has been stepped over."""
        rests = zip(self._runs, self._states[state], strict=True)
        return next((run for run, rest in rests if self._expressions.nullable(rest)), self._default)

    def _number(self, rests: tuple[int, ...]) -> int:
        every, none = self._expressions.every, self._expressions.none
        if every in rests:  # decided: the sets share no path, so it is in no other
            rests = tuple(every if rest == every else none for rest in rests)
        number = self._numbers.setdefault(rests, len(self._states))
        if number == len(self._states):
            self._states.append(rests)
            clear = all(rest in (every, none) for rest in rests)
            self._decided.append(self.run(number) if clear else None)
        return number


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
