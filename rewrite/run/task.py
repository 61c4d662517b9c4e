"""The rows of a sweep as a task, which backends run: all of it here, or pieces elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from rewrite.expand import Hypothesis
from rewrite.measure import Metric, Pairs
from rewrite.parts import Components
from rewrite.paths import PathSet
from rewrite.run.budget import Budget
from rewrite.run.compiled import Compile
from rewrite.run.evaluate import reference
from rewrite.run.execute import Progress
from rewrite.run.pieces import Pieces, Say


@dataclass(frozen=True)
class Found:
    """What was measured for some rows: `effects` and `changes` are `[row, example]`."""

    numbers: tuple[int, ...]
    effects: np.ndarray
    changes: np.ndarray  # of the score; nan where the metric has none


@dataclass(frozen=True)
class Task:
    """Sets of paths that are patched one at a time, and what the result is measured with."""

    parts: Components
    paths: Sequence[PathSet]
    patch: str
    pairs: Pairs
    metric: Metric
    batch_size: int = 32
    chunk: int = 300
    budget: Budget = None
    compile: Compile = False

    def hypothesis(self, number: int) -> Hypothesis:
        """One row: its paths read the run `patch`, all others the reference."""
        return Hypothesis(self.parts, {self.patch: self.paths[number]}, self.pairs.reference)

    def pieces(self, say: Say | None = None) -> Pieces:
        """What runs rows within the budget."""
        like = Hypothesis(self.parts, {self.patch: PathSet.none()}, self.pairs.reference)
        return Pieces([reference(like, self.pairs.reference)], self.pairs, self.metric,
                      self.batch_size, self.chunk, self.budget, say, compile=self.compile)

    def run(
        self, numbers: Sequence[int], pieces: Pieces, progress: Progress | None = None
    ) -> Iterator[Found]:
        """Measure the rows of these numbers, those first that come first."""
        make: Callable[[int], Hypothesis] = lambda i: self.hypothesis(numbers[i])  # noqa: E731
        for piece, found in pieces.run(len(numbers), make, progress):
            effects, scores = found.effects[1:], found.scores
            changes = np.full_like(effects, np.nan) if scores is None else scores[1:] - scores[0]
            yield Found(tuple(numbers[i] for i in piece), effects, changes)


class Backend(Protocol):
    """What runs the rows of a sweep.

    `run` yields each of the rows `numbers` once, in any order; `progress` is told how many
    pairs of a row and an example are done, of how many, and `say` what had to be done otherwise.
    """

    def run(
        self, task: Task, numbers: Sequence[int], progress: Progress | None, say: Say
    ) -> Iterator[Found]:
        """Measure rows."""
        ...


class Local:
    """The backend of one process: this one."""

    def run(
        self, task: Task, numbers: Sequence[int], progress: Progress | None, say: Say
    ) -> Iterator[Found]:
        """Measure rows in their order."""
        return task.run(numbers, task.pieces(say), progress)
