"""Which axes of a value are the batch and the tokens, and which inputs go along with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import sympy
import torch
from torch import Tensor, fx

from rewrite.ir.sizes import labels, named

if TYPE_CHECKING:
    from rewrite.ir.graph import Graph

Size = int | str
BATCH, LAST = "batch", "last"
# Inputs that say where tokens are, not what they are.
CONTEXT_INPUTS = frozenset({
    "attention_mask", "position_ids", "token_type_ids", "head_mask", "encoder_attention_mask",
    "decoder_attention_mask", "cache_position", "pixel_mask", "padding_mask",
})


@dataclass(frozen=True)
class Layout:
    """The axes of outputs, as far as the inputs tell: the batch, lengths of tokens, sizes.

    `outputs["logits"]` may be `("batch", "seq", 97)`: names are sizes that inputs have too.
    `tokens["seq"]` is the input that holds the token ids of that length, `padding["seq"]` the
    inputs that say which tokens are real, each with the value that means so, or None where it is
    their number.  `fixed` has the
    lengths that were fixed when the model was traced.

    >>> from rewrite.ir.layout import layout_of
    >>> layout_of(parts.graph).outputs, layout_of(parts.graph).tokens
    ({'logits': ('batch', 'seq', 97)}, {'seq': 'input_ids'})
    """

    outputs: Mapping[str, tuple[Size, ...]]
    lengths: tuple[str, ...]
    tokens: Mapping[str, str] = field(default_factory=dict)
    fixed: Mapping[str, int] = field(default_factory=dict)
    padding: Mapping[str, Mapping[str, float | None]] = field(default_factory=dict)

    def real(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """True at tokens, False at padding, `[batch, positions]`, for each length with padding."""
        return {length: torch.stack([self._told(inputs, length, name, value)
                                     for name, value in told.items()]).all(0)
                for length, told in self.padding.items()}

    def _told(
        self, inputs: Mapping[str, Tensor], length: str, name: str, value: float | None
    ) -> Tensor:
        given = inputs[name]
        if value is None:
            size = inputs[self.tokens[length]].shape[1]
            return torch.arange(size, device=given.device) < given[:, None]
        same = given == value
        if same.ndim > 2 and same.shape[-1] == same.shape[-2]:  # whether a token sees itself
            same = same.diagonal(dim1=-2, dim2=-1)
        return same.flatten(1, -2).any(1) if same.ndim > 2 else same

    def length_axis(self, sizes: Sequence[Size]) -> int | None:
        """The axis of tokens, if there is exactly one."""
        found = [axis for axis, size in enumerate(sizes) if size in self.lengths]
        return found[0] if len(found) == 1 else None

    def starts_with_tokens(self, output: str) -> bool:
        """Whether an output is `[batch, tokens, ...]`."""
        sizes = self.outputs.get(output, ())
        return sizes[:1] == (BATCH,) and self.length_axis(sizes) == 1

    def at_last(self, columns: int | None = None) -> Layout:
        """The same where of outputs `[batch, tokens, ...]` the last token alone is kept."""
        def kept(name: str, sizes: tuple[Size, ...]) -> tuple[Size, ...]:
            if not self.starts_with_tokens(name):
                return sizes
            return (BATCH, LAST, *sizes[2:]) if columns is None else (
                BATCH, LAST, *sizes[2:-1], columns)

        return replace(self, outputs={n: kept(n, sizes) for n, sizes in self.outputs.items()})


def layout_of(graph: Graph) -> Layout:
    """The layout of a graph, before anything is known of padding (see `rewrite.ir.padding`)."""
    first = {spec.shape[0] for spec in graph.inputs if spec.shape}
    lengths = dict.fromkeys(
        str(spec.shape[1]) for spec in graph.inputs
        if len(spec.shape) > 1 and isinstance(spec.shape[1], str) and spec.shape[1] not in first)
    tokens: dict[str, str] = {}
    fixed: dict[str, int] = {}
    for spec in graph.inputs:
        if len(spec.shape) != 2 or spec.dtype.is_floating_point or spec.dtype == torch.bool:
            continue  # features and masks
        length = spec.shape[1]
        if isinstance(length, int):
            known = next((name for name, size in fixed.items() if size == length), None)
            length = known or ("seq" if "seq" not in lengths else f"{spec.name}.seq")
            lengths[length], fixed[length] = None, int(spec.shape[1])
        if str(length) in lengths and spec.name not in CONTEXT_INPUTS:
            tokens.setdefault(str(length), spec.name)
    found = Layout({}, tuple(lengths), tokens, fixed)
    (end,) = graph.module.graph.find_nodes(op="output")
    values = end.args[0] if isinstance(end.args[0], (tuple, list)) else (end.args[0],)
    outputs = {name: sizes for name, node in zip(graph.outputs.names, values, strict=False)
               if isinstance(node, fx.Node) and (sizes := sizes_of(graph, node, found)) is not None}
    return replace(found, outputs=outputs)


def sizes_of(graph: Graph, node: fx.Node, layout: Layout) -> tuple[Size, ...] | None:
    """The axes of what a node computes; None where that is not known."""
    names: dict[Any, sympy.Symbol] = labels(graph)
    sizes = named(node.meta.get("val"), names)
    if sizes is None:
        return None
    first = {str(spec.shape[0]) for spec in graph.inputs if spec.shape}
    found: list[Size] = []
    for axis, size in enumerate(sizes):
        if str(size) in first and (axis == 0 or not isinstance(size, int)):
            found.append(BATCH)
        else:
            found.append(int(size) if sympy.sympify(size).is_Integer else str(size))
    for length, size in layout.fixed.items():
        if len(found) > 2 and found[1:].count(size) == 1:
            found[found.index(size, 1)] = length
    return tuple(found)
