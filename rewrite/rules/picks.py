"""Picks: which indices of which axes are wanted, and how they look in another shape."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import sympy
from torch import fx

from rewrite.ir.flow import shape


@dataclass(frozen=True)
class Every:
    """The indices `i` of an axis with `i % period` in `rest`.

    They arise where heads are folded into the batch: head 2 of 4 is every index 4 b + 2; and
    where batch and positions are merged, as a product with a weight may want it: the last of
    n positions is every index n b - 1.  The period is then the symbol of a size.  The `rest`
    may also be `TAIL`: all from a number on that is known only when a graph runs.
    """

    period: Any
    rest: Any  # tuple[int, ...] or TAIL

    def __len__(self) -> int:
        raise TypeError("how many indices these are depends on the size of the axis")

    def __iter__(self) -> Iterator[int]:
        raise TypeError("which indices these are depends on the size of the axis")


class _Tail:
    """The indices from a number on that is given when a graph runs."""

    def __repr__(self) -> str:
        return "TAIL"


TAIL = _Tail()


@dataclass(frozen=True)
class SizeOf:
    """As an argument of a view: the size that its operand turns out to have on an axis."""

    axis: int


Indices = tuple[int, ...] | Every
Pick = Mapping[int, Indices]


@dataclass(frozen=True)
class Pushed:
    """A slice that has passed a node: picks by operand position, and changed arguments."""

    operands: Mapping[int | str, Pick | tuple[Pick, ...]]  # several: one for each of a list
    args: Mapping[int, Any] = field(default_factory=dict)
    after: Pick = field(default_factory=dict)  # what is left to pick from the new result
    kwargs: Mapping[str, Any] = field(default_factory=dict)


def compose(outer: Pick, inner: Mapping[int, Indices]) -> dict[int, Indices]:
    """`x[inner][outer]` as one pick."""
    result = dict(inner)
    for dim, indices in outer.items():
        before = inner.get(dim)
        if before is None:
            result[dim] = indices
        elif isinstance(before, tuple) and isinstance(indices, tuple):
            result[dim] = tuple(before[i] for i in indices)
        else:
            raise ValueError(f"{indices} of {before} are not known before sizes are")
    return result


def broadcast_pick(node: fx.Node, operand: fx.Node, pick: Pick) -> Pick:
    """What an operand that broadcasts to `node` must deliver."""
    sizes, missing = shape(operand), len(shape(node)) - len(shape(operand))
    return {
        dim - missing: indices for dim, indices in pick.items()
        if dim >= missing and not (sizes[dim - missing] == 1 and shape(node)[dim] != 1)
    }


def aligned(before: Sequence[Any], after: Sequence[Any]) -> list[tuple[list[int], list[int]]]:
    """Groups of axes of two shapes that hold the same elements in the same order."""
    groups, i, j = [], 0, 0
    while i < len(before) or j < len(after):
        old, new = [i] if i < len(before) else [], [j] if j < len(after) else []
        a = before[i] if old else sympy.Integer(1)
        b = after[j] if new else sympy.Integer(1)
        i, j = i + len(old), j + len(new)
        while a != b:
            ratio = sympy.cancel(sympy.sympify(a) / b)
            if ratio.is_Integer or sympy.fraction(ratio)[1] == 1:
                if j == len(after):
                    return [*groups, ([*old, *range(i, len(before))], new)]
                b, j = b * after[j], j + 1
                new.append(j - 1)
            else:
                if i == len(before):
                    return [*groups, (old, [*new, *range(j, len(after))])]
                a, i = a * before[i], i + 1
                old.append(i - 1)
        groups.append((old, new))
    return groups


@dataclass(frozen=True)
class Box:
    """Elements picked after a view, as picks before it, and what is left to pick after it."""

    picks: Pick
    left: Pick
    sizes: Mapping[int, int]  # of the picked axes, before `left` is taken


def through_view(before: Sequence[Any], after: Sequence[Any], pick: Pick) -> Box | None:
    """A pick after a view, as picks before it; None if they are no box of elements.

    An axis of size `4 n` counts as the two axes `n, 4`, whatever it was made of.

    >>> n = sympy.Symbol("n")
    >>> through_view([n, 4], [4 * n], {0: Every(4, (2,))}).picks
    {1: (2,)}
    >>> through_view([4 * n], [n, 4], {1: (2,)}).picks
    {0: Every(period=4, rest=(2,))}
    >>> b = sympy.Symbol("b")
    >>> through_view([b * n, 8], [b, n, 8], {1: (-1,)}).picks
    {0: Every(period=n, rest=(-1,))}
    >>> through_view([b, n, 8], [b * n, 8], {0: Every(n, TAIL)}).picks
    {1: Every(period=n, rest=TAIL)}
    """
    old, new = _refined(before), _refined(after)
    inner: dict[tuple[int, bool], Indices] = {}
    left: dict[int, Indices] = {}
    sizes: dict[int, int] = {}
    wanted: dict[int, Indices] = {}
    for dim, indices in pick.items():
        folded = [i for i, part in enumerate(new) if part.axis == dim]
        if isinstance(indices, Every) and isinstance(indices.period, sympy.Symbol):
            wanted[folded[0]] = indices
        elif isinstance(indices, Every):
            if len(folded) != 2 or new[folded[1]].size != indices.period:
                return None
            wanted[folded[1]] = indices.rest
        elif len(folded) == 1:
            wanted[folded[0]] = indices
        else:
            return None
    for group, made in aligned([p.size for p in old], [p.size for p in new]):
        asked = {made.index(i): wanted[i] for i in made if i in wanted}
        if not asked:
            continue
        if len(group) == len(made) == 1:
            size = -1 if isinstance(asked[0], Every) else len(asked[0])
            box = Box({0: asked[0]}, {}, {0: size})
        else:
            sizes_of = [old[i].size for i in group], [new[i].size for i in made]
            box = regroup(*sizes_of, asked) or _merged(*sizes_of, asked)
        if box is None:
            return None
        for i, indices in box.picks.items():
            inner[old[group[i]].axis, old[group[i]].inner] = indices
        for i, size in box.sizes.items():
            part = new[made[i]]
            sizes[part.axis] = -1 if part.inner else size
            if i in box.left:
                if part.inner:
                    return None
                left[part.axis] = box.left[i]
    picks: dict[int, Indices] = {}
    for (axis, is_inner), indices in inner.items():
        if axis in picks:
            return None
        part = next(p for p in old if p.axis == axis and p.inner) if is_inner else None
        if part:
            indices = Every(part.size, tuple(i % part.size for i in indices))
        picks[axis] = indices
    if any((axis, True) not in inner and any(p.axis == axis and p.inner for p in old)
           for axis, _ in inner):
        return None  # a pick on the varying part of a folded axis
    return Box(picks, left, sizes)


@dataclass(frozen=True)
class _Part:
    """An axis, or the varying or the fixed (inner) part of one."""

    axis: int
    size: Any
    inner: bool = False


def _refined(sizes: Sequence[Any]) -> list[_Part]:
    parts = []
    for axis, size in enumerate(sizes):
        factor = 1 if isinstance(size, int) else sympy.sympify(size).as_coeff_Mul()[0]
        if factor == 1 or not sympy.sympify(factor).is_Integer:
            parts.append(_Part(axis, size))
        else:
            parts += [_Part(axis, size / factor), _Part(axis, int(factor), True)]
    return parts


def _merged(before: Sequence[Any], after: Sequence[Any], wanted: Pick) -> Box | None:
    """Index i of an axis of n, the inner part of one that it is merged with: every n-th, and back.

    A size n that is more than a symbol is not looked up when the graph runs, so it must not
    come to that.
    """
    (dim, indices), *further = wanted.items()
    if further:
        return None
    if isinstance(indices, Every) and len(after) == 1:
        unmerged = indices if indices.rest is TAIL else indices.rest
        back = indices.period == before[-1]
        return Box({len(before) - 1: unmerged}, {}, {0: -1}) if back else None
    inner = after[dim] if len(before) == 1 and dim == len(after) - 1 else None
    if not isinstance(inner, sympy.Symbol):
        return None
    if isinstance(indices, Every):
        return Box({0: indices}, {}, {dim: -1}) if indices.period == inner else None
    return Box({0: Every(inner, indices)}, {}, {dim: len(indices)})


def regroup(before: Sequence[Any], after: Sequence[Any], wanted: Pick) -> Box | None:
    """Elements picked in shape `after`, as picks in shape `before` of the same elements.

    They must form a box in `before`.  If one axis is picked and they do not (heads 0, 1, 2
    of 4 that share keys in pairs), the smallest box around them is taken, and the rest of
    the pick is left for afterwards.  None if sizes vary or no box will do.

    >>> regroup([12], [3, 4], {0: (1,)}).picks
    {0: (4, 5, 6, 7)}
    """
    if not all(isinstance(size, int) for size in (*before, *after)):
        return None
    before = before or [1]
    wanted = {dim: indices for dim, indices in wanted.items() if isinstance(indices, tuple)}
    flat = np.arange(math.prod(after)).reshape(after)
    for dim, indices in wanted.items():
        flat = flat.take(indices, axis=dim)
    elements = flat.ravel().tolist()
    digits = np.unravel_index(elements, before)
    corners = [tuple(dict.fromkeys(digit.tolist())) for digit in digits]
    inside = np.arange(math.prod(before)).reshape(before)[np.ix_(*corners)].ravel().tolist()
    picks = {d: c for d, c in enumerate(corners) if c != tuple(range(before[d]))}
    if inside == elements:
        return Box(picks, {}, {dim: len(indices) for dim, indices in wanted.items()})
    if len(after) > 1:
        return None
    place = {element: index for index, element in enumerate(inside)}
    return Box(picks, {0: tuple(place[e] for e in elements)}, {0: len(inside)})
