"""pick(f(x)) = f'(pick'(x)) for every rule, against slices of the whole result."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from random import Random
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, fx

from rewrite.ir.ops import as_ranges, take
from rewrite.rules.picks import Pushed, aligned, compose, regroup
from rewrite.rules.slicing import RULES, as_slice, push

aten = torch.ops.aten
often = settings(max_examples=60, derandomize=True, deadline=None)


def node_of(target: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any] | None = None) -> fx.Node:
    """A node that calls `target`, with the value of every tensor in its metadata."""
    graph = fx.Graph()

    def holder(value: Any) -> Any:
        if isinstance(value, (list, tuple)):
            return type(value)(holder(item) for item in value)
        if not isinstance(value, Tensor):
            return value
        made = graph.placeholder(f"x{len(graph.nodes)}")
        made.meta["val"] = value
        return made

    kwargs = dict(kwargs or {})
    node = graph.call_function(
        target, tuple(holder(a) for a in args), {k: holder(v) for k, v in kwargs.items()})
    node.meta["val"] = target(*args, **kwargs)
    return node


def picked(value: Tensor, pick: Mapping[int, tuple[int, ...]]) -> Tensor:
    """The indices of some axes, by plain indexing."""
    for dim, indices in pick.items():
        value = value.movedim(dim, 0)[list(indices)].movedim(0, dim)
    return value


def rebuilt(node: fx.Node, pushed: Pushed) -> Tensor:
    """What the node yields on the smaller operands that the rule asks for."""

    def smaller(arg: Any, pick: Mapping[int, tuple[int, ...]]) -> Any:
        return fx.map_arg(arg, lambda operand: picked(operand.meta["val"], pick))

    args = [smaller(pushed.args.get(i, arg), pushed.operands.get(i, {}))
            for i, arg in enumerate(node.args)]
    kwargs = {name: smaller(arg, pushed.operands.get(name, {}))
              for name, arg in (dict(node.kwargs) | dict(pushed.kwargs)).items()}
    views = {aten.view.default, aten._unsafe_view.default}
    target = aten.reshape.default if node.target in views else node.target
    return picked(target(*args, **kwargs), pushed.after)


def indices(random: Random, size: int) -> tuple[int, ...]:
    """Some indices of an axis in order, or the last one by its negative number."""
    if random.random() < 0.2:
        return (-1,)
    return tuple(sorted(random.sample(range(size), random.randint(1, size))))


def any_pick(random: Random, value: Tensor) -> dict[int, tuple[int, ...]]:
    """Some indices of some of the axes."""
    dims = random.sample(range(value.ndim), random.randint(1, value.ndim)) if value.ndim else []
    return {dim: indices(random, value.shape[dim]) for dim in dims}


def rand(*sizes: int) -> Tensor:
    return torch.randn(sizes, dtype=torch.float64)


def elementwise(r: Random) -> tuple[Any, ...]:
    x, shape = rand(2, 3, 4), r.choice([(2, 3, 4), (4,), (1,), (3, 1), (2, 1, 4), (1, 3, 1)])
    return r.choice([
        (aten.add.Tensor, x, rand(*shape)), (aten.mul.Tensor, rand(*shape), x),
        (aten.add.Tensor, x, 2.0), (aten.gelu.default, x), (aten.tanh.default, x),
        (aten.where.self, x > 0, x, rand(*shape)), (aten.pow.Tensor_Scalar, x, 2),
        (aten.neg.default, x), (aten.silu.default, x), (aten.rsqrt.default, x.abs()),
    ])


def reductions(r: Random) -> tuple[Any, ...]:
    x, dim = rand(2, 3, 4), r.choice([-1, 0, 1])
    return r.choice([
        (aten.softmax.int, x, dim), (aten._softmax.default, x, dim, False),
        (aten.layer_norm.default, x, [4], rand(4), rand(4)), (aten.layer_norm.default, x, [3, 4]),
        (aten.rms_norm.default, x, [4], rand(4)), (aten.mean.dim, x, [dim], r.random() < 0.5),
        (aten.mean.dim, x, None, True), (aten.sum.dim_IntList, x, [0, 2], True),
        (aten.sum.dim_IntList, x, [1]), (aten.var.dim, x, [dim], True, r.random() < 0.5),
        (aten.var.correction, x, [dim]), (aten.amax.default, x, [dim], r.random() < 0.5),
        (aten.cumsum.default, x, dim),
    ])


def products(r: Random) -> tuple[Any, ...]:
    bias = r.choice([(), (None,), (rand(5),)])
    return r.choice([
        (aten.linear.default, rand(2, 3, 4), rand(5, 4), *bias),
        (aten.addmm.default, rand(5), rand(3, 4), rand(4, 5)),
        (aten.addmm.default, rand(3, 5), rand(3, 4), rand(4, 5)),
        (aten.addmm.default, rand(3, 1), rand(3, 4), rand(4, 5)),
        (aten.mm.default, rand(3, 4), rand(4, 5)),
        (aten.bmm.default, rand(2, 3, 4), rand(2, 4, 5)),
        (aten.matmul.default, rand(2, 3, 4), rand(4, 5)),
        (aten.matmul.default, rand(2, 1, 3, 4), rand(6, 4, 5)),
        (aten.matmul.default, rand(3, 4), rand(2, 4, 5)),
        (aten.embedding.default, rand(7, 4), torch.tensor([[1, 2, 6], [0, 0, 3]])),
    ])


def moves(r: Random) -> tuple[Any, ...]:
    x = rand(2, 3, 4)
    return r.choice([
        (aten.transpose.int, x, *r.sample([0, 1, -1], 2)), (aten.t.default, rand(3, 4)),
        (aten.permute.default, x, r.sample([0, 1, -1], 3)),
        (aten.unsqueeze.default, x, r.choice([0, 1, -1, 3])),
        (aten.expand.default, rand(2, 1, 4), [2, 3, 4]),
        (aten.expand.default, rand(3, 1), [2, 3, 4]),
        (aten.expand.default, rand(2, 1, 4), [5, -1, 6, -1]),
        (aten.slice.Tensor, x, r.choice([0, 1, -1]), 1, 3), (aten.slice.Tensor, x, 1, 0, 3, 2),
        (aten.cat.default, [x, rand(2, 3, 4)], r.choice([0, 1, -1])), (aten.cat.default, [x, x]),
        (aten.repeat_interleave.self_int, x, 3, r.choice([0, 1, -1])),
        (aten.to.dtype, x, torch.float32), (aten.contiguous.default, x.transpose(0, 1)),
        (aten.type_as.default, x, rand(4).float()), (aten._to_copy.default, x),
        (aten.to.device, x, torch.device("cpu"), torch.float32), (aten.to.dtype_layout, x),
    ])


SHAPES = [
    ((2, 3, 8), (2, 3, 2, 4)), ((2, 3, 2, 4), (2, 3, 8)), ((2, 6), (12,)), ((12,), (3, 4)),
    ((2, 3, 2, 2, 2), (2, 3, 4, 2)), ((2, 3, 4), (2, -1)), ((2, 1, 6), (2, 3, 2)),
    ((4, 6), (2, 2, 3, 2)), ((4, 6), (8, 3)), ((6, 4), (6, 1, 4)), ((2, 3, 4), (-1, 2, 2)),
]


def views(r: Random) -> tuple[Any, ...]:
    before, after = r.choice(SHAPES)
    target = r.choice([aten.view.default, aten.reshape.default, aten._unsafe_view.default])
    return target, rand(*before), list(after)


def attentions(r: Random) -> tuple[Any, ...]:
    shared = r.choice([1, 2, 4])
    q, k = rand(2, 4, 3, 5), rand(2, 4 // shared, 6, 5)
    options: dict[str, Any] = {"enable_gqa": True} if shared > 1 else {}
    mask = r.choice([None, rand(3, 6), rand(2, 1, 3, 6), rand(2, 4, 3, 6), rand(1, 4, 1, 6)])
    if r.random() < 0.5:
        options["attn_mask"] = mask
        return aten.scaled_dot_product_attention.default, q, k, rand(2, 4 // shared, 6, 7), options
    return (aten.scaled_dot_product_attention.default, q, k, rand(2, 4 // shared, 6, 7), mask, 0.0,
            mask is None and r.random() < 0.5, options)


MAKERS: list[Callable[[Random], tuple[Any, ...]]] = [
    elementwise, reductions, products, moves, views, attentions]
@pytest.mark.parametrize("make", MAKERS, ids=lambda make: make.__name__)
@often
@given(seed=st.integers(0, 2**32 - 1))
def test_rules(make: Callable[[Random], tuple[Any, ...]], seed: int) -> None:
    for step in range(8):
        random = Random(seed + step)
        torch.manual_seed(seed)
        target, *args = make(random)
        kwargs = args.pop() if args and isinstance(args[-1], dict) else {}
        node = node_of(target, tuple(args), kwargs)
        pick = any_pick(random, node.meta["val"])
        pushed = push(node, pick)
        if pushed is not None:
            assert torch.allclose(
                rebuilt(node, pushed), picked(node.meta["val"], pick), atol=1e-12)


def test_every_rule_fires() -> None:
    fired = set()
    for make in MAKERS:
        for seed in range(800):
            random = Random(seed)
            target, *args = make(random)
            kwargs = args.pop() if args and isinstance(args[-1], dict) else {}
            node = node_of(target, tuple(args), kwargs)
            if push(node, any_pick(random, node.meta["val"])) is not None:
                fired.add(target)
    assert set(RULES) <= fired


REFUSED = {
    "softmax over the picked axis": ((aten.softmax.int, rand(2, 3), -1), {1: (0,)}),
    "norm over the picked axis": ((aten.layer_norm.default, rand(2, 3), [3]), {1: (0,)}),
    "cumsum along the picked axis": ((aten.cumsum.default, rand(2, 3), 0), {0: (1,)}),
    "kept axis of a mean": ((aten.mean.dim, rand(2, 3), [1], True), {1: (0,)}),
    "concatenated axis": ((aten.cat.default, [rand(2, 3), rand(2, 3)], 1), {1: (0,)}),
    "sliced axis": ((aten.slice.Tensor, rand(2, 6), 1, 2, 4), {1: (0,)}),
    "new axis": ((aten.unsqueeze.default, rand(2, 3), 1), {1: (0,)}),
    "batch of attention": (
        (aten.scaled_dot_product_attention.default, *(rand(2, 4, 3, 5) for _ in "qkv")), {0: (0,)}),
    "rows of causal attention": (
        (aten.scaled_dot_product_attention.default, *(rand(2, 4, 3, 5) for _ in "qkv"),
         None, 0.0, True), {2: (1,)}),
    "no box, two axes": ((aten.view.default, rand(2, 6), [3, 4]), {0: (1, 2), 1: (0,)}),
    "flattened matrix": ((aten.matmul.default, rand(3), rand(3, 4)), {0: (0,)}),
    "an operator without a rule": ((aten.sort.default, rand(2, 3)), {0: (0,)}),
    "no axis": ((aten.repeat_interleave.self_int, rand(2, 3), 2), {0: (0,)}),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_rule_that_must_not_fire(case: str) -> None:
    (target, *args), pick = REFUSED[case]
    node = node_of(target, tuple(args))
    assert push(node, pick) is None


def test_repeats_of_a_stated_length() -> None:
    """`output_size` speaks of the whole result."""
    node = node_of(aten.repeat_interleave.self_int, (rand(2, 3), 2, 1), {"output_size": 6})
    pushed = push(node, {1: (0, 5)})
    assert pushed is not None
    assert torch.equal(
        rebuilt(node, pushed), picked(node.meta["val"], {1: (0, 5)}))


def test_heads_that_share_keys_in_pairs() -> None:
    """Heads 0, 1, 2 of 4 over [2, 2]: the box is both pairs, and the rest is picked afterwards."""
    box = regroup([2, 2], [4], {0: (0, 1, 2)})
    assert box is not None
    assert (dict(box.picks), dict(box.left), dict(box.sizes)) == ({}, {0: (0, 1, 2)}, {0: 4})
    box = regroup([2, 2], [4], {0: (2, 3)})
    assert box is not None and (dict(box.picks), dict(box.left)) == ({0: (1,)}, {})
    assert regroup(["n", 2], [4], {0: (0,)}) is None


def test_shapes_are_aligned() -> None:
    assert aligned((2, 3, 8), (2, 3, 2, 4)) == [([0], [0]), ([1], [1]), ([2], [2, 3])]
    assert aligned((6, 4), (2, 3, 4)) == [([0], [0, 1]), ([1], [2])]
    assert aligned((4, 6), (8, 3)) == [([0, 1], [0, 1])]


@pytest.mark.parametrize(("start", "end", "step"), [
    (0, 3, 1), (1, None, 1), (2, 10**9, 1), (-3, -1, 1), (None, 5, 2), (4, 2, 1)])
def test_slices_are_indices(start: int | None, end: int | None, step: int) -> None:
    x = torch.arange(12).reshape(2, 6)
    node = node_of(aten.slice.Tensor, (x, -1, start, end, step))
    operand, dim, found = as_slice(node) or (None, None, None)
    assert operand is node.args[0] and dim == 1 and found is not None
    assert x[:, list(found)].tolist() == node.meta["val"].tolist()


@often
@given(st.integers(0, 2**32 - 1))
def test_picks_compose(seed: int) -> None:
    random, x = Random(seed), torch.arange(120).reshape(4, 5, 6)
    inner = {d: tuple(random.choices(range(x.shape[d]), k=4)) for d in random.sample(range(3), 2)}
    outer = {d: tuple(random.choices(range(4), k=2)) for d in range(3)}
    assert torch.equal(picked(picked(x, inner), outer), picked(x, compose(outer, inner)))


@often
@given(st.lists(st.integers(0, 9), min_size=1, max_size=8), st.sampled_from([0, 1, -1]))
def test_ranges_hold_the_indices(asked: list[int], dim: int) -> None:
    x = torch.arange(100).reshape(10, 10)
    assert torch.equal(take(x, dim, as_ranges(tuple(asked))), picked(x, {dim % 2: tuple(asked)}))


def test_the_last_index() -> None:
    x = torch.arange(6).reshape(2, 3)
    assert as_ranges((-1,)) == ((-1, None),) and as_ranges(()) == ()
    assert take(x, 1, as_ranges((-1,))).tolist() == [[2], [5]]
    assert take(x, 1, ((0, 2),)).data_ptr() == x.data_ptr()
