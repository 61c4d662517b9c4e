"""Rules are proved on their examples, and rules that are wrong are not."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from torch import Tensor, fx

import rewrite as rw
from rewrite.errors import ProofError
from rewrite.ir.graph import InputSpec, OutputSpec
from rewrite.rules.declare import rule
from rewrite.rules.table import RULES
from rewrite.symbolic import prove

FLOAT = torch.float64


def graph_of(function: Callable[..., Any], **shapes: tuple[int, ...]) -> rw.Graph:
    module = fx.symbolic_trace(function)
    specs = tuple(InputSpec(name, shape, FLOAT) for name, shape in shapes.items())
    return rw.Graph(module, specs, OutputSpec(("result",), lambda held: held["result"]))


@dataclass(frozen=True)
class FakeGraph(rw.Graph):
    """A graph that rewrites itself to another one."""

    after: rw.Graph | None = None

    def rewrite(self, rules: Any, at: Any = None, **options: Any) -> rw.Graph:
        return replace(self.after or self, trail=["step"] if self.after else [])


@dataclass(frozen=True)
class FakeExample:
    before: Callable[..., Any]
    after: Callable[..., Any] | None
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=lambda: {"x": (2, 2)})

    def graph(self, **letters: int) -> rw.Graph:
        whole = graph_of(self.before, **self.shapes)
        after = None if self.after is None else graph_of(self.after, **self.shapes)
        return FakeGraph(whole.module, whole.inputs, whole.outputs, after=after)

    def inputs(self, seed: int = 0, **letters: int) -> dict[str, Tensor]:
        return {name: torch.randn(shape, dtype=FLOAT) for name, shape in self.shapes.items()}

    def __str__(self) -> str:
        return "x: 2 2"


@dataclass(frozen=True)
class FakeRule:
    examples: tuple[FakeExample, ...]
    name: str = "fake"
    equation: str = "f(x) = g(x)"


def doubled(x: Tensor) -> tuple[Tensor]:
    return (x + x,)


def test_a_right_rule() -> None:
    proof = prove(FakeRule((FakeExample(doubled, lambda x: (2 * x,)),) * 2))
    assert proof and proof.entries == 8 and proof.seconds < 5
    assert f"{proof}".startswith("fake: f(x) = g(x)\n  proved on 2 instances, 8 entries, ")


def test_a_wrong_rule() -> None:
    right, wrong = (FakeExample(doubled, after) for after in (
        lambda x: (2 * x,), lambda x: (x * x,)))
    proof = prove(FakeRule((right, wrong)))
    assert not proof and proof.verdict.status == "refuted"
    assert f"{proof}".startswith(
        "fake: f(x) = g(x)\n  not proved on x: 2 2\n  differs at result[0, 0]:\n"
        "    left   2*x_0_0\n    right  x_0_0**2\n")


def test_nothing_to_prove() -> None:
    with pytest.raises(ProofError, match="fake has no example to prove it on: give the shapes"):
        prove(FakeRule(()))
    with pytest.raises(ProofError, match="fake does not fire on its example x: 2 2"):
        prove(FakeRule((FakeExample(doubled, None),)))


@pytest.mark.parametrize("name", RULES)
def test_rules(name: str) -> None:
    proof = prove(RULES[name])
    assert proof, f"{proof}"
    assert proof.entries and len(proof.instances) == len(RULES[name].examples)


@pytest.mark.parametrize(("equation", "shapes"), [
    ("gelu(a + b) = gelu(a) + gelu(b)", "a: b s d, b: b s d"),
    ("linear(x, W, c) = linear(x, W)", "x: b s d, W: e d, c: e"),
    ("x @ W = x @ W.mT", "x: s d, W: d d"),
    ("softmax(x / 2, -1) = softmax(x, -1)", "x: s n"),
])
def test_wrong_equations(equation: str, shapes: str) -> None:
    proof = prove(rule("wrong", equation, once=True, examples=shapes))
    assert not proof and proof.verdict.status == "refuted"
