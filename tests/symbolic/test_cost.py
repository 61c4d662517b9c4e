"""Costs of single kernels and small modules, beside what torch counts in a real run."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from sympy import Symbol, symbols
from torch import Tensor, fx, nn

import rewrite as rw
from rewrite.errors import InputError, TraceError
from rewrite.ir.graph import InputSpec
from rewrite.symbolic.cost import Cost, hints_for, measured
from rewrite.symbolic.cost_terms import Largest, bounds, grow, terms, total
from tests.symbolic.counting import counted
from tests.zoo import traced

SIZES = {"batch": 8, "seq": 96}
ids = torch.int64


class Does(nn.Module):
    """A module that calls a function, with weights of fixed sizes at hand."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.function = function
        self.w, self.v = nn.Parameter(torch.randn(64, 64)), nn.Parameter(torch.randn(64))
        self.filters = nn.Parameter(torch.randn(32, 64, 3))
        self.depth = nn.Parameter(torch.randn(64, 1, 3))
        self.planes = nn.Parameter(torch.randn(16, 1, 3, 5))

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


def heads(x: Tensor, count: int = 4) -> Tensor:
    return x.unflatten(-1, (count, -1)).transpose(1, 2)


def attended(x: Tensor, keys: int, **options: object) -> Tensor:
    kv = heads(x[..., :16 * keys], keys)
    return F.scaled_dot_product_attention(heads(x), kv, kv, **options)


PRODUCTS: dict[str, Callable[[Does, Tensor], Tensor]] = {
    "linear": lambda m, x: F.linear(x, m.w, m.v),
    "linear of a transposed input": lambda m, x: F.linear(x.transpose(0, 1), m.w),
    "without bias": lambda m, x: x @ m.w,
    "scores": lambda m, x: x @ x.transpose(1, 2),
    "scores of heads": lambda m, x: heads(x) @ heads(x).transpose(2, 3),
    "scores and more": lambda m, x: torch.baddbmm(x[:, :, :1], x, x.transpose(1, 2)),
    "convolution": lambda m, x: F.conv1d(x.transpose(1, 2), m.filters, stride=2),
    "padded": lambda m, x: F.conv1d(x.transpose(1, 2), m.filters, padding=1),
    "by channel": lambda m, x: F.conv1d(x.transpose(1, 2), m.depth, groups=64),
    "in two dimensions": lambda m, x: F.conv2d(x.unsqueeze(1), m.planes),
    "transposed": lambda m, x: F.conv_transpose1d(x.transpose(1, 2), m.filters.transpose(0, 1)),
    "attention": lambda m, x: attended(x, 4, is_causal=True),
    "shared keys": lambda m, x: attended(x, 2, enable_gqa=True),
}
OTHERS: dict[str, Callable[[Does, Tensor], Tensor]] = {
    "softmax": lambda m, x: x.softmax(-1),
    "softmax of a view": lambda m, x: x.transpose(1, 2).softmax(-1),
    "norm": lambda m, x: F.layer_norm(x, (64,), m.v, m.v),
    "norm of a view": lambda m, x: F.layer_norm(x[:, ::2], (64,), m.v, m.v),
    "mean": lambda m, x: x * x.pow(2).mean(-1, keepdim=True).rsqrt(),
    "only views": lambda m, x: heads(x).unsqueeze(0)[..., 1:],
    "in place": lambda m, x: (x + 1).relu_().mul_(2),
    "copies": lambda m, x: torch.cat([x, x.transpose(0, 1).transpose(0, 1).contiguous()], 1),
    "mask": lambda m, x: torch.where(x > 0, x, torch.zeros((), dtype=x.dtype)),
    "gather": lambda m, x: m.w[torch.arange(32)] + x[:, -1:],
    "nobody reads it": lambda m, x: [torch.exp(x), x.sin().cos()][1],
}


def cost_of(module: nn.Module, hints: dict[str, int] | None = None) -> Cost:
    spec = InputSpec("x", ("batch", "seq", 64), torch.float32)
    traced = fx.symbolic_trace(module)
    return measured(traced, (spec,), lambda node: node.name, hints or {"batch": 7, "seq": 11})


@pytest.mark.parametrize("name", [*PRODUCTS, *OTHERS])
def test_modules(name: str) -> None:
    module = Does((PRODUCTS | OTHERS)[name])
    x, traced = torch.randn(8, 96, 64), fx.symbolic_trace(module)
    real, found = counted(lambda: traced(x)), cost_of(module).at(**SIZES)
    assert (found.flops, found.kernels) == (real.flops, real.kernels)
    assert (found.flops > 0) == (name in PRODUCTS)
    assert found.peak == pytest.approx(real.peak, rel=0.15)


@pytest.mark.parametrize("length", [16, 200, 800])
def test_attention_holds_a_tile_for_each_thread(length: int) -> None:
    module = Does(PRODUCTS["attention"])
    x, traced = torch.randn(1, length, 64), fx.symbolic_trace(module)
    real = counted(lambda: traced(x))
    assert cost_of(module).at(batch=1, seq=length).peak == real.peak


def test_products_are_told_apart_by_kind() -> None:
    batch, seq = symbols("batch seq", integer=True, positive=True)
    cost = cost_of(Does(lambda m, x: attended(F.linear(x, m.w) @ m.w, 4)))
    assert cost.products == {"linear": 4 * batch * seq * 64 * 64,
                             "attention": 4 * batch * seq**2 * 64}
    assert cost.flops == sum(cost.products.values())


