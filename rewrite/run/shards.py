"""How the rows of a sweep are cut for many workers, and put together again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from rewrite.measure import Pairs
from rewrite.run.task import Found

PER_WORKER = 2  # so many jobs for each worker at least, so that none waits long for the last


@dataclass(frozen=True)
class Job:
    """Some rows on some examples."""

    numbers: tuple[int, ...]
    shard: int
    failures: int = 0

    def again(self) -> list[Job]:
        """What to do after it failed: halves, so that a row that cannot be done is found."""
        half, failures = len(self.numbers) // 2, self.failures + 1
        if not half:
            return [replace(self, failures=failures)]
        return [Job(self.numbers[:half], self.shard), Job(self.numbers[half:], self.shard)]


def shards_of(pairs: Pairs, batch_size: int, count: int) -> list[list[int]]:
    """Numbers of examples in at most `count` shards of whole batches, of about equal size.

    >>> shards_of(pairs, 1, 3)
    [[0, 1], [2], [3]]
    """
    batches = [batch.index.tolist() for batch in pairs.batches(batch_size)]
    cut = np.array_split(np.arange(len(batches)), min(count, len(batches)))
    return [[i for at in some for i in batches[at]] for some in cut]


def plan(
    numbers: Sequence[int], pairs: Pairs, batch_size: int, chunk: int, workers: int
) -> tuple[list[Job], list[list[int]]]:
    """Jobs, and the examples of each shard.

    Rows that run together share forward passes, so examples are cut before rows are.
    """
    wanted = PER_WORKER * workers
    chunks = -(-len(numbers) // chunk)
    shards = shards_of(pairs, batch_size, -(-wanted // chunks))
    size = max(1, min(chunk, len(numbers) * len(shards) // wanted))
    jobs = [Job(tuple(numbers[at : at + size]), shard)
            for at in range(0, len(numbers), size) for shard in range(len(shards))]
    return jobs, shards


@dataclass
class Together:
    """Rows whose examples come shard by shard."""

    shards: Sequence[Sequence[int]]
    waiting: dict[int, dict[int, tuple[np.ndarray, np.ndarray]]] = field(default_factory=dict)

    def add(self, shard: int, found: Found) -> Found | None:
        """Keep what was found; rows that are whole now, if there are any."""
        whole = []
        for row, number in enumerate(found.numbers):
            known = self.waiting.setdefault(number, {})
            known[shard] = found.effects[row], found.changes[row]
            if len(known) == len(self.shards):
                whole.append(number)
        if not whole:
            return None
        order = np.argsort(np.concatenate([np.asarray(shard) for shard in self.shards]))
        made = [[np.concatenate([self.waiting[number][at][part] for at in range(len(self.shards))])
                 [order] for number in whole] for part in (0, 1)]
        for number in whole:
            del self.waiting[number]
        return Found(tuple(whole), *map(np.stack, made))
