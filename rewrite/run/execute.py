"""Running an expansion over a data set.

Copies run stacked where the model allows it: each part once on all of them, and the metric once
on the results of many hypotheses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rewrite.expand import Expansion
from rewrite.expand.expansion import tensors_of
from rewrite.ir.graph import told
from rewrite.ir.values import devices
from rewrite.measure import Batch, Metric, Pairs
from rewrite.run.padded import check_positions
from rewrite.run.view import View, trusts

Progress = Callable[[int, int], None]
GROUP = 32 * 2**20  # bytes of results that a metric is given at once
METRIC = 8  # how many times that a metric may hold: KL divergence makes seven tensors of the size


@dataclass(frozen=True)
class Measured:
    """Numbers of each hypothesis (rows) for each example; `scores` if the metric has them."""

    effects: np.ndarray
    scores: np.ndarray | None


def run_over(
    expansion: Expansion, pairs: Pairs, metric: Metric, view: View, batch_size: int,
    progress: Progress | None = None, group: int = GROUP,
) -> Measured:
    """Compare each hypothesis of an expansion with its first; `progress(done, all)` in examples."""
    shape, done = (len(expansion.hypotheses), len(pairs)), 0
    effects, scores = np.full(shape, np.nan), np.full(shape, np.nan)
    for batch in pairs.batches(batch_size):
        index = batch.index.numpy()
        check_positions(expansion, view.layout, batch)
        moved = batch.to(device_of(expansion))
        with torch.no_grad():
            for rows, reference, output, given in _groups(
                    expansion, moved, view, group):
                effects[rows, index] = _rows(
                    metric.effect(reference(), output(), given()), batch)
                score = metric.score(output(), given())
                if score is not None:
                    scores[rows, index] = _rows(score, batch)
        done += len(batch)
        if progress is not None:
            progress(done, len(pairs))
    return Measured(effects, scores if np.isfinite(scores).all() else None)


# Rows, and what makes the outputs of the reference and of the rows, and the examples.
Group = tuple[slice, Callable[[], Any], Callable[[], Any], Callable[[], Batch]]


def _groups(expansion: Expansion, batch: Batch, view: View, most: int) -> Iterator[Group]:
    """Results of as many hypotheses at once as the metric can take."""
    outputs, total, size = expansion.parts.graph.outputs, len(expansion.hypotheses), len(batch)
    runs = {run: batch.inputs[run] for run in expansion.runs}
    given, own = view.of_batch(batch), trusts(view.metric)

    def build(values: Sequence[Tensor]) -> Callable[[], Any]:
        values = view.narrowed(outputs.names, values, batch)
        # A function may write to what it is given: it gets copies, each time.
        return lambda: outputs(values if own else tuple(value.clone() for value in values))

    def shown(count: int) -> Callable[[], Batch]:
        examples = repeated(given, count)
        return lambda: examples if own else examples.copied()

    if expansion.not_stacked:
        with told(expansion.parts.graph, tensors_of(runs)):
            values = expansion.module(*expansion.arguments(runs, batch.positions))
        reference = build(values[0])
        for row, output in enumerate(values):
            yield slice(row, row + 1), reference, build(output), shown(1)
        return
    with told(expansion.parts.graph, tensors_of(runs)):
        values = expansion.together(*expansion.all_arguments(runs, batch.positions))
    reference = tuple(value[:size] for value in values)
    each = sum(value.numel() * value.element_size() for value in values) // total
    step = max(1, most // max(each, 1)) if own else 1  # a function may count rows
    for row in range(0, total, step):
        count = min(step, total - row)
        found = tuple(value[row * size : (row + count) * size] for value in values)
        yield (slice(row, row + count), build(_repeated(reference, count)), build(found),
               shown(count))


def _repeated(values: Sequence[Tensor], count: int) -> tuple[Tensor, ...]:
    if count == 1:
        return tuple(values)
    return tuple(value.repeat(count, *[1] * (value.ndim - 1)) for value in values)


def repeated(batch: Batch, count: int) -> Batch:
    """The same examples, once for each of `count` hypotheses."""
    if count == 1:
        return batch

    def again(values: dict[str, Tensor]) -> dict[str, Tensor]:
        return dict(zip(values, _repeated(list(values.values()), count), strict=True))

    inputs = {run: again(values) for run, values in batch.inputs.items()}
    return replace(batch, inputs=inputs, index=batch.index.repeat(count),
                   labels=again(batch.labels), positions=again(batch.positions))


def device_of(expansion: Expansion) -> torch.device:
    """Where the inputs of a model go."""
    return devices(expansion.parts.graph.module)[0]


def _rows(values: Tensor, batch: Batch) -> np.ndarray:
    return values.detach().double().cpu().numpy().reshape(-1, len(batch))
