"""What cannot be traced: each error names the module, the line of code and a remedy that fits."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import rewrite as rw
from rewrite.errors import TraceError


@torch.library.custom_op("rewrite_tests::opaque", mutates_args=())
def opaque(x: Tensor) -> Tensor:
    """An operator that does not say which shape it returns."""
    return x * 2


class Inner(nn.Module):
    def __init__(self, function: Callable[[Any, Tensor], Any]) -> None:
        super().__init__()
        self.layer, self.function = nn.Linear(4, 4), function
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Any:
        return self.function(self, x)


class Outer(nn.Module):
    """The culprit is inside of it."""

    def __init__(self, function: Callable[[Any, Tensor], Any]) -> None:
        super().__init__()
        self.block = Inner(function)

    def forward(self, x: Tensor) -> Any:
        return self.block(x)


def branch(m: Inner, x: Tensor) -> Tensor:
    return m.layer(x) if x.sum() > 0 else x  # here


def while_loop(m: Inner, x: Tensor) -> Tensor:
    while x.norm() > 1:  # here
        x = x / 2
    return m.layer(x)


def asserted(m: Inner, x: Tensor) -> Tensor:
    assert torch.isfinite(x).all()  # here
    return m.layer(x)


def item(m: Inner, x: Tensor) -> Tensor:
    return m.layer(x)[:, : int(x.abs().sum().item()) % 3 + 1]  # here


def data_loop(m: Inner, x: Tensor) -> Tensor:
    for _ in range(int(x.argmax())):  # here
        x = x + 1
    return m.layer(x)


def written_out(m: Inner, x: Tensor) -> Tensor:
    return m.layer(x) * float(f"{x.max()}")  # here


def with_numpy(m: Inner, x: Tensor) -> Tensor:
    return m.layer(torch.from_numpy(np.tanh(x.detach().numpy())))  # here


def no_shape(m: Inner, x: Tensor) -> Tensor:
    return opaque(m.layer(x))  # here


def sparse(m: Inner, x: Tensor) -> Tensor:
    return m.layer(x).to_sparse().to_dense()  # here


def ragged(m: Inner, x: Tensor) -> Tensor:
    return torch.nested.nested_tensor(list(m.layer(x))).to_padded_tensor(0.0)  # here


def rows(m: Inner, x: Tensor) -> Tensor:
    return torch.stack([m.layer(row) for row in x])


def key_error(m: Inner, x: Tensor) -> Tensor:
    return {"x": m.layer(x)}["y"]  # here


def wrong_shape(m: Inner, x: Tensor) -> Tensor:
    return m.layer(x[..., :3])  # here


def counts(m: Any, x: Tensor) -> Tensor:
    m.calls += 1
    return m.layer(x) * m.calls


def draws(m: Inner, x: Tensor) -> Tensor:
    return m.layer(x) + torch.randn_like(x)


def keeps_a_list(m: Any, x: Tensor) -> Tensor:
    m.kept = [*getattr(m, "kept", []), x]
    return m.layer(x) + len(m.kept)


def a_number(m: Inner, x: Tensor) -> Any:
    return m.layer(x), 3


VALUES = r"Python asks for the value of a tensor.*torch.where\(condition, a, b\)"
NUMBERS = r"Python reads a number out of a tensor"
# The cause, what the error says, and the operator that it names.
TABLE: list[tuple[Callable[..., Any], str, str]] = [
    (branch, VALUES, ""), (while_loop, VALUES, ""), (asserted, "or leave the check out", ""),
    (item, NUMBERS, ""), (data_loop, NUMBERS, ""), (written_out, NUMBERS, ""),
    (with_numpy, "write this with functions of torch", ""),
    (no_shape, r"torch\.library\.register_fake", "rewrite_tests.opaque.default"),
    (sparse, r"use dense ones, x\.to_dense\(\)", "aten._to_sparse.default"),
    (ragged, "pad them and pass a mask", "aten._nested_tensor_from_tensor_list.default"),
    (rows, r"dynamic=\{\} for none", ""),
    (key_error, r"Outer itself fails on x \[3, 5, 4\].*KeyError: 'y'", ""),
    (wrong_shape, r"Outer itself fails on x \[3, 5, 4\].*RuntimeError: mat1 and mat2", ""),
    (counts, r"keeps something from call to call \(block\.calls\)", ""),
    (draws, "it draws random numbers in forward", ""),
    (keeps_a_list, r"keeps something from call to call \(block\.kept\)", ""),
    (a_number, r"unsupported output 'output1' of type int.*return self\.model\(x\)\[0\]", ""),
]


@pytest.mark.parametrize(("function", "words", "operator"), TABLE,
                         ids=[function.__name__ for function, _, _ in TABLE])
def test_the_cause_is_named(function: Callable[..., Any], words: str, operator: str) -> None:
    torch.manual_seed(0)
    with pytest.raises(TraceError, match=re.compile(words, re.DOTALL)) as caught:
        rw.trace(Outer(function).eval(), {"x": torch.randn(3, 5, 4)})
    said = str(caught.value)
    lines, first = inspect.getsourcelines(function)
    here = [n for n, line in enumerate(lines) if "# here" in line]
    if here:
        assert "block (Inner)" in said or "block.layer (Linear)" in said
        assert f"test_refusals.py:{first + here[0]}" in said and lines[here[0]].strip() in said
    assert operator in said
    for advice in ("eliminate_dead_code", "rewrite.ir", "meta['val']", "control flow that depends"):
        assert advice not in said


def test_a_branch_of_torch() -> None:
    """It is followed, but it is no operator: the error says where it stands."""
    from rewrite.trace.cause import remedy_for

    assert "torch.where" in remedy_for("TraceError: it calls cond")
