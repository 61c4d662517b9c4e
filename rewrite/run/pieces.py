"""Many hypotheses over a data set, in pieces that stay within a budget of memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch

from rewrite.errors import DataError, HypothesisError, RewriteError
from rewrite.expand import Expansion, Hypothesis, expand
from rewrite.ir.values import devices
from rewrite.measure import Metric, Pairs
from rewrite.run.budget import Budget, as_bytes, in_words, predicted
from rewrite.run.compiled import Compile, check_mode, compiled
from rewrite.run.execute import GROUP, METRIC, Measured, Progress, run_over
from rewrite.run.view import View
from rewrite.world import is_out_of_memory

Say = Callable[[str], None]
FEW = 8  # so few hypotheses are run without asking first, unless a budget is given


@dataclass
class Pieces:
    """How hypotheses are run: `base` (the reference, then others) is part of every piece.

    `chunk` is the most hypotheses in a piece.  What had to be made smaller is in `notes`, and
    told to `say` when it happens.
    """

    base: Sequence[Hypothesis]
    pairs: Pairs
    metric: Metric
    batch_size: int = 32
    chunk: int = 300
    budget: Budget = None
    say: Say | None = None
    notes: list[str] = field(default_factory=list)
    compile: Compile = False

    def __post_init__(self) -> None:
        check_mode(self.compile)
        if not self.base:
            raise HypothesisError("pieces are run with the reference in front, and there is no "
                                  "hypothesis: Pieces([reference, ...], pairs, metric)")
        if self.chunk < 1:
            raise DataError(f"chunk must be at least 1, found {self.chunk}")
        self._group: int = GROUP

    @cached_property
    def view(self) -> View:
        """What of the outputs is computed for the metric."""
        return View.of(self.base[0].parts, self.pairs, self.metric)

    def run(
        self, count: int, make: Callable[[int], Hypothesis], progress: Progress | None = None,
        start: int = 0,
    ) -> Iterator[tuple[range, Measured]]:
        """The numbers of hypotheses `start` to `count`, piece by piece, those of `base` in front.

        Neighbours share most where the same part reads what they patch.  `progress` is told
        how many pairs of a hypothesis and an example are done, of how many.
        Raises `DataError` if one hypothesis on one example is beyond the budget.
        """
        at, size, n = start, self.chunk, len(self.pairs)
        if self.budget is not None and start < count:
            self._check_smallest(make(start))
        known: dict[int, Hypothesis] = {}
        while at < count:
            piece = range(at, min(at + size, count))
            known = {i: known[i] if i in known else make(i) for i in piece}
            expansion = expand([*self.base, *known.values()], last=self.view.last,
                               columns=self.view.columns)
            need, most = self._memory(expansion)
            if need > most:
                size = self._cut(len(piece), need, most)
                continue
            try:
                found = run_over(compiled(expansion, self.compile), self.pairs, self.metric,
                                 self.view, self.batch_size,
                                 _within(progress, piece, n, count), self._group)
            except (RuntimeError, MemoryError, RewriteError) as error:
                if not is_out_of_memory(error):
                    raise
                if len(piece) == self.batch_size == 1:
                    raise DataError("one hypothesis on one example ran out of memory: give shorter "
                                    "examples, or a device with more") from error
                size = self.chunk = self._halve(len(piece))
                continue
            yield piece, found
            at = piece.stop
            if need:
                size = max(1, min(self.chunk, int(0.9 * len(piece) * most / need)))

    def _check_smallest(self, hypothesis: Hypothesis) -> None:
        """Raise `DataError` at once if one hypothesis on one example is beyond the budget.

        To predict what a piece of many needs takes as long as to run it, on large models.
        """
        expansion = expand([*self.base, hypothesis], last=self.view.last,
                           columns=self.view.columns)
        most = self._most()
        if (need := self.predict(expansion, 1)) > most - most // 8:
            raise self._beyond(need, most - most // 8)

    def _beyond(self, need: int, most: int) -> DataError:
        return DataError(f"one hypothesis on one example needs {in_words(need)}, and the budget "
                         f"is {in_words(most)}: give at least that much, or shorter examples")

    def _most(self) -> int:
        """The budget in bytes."""
        places = devices(self.base[0].parts.graph.module)
        return min(as_bytes(self.budget, place) for place in places)

    def predict(self, expansion: Expansion, batch_size: int | None = None) -> int:
        """The most bytes that a piece holds at once, at its largest batch."""
        largest = max(self.pairs.batches(batch_size or self.batch_size), key=lambda batch: sum(
            value.numel() for value in batch.inputs[batch.reference].values()))
        runs = {run: largest.inputs[run] for run in expansion.runs}
        return predicted(expansion, expansion.all_arguments(runs, largest.positions))

    def _memory(self, expansion: Expansion) -> tuple[int, int]:
        """What a piece needs and may have; zeros if nobody asked and it is small."""
        if self.budget is None and len(expansion.hypotheses) <= FEW:
            return 0, 0
        most = self._most()
        self._group = min(GROUP, most // (8 * METRIC))  # an eighth is left to the metric
        return self.predict(expansion), most - most // 8

    def _cut(self, count: int, need: int, most: int) -> int:
        """A number of hypotheses, or of examples, that may fit."""
        if count > 1:
            return max(1, min(count - 1, int(0.95 * count * most / need)))
        if self.batch_size == 1:
            raise self._beyond(need, most)
        self._halve_batch(f"one hypothesis on {self.batch_size} examples needs {in_words(need)}, "
                          f"more than the budget of {in_words(most)}")
        return 1

    def _halve(self, count: int) -> int:
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if count == 1:
            self._halve_batch("one hypothesis at a time ran out of memory")
            return 1
        self._note(f"{count} hypotheses at once ran out of memory: went on with {count // 2}")
        return count // 2

    def _halve_batch(self, why: str) -> None:
        self.batch_size //= 2
        self._note(f"{why}: went on with {self.batch_size} examples")

    def _note(self, text: str) -> None:
        self.notes.append(text)
        if self.say is not None:
            self.say(text)


def _within(progress: Progress | None, piece: range, n: int, count: int) -> Progress | None:
    if progress is None:
        return None
    return lambda done, _: progress(piece.start * n + len(piece) * done, count * n)
