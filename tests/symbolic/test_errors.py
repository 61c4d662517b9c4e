"""What a symbolic tensor cannot do is an error that says what to do instead."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import rewrite as rw
from rewrite.errors import ProofError
from rewrite.symbolic import Table, elementwise, equal, operator_rule, run, symbols
from rewrite.symbolic.tensor import RULES

X = {"x": (2, 3)}


@pytest.mark.parametrize(("function", "said"), [
    (lambda x: torch.topk(x, 2), r"aten.topk.default has no meaning .* @rewrite.symbolic"),
    (lambda x: x.sort(), "aten.sort.* has no meaning"),
    (lambda x: x > 0, "asks for the values of symbolic entries"),
    (lambda x: x.long(), "cannot become int64: they have no values"),
    (lambda x: x if x[0, 0] else -x, "control flow must not depend on values"),
    (lambda x: x[0, 0].item(), "value of the symbolic entry x_0_0"),
    (lambda x: x / 0, "division by zero"),
    (lambda x: x ** 0.3, "whole and half numbers"),
    (lambda x: torch.linalg.vector_norm(x, 3), "order 1 and 2"),
    (lambda x: torch.nn.functional.dropout(x, 0.5), r"as dropout does: call .eval\(\)"),
    (lambda x: torch.bernoulli(x), "is random, so it is equal to nothing"),
    (lambda x: torch.nn.functional.scaled_dot_product_attention(x, x, x, dropout_p=0.1),
     "call .eval()"),
    (lambda x: torch.nn.functional.batch_norm(x, None, None, training=True), "training mode"),
    (lambda x: torch.zeros(2, 3).add_(x), "a tensor that has none; make it by torch.cat"),
    (lambda x: torch.nn.functional.conv_transpose1d(x[None], x[:, None]), "transposed"),
    (lambda x: x.index_add(0, torch.tensor([0]), x[:1]), "added at places"),
    (lambda x: x * float("nan"), "met nan"),
    (lambda x: x.index_put((torch.tensor([0]),), x[1], accumulate=True), "combines entries"),
    (lambda x: x.scatter(0, torch.tensor([[1, 1, 0]]), x, reduce="add"), "combines entries"),
])
def test_operators(function: Callable[[Tensor], Any], said: str) -> None:
    with pytest.raises(ProofError, match=said):
        run(function, X)


def test_two_tables() -> None:
    one, other = symbols(Table(), "x", (2,)), symbols(Table(), "x", (2,))
    with pytest.raises(ProofError, match="of 2 tables meet"):
        one + other


@torch.library.custom_op("symbolic_tests::halve", mutates_args=())
def halve(x: Tensor) -> Tensor:
    return x / 2


def test_a_rule_gives_a_meaning() -> None:
    with pytest.raises(ProofError, match=r"symbolic_tests.halve.default"):
        run(lambda x: halve(x), X)
    target = torch.ops.symbolic_tests.halve.default

    @operator_rule(target)
    def _(x: Any) -> Tensor:
        return elementwise(lambda t: x.table.add([(t, 1)]), x) / 2

    try:
        assert equal(lambda x: halve(x), lambda x: x * 0.5, X)
    finally:
        del RULES[target]


def test_inputs_of_graphs() -> None:
    table = torch.nn.Embedding(5, 2).eval()
    graph = rw.trace(table, inputs={"input": torch.tensor([[1, 2, 0], [0, 3, 4]])})
    with pytest.raises(ProofError, match=r"input: int64 .* pass inputs=\{'input': a tensor"):
        run(graph)
    with pytest.raises(ProofError, match="no input 'inputs'; did you mean input"):
        run(graph, {"inputs": torch.tensor([[1]])})
    assert run(graph, {"input": torch.tensor([[1]])}).shape == (1, 1, 2)


def test_sides_with_other_inputs() -> None:
    one = rw.trace(torch.nn.Linear(2, 2).eval(), inputs={"input": torch.ones(3, 2)})
    other = rw.trace(torch.nn.Bilinear(2, 2, 2).eval(), inputs={
        "input1": torch.ones(3, 2), "input2": torch.ones(3, 2)})
    with pytest.raises(ProofError, match="different inputs: input on the left, input1, input2"):
        equal(one, other)


def test_sizes_of_graphs() -> None:
    graph = rw.trace(torch.nn.Linear(2, 3).eval(), inputs={"input": torch.ones(5, 2)})
    assert run(graph).shape == (1, 3) and run(graph, sizes={"batch": 2}).shape == (2, 3)
