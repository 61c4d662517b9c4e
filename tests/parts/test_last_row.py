"""What a part writes at the last position, against the last row of what it writes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, fx
from torch.utils.flop_counter import FlopCounterMode

import rewrite as rw
from rewrite.ir.flow import shape
from rewrite.parts.assemble import context_module
from rewrite.rules.slicer import Body
from tests.zoo import FAMILIES, error, tokens, traced

BATCH, LENGTH = 3, 7


@pytest.fixture(scope="module", params=FAMILIES)
def parts(request: pytest.FixtureRequest) -> rw.Components:
    return traced(request.param, torch.float64).parts


def given(parts: rw.Components, body: Body) -> tuple[Any, ...]:
    """Masks and sizes that a body reads."""
    ids = tokens(BATCH, LENGTH)
    inputs = [ids if spec.name == "input_ids" else torch.ones_like(ids)
              for spec in parts.graph.inputs]
    return context_module(parts, body.context)(*inputs)


def value(node: fx.Node) -> Tensor:
    """The same random value at every call."""
    draw = torch.Generator().manual_seed(len(node.name))
    return torch.randn(BATCH, LENGTH, shape(node)[2], generator=draw, dtype=torch.float64)


def call(parts: rw.Components, body: Body, rows: set[str]) -> Tensor:
    """The body on values that are cut to their last row where a port is one of `rows`."""
    values = [value(node)[:, -1:] if port in rows else value(node) for port, node in body.slots]
    with torch.no_grad():
        return body.module(*values, *given(parts, body))


def test_mlps_and_logits(parts: rw.Components) -> None:
    for name in ("m0", "m1", "logits"):
        last = parts.last_row(name)
        assert last is not None and last.stuck == ()
        found, whole = call(parts, last, {""}), call(parts, parts.body(name), set())
        assert error(found, whole[:, -1:]) < 1e-12


@pytest.mark.parametrize("heads", [None, (2,), (0, 3)])
def test_attention_reads_all_rows_by_keys_and_values(
    parts: rw.Components, heads: tuple[int, ...] | None
) -> None:
    alike = {"q": "q", "k": "kv", "v": "kv"}
    last = parts.last_row("a1", heads, alike)
    assert last is not None and last.stuck == ()
    found = call(parts, last, {"q", ""})
    whole = call(parts, parts.body("a1", heads, alike), set())
    assert error(found, whole[:, -1:]) < 1e-12


def test_the_last_position_costs_less() -> None:
    """Of the last layer, keys and values are computed at all positions, and nothing else."""
    parts = traced("gpt2").parts
    edges = [f"{a} -> {b}" for a, b in parts.edges if a[:3] == "a0." and b[:2] in ("a1", "m1")]
    made = [rw.Hypothesis(parts, {"corrupt": edge}, "clean") for edge in edges]
    ids = {"input_ids": tokens(2, 16)}

    def flops(last: bool) -> int:
        expansion = rw.expand(made, last=last)
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            expansion.run(clean=ids, corrupt=ids)
        return counter.get_total_flops()

    assert flops(last=True) < 0.4 * flops(last=False)
