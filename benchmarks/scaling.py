"""How our own work grows: counts are exact, FLOPs are counted by torch in a real run."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

import torch

from benchmarks.peers.given import Edge, Given
from benchmarks.sides import Ours
from benchmarks.tables import Table
from tests.symbolic.counting import counted

COLUMNS = ("copies", "calls", "FLOPs / minimum", "seconds", "ms per edge",
           "peak MB beyond weights", "seconds to expand")


def least(given: Given) -> int:
    """FLOPs of products of matrices that patching these edges takes at the least.

    The run `base` up to the last receiver, the run `patch` up to the senders, and for each edge
    its receiver and everything after it once; in the last layer and after it only the last
    position.
    """
    config, (batch, length) = given.model.config, given.base.shape
    width, last = config.n_embd, config.n_layer - 1
    size = width // config.n_head

    def mlp(rows: int) -> int:
        return 2 * rows * 8 * width**2

    def heads(number: int, rows: int, keys: int) -> int:
        """Projections of queries and outputs at `rows`, of keys and values at `keys`."""
        products = 2 * number * size * width * 2 * (batch * rows + batch * keys)
        return products + 4 * batch * rows * length * number * size

    def rows(layer: int) -> int:
        return 1 if layer == last else length

    def after(layer: int) -> int:
        later = sum(heads(config.n_head, rows(at), length) + mlp(batch * rows(at))
                    for at in range(layer + 1, config.n_layer))
        return mlp(batch * rows(layer)) + later + 2 * batch * width * len(given.tokens)

    senders = {sender for sender, _ in given.edges}
    deepest = max(layer for layer, _ in senders)
    patch = sum(heads(config.n_head, length, length) + mlp(batch * length)
                for _ in range(deepest))
    patch += heads(sum(layer == deepest for layer, _ in senders), length, length)
    until = max(layer for _, (layer, _) in given.edges)
    base = sum(heads(config.n_head, length, length) + mlp(batch * length) for _ in range(until))
    base += heads(config.n_head - 1, rows(until), length)  # beside the receiver
    return base + patch + sum(after(layer) + heads(1, rows(layer), 0)
                              for _, (layer, _) in given.edges)


def row(given: Given, repetitions: int) -> tuple[object, ...]:
    """What patching the edges of `given` in one expansion takes."""
    ours = Ours(given)
    _ = ours.parts
    start = time.perf_counter()
    exp = ours.edge_expansion(given.edges)
    module = exp.stacked
    expanding = time.perf_counter() - start
    arguments = exp.arguments(ours.runs)
    real = counted(lambda: module(*arguments))
    times = []
    with torch.no_grad():
        for _ in range(repetitions):
            start = time.perf_counter()
            module(*arguments)
            times.append(time.perf_counter() - start)
    seconds = median(times)
    return (sum(exp.copies.values()), exp.stacked_calls, real.flops / least(given), seconds,
            1000 * seconds / len(given.edges), real.peak / 1e6, expanding)


def by_edges(given: Given, edges: list[Edge], counts: tuple[int, ...], repetitions: int) -> Table:
    """More edges of one model."""
    table = Table("Our own work as edges grow", ("edges", *COLUMNS))
    for count in counts:
        part = Given(given.model, given.patch, given.base, edges[:count], given.tokens)
        table.add(len(part.edges), *row(part, repetitions))
    return table


def by_size(make: Callable[..., Given], repetitions: int) -> Table:
    """The same number of edges in models with more layers, and with more heads."""
    table = Table("Our own work as the model grows", ("layers", "heads", *COLUMNS),
                  note="100 edges, heads of 16 columns, batch 8, length 15.")
    for layers, heads in ((3, 8), (6, 8), (12, 8), (24, 8), (6, 4), (6, 16), (6, 32)):
        given = make(0, 8, 15, 100, n_layer=layers, n_head=heads, n_embd=16 * heads,
                     vocab_size=101)
        table.add(layers, heads, *row(given, repetitions))
    return table
