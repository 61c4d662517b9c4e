"""Picks: what they mean, and the same elements before a view."""

from __future__ import annotations

import math
from collections.abc import Sequence
from random import Random
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import sympy
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, fx, nn

import rewrite as rw
from rewrite.ir.flow import Flow, args
from rewrite.ir.ops import as_ranges, take, take_every
from rewrite.rules.picks import (
    Every,
    Indices,
    Pick,
    SizeOf,
    aligned,
    compose,
    regroup,
    through_view,
)
from rewrite.rules.slicer import Slicer
from rewrite.rules.slicing_table import push
from tests.rules.oracle import aten, picked

often = settings(max_examples=60, derandomize=True, deadline=None)
n, m = sympy.symbols("n m", positive=True, integer=True)


def some(random: Random, size: int) -> tuple[int, ...]:
    return tuple(sorted(random.sample(range(size), random.randint(1, size))))


# laws of picks


@often
@given(st.integers(0, 2**32 - 1))
def test_picks_compose(seed: int) -> None:
    random, x = Random(seed), torch.arange(120).reshape(4, 5, 6)
    inner = {d: tuple(random.choices(range(x.shape[d]), k=4)) for d in random.sample(range(3), 2)}
    outer = {d: tuple(random.choices(range(4), k=2)) for d in range(3)}
    assert torch.equal(picked(picked(x, inner), outer), picked(x, compose(outer, inner)))


def test_picks_that_depend_on_sizes() -> None:
    every = Every(3, (1,))
    assert compose({0: every}, {1: (0,)}) == {0: every, 1: (0,)} == compose({1: (0,)}, {0: every})
    for outer, inner in [(every, (0, 1)), ((0, 1), every), (every, every)]:
        with pytest.raises(ValueError, match="not known before sizes are"):
            compose({0: outer}, {0: inner})
    with pytest.raises(TypeError, match="how many indices"):
        len(every)
    with pytest.raises(TypeError, match="which indices"):
        tuple(every)


@often
@given(st.lists(st.integers(0, 9), max_size=8), st.sampled_from([0, 1, -1]))
def test_ranges_hold_the_indices(asked: list[int], dim: int) -> None:
    x = torch.arange(100).reshape(10, 10)
    assert torch.equal(take(x, dim, as_ranges(tuple(asked))), picked(x, {dim % 2: tuple(asked)}))


@often
@given(st.integers(0, 2**32 - 1))
def test_every_so_many(seed: int) -> None:
    random = Random(seed)
    period, times = random.randint(1, 5), random.randint(1, 4)
    rest, dim = some(random, period), random.choice([0, 1, 2])
    x = torch.rand([*random.choices([1, 2, 3], k=dim), period * times, *[2] * (2 - dim)])
    found = take_every(x, dim, period, as_ranges(rest))
    assert torch.equal(found, picked(x, {dim: Every(period, rest)}))
    assert found.shape[dim] == len(rest) * times


def test_the_last_index_and_none() -> None:
    x = torch.arange(6).reshape(2, 3)
    assert as_ranges((-1,)) == ((-1, None),) and as_ranges(()) == ()
    assert take(x, 1, as_ranges((-1,))).tolist() == [[2], [5]]
    assert take(x, 1, ((0, 2),)).data_ptr() == x.data_ptr()
    assert take(x, 1, ()).shape == (2, 0) and take(x, -2, ()).shape == (0, 3)


# views


def test_shapes_are_aligned() -> None:
    assert aligned((2, 3, 8), (2, 3, 2, 4)) == [([0], [0]), ([1], [1]), ([2], [2, 3])]
    assert aligned((6, 4), (2, 3, 4)) == [([0], [0, 1]), ([1], [2])]
    assert aligned((4, 6), (8, 3)) == [([0, 1], [0, 1])]
    assert aligned((n, m, 8), (n * m, 2, 4)) == [([0, 1], [0]), ([2], [1, 2])]
    assert aligned((n, 4, m), (4 * n, m)) == [([0, 1], [0]), ([2], [1])]
    assert aligned((n, 1), (n,)) == [([0], [0]), ([1], [])]


def test_heads_that_share_keys_in_pairs() -> None:
    """Heads 0, 1, 2 of 4 over [2, 2]: the box is both pairs, and the rest is picked afterwards."""
    box = regroup([2, 2], [4], {0: (0, 1, 2)})
    assert box is not None
    assert (dict(box.picks), dict(box.left), dict(box.sizes)) == ({}, {0: (0, 1, 2)}, {0: 4})
    box = regroup([2, 2], [4], {0: (2, 3)})
    assert box is not None and (dict(box.picks), dict(box.left)) == ({0: (1,)}, {})
    assert regroup(["n", 2], [4], {0: (0,)}) is None
    assert regroup([], [1], {0: (0,)}) is not None


