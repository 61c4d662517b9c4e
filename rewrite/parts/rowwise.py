"""Whether a part treats every position for itself: output row i depends on input row i only.

The rows of one unknown position are asked of what a part writes, and the question is passed
on towards what it reads by the rules that slices are moved with (`rewrite.rules.slicing`).  If
all readings are asked for the rows of that position and nothing else, the part is row-wise.

Rows are counted along an axis of any size `outer x positions x inner`, so that batch and
positions may be merged, each position may occur once for each expert that it is sent to, and
rows may be sorted by expert, as long as they are put back.  Where a rule is missing the
answer is no: it is a proof if it is yes.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

import sympy
import torch
from torch import fx

from rewrite.ir.flow import Flow, args, shape
from rewrite.rules.picks import aligned
from rewrite.rules.slicing_table import push

aten = torch.ops.aten
VIEWS = {aten.view.default, aten.reshape.default, aten._unsafe_view.default}
CASTS = {aten.to.dtype, aten._to_copy.default, aten.alias.default, aten.contiguous.default}
SORTS = {aten.sort.default, aten.sort.stable}


class Row(int):
    """All entries of an axis that belong to one position, whichever it is.

    Those are the entries `e` with `e // inner % positions` equal to the position; with
    `order`, a sort along the axis, entry `e` counts as the one that was sorted to its place.
    It is an integer so that the rules can compute with it, and what they compute is none.
    """

    inner: Any
    order: fx.Node | None

    def __new__(cls, inner: Any = 1, order: fx.Node | None = None) -> Row:
        """The rows with these strides."""
        made = super().__new__(cls, 0)
        made.inner, made.order = inner, order
        return made


Asked = dict[int, Row]  # by axis; at most one
Question = tuple[fx.Node, Asked]
Entry = tuple[fx.Node, fx.Node]  # a node and an operand of it


def positions(flow: Flow, node: fx.Node) -> tuple[int, Any] | None:
    """The axis of a value along which positions lie, and how many; None if that is not clear.

    It is the one whose size varies other than with the batch, or the batch times such a size:
    then the rows of an example lie together.  Where the length was fixed when the model was
    traced, it is the one as long as the rows of tokens that the model reads.

    >>> from rewrite.parts.rowwise import positions
    >>> positions(parts.cut.flow, next(iter(parts.cut.sums)))[0]
    1
    """
    sources = [shape(source) for source in flow.sources]
    batch = {symbol for sizes in sources for symbol in sympy.sympify(sizes[0]).free_symbols}
    found: list[tuple[int, Any]] = []
    for axis, size in enumerate(shape(node)):
        count = sympy.sympify(size)
        for symbol in count.free_symbols & batch:
            count = sympy.cancel(count / symbol)
        if count.free_symbols and not count.free_symbols & batch:
            found.append((axis, count))
    if not found:
        fixed = {sizes[1] for sizes in sources if len(sizes) == 2}
        found = [(axis, size) for axis, size in enumerate(shape(node))
                 if isinstance(size, int) and size in fixed]
    return found[0] if len(found) == 1 else None


def is_rowwise(flow: Flow, output: fx.Node, leaves: Iterable[fx.Node]) -> bool:
    """Whether each row of `output` depends on that row alone of each of `leaves` that it reads."""
    place = positions(flow, output)
    return place is not None and _stop(_Rows(flow, place[1]), output, place[0], leaves) is None


def mixer(flow: Flow, output: fx.Node, leaves: Iterable[fx.Node]) -> fx.Node | None:
    """The operator past which rows of `output` cannot be followed one by one; None if they can.

    None too where it is not clear which axis holds the positions.

    >>> from rewrite.parts.rowwise import mixer
    >>> mixer(parts.cut.flow, parts.component("m0").region.output, parts.cut.written)
    """
    place = positions(flow, output)
    return None if place is None else _stop(_Rows(flow, place[1]), output, place[0], leaves)


def is_batchwise(flow: Flow, output: fx.Node, leaves: Iterable[fx.Node]) -> bool:
    """Whether each example of `output` depends on that example alone of each of `leaves`.

    It asks by the same rules; examples are the rows of the first axis.

    >>> from rewrite.parts.rowwise import is_batchwise
    >>> cut = parts.cut
    >>> all(is_batchwise(cut.flow, region.output, cut.written) for region in cut.regions)
    True
    """
    rows = _Rows(flow, shape(output)[0], first=True)
    return _stop(rows, output, 0, leaves) is None


def keeps_tokens(
    flow: Flow, output: fx.Node, leaves: Iterable[fx.Node], entries: Collection[Entry]
) -> bool:
    """Whether row i of an attention layer is that of query i, and key j that of token j.

    `entries` are the operands of nodes at which keys and values enter.
    """
    place = positions(flow, output)
    rows = None if place is None else _Rows(flow, place[1])
    return place is not None and rows is not None and (
        _stop(rows, output, place[0], leaves, entries) is None) and all(
        entry in leaves or is_rowwise(flow, entry, leaves) for _, entry in entries)


def _stop(
    rows: _Rows, output: fx.Node, axis: int, leaves: Iterable[fx.Node],
    beyond: Collection[Entry] = (),
) -> fx.Node | None:
    """The first node at which a question has no answer; None if all have one.

    Nothing is asked of operands `beyond`.
    """
    stops, seen = set(leaves) - {output}, set()
    stack: list[Question] = [(output, {axis: Row()})]
    while stack:
        node, asked = stack.pop()
        key = (node, *((axis, row.inner, row.order) for axis, row in asked.items()))
        if key in seen:
            continue
        seen.add(key)
        before = rows.own(node, asked) if node in stops else rows.before(node, asked)
        if before is None:
            return node
        stack += [each for each in before if (node, each[0]) not in beyond]
    return None


def rows_from(flow: Flow, output: fx.Node, leaves: Iterable[fx.Node]) -> set[fx.Node]:
    """The leaves from whose row i, on axis 1, row i of `output` is made, whatever else it reads.

    None of them where a row is not followed, or comes from another axis.
    """
    rows, stops = _Rows(flow, shape(output)[1]), set(leaves) - {output}
    found: set[fx.Node] = set()
    stack: list[Question] = [(output, {1: Row()})]
    seen: set[object] = set()
    while stack:
        node, asked = stack.pop()
        key = (node, *((axis, row.inner, row.order) for axis, row in asked.items()))
        if not asked or key in seen:
            continue  # what is read whole says nothing of rows
        seen.add(key)
        if node in stops:
            if shape(node)[1:2] != (rows.count,) or not _alone(asked, 1):
                return set()
            found.add(node)
        elif (before := rows.before(node, asked)) is None:
            return set()
        else:
            stack += before
    return found


@dataclass(frozen=True)
class _Rows:
    """The rules for rows of one of `count` positions, or of examples: rows of the first axis."""

    flow: Flow
    count: Any
    first: bool = False

    def own(self, leaf: fx.Node, asked: Asked) -> list[Question] | None:
        """No more questions if a leaf is asked for its rows of the position alone."""
        place = (0, shape(leaf)[0]) if self.first else positions(self.flow, leaf)
        fits = place is not None and place[1] == self.count and _alone(asked, place[0])
        return [] if fits else None

    def before(self, node: fx.Node, asked: Asked) -> list[Question] | None:
        """What must be asked of the operands of a node; None if it is not known."""
        if not asked or node.op != "call_function":
            return None
        (axis, row), = asked.items()
        if node.target in VIEWS:
            return self._view(node, axis, row)
        if node.target is aten.repeat.default:
            return self._tiled(node, axis, row)
        if node.target is aten.index.Tensor and (found := self._index(node, axis, row)):
            return found
        if node.target is operator.getitem and args(node)[0] is row.order:
            values = args(node)[1] == 0  # sorted values are the values at sorted places
            return [(args(args(node)[0])[0], {axis: Row(row.inner)})] if values else None
        if "grouped_mm" in str(node.target):
            return self._grouped(node, axis, row)
        if node.target is aten.index_add.default and axis == args(node)[1] == 0:
            return self._added(node, row)
        return self._pushed(node, asked)

    def _pushed(self, node: fx.Node, asked: Asked) -> list[Question] | None:
        """By the rule for slices, if it hands on the rows as they are."""
        pushed = push(node, {axis: (row,) for axis, row in asked.items()})
        if pushed is None:
            return None
        found: list[Question] = []
        for where, value in [*enumerate(args(node)), *node.kwargs.items()]:
            several = value if isinstance(value, (list, tuple)) else [value]
            picks = pushed.operands.get(where, {})
            each = picks if isinstance(picks, tuple) else [picks] * len(several)
            for operand, pick in zip(several, each, strict=True):
                rows = {axis: index for axis, indices in pick.items() for index in indices
                        if isinstance(index, Row)}
                if len(rows) < len(pick):
                    return None  # computed with
                if not isinstance(operand, fx.Node):
                    continue
                if self.flow.flows(operand):
                    found.append((operand, rows))
                elif any(row.order for row in rows.values()):
                    return None  # where an entry was sorted to depends on the others
        return found

    def _view(self, node: fx.Node, axis: int, row: Row) -> list[Question] | None:
        """Entries whose number is one of the position's are so in any shape."""
        operand = args(node)[0]
        old, new = shape(operand), shape(node)
        group, made = next(pair for pair in aligned(old, new) if axis in pair[1])
        stride = row.inner * math.prod(new[i] for i in made if i > axis)
        for at in group:
            inner = _ratio(stride, math.prod(old[i] for i in group if i > at))
            if inner is not None and _ratio(old[at], inner * self.count) is not None:
                alone = len(group) == len(made) == 1
                if row.order is not None and not alone:
                    return None
                return [(operand, {at: Row(inner, row.order)})]
        return None

    def _tiled(self, node: fx.Node, axis: int, row: Row) -> list[Question] | None:
        """repeat(x, n)[e] = x[e % |x|], which keeps e // inner % positions if that divides |x|."""
        operand, missing = args(node)[0], len(shape(node)) - len(shape(args(node)[0]))
        at = axis - missing
        if at < 0 or row.order is not None:
            return None
        whole = _ratio(shape(operand)[at], row.inner * self.count) is not None
        return [(operand, {at: row})] if whole else None

    def _index(self, node: fx.Node, axis: int, row: Row) -> list[Question] | None:
        """x[order] and its inverse, and rows of a weight that each row chooses."""
        data, places = args(node)[0], args(node)[1]
        given = [(at, entry) for at, entry in enumerate(places) if entry is not None]
        if len(given) != 1:
            return None
        (at, index), = given
        if not at <= axis < at + len(shape(index)) or index.meta["val"].dtype == torch.bool:
            return None
        if not self.flow.flows(data):
            return [(index, {axis - at: row})]
        if len(shape(index)) != 1:
            return None
        if row.order is None:
            order = _undoes(index)
            return None if order is None else [(data, {at: Row(row.inner, order)})]
        by = _sorted_by(index, row.order)
        inner = None if by is None else _ratio(row.inner, by)
        return None if inner is None else [(data, {at: Row(inner)})]

    def _grouped(self, node: fx.Node, axis: int, row: Row) -> list[Question] | None:
        """Rows sorted by expert, multiplied with the weight of the expert of each."""
        data, weight = args(node)[:2]
        ends = node.kwargs.get("offs", (*args(node), None)[2])
        if axis != 0 or row.order is None or self.flow.flows(weight):
            return None
        experts: fx.Node = args(row.order)[0]
        rows: list[Question] = [(data, {0: row}), (experts, {0: Row(row.inner)})]
        return rows if _counts(ends, row.order) else None

    def _added(self, node: fx.Node, row: Row) -> list[Question] | None:
        """Rows that are added up where they came from."""
        base, _, index, rows = args(node)[:4]
        order = _order(index)
        by = None if order is None else _sorted_by(index, order)
        if row.order is not None or by is None:
            return None
        beneath: list[Question] = [(base, {0: row})] if self.flow.flows(base) else []
        return [*beneath, (rows, {0: Row(row.inner * by, order)})]


