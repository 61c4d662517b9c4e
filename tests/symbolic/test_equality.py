"""Equations that hold are proved, wrong ones are refuted with an example, the rest is undecided."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rewrite.errors import ProofError
from rewrite.symbolic import equal, run
from tests.symbolic.cases import HIDDEN, QKV, SHARED, Shapes, opened, sdpa

Function = Callable[..., Tensor]
ABW: Shapes = {"a": (1, 2, 3), "b": (1, 2, 3), "w": (2, 3)}
NORM: Shapes = {"x": (1, 2, 4), "g": (4,), "c": (4,), "w": (3, 4)}
X: Shapes = {"x": (2, 3)}
REPEATED = {"k": 1, "v": 1}


def biased(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    mask = torch.zeros(3, 3).masked_fill(HIDDEN, -math.inf)
    return torch.softmax(q @ k.mT * 2 ** -0.5 + mask, -1) @ v


def per_head(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.stack([opened(q[:, h], k[:, h // 2], v[:, h // 2]) for h in range(4)], 1)


HOLDS: dict[str, tuple[Function, Function, Shapes]] = {
    "W(a+b) = Wa + Wb": (lambda a, b, w: F.linear(a + b, w),
                         lambda a, b, w: F.linear(a, w) + F.linear(b, w), ABW),
    "gelu(W(a+b)) = gelu(Wa + Wb)": (lambda a, b, w: F.gelu(F.linear(a + b, w)),
                                     lambda a, b, w: F.gelu(F.linear(a, w) + F.linear(b, w)), ABW),
    "x = Px + (x - Px)": (lambda x, p: x, lambda x, p: x @ p + (x - x @ p),
                          {"x": (2, 3), "p": (3, 3)}),
    "a gain and a bias fold into a weight": (
        lambda x, g, c, w: F.linear(F.layer_norm(x, (4,), g, c), w),
        lambda x, g, c, w: F.linear(F.layer_norm(x, (4,)), w * g, w @ c), NORM),
    "a norm is a scale times the centred input": (
        lambda x, g, c, w: F.layer_norm(x, (4,), g, c),
        lambda x, g, c, w: (x - x.mean(-1, True)) * torch.rsqrt(
            x.var(-1, correction=0, keepdim=True) + 1e-5) * g + c, NORM),
    "centring twice is centring once": (
        lambda x: F.layer_norm(x, (3,)), lambda x: F.layer_norm(x - x.mean(-1, True), (3,)), X),
    "rms norm": (lambda x: F.rms_norm(x, (3,), eps=1e-6),
                 lambda x: x / (x.pow(2).sum(-1, True) / 3 + 1e-6).sqrt(), X),
    "fused and open attention": (lambda q, k, v: sdpa(q, k, v, is_causal=True), opened, QKV),
    "fused attention and added masks": (lambda q, k, v: sdpa(q, k, v, ~HIDDEN), biased, QKV),
    "grouped attention per head": (
        lambda q, k, v: sdpa(q, k, v, is_causal=True, enable_gqa=True), per_head, SHARED),
    "a bias of the keys cancels": (
        lambda q, k, v, b: sdpa(q, k, v), lambda q, k, v, b: sdpa(q, k + b, v),
        dict.fromkeys("qkv", (1, 2, 2)) | {"b": (2,)}),
    "the largest score cancels": (
        lambda x: torch.softmax(x, -1),
        lambda x: torch.exp(x - x.amax(-1, True)) / torch.exp(x - x.amax(-1, True)).sum(-1, True),
        X),
    "softmax of shifted scores": (
        lambda x: torch.softmax(x, -1), lambda x: torch.softmax(x - x.mean(-1, True), -1), X),
    "patterns sum to one": (
        lambda x: torch.softmax(x, -1).sum(-1), lambda x: torch.ones(2), X),
    "powers of exponentials": (
        lambda x: torch.exp(x / 2) ** 2 * torch.exp(-x.sum()),
        lambda x: torch.exp(x * (1 - x.sum() / x)), X),
    "fractions": (lambda x, y: 1 / (x / y + y / x), lambda x, y: x * y / (x ** 2 + y ** 2),
                  {"x": (2,), "y": (2,)}),
    "congruence of fractions": (lambda x, y: torch.tanh(1 / (1 + x / y)),
                                lambda x, y: torch.tanh(y / (x + y)), {"x": (2,), "y": (2,)}),
    "roots of numbers": (lambda x: x / math.sqrt(2) * math.sqrt(6),
                         lambda x: x * math.sqrt(3), X),
    "scales that floats only come near": (lambda x: x * (1 / 3), lambda x: x / 3, X),
    "silu": (F.silu, lambda input: input / (1 + torch.exp(-input)), {"input": (3,)}),
    "convolution as a sum": (
        lambda x, w: F.conv1d(x, w, groups=2),
        lambda x, w: sum(x[..., i:i + 3] * w[:, 0, i, None] for i in range(2)),
        {"x": (1, 2, 4), "w": (2, 1, 2)}),
    "casts": (lambda x: x.float().double() + x.to(torch.float32), lambda x: 2 * x, X),
}

FAILS: dict[str, tuple[Function, Function, Shapes]] = {
    "a bias is gone": (lambda x, w, c: F.linear(x, w, c), lambda x, w, c: F.linear(x, w),
                       {"x": (2, 3), "w": (2, 3), "c": (2,)}),
    "a weight is transposed": (lambda x, w: x @ w, lambda x, w: x @ w.T,
                               {"x": (2, 3), "w": (3, 3)}),
    "the scale is gone": (lambda q, k, v: sdpa(q, k, v),
                          lambda q, k, v: torch.softmax(q @ k.mT, -1) @ v, QKV),
    "another mask": (lambda q, k, v: sdpa(q, k, v, is_causal=True),
                     lambda q, k, v: sdpa(q, k, v), QKV),
    "heads read wrong keys": (
        lambda q, k, v: sdpa(q, k, v, enable_gqa=True),
        lambda q, k, v: sdpa(q, k.repeat(1, 2, 1, 1), v.repeat(1, 2, 1, 1)), SHARED),
    "gelu is not linear": (lambda x, y: F.gelu(x + y), lambda x, y: F.gelu(x) + F.gelu(y),
                           {"x": (2,), "y": (2,)}),
    "two ways to approximate": (lambda x: F.gelu(x), lambda x: F.gelu(x, approximate="tanh"), X),
    "relu is not the identity": (F.relu, lambda input: input, {"input": (1,)}),
    "eps matters": (lambda x: F.rms_norm(x, (3,), eps=1e-5), lambda x: F.rms_norm(x, (3,),
                                                                                eps=1e-2), X),
    "a norm does not distribute": (
        lambda x, y: F.layer_norm(x + y, (3,)),
        lambda x, y: F.layer_norm(x, (3,)) + F.layer_norm(y, (3,)), {"x": (2, 3), "y": (2, 3)}),
    "another bound": (lambda x: x.clamp(min=0.5), lambda x: x.clamp(max=0.5), X),
    "a bound on another side": (lambda x, y: torch.clamp(x, min=y), lambda x, y: torch.clamp(
        x, max=y), {"x": (2,), "y": (2,)}),
    "entries whose names look alike": (lambda x, x_1: x[1, 0], lambda x, x_1: x_1[0],
                                       {"x": (2, 1), "x_1": (1,)}),
    "a constant": (lambda x: torch.zeros(2), lambda x: torch.ones(2), X),
    "the wrong entry": (lambda x: x[:, 0], lambda x: x[:, 1], X),
}


@pytest.mark.parametrize("name", HOLDS)
def test_what_holds_is_proved(name: str) -> None:
    left, right, shapes = HOLDS[name]
    verdict = equal(left, right, shapes)
    assert verdict, f"{verdict}"
    assert verdict.status == "proved" and f"{verdict}".startswith("equal in all")


@pytest.mark.parametrize("name", FAILS)
def test_what_fails_is_refuted(name: str) -> None:
    left, right, shapes = FAILS[name]
    verdict = equal(left, right, shapes)
    assert not verdict and verdict.status == "refuted"
    assert "differs at result[" in f"{verdict}"


NO_POINT = ("a constant", "entries whose names look alike")


@pytest.mark.parametrize("name", [name for name in FAILS if name not in NO_POINT])
def test_the_example_is_one(name: str) -> None:
    left, right, shapes = FAILS[name]
    verdict = equal(left, right, shapes)
    place = tuple(int(i) for i in verdict.where.removeprefix("result[").strip("]").split(","))
    given = {each: torch.full(shape, 0.5, dtype=torch.float64) for each, shape in shapes.items()}
    for each, x in given.items():
        for index in torch.ones(x.shape).nonzero().tolist():
            symbol = "_".join(map(str, [each, *index]))
            x[tuple(index)] = verdict.at.get(symbol, 0.5)
    assert verdict.values is not None
    for side, value in zip((left, right), verdict.values, strict=True):
        assert side(**given)[place].item() == pytest.approx(value, abs=1e-9)


def test_a_verdict_shows_the_first_entry_that_differs() -> None:
    verdict = equal(lambda x, c: x + c, lambda x, c: x, {"x": (1, 2), "c": (2,)})
    assert f"{verdict}" == (
        "differs at result[0, 0]:\n  left   c_0 + x_0_0\n  right  x_0_0\n"
        f"  {verdict.values[0]:.6g} and {verdict.values[1]:.6g} for "  # type: ignore[index]
        f"x_0_0={verdict.at['x_0_0']:g}, c_0={verdict.at['c_0']:g}")


@pytest.mark.parametrize(("left", "right"), [
    (lambda x: x.sin() ** 2 + x.cos() ** 2, lambda x: torch.ones(2)),
    (lambda x: torch.log(torch.exp(x)), lambda x: x),
    (lambda x: torch.sqrt(x) * torch.sqrt(x + 1), lambda x: torch.sqrt(x * x + x)),
])
def test_laws_of_functions_are_not_known(left: Function, right: Function) -> None:
    verdict = equal(left, right, {"x": (2,)})
    assert verdict.status == "undecided" and not verdict
    assert "no law that is used makes them equal" in f"{verdict}"


def test_too_much_work_is_undecided() -> None:
    def power(x: Tensor) -> Tensor:
        return x.sum() ** 9

    assert equal(power, lambda x: power(x.flip(0)), {"x": (9,)}, limit=50)  # one sum, not expanded
    verdict = equal(lambda x: (x[0] + x[1]) ** 9 * x.sum() ** 9,
                    lambda x: (x[0] * x.sum() + x[1] * x.sum()) ** 9, {"x": (9,)}, limit=3)
    assert verdict.status == "undecided" and "more than 3 monomials" in f"{verdict}"


def test_outputs_of_other_shapes_are_different() -> None:
    verdict = equal(lambda x: x, lambda x: x[:1], {"x": (2, 3)})
    assert f"{verdict}" == "differs: the sides yield [2, 3] and [1, 3]"
    assert not equal(lambda x: None, lambda x: None, {"x": (2,)})


def test_all_outputs_are_compared() -> None:
    def several(x: Tensor) -> dict[str, Any]:
        return {"a": x, "b": (x + 1, 3)}

    assert equal(several, several, {"x": (2,)}).entries == 4
    verdict = equal(several, lambda x: {"a": x, "b": (x + 2, 3)}, {"x": (2,)})
    assert verdict.where == "['b'][0][0]"


def test_parameters_are_variables() -> None:
    torch.manual_seed(0)
    one, copy, other = nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2)
    copy.load_state_dict(one.state_dict())
    assert equal(one, one, {"input": (1, 2)}) and equal(one, copy, {"input": (1, 2)})
    verdict = equal(one, other, {"input": (1, 2)})
    assert "weight'_0_0" in verdict.right
    assert str(run(one, {"input": (1, 2)}).expressions[0, 0]) == (
        "bias_0 + input_0_0*weight_0_0 + input_0_1*weight_0_1")


def test_an_input_may_be_called_like_a_parameter() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(2))

        def forward(self, weight: Tensor) -> Tensor:
            return weight * self.weight

    module = Named()
    assert str(run(module, {"weight": (2,)}).expressions[0]) == "weight'_0*weight_0"
    verdict = equal(module, lambda weight: weight * weight, {"weight": (2,)})
    assert verdict.status == "refuted"


def test_buffers_are_numbers_or_variables() -> None:
    norm = nn.BatchNorm1d(1).eval()
    assert equal(norm, lambda input: input, {"input": (1, 1)}).status == "refuted"
    plain = {"input": (1, 1)}
    assert "running_var" not in str(run(norm, plain).expressions)
    assert "running_var" in str(run(norm, plain, buffers=True).expressions)


def test_whole_numbers_and_named_floats_stay() -> None:
    ids, scale = torch.tensor([1, 0]), torch.tensor([0.5, 2.0])
    given = {"x": (2,), "ids": ids, "scale": scale}
    made = run(lambda x, ids, scale: x[ids] * scale, given, concrete=["scale"])
    assert str(made.expressions) == "[x_1/2, 2*x_0]"
    assert "scale_0" in str(run(lambda x, ids, scale: x[ids] * scale, given).expressions)


def test_what_one_side_writes_is_not_seen_by_the_other() -> None:
    assert equal(lambda x: x.mul_(2), lambda x: x + x, {"x": (2,)})
    assert not equal(lambda x: x.mul_(2), lambda x: x, {"x": (2,)})


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_masks_of_the_lowest_number_hide(dtype: torch.dtype) -> None:
    lowest = torch.tensor([0.0, torch.finfo(dtype).min], dtype=dtype)
    made = run(lambda x: torch.softmax(x + lowest, -1), {"x": (2,)})
    assert str(made.expressions) == "[1, 0]"


def test_a_hidden_row_is_refused() -> None:
    with pytest.raises(ProofError, match="a row that a mask hides completely"):
        run(lambda x: torch.softmax(x.masked_fill(torch.tensor(True), -math.inf), -1), {"x": (2,)})