FOLDED: list[tuple[tuple[Any, ...], tuple[Any, ...], Pick, Pick | None]] = [
    ((n, 4, m), (4 * n, m), {0: Every(4, (1, 2))}, {1: (1, 2)}),
    ((4 * n, m), (n, 4, m), {1: (1, 2)}, {0: Every(4, (1, 2))}),
    ((n, 2, 2), (4 * n,), {0: Every(4, (2, 3))}, {1: (1,)}),
    ((4 * n,), (2 * n, 2), {1: (0,)}, {0: Every(4, (0, 2))}),
    ((4 * n,), (2 * n, 2), {0: Every(2, (1,))}, {0: Every(4, (2, 3))}),
    ((4 * n, 3), (4 * n, 3, 1), {0: Every(4, (2,))}, {0: Every(4, (2,))}),
    ((4 * n, m), (4 * n * m,), {0: Every(4, (2,))}, None),  # 4 m n means m n times 4
    ((n, 2, 2), (4 * n,), {0: Every(4, (1, 2))}, None),  # no box
    ((n, 4), (4 * n,), {0: Every(2, (1,))}, None),  # another period
    ((n, 4), (4 * n,), {0: (-1,)}, None),  # a single index of a folded axis
    ((4 * n,), (n, 4), {0: (-1,), 1: (2,)}, None),
    ((4 * n,), (n, 4), {0: (0,)}, None),  # the varying part alone
    ((4 * n + 4,), (n + 1, 4), {1: (2,)}, None),  # a sum has no fixed part
    ((n, 4), (n, 4), {0: Every(2, (1,))}, None),
    ((n * m, 8), (n, m, 8), {1: (-1,), 2: (0, 3)}, {0: Every(m, (-1,)), 1: (0, 3)}),
    ((n, m, 8), (n * m, 8), {0: Every(m, (-1,)), 1: (2,)}, {1: (-1,), 2: (2,)}),
    ((n * m, 8), (n * m, 2, 4), {0: Every(m, (-1,)), 2: (3,)}, {0: Every(m, (-1,)), 1: (3, 7)}),
    ((n * m,), (n, m), {0: (-1,)}, None),  # the outer part is not every so many
    ((n, m), (n * m,), {0: Every(n, (-1,))}, None),  # merged the other way round
    ((n * m,), (n, m), {0: (0,), 1: (-1,)}, None),
    ((n * (m - 1),), (n, m - 1), {1: (-1,)}, None),  # a size that no input has
]


@pytest.mark.parametrize(("before", "after", "pick", "wanted"), FOLDED)
def test_folded_axes(
    before: tuple[Any, ...], after: tuple[Any, ...], pick: Pick, wanted: Pick | None
) -> None:
    box = through_view(before, after, pick)
    assert (None if box is None else dict(box.picks)) == wanted


def grouped(random: Random, factors: Sequence[Any]) -> list[Any]:
    """Factors in order, joined to axes at random, with some axes of size 1."""
    sizes: list[Any] = []
    for factor in factors:
        if sizes and random.random() < 0.5:
            sizes[-1] = sizes[-1] * factor
        else:
            sizes += [1] * (random.random() < 0.1) + [factor]
    return sizes + [1] * (random.random() < 0.1)


