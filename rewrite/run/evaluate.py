"""`evaluate`: how much of a behaviour the important paths of a hypothesis explain."""

from __future__ import annotations

from collections.abc import Sequence
from typing import overload

import numpy as np
from torch import Tensor

from rewrite.errors import DataError, near
from rewrite.expand import Hypothesis, expand
from rewrite.measure import Metric, Pairs, Result
from rewrite.measure import metric as metric_by_name
from rewrite.paths import PathSet
from rewrite.run.execute import Progress, batches


@overload
def evaluate(
    hypothesis: Hypothesis, pairs: Pairs, metric: Metric | str, *,
    null: Hypothesis | None = None, batch_size: int = 32, progress: Progress | None = None,
) -> Result: ...
@overload
def evaluate(
    hypothesis: Sequence[Hypothesis], pairs: Pairs, metric: Metric | str, *,
    null: Hypothesis | None = None, batch_size: int = 32, progress: Progress | None = None,
) -> list[Result]: ...
def evaluate(
    hypothesis: Hypothesis | Sequence[Hypothesis],
    pairs: Pairs,
    metric: Metric | str,
    *,
    null: Hypothesis | None = None,
    batch_size: int = 32,
    progress: Progress | None = None,
) -> Result | list[Result]:
    """Run hypotheses on pairs of prompts and compare each with the model on the reference run.

    `pairs` gives every run of the hypotheses; effects are `metric` between the model on the
    run `pairs.reference` and the expanded model, per example.  The null hypothesis is that
    nothing is important, so that every path reads the default run.  Several hypotheses run
    as one expansion and share their common parts.

    Returns results with AUE, ATE and proportion explained (Goldowsky-Dill et al. 2023,
    section 2), each with a paired bootstrap interval.  Raises `DataError` if the pairs lack
    a run of the hypotheses.

    >>> hypothesis = rw.Hypothesis(parts, {"clean": "..."}, name="everything")
    >>> rw.evaluate(hypothesis, pairs, "kl_divergence").explained.value
    1.0
    """
    single = isinstance(hypothesis, Hypothesis)
    hypotheses = [hypothesis] if single else list(hypothesis)
    if not hypotheses:
        raise DataError("there is no hypothesis to evaluate")
    measure = metric_by_name(metric) if isinstance(metric, str) else metric
    first = hypotheses[0]
    null = null or nothing(first, pairs.reference)
    everything = reference(first, pairs.reference)
    every = [everything, null, *hypotheses]
    check_runs(every, pairs)
    last = measure.positions == "last"
    columns = measure.columns(pairs) if last else None
    expansion = expand(every, last=last, columns=columns)
    effects = np.full((len(every), len(pairs)), np.nan)
    scores = np.full((len(every), len(pairs)), np.nan)
    for batch, outputs in batches(expansion, pairs, batch_size, progress):
        index = batch.index.cpu().numpy()
        batch = batch if columns is None else measure.narrowed(batch, columns)
        for row, output in enumerate(outputs):
            effects[row, index] = _plain(measure.effect(outputs[0], output, batch))
            score = measure.score(output, batch)
            if score is not None:
                scores[row, index] = _plain(score)
    scored = bool(np.isfinite(scores).all())
    results = [
        Result(
            hypothesis=h.describe(), metric=str(measure), effects=effects[row],
            null_effects=effects[1], null=null.name or null.describe(),
            scores=scores[row] if scored else None,
            reference_scores=scores[0] if scored else None, texts=pairs.texts or {},
        )
        for row, h in enumerate(hypotheses, start=2)
    ]
    return results[0] if single else results


def reference(like: Hypothesis, run: str) -> Hypothesis:
    """All paths read the reference run: the model itself."""
    if run == like.default:
        other = next(iter(like.runs))
        return Hypothesis(like.parts, {other: PathSet.none()}, run, "everything")
    return Hypothesis(like.parts, {run: PathSet.all()}, like.default, "everything")


def nothing(like: Hypothesis, run: str) -> Hypothesis:
    """No path reads the reference run: all read the default, or the other run if that is it."""
    if run != like.default:
        return Hypothesis(like.parts, {run: PathSet.none()}, like.default, "nothing important")
    other = next(iter(like.runs))
    return Hypothesis(like.parts, {other: PathSet.all()}, like.default, "nothing important")


def check_runs(hypotheses: Sequence[Hypothesis], pairs: Pairs) -> None:
    """Raise `DataError` unless `pairs` has every run of the hypotheses."""
    for hypothesis in hypotheses:
        for run in hypothesis.run_names:
            if run not in pairs.run_names:
                raise DataError(f"the hypothesis reads a run {run!r} and the pairs have "
                                f"{', '.join(pairs.run_names)}; {near(run, pairs.run_names)}")


def _plain(values: Tensor) -> np.ndarray:
    return values.detach().double().cpu().numpy()
