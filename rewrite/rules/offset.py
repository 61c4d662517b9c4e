"""What a linear section adds by itself: its value where all that enters it is zero.

    W (z + c) + b = W z + (W c + b)

It is the same for every token, so it is kept as small as it is: along the axes on which it does
not vary it has one entry.  `varies` tells these axes node by node, `offset` computes it.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Any

import torch
from torch import fx

from rewrite.ir.flow import Flow, args, shape
from rewrite.rules.matching import arguments
from rewrite.rules.picks import aligned
from rewrite.rules.products import Contraction, contraction
from rewrite.rules.slicer import Body, Slicer

aten = torch.ops.aten
Axes = frozenset[int] | None  # None: nothing is added
UNEVEN: Axes = frozenset([-1])  # it differs by token, or how is not known

SUMS = {aten.add.Tensor, aten.sub.Tensor}
SCALES = {aten.mul.Tensor, aten.mul.Scalar, aten.div.Tensor, aten.div.Scalar}
SWAPS = {aten.transpose.int, aten.permute.default, aten.t.default}
VIEWS = {aten.view.default, aten.reshape.default, aten._unsafe_view.default}
SHAPES = {*VIEWS, aten.unsqueeze.default, aten.squeeze.dim, aten.squeeze.dims, aten.expand.default}
ALIKE = {  # entry by entry
    aten.contiguous.default, aten.clone.default, aten.alias.default, aten.detach.default,
    aten.to.dtype, aten.to.dtype_layout, aten.to.device, aten._to_copy.default, aten.neg.default,
    aten.type_as.default,
}
ALONG = {  # along some axes
    aten.slice.Tensor, aten.flip.default, aten.roll.default, aten.index_select.default,
    aten.pad.default, aten.constant_pad_nd.default,
}


def varies(flow: Flow, node: fx.Node, before: Mapping[fx.Node, Axes]) -> Axes:
    """The axes of a node on which what the section adds varies; `before` are those behind it."""
    added = [before[o] for o in node.all_input_nodes if before.get(o) is not None]
    found = contraction(flow, node)
    if found is not None:
        return _of_product(node, found, before)
    if node.target in SUMS:
        own = [_extent(node, o) for o in args(node)[:2] if o not in before and o != 0]
        return reduce(operator.or_, [a for a in (*added, *own) if a is not None], frozenset()) if (
            added or own) else None
    if not added:
        return None
    (axes,), operand = added, next(o for o in node.all_input_nodes if before.get(o) is not None)
    assert axes is not None
    if node.target in ALIKE:
        return axes
    if node.target in SCALES:
        return axes if all(_extent(node, o) <= axes for o in args(node)[:2]
                           if o is not operand) else UNEVEN
    if node.target in SWAPS:
        order = _order(node)
        return frozenset(order.index(axis) for axis in axes)
    if node.target is aten.expand.default:
        return frozenset(axis + len(shape(node)) - len(shape(operand)) for axis in axes)
    if node.target in SHAPES:
        return _through_shape(shape(operand), shape(node), axes)
    if node.target is aten.index.Tensor:
        return _past_index(node, axes)
    if node.target in ALONG:
        changed = _changed(node)
        fits = changed is not None and (changed <= axes or (
            changed.isdisjoint(axes) and "pad" not in str(node.target)))
        return axes if fits else UNEVEN
    return UNEVEN


def _of_product(node: fx.Node, found: Contraction, before: Mapping[fx.Node, Axes]) -> Axes:
    axes, own = before.get(args(node)[found.data]), _bias(node, found)
    if axes is None:
        return None if own is None else frozenset([found.made])
    if found.axis not in axes:
        return UNEVEN
    return axes - {found.axis} | {found.made}


def _bias(node: fx.Node, found: Contraction) -> fx.Node | None:
    return None if found.bias is None else arguments(node)[found.bias]


def _extent(node: fx.Node, operand: Any) -> frozenset[int]:
    """The axes of a node on which an operand that broadcasts to it varies."""
    if not isinstance(operand, fx.Node):
        return frozenset()
    missing = len(shape(node)) - len(shape(operand))
    return frozenset(axis + missing for axis, size in enumerate(shape(operand)) if size != 1)


def _order(node: fx.Node) -> list[int]:
    """For each axis of a transposed value, the one that it was."""
    order = list(range(len(shape(node))))
    if node.target is aten.permute.default:
        return [axis % len(order) for axis in args(node)[1]]
    a, b = args(node)[1:] if node.target is aten.transpose.int else (0, -1)
    order[a], order[b] = order[b], order[a]
    return order


def _through_shape(before: Sequence[Any], after: Sequence[Any], axes: frozenset[int]) -> Axes:
    found: set[int] = set()
    for old, new in aligned(before, after):
        inside = axes & {*old}
        if inside and any(axis not in inside and before[axis] != 1 for axis in old):
            return UNEVEN
        if inside:
            found |= {axis for axis in new if after[axis] != 1}
    return frozenset(found)


def _past_index(node: fx.Node, axes: frozenset[int]) -> Axes:
    """Axes beside the one that is indexed, whose place the axes of the index take."""
    places = [(i, entry) for i, entry in enumerate(args(node)[1]) if entry is not None]
    (at, index), *further = places
    if further or at in axes or index.meta["val"].dtype == torch.bool:
        return UNEVEN
    return frozenset(axis + (len(shape(index)) - 1) * (axis > at) for axis in axes)


def _changed(node: fx.Node) -> frozenset[int] | None:
    """The axes along which a node moves entries, or adds some."""
    rank, given = len(shape(node)), arguments(node)
    if "pad" in str(node.target):
        return frozenset(rank - 1 - i for i in range(len(given[1]) // 2)
                         if any(given[1][2 * i: 2 * i + 2]))
    dims = given[2 if node.target is aten.roll.default else 1]
    if dims == []:
        return None
    return frozenset(dim % rank for dim in ([dims] if isinstance(dims, int) else dims))


def offset(owner: torch.nn.Module, flow: Flow, section: Sequence[fx.Node]) -> Body | None:
    """What a section adds by itself; None if it adds nothing."""
    axes: dict[fx.Node, Axes] = {}
    for node in section:
        axes[node] = varies(flow, node, axes)
    if axes[section[-1]] is None:
        return None
    made = _Offset(Slicer(owner, flow, ()), axes)
    for node in section:
        if axes[node] is not None:
            made.values[node] = made.value(node)
    return made.slicer.finish(made.values[section[-1]])


class _Offset:
    """Computes it node by node; a value may lack leading axes on which it does not vary."""

    def __init__(self, slicer: Slicer, axes: Mapping[fx.Node, Axes]) -> None:
        self.slicer, self.axes = slicer, axes
        self.values: dict[fx.Node, fx.Node] = {}

    def value(self, node: fx.Node) -> fx.Node:
        found = contraction(self.slicer.flow, node)
        carried = [o for o in node.all_input_nodes if o in self.values]
        if found is not None:
            return self._product(node, found)
        if node.target in SUMS:
            left, right = args(node)[:2]
            zero = [o for o in (left, right) if o in self.axes and o not in self.values]
            if zero and zero[0] is left and node.target is aten.sub.Tensor:
                return self.slicer.graph.call_function(aten.neg.default, (self._emit(right),))
            if zero:
                return self._emit(right if zero[0] is left else left)
            return self._call(node, (self._emit(left), self._emit(right)))
        (operand,) = carried
        one = len(self.axes[operand] or ()) == 1
        if node.target in SHAPES or node.target is aten.index.Tensor or (
                node.target in SWAPS and one):  # the same entries in the same order
            same = self._sizes(operand, trim=True) == self._sizes(node, trim=True)
            return self.values[operand] if same else self._reshaped(self.values[operand], node)
        if node.target in ALONG:
            changed, axes = _changed(node), self.axes[operand]
            assert changed is not None and axes is not None
            if not changed & axes:
                return self.values[operand]
        if node.target in SWAPS | ALONG:
            full = self._reshaped(self.values[operand], operand)
            return self._call(node, (full, *map(self._emit, args(node)[1:])))
        return self._call(node, tuple(map(self._emit, args(node))))

    def _product(self, node: fx.Node, found: Contraction) -> fx.Node:
        data, bias = args(node)[found.data], _bias(node, found)
        if data in self.values:
            given = list(map(self._emit, args(node)))
            given[found.data] = self._reshaped(self.values[data], data)
            return self._call(node, tuple(given))
        assert bias is not None
        value, behind = self._emit(bias), len(shape(node)) - 1 - found.made
        if not behind:
            return value
        return self.slicer.graph.call_function(
            aten.reshape.default, (value, [shape(node)[found.made], *[1] * behind]))

    def _reshaped(self, value: fx.Node, node: fx.Node) -> fx.Node:
        """A value with all axes of a node."""
        return self.slicer.graph.call_function(aten.reshape.default, (value, self._sizes(node)))

    def _sizes(self, node: fx.Node, trim: bool = False) -> list[Any]:
        axes = self.axes[node]
        assert axes is not None
        first = min(axes, default=0) if trim else 0
        return [size if axis in axes else 1 for axis, size in enumerate(shape(node))][first:]

    def _emit(self, given: Any) -> Any:
        return fx.map_arg(given, lambda o: self.values[o] if o in self.values else (
            self.slicer.emit(o)))

    def _call(self, node: fx.Node, given: tuple[Any, ...]) -> fx.Node:
        target: Any = node.target
        return self.slicer.graph.call_function(
            target, given, fx.map_arg(dict(node.kwargs), self.slicer.emit))