def symbolic_pick(random: Random, sizes: Sequence[Any]) -> dict[int, Indices]:
    pick: dict[int, Indices] = {}
    for dim in random.sample(range(len(sizes)), min(len(sizes), random.choice([1, 1, 2]))):
        if isinstance(sizes[dim], int):
            pick[dim] = some(random, sizes[dim]) if random.random() < 0.9 else (-1,)
        else:
            if sizes[dim] == n * m and random.random() < 0.5:
                pick[dim] = Every(random.choice([n, m]), (-1,))
                continue
            period = int(sizes[dim].as_coeff_Mul()[0])
            period = random.choice([period, period, period, max(1, period // 2)])
            pick[dim] = (-1,) if period == 1 else Every(period, some(random, period))
    return pick


def numbers(sizes: Sequence[Any], values: dict[Any, int]) -> list[int]:
    return [size if isinstance(size, int) else int(size.subs(values)) for size in sizes]


def valued(pick: Pick, values: dict[Any, int]) -> Pick:
    """The same pick with the period of every so many as a number."""
    return {dim: i if isinstance(i, tuple) else Every(
        p := numbers([i.period], values)[0], tuple(r % p for r in i.rest))
        for dim, i in pick.items()}


def check_view(before: Sequence[Any], after: Sequence[Any], pick: Pick, random: Random) -> bool:
    """Compare a pick that passes a view with brute force, at several sizes."""
    box = through_view(before, after, pick)
    if box is None:
        return False
    for _ in range(3):
        values = {n: random.randint(1, 4), m: random.randint(1, 4)}
        old, new = numbers(before, values), numbers(after, values)
        x = torch.from_numpy(np.arange(math.prod(old)).reshape(old))
        wanted = picked(x.reshape(new), valued(pick, values))
        for dim, size in box.sizes.items():
            whole = torch.arange(new[dim])
            new[dim] = size if size != -1 else len(picked(whole, valued({0: pick[dim]}, values)))
        assert torch.equal(
            picked(picked(x, valued(box.picks, values)).reshape(new), box.left), wanted)
    return True


def test_views_of_varying_sizes() -> None:
    random, passed = Random(0), 0
    for _ in range(1500):
        factors = random.choices([2, 3, 4, n, m], k=random.randint(2, 4))
        before, after = grouped(random, factors), grouped(random, factors)
        passed += check_view(before, after, symbolic_pick(random, after), random)
    assert passed > 500


@often
@given(st.integers(0, 2**32 - 1))
def test_views_of_fixed_sizes(seed: int) -> None:
    random = Random(seed)
    for _ in range(5):
        factors = random.choices([1, 2, 3], k=random.randint(1, 5))
        before, after = grouped(random, factors), grouped(random, factors)
        check_view(before, after, symbolic_pick(random, after), random)


def test_a_view_keeps_at_most_one_size_open() -> None:
    """view(x, [b, -1, 3]) with a folded b asks for the size of the axis that was open."""
    class Size(SimpleNamespace):
        """A varying size, as fake tensors have."""

    def fake(*sizes: Any) -> Any:
        return SimpleNamespace(
            shape=[s if isinstance(s, int) else Size(node=SimpleNamespace(expr=s)) for s in sizes])

    graph = fx.Graph()
    x = graph.placeholder("x")
    x.meta["val"] = fake(n, 4, m, 3)
    node = graph.call_function(aten.view.default, (x, ["4 n", -1, 3]))
    node.meta["val"] = fake(4 * n, m, 3)
    pushed = push(node, {0: Every(4, (2,))})
    assert pushed is not None and pushed.operands == {0: {1: (2,)}}
    assert pushed.args == {1: [-1, SizeOf(2), 3]}
    node.meta["val"] = fake(4 * n, m, 3)
    x.meta["val"] = fake(n, 4, 3 * m)
    assert push(node, {0: Every(4, (2,))}) is None  # the other size is that of no axis


# whole chains with heads in the batch, run at other sizes than they were traced with


class Chain(nn.Module):
    """Random steps on `[batch * heads, length, width]`, made of x `[batch, length, 12]`."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        random = Random(seed)
        self.heads, self.open = random.choice([2, 3, 4]), random.random() < 0.5
        self.steps = random.sample([self.rows, self.swapped, self.attended, self.unfolded,
                                    self.first, self.scaled], 3)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, _ = x.shape
        y = x.view(batch, length, self.heads, -1).transpose(1, 2)
        y = y.reshape(batch * self.heads, -1 if self.open else length, 12 // self.heads)
        for step in self.steps:
            y = step(y, batch)
        return y

    def rows(self, y: Tensor, batch: int) -> Tensor:
        return y.relu() + y.cumsum(1).mean(-1, keepdim=True)

    def swapped(self, y: Tensor, batch: int) -> Tensor:
        return torch.bmm(y.transpose(1, 2).softmax(-1), y).permute(0, 2, 1)

    def attended(self, y: Tensor, batch: int) -> Tensor:
        return torch.bmm(torch.bmm(y, y.transpose(1, 2)).softmax(-1), y)

    def unfolded(self, y: Tensor, batch: int) -> Tensor:
        apart = y.view(batch, self.heads, y.shape[1], -1)
        return (apart * 2).view(batch * self.heads, -1, y.shape[2])

    def first(self, y: Tensor, batch: int) -> Tensor:
        size = -1 if self.open else batch * self.heads
        return y - y[:, :1].expand(size, y.shape[1], -1)

    def scaled(self, y: Tensor, batch: int) -> Tensor:
        scale = torch.arange(1.0, 1 + self.heads, dtype=y.dtype).view(1, -1, 1, 1)
        return y * scale.expand(batch, -1, 1, 1).reshape(batch * self.heads, 1, 1)


@pytest.mark.parametrize("seed", range(12))
def test_chains_of_folded_heads(seed: int) -> None:
    chain, random = Chain(seed).eval(), Random(seed)
    module = rw.trace(chain, inputs={"x": torch.rand(5, 7, 12, dtype=torch.float64)}).module
    (source,), result = module.graph.find_nodes(op="placeholder"), module.graph.output_node()
    pick = {0: Every(chain.heads, some(random, chain.heads))}
    slicer = Slicer(module, Flow(module.graph, ("x",)), {source})
    body = slicer.finish(slicer.emit(args(result)[0][0], pick))
    assert body.stuck == ()
    for batch, length in [(2, 3), (3, 9)]:
        x = torch.randn(batch, length, 12, dtype=torch.float64)
        given = Recorder(module).all_values(x)
        found = body.module(x, *(given[node] for node in body.context))
        assert torch.allclose(found, picked(chain(x), pick), atol=1e-12)


class Recorder(fx.Interpreter):
    """Runs a module and keeps the value of every node."""

    def all_values(self, x: Tensor) -> dict[fx.Node, Any]:
        self.values: dict[fx.Node, Any] = {}
        self.run(x)
        return self.values

    def run_node(self, n: fx.Node) -> Any:
        self.values[n] = super().run_node(n)
        return self.values[n]
