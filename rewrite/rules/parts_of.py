"""Values taken apart: by position, by direction, by what is read of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx

from rewrite.errors import RuleError
from rewrite.ir.flow import args, is_float, shape
from rewrite.ir.ops import as_ranges, take
from rewrite.rules.declare import Rule, rule_on
from rewrite.rules.picks import SizeOf, compose
from rewrite.rules.site import Miss, Site
from rewrite.rules.slicing import as_slice
from rewrite.rules.slicing_products import enter_rules
from rewrite.rules.slicing_table import push

aten = torch.ops.aten
enter_rules()


def split_positions(*groups: Sequence[int], axis: int = 1) -> Rule:
    """A value as a sum of itself at groups of positions, zero elsewhere, and the rest.

    Negative positions count from the end.  Choose the value with `at`; without it, every
    float value of enough axes is split.

    >>> split = parts.graph.rewrite(rw.rules.split_positions((0,), (-1,)), at="embedding")
    >>> split.trail[0].after.count("where")
    3
    """

    @rule_on(name="split_positions", equation="x = total(x at positions p, x elsewhere)",
             once=True, examples=("gelu(x) | x: b 3 d",), refuses=("gelu(x) | x: d",))
    def apply(site: Site) -> fx.Node | Miss | None:
        node = site.node
        if node.op != "call_function" or not is_float(node) or len(shape(node)) <= axis:
            return Miss("it has no such axis")
        x = site.again(node, lambda o: o)
        size, after = site.size(x, axis), len(shape(node)) - axis - 1
        place = site.call(aten.arange.default, size, None, None, x.meta["val"].device)
        chosen = [_member(site, place, size, group) for group in groups]
        taken = chosen[0]
        for mask in chosen[1:]:
            taken = site.write("logical_or(a, c)", a=taken, c=mask)
        zero = site.call(aten.zeros_like.default, x)
        terms = []
        for mask in (*chosen, site.write("logical_not(m)", m=taken)):
            for _ in range(after):
                mask = site.write("unsqueeze(m, -1)", m=mask)
            terms.append(site.write("where(m, x, z)", m=mask, x=x, z=zero))
        return site.write("total(*terms)", terms=tuple(terms))

    if not groups or any(not list(group) for group in groups):
        raise RuleError("split_positions needs groups of positions: split_positions((0,), (-1,))")
    every = [p for group in groups for p in group]
    if len(set(every)) < len(every):
        raise RuleError(f"split_positions: a position stands in two groups of {groups}")
    return apply


def _member(site: Site, place: fx.Node, size: Any, group: Sequence[int]) -> fx.Node:
    """Whether each position is one of a group."""
    found = None
    for position in group:
        here: Any = position
        if position < 0:
            here = size + position if isinstance(size, int) else site.write(
                "x + p", x=site.call(aten.scalar_tensor.default, size), p=position)
        made = site.write("eq(x, p)", x=place, p=here) if not isinstance(here, fx.Node) else (
            site.call(aten.eq.Tensor, place, here))
        found = made if found is None else site.write("logical_or(a, c)", a=found, c=made)
    assert found is not None
    return found


def split_subspace(basis: Tensor, name: str = "subspace") -> Rule:
    """`x = x P + (x - x P)`: a value within the span of some directions, and the rest.

    `basis` is `[k, d]`, its rows are directions (a probe, SAE features, principal components)
    that need be neither orthogonal nor of unit length; P projects onto their span.  Choose
    the value with `at`; without it, every float value with d features is split.

    Raises `RuleError` if the rows are no matrix, or depend on each other.

    >>> direction = torch.randn(1, 32)
    >>> split = parts.graph.rewrite(rw.rules.split_subspace(direction), at="add_4")
    >>> len(split.trail)
    1
    """
    if basis.ndim != 2 or not basis.is_floating_point():
        raise RuleError(f"directions are rows of a float matrix [k, d], found "
                        f"{str(basis.dtype).removeprefix('torch.')} {list(basis.shape)}")
    exact = basis.detach().double()
    rank = int(torch.linalg.matrix_rank(exact))
    if rank < len(exact):
        raise RuleError(f"{len(exact)} directions span {rank} dimensions: leave out those that "
                        "depend on others")
    read, write = torch.linalg.pinv(exact), exact

    @rule_on(name="split_subspace", equation="x = x P + (x - x P)", once=True,
             examples=(f"gelu(x) | x: b s {basis.shape[1]}",), refuses=("gelu(x) | x: b s 5",))
    def apply(site: Site) -> fx.Node | Miss | None:
        node = site.node
        if node.op != "call_function" or not is_float(node) or not shape(node):
            return None
        if shape(node)[-1] != basis.shape[1]:
            return Miss(f"it has {shape(node)[-1]} features, the directions {basis.shape[1]}")
        x, dtype = site.again(node, lambda o: o), node.meta["val"].dtype
        device = node.meta["val"].device
        onto = site.constant(read.to(device, dtype), f"{name}_read")
        back = site.constant(write.to(device, dtype), f"{name}_write")
        # the projection stands twice, so that an edit of the first term leaves the rest alone
        return site.write("(x @ r) @ w + (x - (x @ r) @ w)", x=x, r=onto, w=back)

    return apply


@rule_on(take, name="push_down_slice", equation="f(x)[I] = f'(x[I'])",
         examples=("take(linear(x, W, c), -1, [[0, 1]]) | x: b s d, W: e d, c: e",
                   "take(gelu(x) * y, 1, [[1, 2]]) | x: b s d, y: b s d",
                   "take(transpose(x, 1, 2), 1, [[0, 1]]) | x: b s d",
                   "take(reshape(x, [b, s, 4]), -1, [[0, 2]]) | x: b s 2 2",
                   "take(attention(q, k, v), 1, [[0, 1]]) "
                   "| q: b h s d, k: b h t d, v: b h t e"),
         refuses=("take(softmax(x, -1), -1, [[0, 1]]) | x: b s d",
                  "take(x, 1, [[0, 1]]) | x: b s d"))
def push_down_slice(site: Site) -> fx.Node | Miss:
    """A slice moved in front of what computes it, so that only the slice is computed."""
    operand, axis, ranges = args(site.node)
    if not isinstance(operand, fx.Node) or operand.op != "call_function":
        return Miss("there is nothing behind the slice")
    axis %= len(shape(operand))
    indices = _indices(ranges, shape(operand)[axis])
    if indices is None:
        return Miss("the size of the axis varies")
    sliced = as_slice(operand)
    if operand.target is take or sliced is not None:
        inner, dim, before = sliced or _taken(operand)
        if dim != axis or before is None:
            return Miss("a slice of another axis stands behind it")
        joined = compose({axis: indices}, {axis: tuple(before)})[axis]
        assert isinstance(joined, tuple)
        return site.call(take, inner, axis, as_ranges(joined))
    pushed = push(operand, {axis: indices})
    if pushed is None or pushed.after:
        return Miss(f"it does not pass {operand.target}")
    return _moved(site, operand, pushed)


def _moved(site: Site, operand: fx.Node, pushed: Any) -> fx.Node:
    given: list[Any] = [pushed.args.get(i, arg) for i, arg in enumerate(args(operand))]

    def smaller(arg: Any, pick: Any) -> Any:
        if isinstance(pick, tuple):
            return [smaller(item, one) for item, one in zip(arg, pick, strict=True)]
        return fx.map_arg(arg, lambda node: _picked(site, node, pick))

    made = [smaller(arg, pushed.operands.get(i, {})) for i, arg in enumerate(given)]
    made = [[site.size(made[0], entry.axis) if isinstance(entry, SizeOf) else entry
             for entry in arg] if isinstance(arg, list) else arg for arg in made]
    named = {key: smaller(arg, pushed.operands.get(key, {}))
             for key, arg in (dict(operand.kwargs) | dict(pushed.kwargs)).items()}
    views = {aten.view.default, aten._unsafe_view.default}
    target: Any = aten.reshape.default if operand.target in views else operand.target
    return site.call_with(target, tuple(made), named)


def _picked(site: Site, node: fx.Node, pick: Any) -> fx.Node:
    for axis, indices in pick.items():
        node = site.call(take, node, axis, as_ranges(indices))
    return node


def _taken(node: fx.Node) -> tuple[fx.Node, int, Any]:
    inner, axis, ranges = args(node)
    axis %= len(shape(inner))
    return inner, axis, _indices(ranges, shape(inner)[axis])


def _indices(ranges: Any, size: Any) -> tuple[int, ...] | None:
    """Ranges as indices; None if the size of the axis is not known."""
    if not isinstance(size, int):
        return (-1,) if tuple(map(tuple, ranges)) == ((-1, None),) else None
    return tuple(i for start, end in ranges for i in range(size)[start:end])


PARTS: tuple[Rule, ...] = (
    split_positions((0,), (-1,)), split_subspace(torch.tensor([[1.0, 2.0]])), push_down_slice,
)
