"""`refine`: a greedy loop that lets in what helps and drops what is not needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Unpack

import numpy as np

from rewrite.discover.candidates import (
    REFINEMENTS,
    Generator,
    changed,
    drop,
    generators,
    important,
)
from rewrite.discover.changes import Change, Effect, changes, measured
from rewrite.discover.log import Refined, Row, read_log, write_log
from rewrite.discover.measured import Options, side_by_side
from rewrite.disk import lock
from rewrite.errors import DataError
from rewrite.expand import Hypothesis
from rewrite.measure import Measure, Metric, Pairs, as_metric
from rewrite.paths import PathSet, count_paths
from rewrite.run.digest import digest
from rewrite.run.identity import identity

STEPS = "all steps are used"
GOAL = "the goal is reached"
NOTHING = "no candidate gains more than the tolerance for sure"


def refine(
    hypothesis: Hypothesis, pairs: Pairs, metric: Measure, *, steps: int = 5,
    goal: float = 0.9, tolerance: float = 0.01, holdout: float = 0.5, seed: int = 0,
    candidates: Sequence[str | Generator] = REFINEMENTS, by: str = "gain_per_path",
    file: str | Path | None = None, **options: Unpack[Options],
) -> Refined:
    """Refine a hypothesis step by step, and say what was done.

    A step lets in the candidate that ranks first `by` gain per path among those that gain
    more than `tolerance`, then goes on to leave out what can be: pieces, as in `minimality`,
    then what candidates leave out, each time the change by which most paths go, as long as all
    of the step together lose at most `tolerance`, and at most half of what the step gained.
    The start is trimmed likewise.
    It stops after `steps`, at `goal` (a proportion explained), or when nothing helps.

    Choosing the best of many candidates flatters them on the pairs they were chosen on.  So a
    random share `holdout` of the pairs takes no part in choosing, and each row reports both;
    `holdout=0` uses all pairs for both, and says so.

    With `file` (JSON), the log is written after every change, and the same call, also with
    other `steps` and `goal`, goes on from there; so it does from what `rw.save` wrote.

    >>> nothing = rw.Hypothesis(parts, {"clean": "~(...)"})
    >>> log = refine(nothing, pairs, "kl_divergence", steps=1, by="gain")
    >>> [(row.step, row.kind) for row in log.rows][:2]
    [(0, 'start'), (1, 'extend')]

    Raises `DataError` for numbers outside of their range or too few pairs to hold some out,
    `FileError` for the log of another session, and what `refinements` raises.
    """
    check_numbers(steps, goal, tolerance, holdout)
    metric = as_metric(metric)
    train, test = halves(pairs, holdout, seed)
    by_name = generators(candidates)
    session = _Session(hypothesis, train, test, metric, tolerance, by, by_name, options,
                       None if file is None else Path(file))
    try:
        session.identity = {
            **identity(hypothesis.parts, pairs, metric), "start": str(important(hypothesis)),
            "run": next(iter(hypothesis.runs)), "default": hypothesis.default,
            "tolerance": tolerance, "holdout": holdout, "seed": seed,
            "candidates": list(by_name), "code of the candidates": _code(by_name), "by": by}
    except DataError:
        if file is not None:
            raise
    if file is None:  # of what has an identity, what `rw.save` writes can be gone on from
        return _refined(session, steps, goal)
    with lock(file) as unlocked:
        if unlocked:
            session.notes[unlocked] = None
        return _refined(session, steps, goal)


def _refined(session: _Session, steps: int, goal: float) -> Refined:
    stopped = session.begin()
    while True:
        while not stopped and (lean := session.leaner()):
            session.take(*lean, step=session.rows[-1].step)
        if session.rows[-1].explained.value >= goal:
            return session.log(GOAL)
        if session.rows[-1].step >= steps:
            return session.log(STEPS)
        if stopped == NOTHING or not (richer := session.richer()):
            return session.log(NOTHING)
        stopped = ""
        session.take(*richer, step=session.rows[-1].step + 1)


@dataclass
class _Session:
    start: Hypothesis
    train: Pairs
    test: Pairs | None
    metric: Metric
    tolerance: float
    rank: str
    generators: Mapping[str, Generator]
    options: Options
    file: Path | None
    identity: Mapping[str, Any] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    notes: dict[str, None] = field(default_factory=dict)

    def begin(self) -> str:
        """Read the rows that there are, or measure the start; why the log came to its end."""
        stopped = ""
        if self.file is not None and self.file.exists():
            self.rows, notes, stopped = read_log(self.file, self.identity)
            self.notes |= dict.fromkeys(notes)
        if not self.rows:
            found = side_by_side([self.start], self.train, self.metric, **self.options)
            before = important(self.start)
            count = count_paths(before, self.start.parts.dag)
            change = Change("start", str(before), before, count, 0, 0)
            self.take(Effect(change, found.explained()[0], found.gains()[0]), 0, step=0)
        return stopped if stopped in (STEPS, GOAL, NOTHING) else ""

    def take(self, effect: Effect, tried: int, step: int) -> None:
        """Go on from a change: measure it on the pairs held out, and write it down."""
        change, held_out = effect.change, None
        if self.test is not None:
            found = side_by_side([self._about(change.paths)], self.test, self.metric,
                                 **self.options)
            held_out = found.explained()[0]
        before = self.rows[-1].explained.value if self.rows else effect.explained.value
        self.rows.append(Row(step, change.kind, change.what, change.paths, change.count,
                             effect.explained, effect.explained.value - before, held_out, tried))
        if self.file is not None:
            _ = self.log()

    def leaner(self) -> tuple[Effect, int] | None:
        """The change that leaves out most paths, of those that lose hardly anything.

        Pieces come first, since there are few.  Losses count from what this step has let in,
        so that many small ones do not add up, and at least half of its gain stays.
        """
        here = self._about(self.rows[-1].important)
        peak = next(row for row in self.rows if row.step == self.rows[-1].step)
        most = min(self.tolerance, peak.gain / 2) if peak.step else self.tolerance
        for kinds in ({"drop": drop}, self.generators):
            found = [change for change in changes(here, kinds) if not change.more]
            able = [row for row in self._measured(found, peak.important)
                    if row.harmless(most)]
            if able:
                best = max(able, key=lambda row: (row.change.fewer, row.gain.value))
                return best, len(found)
        return None

    def richer(self) -> tuple[Effect, int] | None:
        """The best change that lets in paths and helps."""
        here = self._about(self.rows[-1].important)
        found = [c for c in changes(here, self.generators) if c.more]
        best = next((row for row in self._measured(found) if row.helps(self.tolerance)), None)
        return None if best is None else (best, len(found))

    def log(self, stopped: str = "not yet") -> Refined:
        """All rows so far, written to the file if there is one."""
        found = Refined(
            self._about(self.rows[-1].important), tuple(self.rows), str(self.metric),
            len(self.train), 0 if self.test is None else len(self.test), stopped, self.identity,
            tuple(self.notes))
        if self.file is not None:
            _ = write_log(found, self.file)
        return found

    def _about(self, path_set: PathSet) -> Hypothesis:
        return changed(self.start, path_set)

    def _measured(
        self, found: Sequence[Change], against: PathSet | None = None
    ) -> tuple[Effect, ...]:
        if not found:
            return ()
        here = self._about(self.rows[-1].important)
        beside = None if against is None else self._about(against)
        effects = measured(here, found, self.train, self.metric, tolerance=self.tolerance,
                           rank=self.rank, against=beside, **self.options)
        self.notes |= dict.fromkeys(effects.notes)
        return effects.rows


def _code(candidates: Mapping[str, Generator]) -> str:
    """What functions for candidates do."""
    try:
        return digest(list(candidates.values()), "a function for candidates")
    except DataError as error:
        raise DataError(f"{error}: leave out file=") from error


def halves(pairs: Pairs, holdout: float, seed: int = 0) -> tuple[Pairs, Pairs | None]:
    """The pairs to choose on, and a random share of them that is held out (None for a share of 0).

    >>> [len(each) for each in halves(pairs, 0.25)]
    [3, 1]

    Raises `DataError` where one of the two would be empty.
    """
    if holdout == 0:
        return pairs, None
    if seed < 0:
        raise DataError(f"a seed is 0 or more, found {seed}")
    out = round(holdout * len(pairs))
    if not 0 < out < len(pairs):
        raise DataError(f"of {len(pairs)} pairs, a share of {holdout} cannot be held out: give "
                        "more pairs, or holdout=0 to choose and measure on the same")
    order = np.random.default_rng(seed).permutation(len(pairs))
    return pairs.subset(np.sort(order[out:])), pairs.subset(np.sort(order[:out]))


def check_numbers(steps: Any, goal: Any, tolerance: Any, holdout: Any) -> None:
    """Raise `DataError` for a number outside of its range."""
    for name, value, fits, says in (
        ("steps", steps, steps >= 1 and steps == int(steps), "a number of at least 1"),
        ("goal", goal, 0 < goal <= 1, "a proportion explained, 0 < goal <= 1"),
        ("tolerance", tolerance, 0 <= tolerance < 1, "a share of the effect, 0 <= tolerance < 1"),
        ("holdout", holdout, 0 <= holdout < 1, "a share of the pairs, 0 <= holdout < 1"),
    ):
        if not fits:
            raise DataError(f"{name} is {says}; found {value}")
