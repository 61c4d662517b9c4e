"""What the parts of a model do to positions, found when a pattern with windows asks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from sympy import sympify
from torch import Tensor, fx

from rewrite.errors import InputError
from rewrite.ir.dag import Motion
from rewrite.ir.flow import args, shape
from rewrite.ir.values import devices
from rewrite.parts.regions import Region
from rewrite.parts.rowwise import keeps_tokens
from rewrite.symbolic.cost import hints_for
from rewrite.turn import once

if TYPE_CHECKING:
    from rewrite.parts.component import Components

CLOSE = 1e-4  # of the largest value: less is rounding


class PartsMotion(Motion):
    """The motion of a component graph; `parts` is set once the graph is put together."""

    parts: Components

    def keeps_positions(self, part: str) -> bool:
        """Heads read others by their keys and values alone, and token j by key j: it is proved."""
        component = self.parts.components.get(self.parts.owner(part)[0])
        if component is None:
            return False
        region = component.region
        if region is not None and region.layer is not None and component.heads:
            return self._keeps_tokens(component.short, region)
        return self.parts.rowwise(part)

    def _keeps_tokens(self, name: str, region: Region) -> bool:
        key, layer, cut = (name, "tokens"), region.layer, self.parts.cut
        if key not in self.parts.kept:
            assert layer is not None
            entries = {(node, args(node)[i]) for (node, i), port in layer.ports.items()
                       if port in ("k", "v")}
            self.parts.kept[key] = layer.side_by_side != 1 and keeps_tokens(
                cut.flow, region.output, cut.written - {region.output}, entries)
        return self.parts.kept[key]

    def looks_ahead(self) -> bool:
        """Whether a layer of attention reads later tokens: measured by changing the second half.

        Without weights nothing can be measured, and it is assumed; so it is where a mask of
        queries by keys is an input, which may be another one at every call.
        """
        return self._looks_ahead

    @once
    def _looks_ahead(self) -> bool:
        graph = self.parts.graph
        if graph.weightless or any(t.is_meta for t in graph.module.parameters()):
            return True
        sources = {str(node.target) for node in self.parts.cut.flow.sources}
        for spec in graph.inputs:
            named = [size for size in spec.shape if isinstance(size, str)]
            if spec.name not in sources and len(set(named)) < len(named):
                return True
        regions = (c.region for c in self.parts.components.values() if c.heads)
        written = [region.output for region in regions if region is not None]
        found = self._moves(written, 1)
        return not found or any(found)

    def mixes_examples(self) -> bool:
        """Whether the first axis is no batch, measured by changing the second half of its rows.

        Without weights it is not known, and taken to be a batch.
        """
        return self._mixes_examples

    @once
    def _mixes_examples(self) -> bool:
        graph = self.parts.graph
        if graph.weightless or any(t.is_meta for t in graph.module.parameters()):
            return False
        sources = [shape(node) for node in self.parts.cut.flow.sources]
        rows = {sympify(sizes[0]) for sizes in sources if sizes}
        written = [node for node in self.parts.cut.written if _has_rows(node, rows)]
        return any(self._moves(written, 0))

    def _moves(self, written: list[fx.Node], along: int) -> list[bool]:
        """Whether the first half of an axis sees the second, for each kind of mask that works.

        What a mask means is not known: tokens may be seen where it is one, where it is zero, or
        where it is their number.  A mask that hides all tokens tells nothing.
        """
        found: list[bool] = []
        for told in (1, 0, None):
            try:
                first, second = (self._values(written, each, told) for each in (None, along))
            except (RuntimeError, IndexError, InputError):  # these are no inputs of this model
                continue
            if not any(bool(value.isnan().any()) for value in (*first, *second)):
                found.append(any(_moved(a, b, along) for a, b in zip(first, second, strict=True)))
        return found

    def _values(
        self, written: list[fx.Node], along: int | None, told: int | None
    ) -> list[Tensor]:
        """What is written for ones, or for zeros in the second half of an axis.

        All other inputs, such as masks, are `told`, or the number of tokens.
        """
        graph, flow = self.parts.graph, self.parts.cut.flow
        sizes = hints_for(graph.inputs, graph.guards, {})
        device, *_ = devices(graph.module)
        sources = {str(node.target): node for node in flow.sources}
        shapes = [[size if isinstance(size, int) else sizes[size] for size in spec.shape]
                  for spec in graph.inputs]
        count = next((each[1] for each in shapes if len(each) > 1), 1)
        inputs: list[Tensor] = []
        for spec, lengths in zip(graph.inputs, shapes, strict=True):
            flows = spec.name in sources and len(lengths) > 1
            filled = 1 if flows else count if told is None else told
            value = torch.full(lengths, filled, dtype=spec.dtype, device=device)
            if spec.name in sources and along is not None and value.ndim > along:
                half = value.shape[along] // 2
                value.narrow(along, half, value.shape[along] - half).zero_()
            inputs.append(value)
        kept = _Keeping(graph.module, set(written))
        with torch.no_grad():
            kept.run(*inputs)
        return [kept.found[node] for node in written]


class _Keeping(fx.Interpreter):
    """Runs a graph and keeps some of its values."""

    def __init__(self, module: fx.GraphModule, wanted: set[fx.Node]) -> None:
        super().__init__(module)
        self.wanted, self.found = wanted, dict[fx.Node, Tensor]()

    def run_node(self, n: fx.Node) -> object:
        value = super().run_node(n)
        if n in self.wanted:
            self.found[n] = value
        return value


def _has_rows(node: fx.Node, rows: set[Any]) -> bool:
    """Whether the first axis of a value, and no other, is (made of) one of these sizes."""
    value = node.meta.get("val")
    if not isinstance(value, Tensor) or not value.ndim or not value.is_floating_point():
        return False
    sizes = list(map(sympify, shape(node)))
    letters = set[Any]().union(*(row.free_symbols for row in rows))
    return sizes[0] in rows and not any(size.free_symbols & letters for size in sizes[1:])


def _moved(a: Tensor, b: Tensor, axis: int) -> bool:
    """Whether anything in the first half of an axis differs."""
    half = a.shape[axis] // 2
    before, after = (value.narrow(axis, 0, half).double() for value in (a, b))
    if not before.numel():
        return False
    scale = max(float(before.abs().max()), 1e-12)
    return bool((before - after).abs().max() > CLOSE * scale)
