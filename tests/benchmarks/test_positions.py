"""Heads at one token: numbers agree with hooks, and tails do less."""

from __future__ import annotations

from benchmarks.compare import make
from benchmarks.positions import table


def test_heads_of_a_small_model() -> None:
    given = make(0, 2, 9, 0, n_layer=2, n_head=2, n_embd=32, vocab_size=29, n_positions=64)
    made = table(given, [8, 3], checked=4, repetitions=1)
    late, early = ({name: float(value) for name, value in zip(made.columns, row, strict=True)}
                   for row in made.rows)
    assert late["heads"] == 4 and late["largest difference"] < 1e-4
    assert late["FLOPs, all rows / ours"] > early["FLOPs, all rows / ours"] > 1
    assert late["peak MB"] <= late["peak MB, all rows"]
