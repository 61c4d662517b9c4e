"""Running an expansion over a data set.

An expansion lists all copies of a node together, in the order of the model.  They run stacked,
each part once on all of its copies, where the model allows it, and one after another elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch

from rewrite.expand import Expansion
from rewrite.measure import Batch, Pairs

Progress = Callable[[int, int], None]


def batches(
    expansion: Expansion, pairs: Pairs, batch_size: int, progress: Progress | None = None
) -> Iterator[tuple[Batch, list[Any]]]:
    """Each batch of `pairs` with one output per hypothesis; `progress(done, all)` after each."""
    done, device = 0, _device(expansion)
    for batch in pairs.batches(batch_size):
        moved = batch.to(device)
        runs = {run: moved.inputs[run] for run in expansion.runs}
        with torch.no_grad():
            outputs = expansion.run(**runs)
        yield moved, [outputs] if expansion.single else outputs
        done += len(batch)
        if progress is not None:
            progress(done, len(pairs))


def _device(expansion: Expansion) -> torch.device:
    parameters = expansion.parts.graph.module.parameters()
    return next((p.device for p in parameters), torch.device("cpu"))
