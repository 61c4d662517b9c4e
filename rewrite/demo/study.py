"""The main job from end to end: which paths of a model carry a behaviour?

Nothing about which heads matter is written here: heads are chosen by a sweep over the direct
paths of all heads, and hypotheses are built from those.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from rewrite.errors import DataError
from rewrite.expand import Expansion, Hypothesis, expand
from rewrite.ir.graph import Graph
from rewrite.measure import Metric, Pairs, Result
from rewrite.parts import Components
from rewrite.paths import PathSet
from rewrite.run import Sweep, evaluate, sweep
from rewrite.run.execute import Progress

Step = Callable[[str], Progress]  # names a step, returns what to call with (done, all)


@dataclass
class Study:
    """What a study found, in the order in which it was found."""

    graph: Graph
    parts: Components
    pairs: Pairs
    written: int
    metric: Metric
    direct: Sweep
    heads: list[str]
    feeders: dict[str, tuple[Sweep, list[str]]]
    hypotheses: list[Hypothesis]
    results: list[Result]
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def best(self) -> int:
        """Index of the small hypothesis that explains most: chosen heads only, not all heads."""
        shares = [r.explained.value for r in self.results[1:-2]]
        return 1 + int(np.argmax(shares))

    @property
    def expansion(self) -> Expansion:
        """The best small hypothesis, expanded."""
        return expand(self.hypotheses[self.best])


def study(
    graph: Graph,
    pairs: Pairs,
    metric: Metric,
    *,
    count: int = 6,
    sweep_examples: int = 24,
    batch_size: int = 32,
    step: Step = lambda name: lambda done, total: None,
) -> Study:
    """Find heads by direct path, then test a ladder of hypotheses built from them.

    `count` heads are chosen at each sweep, which uses `sweep_examples` random examples; the
    ladder is tested on all that the model gets right.
    """
    seconds: dict[str, float] = {}
    with _timed(seconds, "component graph"):
        parts = graph.components()
    with _timed(seconds, "keep what the model gets right"):
        kept = keep_right(parts, pairs, metric, batch_size, step("what does the model get right?"))
    some = sample(kept, sweep_examples)
    options = {"pairs": some, "metric": metric, "batch_size": batch_size}
    with _timed(seconds, "sweep of direct paths"):
        direct = sweep(parts, "a*.h*", "logits", **options,
                       progress=step("direct path of every head to the logits"))
    heads = direct.top(count, by="change")
    feeders = {}
    for port in ("q", "v"):
        receivers = " | ".join(f"{head}.{port} -> logits" for head in heads)
        with _timed(seconds, f"sweep into {port}"):
            found = sweep(parts, "a*.h*", receivers, **options,
                          progress=step(f"every head into the {port} of the chosen heads"))
        senders = [name for name in found.top(count + len(heads), by="change")
                   if name not in heads]
        feeders[port] = (found, senders[:count])
    hypotheses = ladder(parts, pairs, heads, {p: s for p, (_, s) in feeders.items()})
    with _timed(seconds, "ladder of hypotheses"):
        results = evaluate(hypotheses, kept, metric, batch_size=batch_size,
                           progress=step("ladder of hypotheses"))
    return Study(graph, parts, kept, len(pairs), metric, direct, heads, feeders, hypotheses,
                 results, seconds)


def ladder(
    parts: Components, pairs: Pairs, heads: list[str], feeders: dict[str, list[str]]
) -> list[Hypothesis]:
    """From nothing to everything: what is important reads the reference run."""
    clean = pairs.reference
    corrupt = next(run for run in pairs.run_names if run != clean)
    top, into_q, into_v = (_any(names) for names in (heads, feeders["q"], feeders["v"]))
    k = len(heads)

    def readings(port: str) -> str:
        return _any([f"{head}.{port}" for head in heads])

    rungs: list[tuple[str, PathSet | str]] = [
        ("nothing", PathSet.none()),
        (f"top {k} heads, direct path, values only", f"{readings('v')} -> logits"),
        (f"top {k} heads, direct path, queries only", f"{readings('q')} -> logits"),
        (f"top {k} heads, direct path", f"{top} -> logits"),
        (f"top {k} heads, any path", top),
        ("  and heads that feed their queries", f"{top} | {into_q}"),
        ("  and heads that feed their values", f"{top} | {into_q} | {into_v}"),
        ("all heads, direct path", "a*.h* -> logits"),
        ("everything", PathSet.all()),
    ]
    return [Hypothesis(parts, {clean: p}, corrupt, name) for name, p in rungs]


def keep_right(
    parts: Components, pairs: Pairs, metric: Metric, batch_size: int, progress: Progress
) -> Pairs:
    """The pairs for which the model prefers the right answer on both prompts."""
    clean = pairs.reference
    corrupt = next(run for run in pairs.run_names if run != clean)
    empty = Hypothesis(parts, {clean: PathSet.none()}, corrupt, "nothing")
    result = evaluate(empty, pairs, metric, batch_size=batch_size, progress=progress)
    if result.scores is None or result.reference_scores is None:
        raise DataError(f"{metric} has no score, so it cannot tell what is right")
    right = (result.reference_scores > 0) & (result.scores < 0)
    if not right.any():
        raise DataError(f"the model gets none of the {len(pairs)} pairs right on both prompts")
    return pairs.subset(right)


def sample(pairs: Pairs, count: int, lengths: int = 3) -> Pairs:
    """`count` random pairs of at most `lengths` different lengths, the same each time.

    Pairs of equal length run together, so few lengths make few batches.
    """
    draw = random.Random(0)
    groups = [batch.index.tolist() for batch in pairs.batches(len(pairs))]
    chosen = draw.sample(groups, min(lengths, len(groups)))
    per_length = -(-count // len(chosen))
    return pairs.subset(sorted(
        index for group in chosen for index in draw.sample(group, min(per_length, len(group)))))


def _any(names: list[str]) -> str:
    return f"({' | '.join(names)})"


@contextmanager
def _timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    seconds[name] = time.perf_counter() - start
