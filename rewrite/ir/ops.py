"""The few functions that rewritten graphs call beside ATen operators."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor

Ranges = tuple[tuple[int, int | None], ...]


def take(x: Tensor, dim: int, ranges: Ranges) -> Tensor:
    """The given half-open ranges of one axis, side by side; a single range is a view.

    >>> take(torch.arange(6), 0, ((1, 2), (4, 6)))
    tensor([1, 4, 5])
    """
    pieces = [x[(slice(None),) * (dim % x.ndim) + (slice(a, b),)] for a, b in ranges]
    if not pieces:
        return x.narrow(dim, 0, 0)
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim)


def take_every(x: Tensor, dim: int, period: int, ranges: Ranges) -> Tensor:
    """Of every `period` entries of one axis, the given half-open ranges.

    >>> take_every(torch.arange(6), 0, 3, ((1, 2),))
    tensor([1, 4])
    """
    dim %= x.ndim
    return take(x.unflatten(dim, (-1, period)), dim + 1, ranges).flatten(dim, dim + 1)


def spread(x: Tensor, dim: int, ranges: Ranges, size: int) -> Tensor:
    """The inverse of `take`: `x` at the given places of an axis of `size`, zeros elsewhere.

    >>> spread(torch.tensor([1, 4, 5]), 0, ((1, 2), (4, 6)), 7)
    tensor([0, 1, 0, 0, 4, 5, 0])
    """
    pieces, start, at = [], 0, 0
    for a, b in (*ranges, (size, size)):
        assert b is not None, "the last entry alone has no place of its own"
        gap = list(x.shape)
        gap[dim] = a - at
        pieces += [x.new_zeros(gap), x.narrow(dim, start, b - a)]
        start, at = start + b - a, b
    return torch.cat(pieces, dim)


def total(*terms: Tensor) -> Tensor:
    """The sum of its operands, added from left to right.

    >>> total(torch.tensor(1), torch.tensor(2), torch.tensor(4))
    tensor(7)
    """
    return reduce(torch.add, terms)


def changed(base: Tensor, *pairs: Tensor) -> Tensor:
    """`base` plus each `new - old` of the pairs; half precision is added up in float32.

    >>> changed(torch.tensor(256.0).half(), *map(torch.tensor, (1.0, 0.25, 3.0, 3.0)))
    tensor(256.7500, dtype=torch.float16)
    """
    wide = torch.promote_types(base.dtype, torch.float32)
    result = base.to(wide)
    for new, old in zip(pairs[::2], pairs[1::2], strict=True):
        result = result + (new.to(wide) - old.to(wide))
    return result.to(base.dtype)


def rows_of(x: Tensor, numbers: Tensor | None, wanted: tuple[int, ...]) -> Tensor:
    """`x` with all rows set to zero whose number (by default 0, 1, 2, ...) is not wanted.

    >>> rows_of(torch.ones(3, 1), torch.tensor([0, 2, 1]), (2,)).flatten()
    tensor([0., 1., 0.])
    """
    if numbers is None:
        numbers = torch.arange(x.shape[0], device=x.device)
    kept = (numbers.unsqueeze(-1) == numbers.new_tensor(wanted)).any(-1)
    return torch.where(kept.view(-1, *(1,) * (x.ndim - 1)), x, x.new_zeros(()))


def expert_of_row(x: Tensor, ends: Tensor) -> Tensor:
    """The expert of each row of `x`, if the rows of expert `e` end at `ends[e]`.

    >>> expert_of_row(torch.ones(3, 1), torch.tensor([2, 2, 3]))
    tensor([0, 0, 2])
    """
    rows = torch.arange(x.shape[0], device=x.device, dtype=ends.dtype)
    return torch.searchsorted(ends, rows, right=True)


def as_ranges(indices: Sequence[int]) -> Ranges:
    """Runs of consecutive indices as half-open ranges; (-1,) means the last entry.

    >>> as_ranges((0, 1, 2, 5))
    ((0, 3), (5, 6))
    """
    if tuple(indices) == (-1,):
        return ((-1, None),)
    ranges: list[tuple[int, int | None]] = []
    start = previous = None
    for index in indices:
        if previous is None or index != previous + 1:
            if start is not None and previous is not None:
                ranges.append((start, previous + 1))
            start = index
        previous = index
    if start is not None and previous is not None:
        ranges.append((start, previous + 1))
    return tuple(ranges)


def copies(x: Tensor, count: int, index: Tensor | slice) -> Tensor:
    """Some of the `count` copies that are stacked along the first axis.

    >>> copies(torch.arange(6), 3, slice(1, 2))
    tensor([2, 3])
    """
    at = index if isinstance(index, slice) else index.to(x.device)
    return x.unflatten(0, (count, -1))[at].flatten(0, 1)


def for_copies(x: Tensor, count: int) -> Tensor:
    """The same rows for each of `count` copies, without further memory if the rows are one.

    >>> for_copies(torch.tensor([[1], [2]]), 2).flatten()
    tensor([1, 2, 1, 2])
    """
    if x.stride(0) == 0:
        return x[:1].expand(count * x.shape[0], *x.shape[1:])
    return x.repeat(count, *(1 for _ in x.shape[1:]))


def mix_rows(where: Tensor, yes: Tensor, no: Tensor) -> Tensor:
    """`yes` at the positions `where` [batch or 1, positions], else `no` [batch, positions, ...].

    >>> mix_rows(torch.tensor([[True, False]]), torch.ones(1, 2), torch.zeros(1, 2))
    tensor([[1., 0.]])
    """
    where = where.to(yes.device)  # a mask is an input, and layers may lie on other devices
    return torch.where(where.reshape(*where.shape, *(1,) * (yes.ndim - 2)), yes, no)


def with_tail(base: Tensor, tail: Tensor, dim: int, start: int) -> Tensor:
    """`base` before the index `start` of an axis, then `tail`.

    >>> with_tail(torch.zeros(4), torch.ones(2), 0, 2)
    tensor([0., 0., 1., 1.])
    """
    return torch.cat([base.narrow(dim, 0, start), tail], dim)


def positions_of(x: Tensor, low: int | None, high: int | None) -> Tensor:
    """A slice of the positions (axis 1) of `x`, as a mask [1, positions].

    >>> positions_of(torch.ones(1, 4), -2, None)
    tensor([[False, False,  True,  True]])
    """
    length = x.shape[1]
    where = torch.arange(length, device=x.device).unsqueeze(0)
    ends = [end if end is None or end >= 0 else end + length for end in (low, high)]
    inside = where >= 0
    for end, beyond in zip(ends, (torch.ge, torch.lt), strict=True):
        inside = inside if end is None else inside & beyond(where, end)
    return inside


def by_hop(offsets: tuple[int, ...], *scores: Tensor) -> Tensor:
    """Scores [..., rows, keys], each at its hops from row to key; rows end where keys end.

    The first holds for hops of at least `offsets[0]`, the next of at least `offsets[1]`, ...,
    the last for all others.

    >>> by_hop((0,), torch.ones(2, 2), torch.zeros(2, 2))
    tensor([[1., 1.],
            [0., 1.]])
    """
    hops = _hops(scores[0])
    result = scores[-1]
    for offset, score in zip(reversed(offsets), reversed(scores[:-1]), strict=True):
        result = torch.where(hops >= offset, score, result)
    return result


def at_hops(offsets: tuple[int, ...], wanted: tuple[int, ...], pattern: Tensor) -> Tensor:
    """A pattern [..., rows, keys] where the hop is of the wanted kinds, else zero (see `by_hop`).

    >>> at_hops((0,), (1,), torch.ones(2, 2))
    tensor([[0., 0.],
            [1., 0.]])
    """
    hops = _hops(pattern)
    kind = sum(((hops < offset).long() for offset in offsets), torch.zeros_like(hops))
    kept = torch.isin(kind, kind.new_tensor(wanted))
    return torch.where(kept, pattern, pattern.new_zeros(()))


def _hops(scores: Tensor) -> Tensor:
    rows, keys = scores.shape[-2:]
    ends = torch.arange(keys, device=scores.device)
    return ends - ends[keys - rows :].unsqueeze(-1)


def attention_scores(q: Tensor, k: Tensor, scale: float | None, shared: bool) -> Tensor:
    """What fused attention makes of queries and keys, before its mask.

    >>> attention_scores(torch.ones(1, 1, 2, 4), torch.ones(1, 1, 2, 4), None, False)[0, 0, 0]
    tensor([2., 2.])
    """
    if shared:
        k = k.repeat_interleave(q.shape[-3] // k.shape[-3], -3)
    return q @ k.mT * (q.shape[-1] ** -0.5 if scale is None else scale)


def attention_pattern(scores: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
    """The pattern of fused attention; a row whose keys are all masked is zero.

    >>> attention_pattern(torch.zeros(2, 2), None, True)
    tensor([[1.0000, 0.0000],
            [0.5000, 0.5000]])
    """
    if causal:
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    if mask is not None and mask.dtype == torch.bool:
        scores = scores.masked_fill(mask.logical_not(), -torch.inf)
    elif mask is not None:
        scores = scores + mask
    return torch.ops.aten._safe_softmax.default(scores, -1)


def weighed(pattern: Tensor, v: Tensor, shared: bool) -> Tensor:
    """Values added up by a pattern, as fused attention does.

    >>> weighed(torch.eye(2), torch.ones(2, 3), False).shape
    torch.Size([2, 3])
    """
    if shared:
        v = v.repeat_interleave(pattern.shape[-3] // v.shape[-3], -3)
    return pattern @ v
