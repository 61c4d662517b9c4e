"""How a model is told of padding: found by changing tokens, and not by the names of inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rewrite.errors import RewriteError
from rewrite.ir.layout import Layout, layout_of
from rewrite.ir.size_text import unmet
from rewrite.ir.values import devices

if TYPE_CHECKING:
    from rewrite.ir.graph import Graph, InputSpec

Inputs = dict[str, Tensor]
QUIET = 1e-3  # what is left of the effect of a token that is masked, of that of one that is not
PLACES = (0, 1)


def with_padding(graph: Graph, batches: Sequence[Mapping[str, Tensor]]) -> Layout:
    """The layout of a graph, with the inputs that say which of the given tokens are real.

    Such an input has an entry for each token (or for each query and key), of two kinds in all
    batches, and one kind makes a token invisible: when the token changes, nothing changes
    elsewhere.  Or it has a number for each example, and tokens beyond it are invisible.  Where
    that cannot be seen, as in a model of tokens that never meet, inputs named `attention_mask`
    mean what they do in Hugging Face models.
    """
    layout = layout_of(graph)
    padding: dict[str, dict[str, float | None]] = {}
    for spec in graph.inputs:
        length = _length(spec, layout)
        if length is None:
            continue
        given = [batch[spec.name] for batch in batches]
        if len(spec.shape) > 2 and any(
                batch[spec.name].shape[-1] != batch[layout.tokens[length]].shape[1]
                for batch in batches if length in layout.tokens):
            continue
        along = layout.tokens.get(length, spec.name)
        longest = max(batches, key=lambda batch, name=along: batch[name].shape[-1])
        probe = _Probe(graph, layout, _small(graph, longest), spec.name, length)
        if len(spec.shape) == 1:
            if probe.counts(given, [batch[layout.tokens[length]] for batch in batches]):
                padding.setdefault(length, {})[spec.name] = None
            continue
        values = _values(given)
        real = None if values is None else probe.real_value(values)
        if real is None and values is not None and spec.name.endswith("attention_mask"):
            real = 1.0 if len(spec.shape) == 2 else None
        if real is not None:
            padding.setdefault(length, {})[spec.name] = real
    return replace(layout, padding=padding)


def may_tell(graph: Graph) -> bool:
    """Whether any input may say which tokens are real."""
    layout = layout_of(graph)
    return any(_length(spec, layout) is not None for spec in graph.inputs)


def _length(spec: InputSpec, layout: Layout) -> str | None:
    """The length of an input with one entry for each token, or with a number for each example."""
    shape = spec.shape
    if spec.name in layout.tokens.values() or not shape:
        return None
    if len(shape) == 1:
        counts = not spec.dtype.is_floating_point and spec.dtype != torch.bool
        return next(iter(layout.tokens)) if counts and len(layout.tokens) == 1 else None
    known = [name for name in layout.lengths
             if name == shape[-1] or (len(shape) == 2 and layout.fixed.get(name) == shape[1])]
    if not known:
        # A mask of queries by keys, of a size that was fixed.
        fixed = len(shape) > 2 and isinstance(shape[-1], int) and shape[-2] in (1, shape[-1])
        return next(iter(layout.tokens)) if fixed and len(layout.tokens) == 1 else None
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


def _small(graph: Graph, inputs: Mapping[str, Tensor]) -> Inputs:
    """Two examples of a batch, if the graph takes another batch than this one."""
    device = devices(graph.module)[0]
    inputs = {spec.name: inputs[spec.name].to(device) for spec in graph.inputs}
    few = {key: value[:2] for key, value in inputs.items()}
    free = all(isinstance(spec.shape[0], str) for spec in graph.inputs if spec.shape)
    sizes = {key: tuple(value.shape) for key, value in few.items()}
    return few if free and unmet(graph.guards, sizes) is None else inputs


@dataclass(frozen=True)
class _Probe:
    """What an input says of tokens, found by changing a token where it says one thing and another.

    `inputs` are examples that the graph runs on.
    """

    graph: Graph
    layout: Layout
    inputs: Inputs
    name: str
    length: str

    def real_value(self, values: list[float]) -> float | None:
        """The entry that means that a token is real, if the other one hides tokens."""
        if len(values) < 2:
            return None
        hidden = [pad for pad, real in (values, values[::-1])
                  if any(self._masks(pad, real, at) for at in PLACES)]
        return next(value for value in values if value != hidden[0]) if len(hidden) == 1 else None

    def counts(self, given: Sequence[Tensor], tokens: Sequence[Tensor]) -> bool:
        """Whether numbers, one for each example, say how many tokens are real."""
        short = False
        for value, ids in zip(given, tokens, strict=True):
            if bool(((value < 0) | (value > ids.shape[1])).any()):
                return False
            short = short or bool((value < ids.shape[1]).any())
        size = self.inputs[self.layout.tokens[self.length]].shape[1]
        # In a model that looks back nobody sees the last token; where only a prefix is seen from
        # both sides, tokens behind it are seen from later ones.
        found = {self._hides(size, at, at) for at in {1, size - 1}} if short and size > 1 else set()
        return True in found and False not in found

    def _masks(self, pad: float, real: float, at: int) -> bool:
        given = self.inputs[self.name]
        if at >= given.shape[-1]:
            return False
        seen = torch.full_like(given, real)
        hidden = seen.clone()
        hidden[..., at] = pad
        return bool(self._hides(seen, hidden, at))

    def _hides(self, seen: Tensor | int, hidden: Tensor | int, at: int) -> bool | None:
        """Whether a token that changes is not seen elsewhere with one input, but with another.

        None where it is seen with neither, or cannot be tried.
        """
        given = self.inputs[self.name]
        changed = {key: _changed(value, at) for key, value in self.inputs.items()
                   if self._may_change(key)}
        if not changed and (name := self.layout.tokens.get(self.length)):
            changed = {name: _changed(self.inputs[name], at)}
        found: list[float] = []
        for value in (seen, hidden):
            value = torch.full_like(given, value) if isinstance(value, int) else value
            inputs = self.inputs | {self.name: value}
            try:
                found.append(_difference(
                    self.graph, self.layout, self.length, at, inputs, inputs | changed))
            except (RuntimeError, IndexError, RewriteError):  # a probe that fails tells nothing
                return None
        loud, quiet = found
        return quiet <= QUIET * loud if loud > 0 else None

    def _may_change(self, name: str) -> bool:
        """Whether an input has an entry for each token, of more than two kinds."""
        shape = next(spec.shape for spec in self.graph.inputs if spec.name == name)
        along = len(shape) > 1 and shape[1] in (self.length, self.layout.fixed.get(self.length))
        return name != self.name and along and _values([self.inputs[name]]) is None


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
