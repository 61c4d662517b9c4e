"""Changes of a hypothesis: counted exactly, measured side by side, ranked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isnan, log10
from typing import Unpack

import pandas as pd

from rewrite.discover.candidates import Generator, changed, drop, important
from rewrite.discover.measured import Options, side_by_side
from rewrite.errors import PathError, UnknownName, near
from rewrite.expand import Hypothesis
from rewrite.measure import Estimate, Measure, Pairs
from rewrite.paths import PathSet, count_paths

RANKS = ("gain_per_path", "gain")


@dataclass(frozen=True)
class Change:
    """One change: its generator, in words, and the important paths afterwards.

    `more` paths become important and `fewer` are so no longer, at some positions or all:
    exact counts.
    """

    kind: str
    what: str
    paths: PathSet
    count: int
    more: int
    fewer: int

    @property
    def size(self) -> float:
        """Decimal logarithm of how many paths changed sides: their number may be beyond floats."""
        return log10(max(self.more + self.fewer, 1))


@dataclass(frozen=True)
class Effect:
    """A change, and by how much more of the behaviour is explained with it (or less)."""

    change: Change
    explained: Estimate
    gain: Estimate

    @property
    def per_path(self) -> float:
        """Gain for each path that changed sides; 0 where that is below 1e-308."""
        return self.gain.value * 10**-self.change.size

    def helps(self, tolerance: float) -> bool:
        """Whether it gains more than `tolerance`, and surely something."""
        return self.gain.value > tolerance and not self.gain.low <= 0

    def harmless(self, tolerance: float) -> bool:
        """Whether it loses at most `tolerance`, and not surely something unless all of it is."""
        loss, worst, least = -self.gain.value, -self.gain.low, -self.gain.high
        return loss <= tolerance and (isnan(worst) or worst <= tolerance or least <= 0)

    def row(self) -> dict[str, object]:
        """For a table."""
        return {"kind": self.change.kind, "change": self.change.what,
                "gain": self.gain.value, "low": self.gain.low, "high": self.gain.high,
                "explained": self.explained.value, "more_paths": self.change.more,
                "fewer_paths": self.change.fewer, "gain_per_path": self.per_path,
                "paths": str(self.change.paths)}


def changes(hypothesis: Hypothesis, by: Mapping[str, Generator]) -> list[Change]:
    """All changes that generators propose, each once, without those that change nothing.

    Of `drop` all are kept: what another piece repeats can go, though no path goes with it.

    >>> from rewrite.discover.candidates import swap
    >>> for each in changes(rw.Hypothesis(parts, {"clean": "a1.h3.v -> logits"}), {"swap": swap}):
    ...     print(each.paths, each.more, each.fewer)
    a1.h3.q -> logits 26 26
    a1.h3.k -> logits 26 26
    """
    dag, before = hypothesis.parts.dag, important(hypothesis)
    seen, found = {before}, list[Change]()
    for kind, generator in by.items():
        for what, after in generator(hypothesis):
            if not isinstance(after, PathSet):
                raise PathError(f"candidates are pairs of a text and a path set, and {kind!r} "
                                f"gave {after!r}: use rw.paths(...)")
            if after in seen:
                continue
            seen.add(after)
            more, fewer = count_paths(after - before, dag), count_paths(before - after, dag)
            if more or fewer or generator is drop:  # a set may be written with less
                count = count_paths(after, dag)
                paths = after if count else PathSet.none()
                found.append(Change(kind, what, paths, count, more, fewer))
    return found


@dataclass(frozen=True)
class Effects:
    """What changes do: those that help in front, ranked; `before` is what is explained so far."""

    before: Estimate
    rows: tuple[Effect, ...]
    metric: str
    n: int
    tolerance: float
    notes: tuple[str, ...] = ()


def measured(
    hypothesis: Hypothesis, found: Sequence[Change], pairs: Pairs, metric: Measure,
    *, tolerance: float, rank: str = "gain_per_path", against: Hypothesis | None = None,
    **options: Unpack[Options],
) -> Effects:
    """Measure changes, all of them beside `against` (the hypothesis), to which gains refer."""
    if rank not in RANKS:
        raise UnknownName(f"changes are ranked by {' or '.join(RANKS)}, found {rank!r}; "
                          f"{near(rank, RANKS)}")
    made = [changed(hypothesis, change.paths) for change in found]
    result = side_by_side([against or hypothesis, *made], pairs, metric, **options)
    explained, gains = result.explained(), result.gains()
    rows = [Effect(*each) for each in zip(found, explained[1:], gains[1:], strict=True)]

    def place(effect: Effect) -> tuple[bool, float]:
        gain = effect.gain.value
        if not effect.helps(tolerance):
            return True, -gain
        return False, (effect.change.size if rank != "gain" else 0) - log10(gain)

    return Effects(explained[0], tuple(sorted(rows, key=place)), result.metric, result.n,
                   tolerance, result.notes)


def short(count: int) -> str:
    """A number of paths for reading.

    >>> short(78), short(6 * 10**53)
    ('78', '6.0e53')
    """
    if count < 10**6:
        return str(count)
    digits = len(str(count)) - 1
    return f"{count / 10**digits:.1f}e{digits}"


def table(rows: Sequence[Mapping[str, object]], columns: Sequence[str]) -> pd.DataFrame:
    """Rows as a table that has its columns also where there are no rows."""
    return pd.DataFrame(list(rows), columns=list(columns))
