"""What `torch.compile` does for stacked expansions: `python -m benchmarks.compiled`.

Eager and compiled runs take turns, on a random model of the shapes of GPT-2 small.  Besides the
ratio, what it costs to make the kernels is printed, and after how many batches that has paid.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from statistics import median

import torch
from rich.console import Console
from torch import Tensor

import rewrite as rw
from benchmarks.compare import agree, make
from benchmarks.sides import Ours
from benchmarks.tables import Table
from rewrite.run import compiled

COLUMNS = ("expansion", "copies", "eager s", "compiled s", "eager / compiled",
           "s to make kernels", "batches until it has paid", "largest difference")


def row(exp: rw.Expansion, ours: Ours, mode: str, repetitions: int) -> tuple[object, ...]:
    """Medians of runs that take turns."""
    arguments = exp.arguments(ours.runs)
    made = compiled(exp, mode)
    sides: tuple[Callable[..., tuple[Tensor, ...]], ...] = exp.together, made.together
    start = time.perf_counter()
    found = sides[1](*arguments)[0]
    cost = time.perf_counter() - start
    error = agree("compiled", "all results", found, sides[0](*arguments)[0])
    times: tuple[list[float], list[float]] = [], []
    for _ in range(repetitions):
        for side, taken in zip(sides, times, strict=True):
            start = time.perf_counter()
            side(*arguments)
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            taken.append(time.perf_counter() - start)
    eager, fast = map(median, times)
    pays = f"{cost / (eager - fast):.0f}" if fast < eager else "never"
    return sum(exp.copies.values()), eager, fast, eager / fast, cost, pays, error


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in (("threads", 2), ("repetitions", 9), ("batch", 8), ("length", 15),
                          ("edges", 60), ("layers", 12), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--mode", default="default", help="of torch.compile")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    given = make(options.seed, options.batch, options.length, options.edges,
                 n_layer=options.layers)
    ours = Ours(given)
    heads = [f"a{layer}.h{head} -> logits" for layer, head in given.heads]
    expansions: dict[str, Callable[[], rw.Expansion]] = {
        "identity": ours.identity,
        f"direct paths of {len(heads)} heads": lambda: ours.expansion(*heads),
        f"{len(given.edges)} edges": lambda: ours.edge_expansion(given.edges),
    }
    table = Table(f"torch.compile, mode {options.mode}", COLUMNS,
                  note=f"{options.layers} layers, batch {options.batch}, length {options.length}, "
                       f"{options.threads} threads; medians of {options.repetitions} runs each.")
    console = Console(width=150)
    with torch.no_grad():
        for name, make_one in expansions.items():
            table.add(name, *row(make_one(), ours, options.mode, options.repetitions))
            console.print(*table.rows[-1], sep="  ")  # the next one may take minutes
    table.show(console)


if __name__ == "__main__":
    main()
