"""What a rule must yield: the whole result, picked by plain indexing."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from random import Random
from typing import Any

import torch
from torch import Tensor, fx

from rewrite.rules.picks import Every, Indices, Pick, Pushed, SizeOf
from rewrite.rules.slicing_table import push

aten = torch.ops.aten
VIEWS = {aten.view.default, aten._unsafe_view.default}


def rand(*sizes: int) -> Tensor:
    return torch.randn(sizes, dtype=torch.float64)


def node_of(target: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any] | None = None) -> fx.Node:
    """A node that calls `target`, with the value of every operand in its metadata."""
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


def entry_of(node: fx.Node, index: int) -> fx.Node:
    """One of the results of a node that has several."""
    made = node.graph.call_function(operator.getitem, (node, index))
    made.meta["val"] = node.meta["val"][index]
    return made


def picked(value: Any, pick: Pick) -> Any:
    """The indices of some axes, by plain indexing; of each of several results."""
    if isinstance(value, (tuple, list)):
        return tuple(picked(item, pick) for item in value)
    for dim, indices in pick.items():
        if isinstance(indices, Every):
            size = value.shape[dim]
            indices = tuple(i for i in range(size) if i % indices.period in indices.rest)
        value = value.movedim(dim, 0)[list(indices)].movedim(0, dim)
    return value


def rebuilt(node: fx.Node, pushed: Pushed) -> Any:
    """What the node yields on the smaller operands that the rule asks for."""

    def of(operand: fx.Node, pick: Pick) -> Any:
        if isinstance(operand.meta["val"], Tensor):
            return picked(operand.meta["val"], pick)
        inner = push(operand, pick)  # a node with several results: its own rule must answer
        assert inner is not None
        return rebuilt(operand, inner)

    def smaller(arg: Any, pick: Any) -> Any:
        if isinstance(pick, tuple):
            return [smaller(item, one) for item, one in zip(arg, pick, strict=True)]
        return fx.map_arg(arg, lambda operand: of(operand, pick))

    args = [smaller(pushed.args.get(i, arg), pushed.operands.get(i, {}))
            for i, arg in enumerate(node.args)]
    args = [[args[0].shape[s.axis] if isinstance(s, SizeOf) else s for s in arg]
            if isinstance(arg, list) else arg for arg in args]
    kwargs = {name: smaller(arg, pushed.operands.get(name, {}))
              for name, arg in (dict(node.kwargs) | dict(pushed.kwargs)).items()}
    target: Any = aten.reshape.default if node.target in VIEWS else node.target
    return picked(target(*args, **kwargs), pushed.after)


def agree(found: Any, wanted: Any) -> bool:
    """Whether two values, or all of several, have one shape and are equal up to rounding."""
    if isinstance(wanted, (tuple, list)):
        return len(found) == len(wanted) and all(map(agree, found, wanted))
    return found.shape == wanted.shape and found.dtype == wanted.dtype and torch.allclose(
        found, wanted, atol=1e-12, equal_nan=True)


def any_indices(random: Random, size: int) -> Indices:
    """Some indices in order, or the last one by its negative number, or every so many."""
    kind = random.random()
    if kind < 0.15:
        return (-1,)
    periods = [p for p in range(2, size + 1) if size % p == 0]
    if kind < 0.3 and periods:
        period = random.choice(periods)
        rest = random.sample(range(period), random.randint(1, period))
        return Every(period, tuple(sorted(rest)))
    return tuple(sorted(random.sample(range(size), random.randint(1, size))))


def any_pick(random: Random, value: Any) -> dict[int, Indices]:
    """Some indices of some of the axes."""
    value = value[0] if isinstance(value, (tuple, list)) else value
    dims = random.sample(range(value.ndim), random.randint(1, value.ndim)) if value.ndim else []
    return {dim: any_indices(random, value.shape[dim]) for dim in dims}
