"""Heads behind projections written in many ways: found, and exact against weights by hand."""

from __future__ import annotations

import pytest
import torch

import rewrite as rw
from rewrite.errors import PathError
from tests.parts.attending import (
    HEADS,
    SECTIONS,
    WEIGHTS,
    WIDTH,
    Additive,
    Attends,
    CausalLinear,
    Interleaved,
    LinearNormalised,
    Net,
    OneForBoth,
    OpenClip,
    PaddedAfter,
    Quadratic,
    QueryGated,
    Scattered,
    Selected,
    Shuffled,
    SwinBlock,
    Talking,
    Windows,
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


@pytest.mark.parametrize("kind", [Attends, Interleaved, OpenClip])
def test_windows_of_heads(kind: type[Attends]) -> None:
    """What a head reads one token back, against values changed one token at a time."""
    torch.manual_seed(0)
    model = Net(kind).double().eval()
    clean, corrupt = torch.randn(2, 3, 12, WIDTH, dtype=torch.float64)
    parts = trace(model, {"x": clean}).components()
    first = model.blocks[0]
    only = first.attention.only(0)
    new, old = (first.norm(model.read(first, x)) for x in (clean, corrupt))
    change = torch.zeros_like(old)
    with torch.no_grad():
        for at in range(11):
            values = old.clone()
            values[:, at] = new[:, at]
            change[:, at + 1] = (only(old, old, values) - only(old, old, old))[:, at + 1]
        wanted = model.unembed(model.norm(model.read(model.norm, corrupt) + change))
        _assert_path(parts, "a0.h0.v[-1] -> output", clean, corrupt, wanted)


@pytest.mark.parametrize("kind", [
    Shuffled, Selected, Windows, SwinBlock, PaddedAfter, Scattered, Quadratic, LinearNormalised])
@pytest.mark.parametrize("path", [
    "a0.h0.k[-1] -> output", "a0.h0.v[0] -> output", "x -> ...[-1] -> a1.h1.q -> output"])
def test_heads_that_move_tokens_have_no_windows(kind: type[Attends], path: str) -> None:
    parts = trace(Net(kind).eval(), {"x": torch.randn(4, 12, WIDTH)}).components()
    assert parts.heads and not parts.dag.motion.keeps_positions("a0.h0")
    with pytest.raises(PathError, match="a window cannot be followed through"):
        exp = rw.expand(rw.Hypothesis(parts, {"clean": path}))
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
