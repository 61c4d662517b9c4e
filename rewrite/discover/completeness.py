"""`completeness`: what the paths outside of a hypothesis explain without it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from typing import Any, Unpack

import numpy as np
import pandas as pd

from rewrite.discover.candidates import changed, important
from rewrite.discover.measured import Measured, Options, side_by_side
from rewrite.expand import Hypothesis
from rewrite.measure import Estimate, Measure, Pairs
from rewrite.paths import PathSet, count_paths


@dataclass(frozen=True)
class Completeness:
    """A hypothesis and its complement, each by itself.

    `explained` is what the important paths explain, `complement` what all others do when
    they read the reference and the important ones do not.  `overlap` is by how much the two
    exceed the whole, `explained + complement - 1`: above zero, something is carried twice and
    either will do; below zero, something needs both at once (a shortfall).
    """

    hypothesis: str
    explained: Estimate
    complement: Estimate
    overlap: Estimate
    metric: str
    n: int
    notes: tuple[str, ...] = ()

    @property
    def verdict(self) -> str:
        """In words: what the interval of the overlap says."""
        if self.overlap.low > 0:
            return "carried twice: the other paths explain part of it too"
        if self.overlap.high < 0:
            return "shortfall: part of it needs these paths and the others at once"
        return "neither overlap nor shortfall beyond what the examples can tell"

    @property
    def table(self) -> pd.DataFrame:
        """One row each for the hypothesis, its complement, and their overlap."""
        return pd.DataFrame([{"paths": name, "share": each.value, "low": each.low,
                              "high": each.high} for name, each in self._rows().items()])

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form."""
        shares = {name: each.to_dict() for name, each in self._rows().items()}
        return {"hypothesis": self.hypothesis, "metric": self.metric, "n": self.n,
                "notes": list(self.notes), "verdict": self.verdict, **shares}

    def __str__(self) -> str:
        rows = [f"  {name:<10}  {each}" for name, each in self._rows().items()]
        notes = [f"  note: {note}" for note in self.notes]
        return "\n".join([self.hypothesis, *rows, f"  {self.verdict}",
                          f"  {self.metric}, n = {self.n}", *notes])

    def _repr_html_(self) -> str:
        return f"<pre>{escape(str(self))}</pre>"

    def _rows(self) -> Mapping[str, Estimate]:
        return {"explained": self.explained, "complement": self.complement,
                "overlap": self.overlap}


def completeness(
    hypothesis: Hypothesis, pairs: Pairs, metric: Measure, **options: Unpack[Options]
) -> Completeness:
    """How much the important paths explain, and how much all others explain without them.

    The complement swaps the runs: the important paths read the default, all others the
    reference.  Intervals are paired, over the same examples.  `options` are those of
    `evaluate`: `batch_size`, `chunk`, `budget`, `progress`, `say`, `compile`.

    >>> found = completeness(rw.Hypothesis(parts, {"clean": "..."}), pairs, "kl_divergence")
    >>> found.explained.value, found.complement.value, found.overlap.value
    (1.0, 0.0, 0.0)

    Raises `HypothesisError` for a hypothesis of more than two runs, or whose paths do not read
    the reference; `DataError` without a metric, or where the runs do not differ in it.
    """
    others = ~important(hypothesis)
    if not count_paths(others, hypothesis.parts.dag):
        others = PathSet.none()
    found = side_by_side([hypothesis, changed(hypothesis, others)], pairs, metric, **options)
    explained, complement = found.explained()
    return Completeness(hypothesis.describe(), explained, complement, _overlap(found),
                        found.metric, found.n, found.notes)


def _overlap(found: Measured) -> Estimate:
    """`explained + complement - 1` is the share of the total that neither leaves unexplained."""
    rest = found.null_effects - found.effects.sum(0)
    return found.shares(np.stack([rest]))[0]
