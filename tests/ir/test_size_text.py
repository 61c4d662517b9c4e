"""Arithmetic on sizes: read as Python reads it, traced, saved and printed; nothing is executed."""

from __future__ import annotations

import math
import random
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import rewrite as rw
from rewrite.errors import FileError, InputError, MatchError, RuleError
from rewrite.ir.size_text import read_size, unmet

PLAIN = {"max": max, "min": min, "abs": abs, "round": round, "int": int, "math": math}


def spelled(draw: random.Random, depth: int) -> str:
    """Arithmetic on two sizes, as torch prints its guards."""
    if depth == 0:
        return draw.choice(["x.shape[0]", "x.shape[1]", str(draw.randint(-3, 9)), "0.5", "1.5"])
    a, b = (spelled(draw, depth - 1) for _ in range(2))
    return draw.choice([
        f"({a} + {b})", f"({a} - {b})", f"({a})*({b})", f"-({a})", f"({a}) / (abs({b}) + 1)",
        f"({a}) // (abs({b}) + 1)", f"({a}) % (abs({b}) + 1)", f"(abs({a}) + 1) ** 0.5",
        f"math.floor({a})", f"math.ceil({a})", f"math.trunc({a})", f"round({a})", f"abs({a})",
        f"max(1, {a}, {b})", f"min({a}, {b})", f"math.sqrt(abs({a}))", f"math.log(abs({a}) + 1)",
        f"int({a})"])


@pytest.mark.parametrize("seed", range(4))
def test_read_as_python_reads_it(seed: int) -> None:
    draw = random.Random(seed)
    for _ in range(150):
        text = spelled(draw, draw.randint(1, 4))
        sign = draw.choice(["==", "!=", "<", "<=", ">", ">="])
        text = f"{text} {sign} {spelled(draw, 1)}"
        text = draw.choice([text, f"not ({text})", f"{text} and {spelled(draw, 1)} < 4",
                            f"{text} or 2 <= {spelled(draw, 1)} < 5"])
        x = torch.ones(draw.randint(1, 9), draw.randint(1, 9))
        wanted = bool(eval(text, {"__builtins__": PLAIN, "math": math}, {"x": x}))  # the oracle
        met = unmet((text,), {"x": tuple(x.shape)}) is None
        assert met == wanted, text


@pytest.mark.parametrize("text", [
    "__import__('os').system('true')", "().__class__", "x.shape[0].real", "(lambda: 1)()",
    "[1]", "'a'", "x.shape[0] if 1 else 2", "9**9**9", "1 << 8", "f(2)", "open(3)", "2 +",
    "max(1, key=2)", "exec", "x[0]", "(" * 500, "", "2**(2**9)**9", "1" * 30_000, "1 / 0"])
def test_nothing_else_is_read(text: str) -> None:
    def known(name: str) -> int:
        if name != "x.shape[0]":
            raise ValueError(name)
        return 3

    with pytest.raises(ValueError):
        read_size(text, known)


def test_sizes_of_rules_and_matchers_execute_nothing(tmp_path: Path) -> None:
    made = tmp_path / "made"
    text = f"__import__('pathlib').Path({str(made)!r}).touch()"
    graph = rw.trace(nn.ReLU().eval(), inputs={"input": torch.ones(3, 2)})
    with pytest.raises(MatchError):
        graph.find(rw.match.shape(text))
    with pytest.raises((RuleError, ValueError)):
        rw.prove(rw.rule("r", "relu(x) = relu(relu(x))", examples=f"x: {text.replace(' ', '')}"))
    assert not made.exists()


class Measured(nn.Module):
    """A layer whose result is cut or scaled by a function of its sizes."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.layer, self.function = nn.Linear(4, 4), function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.layer(x))


ARITHMETIC: dict[str, Callable[[Tensor], Tensor]] = {
    "int(T * .5)": lambda y: y[:, : int(y.shape[1] * 0.5)],
    "T ** .5": lambda y: y * y.shape[1] ** 0.5,
    "T ** -.5": lambda y: y * y.shape[1] ** -0.5,
    "int(T ** .5)": lambda y: y[:, : int(y.shape[1] ** 0.5)],
    "sym_sqrt": lambda y: y * torch.sym_sqrt(y.shape[1]),
    "round": lambda y: y[:, : round(y.shape[1] * 0.3)],
    "round to digits": lambda y: y * round(y.shape[1] / 3, 1),
    "ceil": lambda y: y[:, : math.ceil(y.shape[1] / 3)],
    "floor": lambda y: y[:, : math.floor(y.shape[1] / 3)],
    "trunc": lambda y: y[:, : math.trunc(y.shape[1] / 3)],
    "max": lambda y: y[:, : max(y.shape[1] - 3, 1)],
    "abs": lambda y: y[:, : abs(y.shape[1] - 3)],
    "floordiv": lambda y: y[:, -(y.shape[1] // 2):],
    "shift": lambda y: y[:, : y.shape[1] >> 1],
    "mod": lambda y: nn.functional.pad(y, (0, 0, 0, (-y.shape[1]) % 4)),
    "parity": lambda y: y * (2 if y.shape[1] % 2 == 0 else 1),
    "interpolate": lambda y: nn.functional.interpolate(y.mT, scale_factor=0.5).mT,
    "log": lambda y: y * math.log(y.shape[1]),
    "top": lambda y: y.topk(max(1, int(y.shape[1] * 0.25)), dim=1).values,
}


@pytest.mark.parametrize("name", ARITHMETIC)
def test_arithmetic_of_lengths(name: str, tmp_path: Path) -> None:
    """Right or refused at every length; printed and read back, saved and loaded as it was."""
    torch.manual_seed(0)
    model = Measured(ARITHMETIC[name]).eval()
    graph = rw.trace(model, inputs={"x": torch.randn(3, 8, 4)})
    right = 0
    for length in range(1, 24):
        x = torch.randn(2, length, 4)
        try:
            found = graph(x=x)
        except InputError:
            continue
        assert torch.equal(found, model(x)), length
        right += 1
    assert right >= 1
    x = torch.randn(2, 8, 4)
    again = rw.from_text(graph.text(), model)
    assert again.text() == graph.text() and torch.equal(again(x=x)["output"], model(x))
    saved = [rw.load(rw.save(graph, tmp_path / "x.graph"))]
    if name.startswith("round"):
        with pytest.raises(FileError, match=r"cannot write to a file: .*rw.save"):
            graph.export(tmp_path / "x.pt2")
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's own, of files
            saved.append(rw.load_trusted(graph.export(tmp_path / "x.pt2")))
    for length in range(1, 24):
        x = torch.randn(2, length, 4)
        if unmet(graph.guards, {"x": (2, length, 4)}) is None and "seq" in graph.inputs[0].shape:
            assert all(torch.equal(one(x=x), model(x)) for one in saved), length


def test_letters_are_sizes() -> None:
    assert read_size("2*e + pi", {"e": 8, "pi": 3}.__getitem__) == 19
    assert read_size("math.trunc(math.e * e)", {"e": 8}.__getitem__) == 21