def test_bytes_and_elementwise() -> None:
    batch, seq = symbols("batch seq", integer=True, positive=True)
    cost = cost_of(Does(lambda m, x: x + m.v))
    assert cost.elementwise == 64 * batch * seq and cost.flops == 0
    assert cost.bytes == 4 * (2 * 64 * batch * seq + 64)
    assert cost.peak == 4 * 64 * batch * seq and cost.kernels == 1
    gathered = cost_of(Does(lambda m, x: F.embedding(x[:, :, 0].long(), m.w)))
    rows = 64 * batch * seq * 4  # read, and written
    assert gathered.bytes == 2 * rows + batch * seq * (8 + 4 + 8)


def test_kernels_are_chosen_near_the_given_sizes() -> None:
    """A batch of one makes a copy unnecessary."""
    module = Does(lambda m, x: x.transpose(0, 1).reshape(-1, 64))
    several, one = cost_of(module), cost_of(module, {"batch": 1, "seq": 9})
    assert (several.kernels, one.kernels) == (1, 0)
    assert (several.fixed, one.fixed) == ({}, {"batch": 1})
    assert one.at(batch=1, seq=20).kernels == 0
    with pytest.raises(InputError, match=r"for batch=1 only, found batch=2: cost\(..., around="):
        one.at(batch=2, seq=20)


def test_sizes_that_depend_on_values() -> None:
    module = Does(lambda m, x: x[x.sum(-1) > 0].view(-1, 2, 64))
    with pytest.raises(TraceError, match=r"the cost of getitem cannot be .*u0 is none of"):
        cost_of(module)


@pytest.mark.parametrize(("sizes", "message"), [
    ({"batch": 8}, r"the size 'seq' is missing: at\(batch=..., seq=...\)"),
    ({"batch": 8, "seqq": 4}, "does not depend on 'seqq'; did you mean seq"),
    ({"batch": 0, "seq": 4}, "positive integer, found batch=0"),
    ({"batch": 1.5, "seq": 4}, r"positive integer, found batch=1.5"),
])
def test_wrong_sizes(sizes: dict[str, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        cost_of(Does(OTHERS["softmax"])).at(**sizes)


SPECS = (InputSpec("x", ("batch", "seq", 4), torch.float32), InputSpec("y", ("seq",), ids))


def test_hints_fit_the_graph() -> None:
    hints = hints_for(SPECS, ("x.shape[1] > 40", "x.shape[0] <= 5"), {})
    assert hints["seq"] > 40 and hints["batch"] <= 5
    assert hints_for(SPECS, (), {"batch": 7}) == {"batch": 7, "seq": 11}
    with pytest.raises(InputError, match="the graph has no size 'sec'; did you mean seq"):
        hints_for(SPECS, (), {"sec": 4})
    with pytest.raises(InputError, match=r"it demands x.shape\[0\] == 9999.*around=\{'batch': 8\}"):
        hints_for(SPECS, ("x.shape[0] == 9999",), {})


def test_figures_have_units() -> None:
    shown = str(cost_of(Does(PRODUCTS["linear"])).at(batch=1000, seq=1000))
    assert shown == ("8.19 GFLOP, 0 entries elementwise, 512 MB moved, 256 MB at the peak, "
                     "1 kernels")


numbers = st.integers(-3, 5)
sums = st.lists(st.tuples(st.sampled_from(["1", "x", "y", "x*y", "x**2"]), numbers), max_size=4)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.lists(sums, min_size=1, max_size=5), st.integers(1, 9), st.integers(1, 9))
def test_the_largest_is_kept(candidates: list[list[tuple[str, int]]], x: int, y: int) -> None:
    at = {"1": 1, "x": x, "y": y, "x*y": x * y, "x**2": x * x}
    a, b = Symbol("x"), Symbol("y")
    spelt = {"1": a**0, "x": a, "y": b, "x*y": a * b, "x**2": a * a}
    top, best = Largest(), None
    for candidate in candidates:
        made = terms(sum((spelt[name] * n for name, n in candidate), start=0 * a))
        top.add(made)
        value = sum(at[name] * n for name, n in candidate)
        best = value if best is None else max(best, value)
    assert top.expression().subs([(a, x), (b, y)]) == best


def test_terms() -> None:
    x, y = Symbol("x"), Symbol("y")
    found = terms(x * (x + 2 * y) + 3)
    assert total(found) == x**2 + 2 * x * y + 3
    grow(found, terms(x**2 + 3), -1)
    assert found == {x * y: 2}
    assert bounds(terms(2 * x), terms(x)) and not bounds(terms(x), terms(2 * x))


def test_heads_that_read_by_hops_project_keys_for_each_reading() -> None:
    parts = traced("gpt2").parts
    plain, windowed = (rw.expand(rw.Hypothesis(parts, {"clean": text})).cost
                       for text in ("a1.h2.k -> logits", "a1.h2.k[-1] -> logits"))
    more = windowed.work.products["linear"] - plain.work.products["linear"]
    projection = 2 * 32 * 8  # from the stream to the keys of one head
    batch, seq = symbols("batch seq", integer=True, positive=True)
    assert more == projection * batch * seq
    forward = rw.cost(parts).products["linear"]  # GPT-2 has no products with weights of other kinds
    for each in (plain, windowed):
        assert each.forwards == pytest.approx(float(each.work.products["linear"] / forward))
