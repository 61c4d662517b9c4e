"""The sweep of all edges does little more than it must; no time is asserted."""

from __future__ import annotations

import pytest

from benchmarks.compare import make
from benchmarks.edges import TITLE, all_edges, least, placed
from benchmarks.tables import Table


def test_all_edges_of_a_small_model() -> None:
    given = make(0, 2, 9, 0, n_layer=2, n_head=2, n_embd=32, vocab_size=29, n_positions=64)
    table = all_edges(given, "1GB", 40)
    (row,) = ({name: float(value) for name, value in zip(table.columns, row, strict=True)}
              for row in table.rows)
    assert row["edges"] == 47 and row["pieces"] == 2
    assert 1 <= row["FLOPs / minimum"] <= 1.5  # both runs again for each piece
    assert row["measured MB"] == pytest.approx(row["first piece, predicted MB"], rel=0.1)


def test_the_least_that_an_edge_takes() -> None:
    config = make(0, 2, 5, 0, n_layer=2, n_head=2, n_embd=16, vocab_size=29).model.config

    def of(*edges: tuple[str, str]) -> int:
        return least(config, 2, 5, list(edges), 2)

    both = of()
    assert of(("tokens", "embed")) == both
    assert of(("m1", "logits")) == both + 2 * 2 * 16 * 2
    # the last layer at the last position: of an MLP 8 width^2 for each row, and the logits
    assert of(("a1.h0", "m1")) == both + 2 * 2 * 8 * 16**2 + 2 * 2 * 16 * 2
    # keys are needed at all positions, queries at the last one
    assert of(("m0", "a1.h0.k")) - of(("m0", "a1.h0.q")) == 2 * 2 * (5 - 1) * 16 * 8


def test_the_page_has_the_table_once() -> None:
    table, later = Table(TITLE, ("layers",), [("6",)]), Table(TITLE, ("layers",), [("12",)])
    page = placed(placed("# Page\n\n## Before\n\ntext\n", table) + "\n## Behind\n\nmore\n", later)
    assert page.count(TITLE) == 1 and "| 12 |" in page and "| 6 |" not in page
    assert page.index("Before") < page.index(TITLE) < page.index("Behind")
