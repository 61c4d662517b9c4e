"""Sides of the comparison agree on a tiny model; no time is asserted."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import pytest
import torch

from benchmarks.compare import agree, compare, identity, make, page
from benchmarks.peers.given import Given, load, measure
from benchmarks.scaling import by_edges, least
from benchmarks.sides import Hooks, Ours, Resumed
from benchmarks.tables import Table

pytestmark = pytest.mark.xdist_group("compare")  # one process makes the fixtures

TINY = {"n_layer": 2, "n_head": 2, "n_embd": 16, "vocab_size": 29, "n_positions": 64}


@pytest.fixture(scope="module")
def given() -> Given:
    return make(0, 2, 5, 4, **TINY)


def test_ours_and_hooks_agree_about_edges_and_direct_paths(given: Given) -> None:
    sides = {name: lambda *asked, side=side: measure(given, side, *asked) for name, side in (
        ("rewrite", Ours(given)), ("hook loop", Hooks(given)), ("resumed", Resumed(given)))}
    for what, count in (("edges", len(given.edges)), ("direct", len(given.heads))):
        table = compare(what, what, sides, count, count, 2, 1)
        assert [row[0] for row in table.rows] == ["rewrite", "hook loop", "resumed"]


def test_an_edge_matters_more_than_rounding(given: Given) -> None:
    ours = Ours(given)
    plain, patched = (measure(given, ours, what, 0, 4)[0] for what in ("forward", "edges"))
    assert (patched - plain).abs().amax(1).gt(1e-4).all()


def test_the_identity_is_the_model(given: Given) -> None:
    with torch.no_grad():
        assert len(identity(given, 1).rows) == 3


def test_sides_that_disagree_are_an_error() -> None:
    with pytest.raises(AssertionError, match="lens and ours disagree about edges"):
        agree("lens", "edges", torch.tensor([1.0]), torch.tensor([2.0]))
    with pytest.raises(AssertionError, match="of the median effect"):
        agree("lens", "edges", torch.tensor([1.00001]), torch.tensor([1.0]), 2e-5)
    with pytest.raises(AssertionError, match="nan"):
        agree("lens", "edges", torch.tensor([torch.nan]), torch.tensor([2.0]))


def test_peers_are_given_the_same_model(given: Given, tmp_path: Path) -> None:
    given.save(tmp_path / "given.safetensors")
    again = load(tmp_path / "given.safetensors")
    assert (again.edges, again.tokens, again.heads) == (given.edges, given.tokens, given.heads)
    with torch.no_grad():
        assert torch.equal(again.model(again.base).logits, given.model(given.base).logits)


def test_no_run_takes_less_than_the_minimum(given: Given) -> None:
    table = by_edges(given, given.edges, (1, 4), 1)
    assert all(float(row[table.columns.index("FLOPs / minimum")]) >= 1 for row in table.rows)
    assert least(given) > 0


def test_the_page_says_how_it_was_made(given: Given) -> None:
    table = Table("Edges", ("side", "ms"), note="All of them.")
    table.add("rewrite", 123.4)
    text = page([table], given, Namespace(batch=2, length=5, threads=1))
    assert f"torch {torch.__version__}, transformers" in text
    assert "2 layers, 2 heads, width 16" in text
    assert "| side | ms |\n| --- | --- |\n| rewrite | 123 |" in text
