"""Ablations as rewrites: what a node writes is exchanged, at all or at some places."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rewrite.errors import SurgeryError, near
from rewrite.ir.edit import Edit
from rewrite.ir.layout import BATCH, Layout, sizes_of
from rewrite.ir.padding import with_padding
from rewrite.ir.selection import Match
from rewrite.ir.surgery import values_of

if TYPE_CHECKING:
    from rewrite.ir.graph import Graph

HOWS = ("zero", "mean", "position_mean", "resample", "noise")
Inputs = Mapping[str, Tensor]


def ablate(
    graph: Graph, what: Match | str, how: str | Tensor | float = "zero", *, at: Any = None,
    inputs: Inputs | Sequence[Inputs] | None = None, std: float = 1.0, seed: int = 0,
) -> Graph:
    """See `Graph.ablate`."""
    if isinstance(how, str) and how not in HOWS:
        raise SurgeryError(f"there is no ablation {how!r}; {near(how, HOWS)}, or give a tensor")
    edit = Edit(graph)
    nodes = edit.some(what)
    given = _given(graph, [node.name for node in nodes], how, inputs)
    for node, value in zip(nodes, given, strict=True):
        if node.op == "output":
            raise SurgeryError("the output cannot be ablated; ablate what it returns, "
                               f"{node.all_input_nodes[0].name!r}")
        readers = list(node.users)
        with edit.nodes.inserting_after(node):
            if value is not None:
                new = edit.constant(value, node)
            elif how == "noise":
                new = edit.call(noised, (node, std, seed), node, alike=True)
            else:
                new = edit.call(shuffled, (node, seed), node, alike=True)
            if at is not None:
                at = at if isinstance(at, tuple) else (at,)
                new = edit.call(put_at, (node, new, at), node)
        edit.fits(new, node)
        if value is not None and at is None and node.op != "placeholder":
            edit.takes_place(new, node)
            continue
        for reader in readers:
            reader.replace_input_with(node, new)
    return edit.done()


def _given(
    graph: Graph, names: Sequence[str], how: str | Tensor | float,
    inputs: Inputs | Sequence[Inputs] | None,
) -> Sequence[Tensor | float | None]:
    """The values that are put in place of nodes, or None where it depends on what is there."""
    if not isinstance(how, str):
        return [how] * len(names)
    if how in ("mean", "position_mean"):
        if not inputs:
            raise SurgeryError(f"{how!r} needs the inputs to take the mean over: ablate(..., "
                               f"{how!r}, inputs=...), or give the mean itself as a tensor")
        return means(graph, names, inputs, by_position=how == "position_mean")
    if how == "resample" and inputs is not None:
        if not isinstance(inputs, Mapping):
            raise SurgeryError("'resample' takes the inputs of one run, as a dict of tensors")
        return values_of(graph, names, inputs)
    if inputs is not None:
        raise SurgeryError(f"{how!r} takes no inputs; only mean, position_mean and resample do")
    return [0.0 if how == "zero" else None] * len(names)


def means(
    graph: Graph, names: Sequence[str], inputs: Inputs | Sequence[Inputs],
    by_position: bool = False,
) -> list[Tensor]:
    """The mean of what nodes write, over all rows of all inputs, and over positions.

    Shape `[features]`, or `[1, positions, features]` with `by_position`.  Rows of tokens that an
    input tells to be padding do not count (see `rewrite.ir.padding`); of what is written for
    examples as a whole, all count.  Raises `SurgeryError` where no row is left.
    """
    batches = [inputs] if isinstance(inputs, Mapping) else list(inputs)
    for batch in batches:
        graph.check(batch)
    layout = with_padding(graph, batches)
    totals: dict[str, tuple[Tensor, Tensor]] = {}
    for batch in batches:
        real = layout.real(batch)
        for name, value in zip(names, values_of(graph, names, batch), strict=True):
            kept = _kept(graph, name, value, layout, real)
            axes = (0,) if by_position else tuple(range(value.ndim - 1))
            # Sums are in double precision, so that the order of the batches does not matter.
            new = value.double().where(kept, 0).sum(axes, keepdim=by_position)
            rows = kept.expand(*value.shape[:-1], 1).sum(axes, keepdim=by_position)
            if name in totals:
                total, count = totals[name]
                if total.shape != new.shape:
                    raise SurgeryError("a mean by position needs inputs of one length, found "
                                       f"{list(total.shape)} and {list(new.shape)}")
                new, rows = total + new, count + rows
            totals[name] = new, rows
    found: list[Tensor] = []
    for name, (total, rows) in totals.items():
        if not bool((rows > 0).all()):
            raise SurgeryError(_no_rows(name, rows))
        dtype = graph.get(name).meta.get("val", torch.empty(0)).dtype
        found.append((total / rows).to(dtype))
    return found


def _kept(
    graph: Graph, name: str, value: Tensor, layout: Layout, real: Mapping[str, Tensor]
) -> Tensor:
    """Which rows of a value count, `[..., 1]`: those of real tokens, on all axes but the last."""
    kept = torch.ones((), dtype=torch.bool, device=value.device)
    if all(bool(mask.all()) for mask in real.values()):
        return kept
    sizes = sizes_of(graph, graph.get(name), layout) or _sizes(value, real)
    for length, mask in real.items():
        mask = mask.to(value.device)
        together = {f"batch*{length}", f"{length}*batch"}
        for axis, size in enumerate(sizes[:-1]):
            if size == length and sizes[0] == BATCH:
                shape = [1] * value.ndim
                shape[0], shape[axis] = mask.shape
                kept = kept & mask.reshape(shape)
            elif axis == 0 and size in together:
                kept = kept & mask.reshape(-1, *[1] * (value.ndim - 1))
            elif isinstance(size, str) and length in re.findall(r"[\w.]+", size):
                raise SurgeryError(
                    f"{name!r} is {list(sizes)}, and which of its {size} rows are padding is not "
                    "known: give inputs without padding, one length at a time")
    return kept


def _sizes(value: Tensor, real: Mapping[str, Tensor]) -> tuple[int | str, ...]:
    """The axes of a value of which nothing is noted: as they fit the masks."""
    found: list[int | str] = list(value.shape)
    for length, mask in real.items():
        if value.ndim > 1 and value.shape[:2] == mask.shape:
            found[:2] = [BATCH, length]
        elif value.shape[0] == mask.numel():
            found[0] = f"batch*{length}"
    return tuple(found)


def _no_rows(name: str, rows: Tensor) -> str:
    if rows.ndim > 1 and bool((rows > 0).any()):
        bare = (rows.flatten() == 0).nonzero().flatten().tolist()
        return (f"the mean of {name!r} by position has no real token at positions {bare[:8]} in "
                "any example: give inputs without padding there, or use 'mean'")
    return f"the mean of {name!r} has nothing to be taken over: the inputs hold no real token"


def put_at(x: Tensor, new: Tensor, at: tuple[Any, ...]) -> Tensor:
    """`x` with the entries of `new` at an index.

    >>> put_at(torch.zeros(4), torch.ones(4), (slice(1, 3),))
    tensor([0., 1., 1., 0.])
    """
    here = torch.zeros_like(x, dtype=torch.bool)
    here[at] = True
    return torch.where(here, new, x)


def shuffled(x: Tensor, seed: int) -> Tensor:
    """`x` with its rows in an order that depends on their number and on the seed alone.

    >>> shuffled(torch.arange(5), 0)
    tensor([2, 4, 0, 1, 3])
    """
    return x.index_select(0, scrambled((x.shape[0],), seed, x.device).argsort())


def noised(x: Tensor, std: float, seed: int) -> Tensor:
    """`x` plus independent normal noise; an entry's noise depends on its index and the seed.

    It is the same on every device, and in whatever batch or length the entry stands.

    >>> noised(torch.zeros(2, 2), 1.0, seed=3)[0] == noised(torch.zeros(1, 2), 1.0, seed=3)[0]
    tensor([True, True])
    """
    first, second = (scrambled((*x.shape, 2), seed, x.device).double() + 0.5).unbind(-1)
    # Box and Muller (1958), of two uniform numbers in (0, 1)
    radius = (-2 * (first / 2**32).log()).sqrt()
    return x + std * (radius * (2 * math.pi * second / 2**32).cos()).to(x.dtype)


def scrambled(shape: Sequence[Any], seed: int, device: torch.device) -> Tensor:
    """A number of 32 bits for every index, as good as random: one after the other is hashed.

    Operators alone, no generator, so that graphs that use it can be exported and compiled.
    """
    found = torch.full((), seed & 0xFFFFFFFF, dtype=torch.int64, device=device)
    for size in shape:
        steps = torch.arange(size, device=device)
        found = _hashed(found.unsqueeze(-1) * 0x9E3779B9 + steps + 1)
    return found


def _hashed(x: Tensor) -> Tensor:
    """The 32-bit hash `lowbias32` of Wellons (2018), in integers of 64 bits."""
    x = x & 0xFFFFFFFF
    x = ((x ^ (x >> 16)) * 0x7FEB352D) & 0xFFFFFFFF
    x = ((x ^ (x >> 15)) * 0x846CA68B) & 0xFFFFFFFF
    return x ^ (x >> 16)


