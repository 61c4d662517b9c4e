"""`minimality` and `refinements`: what can be left out of a hypothesis, and what to let in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Unpack

import pandas as pd

from rewrite.discover.candidates import (
    REFINEMENTS,
    Generator,
    drop,
    generators,
    important,
)
from rewrite.discover.changes import Effect, Effects, changes, measured, short, table
from rewrite.discover.measured import Options
from rewrite.errors import DataError, HypothesisError, PathError
from rewrite.expand import Hypothesis
from rewrite.measure import Measure, Pairs
from rewrite.paths import count_paths

PIECES = ("piece", "loss", "low", "high", "verdict", "fewer_paths", "paths")
COLUMNS = ("kind", "change", "gain", "low", "high", "explained", "more_paths", "fewer_paths",
           "gain_per_path", "paths")


@dataclass(frozen=True)
class Minimality(Effects):
    """What is lost without each piece of a hypothesis, the least first.

    A piece can be dropped if at most `tolerance` of the total effect is lost, and if the
    interval of the loss holds zero or ends below the tolerance; it is needed if the interval
    lies above zero and the loss above the tolerance.  All else is unclear: use more examples.
    """

    @property
    def droppable(self) -> list[Effect]:
        """The pieces that can be dropped, each by itself: without one, another may be needed."""
        return [row for row in self.rows if row.harmless(self.tolerance)]

    def verdict(self, row: Effect) -> str:
        """In words."""
        if row.harmless(self.tolerance):
            return "can be dropped"
        sure = not row.gain.high >= 0
        return "needed" if sure and -row.gain.value > self.tolerance else "unclear"

    @property
    def table(self) -> pd.DataFrame:
        """One row for each piece: loss with its interval, verdict, what would be left."""
        return table([{
            "piece": row.change.what, "loss": 0.0 - row.gain.value, "low": -row.gain.high,
            "high": -row.gain.low, "verdict": self.verdict(row),
            "fewer_paths": row.change.fewer, "paths": str(row.change.paths),
        } for row in self.rows], PIECES)

    def __str__(self) -> str:
        lines = [f"explained {self.before}, {self.metric}, n = {self.n}"]
        for row in self.rows:
            lines.append(f"  {0.0 - row.gain.value:7.3f} lost without {row.change.what}: "
                         f"{self.verdict(row)}")
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])

    def _repr_html_(self) -> str:
        return self.table.to_html()


@dataclass(frozen=True)
class Refinements(Effects):
    """One-step refinements, the best first; those that gain nothing stand behind, by gain."""

    @property
    def helpful(self) -> list[Effect]:
        """Those that gain more than the tolerance, with an interval above zero."""
        return [row for row in self.rows if row.helps(self.tolerance)]

    @property
    def table(self) -> pd.DataFrame:
        """One row for each refinement.  Numbers of paths are exact integers of any size."""
        return table([row.row() for row in self.rows], COLUMNS)

    def __str__(self) -> str:
        lines = [f"explained {self.before}, {self.metric}, n = {self.n}, "
                 f"{len(self.helpful)} of {len(self.rows)} refinements help"]
        for row in self.rows[:10]:
            lines.append(f"  {row.gain.value:+.3f}  {row.change.kind} {row.change.what}  "
                         f"(+{short(row.change.more)}, -{short(row.change.fewer)} paths)")
        lines += [f"  and {len(self.rows) - 10} more"] * (len(self.rows) > 10)
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])

    def _repr_html_(self) -> str:
        return self.table.to_html()


def minimality(
    hypothesis: Hypothesis, pairs: Pairs, metric: Measure, *, tolerance: float = 0.01,
    **options: Unpack[Options],
) -> Minimality:
    """What is lost when a piece of the hypothesis is dropped, one piece at a time.

    Pieces are the members of a union, at the top or inside a walk, the parts that a name
    with wildcards stands for, and the ports of a head.  A piece is dropped as the pattern is
    written: of `a | b`, dropping `a` leaves every path through b, also those through both.
    Losses are shares of the total effect, with paired intervals; `options` as in
    `completeness`.

    >>> hypothesis = rw.Hypothesis(parts, {"clean": "a1.h3 -> logits | a1.h3.v -> logits | m0"})
    >>> found = minimality(hypothesis, pairs, "kl_divergence")
    >>> next(row.gain.value for row in found.rows if row.change.what == "a1.h3.v -> logits")
    0.0

    Raises `HypothesisError` where nothing is important, and what `completeness` raises.
    """
    _check(tolerance)
    path_set = important(hypothesis)
    if not count_paths(path_set, hypothesis.parts.dag):
        raise HypothesisError("the hypothesis has no important paths, so none can be dropped: "
                              "rw.refinements says which to let in")
    found = measured(hypothesis, changes(hypothesis, {"drop": drop}), pairs, metric,
                     tolerance=tolerance, **options)
    rows = tuple(sorted(found.rows, key=lambda row: -row.gain.value))
    return Minimality(found.before, rows, found.metric, found.n, tolerance, found.notes)


def refinements(
    hypothesis: Hypothesis, pairs: Pairs, metric: Measure, *,
    candidates: Sequence[str | Generator] = REFINEMENTS, by: str = "gain_per_path",
    tolerance: float = 0.01, **options: Unpack[Options],
) -> Refinements:
    """The changes that are one step away, with what each gains, ranked.

    `candidates` are names or functions of a hypothesis that yield `(text, PathSet)`:

    * `"extend"` lets in one more edge into a node that important paths pass: `X -> node -> ...`
    * `"restrict"` puts one writer in the place of `...`
    * `"swap"` enters a head by another port
    * `"drop"` leaves out a piece, as `minimality` does

    All candidates run together, in as few expansions as fit into the budget.  Those that gain
    more than `tolerance`, with an interval above zero, come first, `by` gain per path that
    changes sides ("gain_per_path") or by gain alone ("gain").  Of many candidates the best is
    flattered by its luck: test it on other examples, as `refine` does.

    >>> nothing = rw.Hypothesis(parts, {"clean": "~(...)"})
    >>> found = refinements(nothing, pairs, "kl_divergence", by="gain")
    >>> len(found.rows), found.rows[0].change.what
    (11, 'm0 -> logits')

    Raises `UnknownName` for candidates that there are not, and what `completeness` raises.
    """
    _check(tolerance)
    found = changes(hypothesis, generators(candidates))
    if not found:
        raise PathError(f"no candidate changes the paths {important(hypothesis)}: "
                        "name other candidates")
    result = measured(hypothesis, found, pairs, metric, tolerance=tolerance, rank=by, **options)
    return Refinements(result.before, result.rows, result.metric, result.n, tolerance, result.notes)


def _check(tolerance: Any) -> None:
    if not 0 <= tolerance < 1:
        raise DataError(f"tolerance is a share of the total effect, 0 <= tolerance < 1; found "
                        f"{tolerance}")