def _alone(asked: Asked, axis: int) -> bool:
    """Whether rows are asked for as they are, on one axis."""
    return set(asked) == {axis} and asked[axis].inner == 1 and asked[axis].order is None


def _ratio(a: Any, b: Any) -> Any:
    """a / b if it is whole, whatever the sizes are."""
    ratio = sympy.cancel(sympy.sympify(a) / b)
    return ratio if sympy.fraction(ratio)[1] == 1 else None


def _uncast(node: Any) -> Any:
    while isinstance(node, fx.Node) and node.target in CASTS:
        node = args(node)[0]
    return node


def _entry(node: Any, number: int) -> fx.Node | None:
    """The sort of which a value is result `number`."""
    node = _uncast(node)
    if not isinstance(node, fx.Node) or node.target is not operator.getitem:
        return None
    sort, entry = args(node)
    return sort if sort.target in SORTS and entry == number and len(shape(sort)) == 1 else None


def _order(index: Any) -> fx.Node | None:
    """The sort whose order, perhaps divided by a number, an index is."""
    index = _uncast(index)
    if isinstance(index, fx.Node) and index.target is aten.floor_divide.default:
        index = args(index)[0]
    return _entry(index, 1)


def _sorted_by(index: Any, order: fx.Node) -> int | None:
    """The number by which the order of a sort is divided in an index; None if it is no such."""
    index, by = _uncast(index), 1
    if isinstance(index, fx.Node) and index.target is aten.floor_divide.default:
        index, by = args(index)
    return by if isinstance(by, int) and _entry(index, 1) is order else None


def _undoes(index: Any) -> fx.Node | None:
    """The sort whose order an index undoes: numbers put to sorted places, or the order sorted."""
    index = _uncast(index)
    if index.target is aten.index_put.default and len(args(index)) == 3 and not index.kwargs:
        _, (place, *further), numbers = args(index)
        return None if further or not _is_count(_uncast(numbers)) else _entry(place, 1)
    again = _entry(index, 1)
    return None if again is None else _entry(args(again)[0], 1)


def _is_count(node: Any) -> bool:
    """Whether a value is 0, 1, 2, ..."""
    target = node.target if isinstance(node, fx.Node) else None
    return target is aten.arange.default or (
        target is aten.arange.start and args(node)[0] == 0)


def _counts(ends: Any, order: fx.Node) -> bool:
    """Whether `ends[e]` is how many of the sorted numbers are at most e."""
    ends = _uncast(ends)
    if not isinstance(ends, fx.Node) or ends.target is not aten.cumsum.default:
        return False
    counts = _uncast(args(ends)[0])
    if counts.target is not aten.histc.default or len(args(counts)) != 4:
        return False
    values, bins, least, most = args(counts)
    return (least, most) == (0, bins - 1) and _entry(values, 0) is order
