"""How a model is told of padding: found by changing tokens, and not by the names of inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rewrite.ir.layout import Layout, layout_of
from rewrite.ir.size_text import unmet
from rewrite.ir.values import devices

if TYPE_CHECKING:
    from rewrite.ir.graph import Graph

Inputs = dict[str, Tensor]
QUIET = 1e-3  # what is left of the effect of a token that is masked, of that of one that is not
PLACES = (0, 1)


def with_padding(graph: Graph, batches: Sequence[Mapping[str, Tensor]]) -> Layout:
    """The layout of a graph, with the inputs that say which of the given tokens are real.

    Such an input has an entry for each token, of two kinds in all batches, and one kind makes a
    token invisible: when the token changes, nothing changes elsewhere.  Where that cannot be
    seen, as in a model of tokens that never meet, inputs named `attention_mask` mean what they
    do in Hugging Face models.
    """
    layout = layout_of(graph)
    padding: dict[str, dict[str, float]] = {}
    for spec in graph.inputs:
        length = _length(spec.shape, layout)
        if length is None or layout.tokens.get(length) == spec.name:
            continue
        values = _values([batch[spec.name] for batch in batches])
        if values is None:
            continue
        real = _real_value(graph, layout, batches, spec.name, length, values)
        if real is None and spec.name.endswith("attention_mask"):
            real = 1.0
        if real is not None:
            padding.setdefault(length, {})[spec.name] = real
    return replace(layout, padding=padding)


def may_tell(graph: Graph) -> bool:
    """Whether any input has an entry for each token beside the tokens themselves."""
    layout = layout_of(graph)
    return any((length := _length(spec.shape, layout)) is not None
               and layout.tokens.get(length) != spec.name for spec in graph.inputs)


def _length(shape: tuple[int | str, ...], layout: Layout) -> str | None:
    """The length of an input with one entry for each token."""
    if len(shape) != 2:
        return None
    known = [name for name in layout.lengths if name == shape[1] or layout.fixed.get(name) ==
             shape[1]]
    if not known:
        return None
    # A mask that nothing reads has a length of its own: it goes along with the only tokens.
    alone = known[0] not in layout.tokens and len(layout.tokens) == 1
    return next(iter(layout.tokens)) if alone and _unread(known[0], layout) else known[0]


def _unread(length: str, layout: Layout) -> bool:
    return not any(length in map(str, sizes) for sizes in layout.outputs.values())


def _values(given: Sequence[Tensor]) -> list[float] | None:
    """The kinds of entries, if there are one or two."""
    found: set[float] = set()
    for value in given:
        found |= set(value.unique()[:3].tolist())
    return sorted(map(float, found)) if 0 < len(found) <= 2 else None


def _real_value(
    graph: Graph, layout: Layout, batches: Sequence[Mapping[str, Tensor]], name: str,
    length: str,
    values: list[float],
) -> float | None:
    """The value of an input that means that a token is real, if the other one hides tokens."""
    if len(values) < 2:
        return None
    longest = max(batches, key=lambda batch: batch[name].shape[1])
    batch = _small(graph, {key: value.to(devices(graph.module)[0])
                           for key, value in longest.items()})
    hidden = [pad for pad, real in (values, values[::-1])
              if any(_hides(graph, layout, batch, name, length, pad, real, at) for at in PLACES)]
    if len(hidden) != 1:
        return None
    return next(value for value in values if value != hidden[0])


def _small(graph: Graph, inputs: Inputs) -> Inputs:
    """Two examples of a batch, if the graph takes another batch than this one."""
    few = {key: value[:2] for key, value in inputs.items()}
    free = all(isinstance(spec.shape[0], str) for spec in graph.inputs if spec.shape)
    sizes = {key: tuple(value.shape) for key, value in few.items()}
    return few if free and unmet(graph.guards, sizes) is None else inputs


def _hides(
    graph: Graph, layout: Layout, inputs: Inputs, name: str, length: str, pad: float, real: float,
    at: int,
) -> bool:
    """Whether a token that changes is not seen elsewhere if `inputs[name]` is `pad` there."""
    if at >= inputs[name].shape[1]:
        return False
    seen = inputs | {name: torch.full_like(inputs[name], real)}
    changed = {key: _changed(value, at) for key, value in inputs.items()
               if key != name and _along(graph, key, length, layout) and _values([value]) is None}
    if not changed:
        changed = {key: _changed(inputs[key], at) for key in (layout.tokens.get(length),)
                   if key is not None}
    mask = seen[name].clone()
    mask[:, at] = pad
    hidden = inputs | {name: mask}
    loud = _difference(graph, layout, length, at, seen, seen | changed)
    return loud > 0 and _difference(graph, layout, length, at, hidden, hidden | changed) <= (
        QUIET * loud)


def _along(graph: Graph, name: str, length: str, layout: Layout) -> bool:
    shape = next(spec.shape for spec in graph.inputs if spec.name == name)
    return len(shape) > 1 and shape[1] in (length, layout.fixed.get(length))


def _changed(value: Tensor, at: int) -> Tensor:
    """The same with another entry at a position, one that stands elsewhere in the input."""
    rows = value.flatten(0, 1)
    found = value.clone()
    for i, row in enumerate(value[:, at]):
        others = rows[(rows != row).flatten(1).any(1)] if rows.ndim > 1 else rows[rows != row]
        if len(others):
            found[i, at] = others[-1]
    return found


def _difference(
    graph: Graph, layout: Layout, length: str, at: int, first: Inputs, second: Inputs
) -> float:
    """How far outputs differ elsewhere than at a position; nan where they are no numbers."""
    with torch.no_grad():
        pairs = zip(graph.outputs.names, graph.flat(**first), graph.flat(**second), strict=True)
    most = 0.0
    for name, a, b in pairs:
        if not a.is_floating_point():
            continue
        sizes = layout.outputs.get(name, ())
        for axis, size in enumerate(sizes):
            if size == length:
                kept = torch.arange(a.shape[axis], device=a.device) != at
                a, b = (x.index_select(axis, kept.nonzero().flatten()) for x in (a, b))
        if a.numel():
            most = max(most, float((a.double() - b.double()).abs().nan_to_num(0).max()))
    return most
