"""Sweeps over names at positions: each row is the hypothesis that it says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import rewrite as rw
from rewrite.errors import PathError, UnknownName
from tests.zoo import tokens, traced

PAIRS = rw.Pairs.from_tensors(
    {"clean": {"input_ids": tokens(3, 6, 1)}, "corrupt": {"input_ids": tokens(3, 6, 2)}},
    positions={"S": [1, 2, 3], "END": [-1, -1, -1]})


def alone(text: str) -> float:
    """The mean effect of one set of patched paths, run by itself."""
    hypothesis = rw.Hypothesis(traced("gpt2").parts, {"corrupt": text}, default="clean")
    return float(np.mean(rw.evaluate(hypothesis, PAIRS, "kl_divergence").effects))


def test_nodes_at_positions(tmp_path: Path) -> None:
    found = rw.sweep(traced("gpt2").parts, "a0.h*@S | a0.h*@END", None, pairs=PAIRS,
                     metric=rw.kl_divergence(position="all"))
    assert list(found.table["sender"][:3]) == ["a0.h0@S", "a0.h0@END", "a0.h1@S"]
    assert list(found.grid().index) == ["a0@S", "a0@END"]
    assert found.draw(tmp_path / "heads.png").stat().st_size > 1000
    one = rw.Hypothesis(traced("gpt2").parts, {"corrupt": "a0.h1@S"}, default="clean")
    wanted = rw.evaluate(one, PAIRS, rw.kl_divergence(position="all")).effects
    assert np.isclose(found.table["effect"][2], np.mean(wanted), rtol=1e-3)


def test_edges_between_positions() -> None:
    found = rw.sweep(traced("gpt2").parts, "a0.h0@END | m0@[-1]", "a1.h1.{q,v}@END", each=True,
                     pairs=PAIRS, metric="kl_divergence")
    rows = list(zip(found.table["sender"], found.table["receiver"], strict=True))
    assert rows == [(a, f"a1.h1.{port}@END") for port in "qv" for a in ("a0.h0@END", "m0@[-1]")]
    for (sender, receiver), effect in zip(rows, found.table["effect"], strict=True):
        assert np.isclose(effect, alone(f"{sender} -> {receiver}"), rtol=1e-3, atol=1e-7)


def test_names_that_are_none() -> None:
    parts = traced("gpt2").parts
    with pytest.raises(UnknownName, match="no sender is called 'zz'"):
        rw.sweep(parts, "zz@END", pairs=PAIRS, metric="kl_divergence")
    with pytest.raises(PathError, match="a named group or a slice"):
        rw.sweep(parts, "a0.h0@", pairs=PAIRS, metric="kl_divergence")
