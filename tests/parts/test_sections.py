"""Heads behind projections written in many ways: found, and exact against weights by hand."""

from __future__ import annotations

import pytest
import torch

import rewrite as rw
from rewrite.errors import HypothesisError
from tests.parts.attending import (
    HEADS,
    SECTIONS,
    WEIGHTS,
    WIDTH,
    Additive,
    Attends,
    CausalLinear,
    LinearNormalised,
    Net,
    OneForBoth,
    Quadratic,
    QueryGated,
    Talking,
)
from tests.zoo import trace


@pytest.mark.parametrize("kind", (*SECTIONS, *WEIGHTS))
def test_heads_and_their_direct_edges(kind: type[Attends]) -> None:
    torch.manual_seed(0)
    model = Net(kind).double().eval()
    clean, corrupt = torch.randn(2, 3, 12, WIDTH, dtype=torch.float64)
    graph = trace(model, {"x": torch.randn(4, 12, WIDTH, dtype=torch.float64)})
    parts = graph.components()
    assert parts.notes == ()
    assert parts.heads == tuple(f"a{i}.h{h}" for i in range(2) for h in range(HEADS))
    assert parts.names == ("x", "embed", "a0.h0", "a0.h1", "m0", "a1.h0", "a1.h1", "m1", "output")
    with torch.no_grad():
        wanted = model(corrupt)
        assert torch.allclose(parts(x=corrupt), wanted, rtol=0, atol=1e-12 * wanted.abs().max())
        for head in range(HEADS):
            _assert_path(parts, f"a0.h{head} -> output", clean, corrupt,
                         model.direct(head, clean, corrupt))
        for head, later, port in ((0, 1, "q"), (1, 0, "k"), (1, 1, "v")):
            _assert_path(parts, f"a0.h{head} -> a1.h{later}.{port} -> output", clean, corrupt,
                         model.by_port(head, later, port, clean, corrupt))


def test_a_gate_is_no_query() -> None:
    """It comes from the same product, by features of its own: a reading beside q."""
    torch.manual_seed(0)
    model = Net(QueryGated).double().eval()
    clean, corrupt = torch.randn(2, 3, 12, WIDTH, dtype=torch.float64)
    parts = trace(model, {"x": clean}).components()
    wanted = model.by_port(0, 1, "q", clean, corrupt)
    _assert_path(parts, "a0.h0 -> a1.h1.q -> output | a0.h0 -> a1.h1.gate -> output",
                 clean, corrupt, wanted)
    exp = rw.expand(rw.Hypothesis(parts, {"clean": "a0.h0 -> a1.h1.q -> output"}))
    found = exp(clean={"x": clean}, corrupt={"x": corrupt})
    assert (found - wanted).abs().max() > 1e-6


@pytest.mark.parametrize("kind", [Quadratic, LinearNormalised])
def test_keys_that_are_read_twice_have_no_hops(kind: type[Attends]) -> None:
    parts = trace(Net(kind).eval(), {"x": torch.randn(4, 12, WIDTH)}).components()
    exp = rw.expand(rw.Hypothesis(parts, {"clean": "a0.h0.k[-1] -> output"}))
    with pytest.raises(HypothesisError, match="has no hops"):
        exp(clean={"x": torch.randn(1, 12, WIDTH)}, corrupt={"x": torch.randn(1, 12, WIDTH)})


@pytest.mark.parametrize(("kind", "seen"), [
    (OneForBoth, "beside the cores, which is the k and the q of the heads"),
    (Talking, "mixes the scores or patterns of several heads"),
    (CausalLinear, "tokens read each other at cumsum"),
    (Additive, "attends, but its queries and keys cannot be told apart"),
])
def test_what_is_seen_is_said(kind: type[Attends], seen: str) -> None:
    """Attention without heads of its own is a part, and the report says by which operator."""
    parts = trace(Net(kind).double().eval(), {
        "x": torch.randn(4, 12, WIDTH, dtype=torch.float64)}).components()
    told = [text for label, text in rw.structure(parts).rows() if label == "not split"]
    assert parts.heads == () and told and "blocks.0.attention" in told[0]
    assert all(seen in text and "no attention was found" not in text for text in told)


def _assert_path(
    parts: rw.Components, path: str, clean: torch.Tensor, corrupt: torch.Tensor,
    wanted: torch.Tensor,
) -> None:
    exp = rw.expand(rw.Hypothesis(parts, {"clean": rw.paths(path)}))
    found = exp(clean={"x": clean}, corrupt={"x": corrupt})
    assert (found - wanted).abs().max() <= 1e-10 * wanted.abs().max(), path
