"""Every head patched at one token: ours beside hooks, with tails and without.

    python -m benchmarks.positions [--layers 6] [--batch 4] [--length 15] [--page]

What a head writes at one token comes from the other run; the metric is the difference of two
logits at the last position.  Copies equal the base run before that token, and are computed from
there on; beside it stands the same module when it is not told where copies begin to differ.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import torch
from rich.console import Console
from torch import Tensor

from benchmarks.compare import PAGE, agree, make
from benchmarks.edges import placed
from benchmarks.peers.given import Given, Head
from benchmarks.sides import Hooks, Ours, hooked
from benchmarks.tables import Table
from rewrite.symbolic.cost import measured, where

TITLE = "Every head at one token"
COLUMNS = ("token", "heads", "copies", "s", "s, all rows", "s, hook loop", "all rows / ours",
           "hook loop / ours", "FLOPs, all rows / ours", "peak MB", "peak MB, all rows",
           "largest difference")


@dataclass
class AtToken(Hooks):
    """One forward pass for each head, in which a hook writes its features at one token."""

    token: int = -1

    def heads(self, which: list[Head]) -> Tensor:
        """The metric with each of the heads patched."""
        found = []
        for layer, head in which:
            columns, patch = self._columns(head), self.patch[layer]

            def written(_: object, args: tuple[Tensor], columns: slice = columns,
                        patch: Tensor = patch) -> tuple[Tensor]:
                features = args[0].clone()
                features[:, self.token, columns] = patch[:, self.token, columns]
                return (features,)

            with hooked(self.given.model.transformer.h[layer].attn.c_proj, written):
                found.append(self.metric(layer))
        return torch.stack(found)


def row(given: Given, ours: Ours, token: int, checked: int, repetitions: int) -> tuple[object, ...]:
    """One token: medians of runs that take turns; the loop on a few heads, counted up to all."""
    heads = given.heads
    exp = ours.expansion(*(f"a{layer}.h{head}@T" for layer, head in heads))
    positions = {"T": [token] * len(given.base)}
    every = exp.arguments(ours.runs, positions)
    starts: list[int] = exp.all_arguments(ours.runs, positions)[len(every):]
    loop = AtToken(given, token=token)
    loop.keep()
    some = heads[::max(1, len(heads) // checked)][:checked]
    found = _metrics(exp.together(*every, *starts)[0], len(heads))
    error = agree("hook loop", f"heads at {token}", loop.heads(some),
                  found[[heads.index(head) for head in some]])
    agree("all rows", f"heads at {token}", _metrics(exp.together(*every)[0], len(heads)), found)
    sides: dict[str, Callable[[], object]] = {
        "tails": lambda: exp.together(*every, *starts), "rows": lambda: exp.together(*every),
        "loop": lambda: loop.heads(some)}
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repetitions):
        for name, side in sides.items():
            start = time.perf_counter()
            side()
            times[name].append(time.perf_counter() - start)
    fast, slow, hooks = (median(taken) for taken in times.values())
    hooks *= len(heads) / len(some)
    inputs = [replace(spec, shape=tuple(value.shape))
              for spec, value in zip(exp.inputs, every, strict=True)]
    costs = [measured(exp.together, [*inputs, *numbers], where, {}) for numbers in (starts, ())]
    flops, peaks = ([int(value) for value in each] for each in (
        (cost.flops for cost in costs), (cost.peak for cost in costs)))
    return (token, len(heads), sum(exp.copies.values()), fast, slow, hooks, slow / fast,
            hooks / fast, flops[1] / flops[0], peaks[0] / 1e6, peaks[1] / 1e6, error)


def _metrics(values: Tensor, heads: int) -> Tensor:
    first, second = values[:, 0].unflatten(0, (heads, -1)).unbind(-1)
    return first - second


def table(given: Given, tokens: list[int], checked: int, repetitions: int) -> Table:
    """A row for each token."""
    ours = Ours(given)
    made = Table(TITLE, COLUMNS, note=(
        f"{given.model.config.n_layer} layers, width {given.model.config.n_embd}, batch "
        f"{len(given.base)}, length {given.base.shape[1]}, {torch.get_num_threads()} threads; "
        f"medians of {repetitions} runs in turn. Building the expansion is not in the seconds. "
        f"The loop was run on {checked} heads, and its seconds are counted up to all."))
    with torch.no_grad():
        for token in tokens:
            made.add(*row(given, ours, token, checked, repetitions))
    return made


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in (("layers", 6), ("batch", 4), ("length", 15), ("threads", 2),
                          ("checked", 12), ("repetitions", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--page", type=Path, nargs="?", const=PAGE, help=f"write {PAGE}")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    given = make(0, options.batch, options.length, 0, n_layer=options.layers)
    tokens = [options.length - 1, options.length * 2 // 3, options.length // 3]
    made = table(given, tokens, options.checked, options.repetitions)
    made.show(Console(width=190))
    if options.page:
        options.page.write_text(placed(options.page.read_text(), made))


if __name__ == "__main__":
    main()
