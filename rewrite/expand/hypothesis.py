"""A hypothesis: which run every path of a model reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rewrite.errors import HypothesisError
from rewrite.ir.fields import Fields
from rewrite.parts import Components
from rewrite.paths import Automaton, PathSet, assign, check_reachable, count_paths, paths
from rewrite.turn import alone, once


@dataclass(frozen=True)
class Hypothesis(Fields):
    """Paths are assigned to runs: `runs` says which set reads which, all others `default`.

    H = (G, delta, P, D) of Goldowsky-Dill et al. 2023 with P given by path sets; any number
    of named runs.  A path set that no path of the model belongs to is a `PathError`, unless
    it is written as empty (`~(...)`); two sets that share a path are a `HypothesisError`.

    >>> hypothesis = rw.Hypothesis(parts, {"clean": "a1.h3 -> logits"}, default="corrupt")
    >>> hypothesis.count()
    {'clean': 78, 'corrupt': 598}
    """

    parts: Components
    runs: Mapping[str, PathSet | str]
    default: str = "corrupt"
    name: str = ""

    @alone
    def __post_init__(self) -> None:
        if not isinstance(self.parts, Components):
            raise HypothesisError(f"a hypothesis is about a component graph, found "
                                  f"{type(self.parts).__name__}: pass graph.components()")
        if not isinstance(self.runs, Mapping) or not self.runs:
            raise HypothesisError("a hypothesis needs at least one run with its paths: "
                                  'Hypothesis(parts, {"clean": "a5.h3 -> logits"})')
        object.__setattr__(self, "runs", {run: paths(p) for run, p in self.runs.items()})
        for run in self.run_names:
            if not run.isidentifier():
                raise HypothesisError(f"a run is named like a Python variable, found {run!r}")
            if run == "positions":
                raise HypothesisError("no run can be called 'positions', by which a call says "
                                      "where named positions are: choose another name")
        for run in self.automaton.unread():
            if self.path_sets[run] != PathSet.none():
                check_reachable(self.path_sets[run], self.parts.dag)

    @property
    def path_sets(self) -> dict[str, PathSet]:
        """The paths of each run but the default."""
        return {run: paths(p) for run, p in self.runs.items()}

    @property
    def run_names(self) -> tuple[str, ...]:
        """All runs, the default last."""
        return (*self.runs, self.default)

    @once
    def automaton(self) -> Automaton:
        """Walks a path from its output to its source and then knows its run."""
        return assign(self.path_sets, self.default, self.parts.dag)

    @alone
    def count(self) -> dict[str, int]:
        """How many paths each run is read by, at some positions: exact integers."""
        dag, claimed = self.parts.dag, PathSet.none()
        for path_set in self.path_sets.values():
            claimed = claimed | path_set
        sets = self.path_sets | {self.default: ~claimed}
        return {run: count_paths(path_set, dag) for run, path_set in sets.items()}

    def describe(self) -> str:
        """The name, or the path sets."""
        return self.name or "; ".join(f"{run}: {p}" for run, p in self.runs.items())
