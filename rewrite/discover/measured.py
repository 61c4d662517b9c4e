"""Hypotheses side by side on the same examples, and what their differences mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypedDict, Unpack

import numpy as np

from rewrite.discover.candidates import important
from rewrite.errors import DataError, HypothesisError
from rewrite.expand import Hypothesis
from rewrite.measure import Estimate, Measure, Pairs
from rewrite.measure.stats import ratios
from rewrite.run import evaluate
from rewrite.run.compiled import Compile
from rewrite.run.execute import Progress
from rewrite.run.pieces import Say


class Options(TypedDict, total=False):
    """How hypotheses are run: the options of `evaluate`."""

    batch_size: int
    chunk: int
    budget: int | str | None
    progress: Progress | None
    say: Say | None
    compile: Compile


@dataclass(frozen=True, eq=False)
class Measured:
    """Effects of several hypotheses, `[hypothesis, example]`, and of the null, `[example]`.

    All estimates resample the same examples, so that differences are paired.
    """

    effects: np.ndarray
    null_effects: np.ndarray
    metric: str
    notes: tuple[str, ...]

    @property
    def n(self) -> int:
        """Number of examples."""
        return len(self.null_effects)

    def explained(self) -> list[Estimate]:
        """What each hypothesis explains."""
        return [left.complement for left in self.shares(self.effects)]

    def gains(self) -> list[Estimate]:
        """What each hypothesis explains beyond the first."""
        return self.shares(self.effects[0] - self.effects)

    def shares(self, rows: np.ndarray) -> list[Estimate]:
        """Mean of each row, `[row, example]`, as a share of the total effect.

        Digits beyond the twelfth are rounding errors, and are not kept.
        """
        return [replace(each, **{name: round(getattr(each, name), 12) + 0.0
                                 for name in ("value", "low", "high")})
                for each in ratios(rows, self.null_effects)]


def side_by_side(
    hypotheses: Sequence[Hypothesis], pairs: Pairs, metric: Measure,
    **options: Unpack[Options],
) -> Measured:
    """Run hypotheses about the reference run of the pairs, all in as few expansions as fit.

    Raises `DataError` where no metric is given or the runs do not differ in it, and
    `HypothesisError` where the important paths read another run than the reference.
    """
    for hypothesis in hypotheses:
        _ = important(hypothesis)
        run = next(iter(hypothesis.runs))
        if run != pairs.reference:
            raise HypothesisError(
                f"the hypothesis says which paths read {run!r}, and the pairs ask what makes the "
                f"output of {pairs.reference!r}: say which paths read that, or set "
                f"Pairs.reference to {run!r}")
    results = evaluate(list(hypotheses), pairs, metric, **options)
    null = np.asarray(results[0].null_effects)
    if null.mean() == 0:
        raise DataError(f"the runs {', '.join(hypotheses[0].run_names)} do not differ in "
                        f"{results[0].metric}: there is nothing to explain")
    return Measured(np.stack([result.effects for result in results]), null, results[0].metric,
                    tuple(results[0].notes))
