"""All edges of a model, each patched by itself: seconds, copies, FLOPs beside the least, memory.

    python -m benchmarks.edges [--layers 6] [--width 768] [--heads 12] [--budget 4GB] [--page]

FLOPs and memory of each piece of the sweep are those that are predicted from shapes before it
runs; the first piece is run once more under the profiler, to compare.  `--page` writes the
table into docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import re
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

import rewrite as rw
from benchmarks.compare import PAGE, make
from benchmarks.peers.given import Given
from benchmarks.tables import Table
from rewrite.expand import Expansion
from rewrite.run.pieces import Pieces
from rewrite.symbolic.cost import measured, where
from tests.symbolic.counting import peak

TITLE = "All edges of a model"
MEMBER = re.compile(r"a(\d+)\.h\d+\.([qkv])")


@dataclass(frozen=True)
class Piece:
    """Some edges in one expansion, and what it is predicted to take."""

    expansion: Expansion
    arguments: list[torch.Tensor]
    flops: int
    peak: int


@dataclass
class Watched(Pieces):
    """Pieces of a sweep; `asked` is the one that was asked for its memory last."""

    asked: Piece | None = None

    def predict(self, expansion: Expansion, batch_size: int | None = None) -> int:
        """As before, FLOPs too."""
        batch = next(iter(self.pairs.batches(batch_size or self.batch_size)))
        arguments = expansion.arguments({run: batch.inputs[run] for run in expansion.runs})
        given = [replace(spec, shape=tuple(value.shape))
                 for spec, value in zip(expansion.inputs, arguments, strict=True)]
        cost = measured(expansion.together, given, where, {})
        self.asked = Piece(expansion, arguments, int(cost.flops), int(cost.peak))
        return self.asked.peak


def least(config: Any, batch: int, length: int, edges: list[tuple[str, str]], columns: int) -> int:
    """FLOPs of products of matrices that patching each of `edges` takes at the least.

    Both runs once, and for each edge its receiver and everything after it once; of a head, the
    projection of the port that reads and what depends on it.  In the last layer and after it
    only the last position is computed, but for keys and values.
    """
    width, last = config.n_embd, config.n_layer - 1
    size = width // config.n_head

    def mlp(layer: int) -> int:
        return 2 * batch * rows(layer) * 8 * width**2

    def rows(layer: int) -> int:
        return 1 if layer == last else length

    def projection(positions: int) -> int:
        return 2 * batch * positions * width * size

    def product(layer: int) -> int:  # of a pattern with values, or of queries with keys
        return 2 * batch * rows(layer) * length * size

    def head(layer: int, port: str = "qkv") -> int:
        inputs = sum(projection(rows(layer) if name == "q" else length) for name in port)
        scores = 0 if port == "v" else product(layer)
        return inputs + scores + product(layer) + projection(rows(layer))

    unembedding = 2 * batch * width * columns

    def after(layer: int) -> int:
        """Everything behind the heads of a layer."""
        later = sum(config.n_head * head(at) + mlp(at) for at in range(layer + 1, last + 1))
        return mlp(layer) + later + unembedding

    def behind(reader: str) -> int:
        if reader in ("embed", "logits"):  # the run that is patched in, and the last step alone
            return unembedding if reader == "logits" else 0
        if found := MEMBER.fullmatch(reader):
            return head(int(found[1]), found[2]) + after(int(found[1]))
        return after(int(reader[1:]))

    run = config.n_head * head(0) + after(0)
    return 2 * run + sum(behind(reader) for _, reader in edges)


def all_edges(given: Given, budget: int | str, chunk: int) -> Table:
    """One sweep over every edge of the model."""
    config, (batch, length) = given.model.config, given.base.shape
    start = time.perf_counter()
    parts = rw.trace(given.model).components()
    tracing = time.perf_counter() - start
    edges = list(parts.edges)
    labels = {name: torch.full((batch,), token)
              for name, token in zip(("correct", "wrong"), given.tokens, strict=True)}
    pairs = rw.Pairs.from_tensors(
        {"clean": {"input_ids": given.base}, "corrupt": {"input_ids": given.patch}}, labels)
    reference = rw.Hypothesis(parts, {"corrupt": rw.PathSet.none()}, "clean")
    watched = Watched([reference], pairs, rw.logit_diff(), batch, chunk, budget)
    start = time.perf_counter()
    flops, copies, calls, peaks, first = 0, 0, 0, [], None
    for _ in watched.run(len(edges), lambda i: rw.Hypothesis(
            parts, {"corrupt": " -> ".join(edges[i])}, "clean")):
        piece = watched.asked
        assert piece is not None
        first = first or piece
        flops += piece.flops
        copies += sum(piece.expansion.copies.values())
        calls += piece.expansion.stacked_calls
        peaks.append(piece.peak / 1e6)
    seconds = time.perf_counter() - start
    assert first is not None
    with torch.no_grad():
        real = peak(lambda: first.expansion.together(*first.arguments))
    table = Table(TITLE, ("layers", "edges", "pieces", "seconds", "ms per edge", "copies", "calls",
                          "FLOPs / minimum", "largest peak, predicted MB",
                          "first piece, predicted MB", "measured MB"))
    table.add(config.n_layer, len(edges), len(peaks), seconds, 1000 * seconds / len(edges),
              copies, calls, flops / least(config, batch, length, edges, len(given.tokens)),
              max(peaks), peaks[0], real / 1e6)
    table.note = (
        f"Width {config.n_embd}, {config.n_head} heads, batch {batch}, length {length}, "
        f"{torch.get_num_threads()} threads; the difference of two logits at the last position. "
        f"Every edge is a hypothesis of its own. Seconds include expanding; tracing took "
        f"{tracing:.1f} s. Copies and calls are added up over pieces.")
    return table


def placed(page: str, table: Table) -> str:
    """The page with the table in place of the one of the same title, or at its end."""
    old = re.compile(rf"## {re.escape(table.title)}\n.*?(?=\n## |\Z)", re.DOTALL)
    if old.search(page):
        return old.sub(lambda _: table.markdown, page)
    return f"{page.rstrip()}\n\n{table.markdown}"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in (("layers", 6), ("width", 768), ("heads", 12), ("vocabulary", 50257),
                          ("batch", 8), ("length", 15), ("threads", 2), ("chunk", 300)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--budget", default="4GB", help="memory of a piece")
    parser.add_argument("--page", type=Path, nargs="?", const=PAGE, help=f"write {PAGE}")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    given = make(0, options.batch, options.length, 0, n_layer=options.layers,
                 n_embd=options.width, n_head=options.heads, vocab_size=options.vocabulary)
    table = all_edges(given, options.budget, options.chunk)
    table.show(Console(width=160))
    if options.page:
        options.page.write_text(placed(options.page.read_text(), table))


if __name__ == "__main__":
    main()
