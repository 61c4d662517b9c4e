"""The module of an expansion: one call per copy, heads and ports apart only where they differ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import fx

from rewrite.expand.groups import Place, labelled
from rewrite.expand.literal_layers import LiteralLayers
from rewrite.expand.positions import Positions, Spots, groups_of
from rewrite.expand.product import Copy, Mixed, Product
from rewrite.expand.values import Values
from rewrite.ir.dag import Constant, Join, Node, Part, Source
from rewrite.ir.ops import as_ranges, take
from rewrite.parts import Component, Components
from rewrite.parts.assemble import Assembler
from rewrite.rules.slicer import Body


@dataclass(frozen=True)
class Reading:
    """How much of the outputs is needed: the last position only, some columns only.

    If `anchored`, copies that read equal values are equal bits (see `rewrite.expand.anchors`).
    """

    last: bool = False
    columns: tuple[int, ...] | None = None
    anchored: bool = False

    def rows(self, parts: Components, output: str) -> bool:
        """Whether the last position alone is needed of an output: those without keep all."""
        return self.last and parts.layout.starts_with_tokens(output)


@dataclass(frozen=True)
class Built:
    """A module, with what it costs, and the spots whose first positions it may be given."""

    module: fx.GraphModule
    calls: int
    weights: int
    starts: tuple[Spots, ...] = ()


def build(
    parts: Components, product: Product, runs: Sequence[str], reading: Reading,
    single: bool = True,
) -> Built:
    """Wire the copies; node by node in the order of the model, all copies of a node together."""
    return _Builder(parts, product, runs, reading).build(single)


class _Builder:
    def __init__(
        self, parts: Components, product: Product, runs: Sequence[str], reading: Reading
    ) -> None:
        self.parts, self.product, self.reading = parts, product, reading
        self.assembler = Assembler(parts, runs)
        wanted = wanted_in_full(parts, product, reading, together=reading.anchored)
        self.values = Values(parts, product, self.assembler,
                             Positions(self.assembler, groups_of(product, parts)), wanted)
        self.heads = LiteralLayers(parts, product, self.values, reading.anchored)
        self.layers = {n for c in parts.components.values() for n in c.member_names}

    def build(self, single: bool) -> Built:
        """Node by node in the order of the model, all copies of a node together."""
        for node in self.product.dag.nodes:
            copies = self.product.copies[node.name]
            if isinstance(node, Constant) or node.name in self.layers:
                continue  # made where they are added up
            layer = self._layer(node.name) if isinstance(node, Join) else None
            if isinstance(node, Join) and layer:
                self.heads.add(layer, node, [c for c in copies if isinstance(c, Copy)])
            for copy in copies:
                if isinstance(copy, Mixed):
                    self.values.mixed(copy, node.name, node.name, len(copies))
                elif not layer:
                    self._one(node, copy, len(copies))
        outputs = tuple(
            tuple(self._output(name, index)
                  for name, index in zip(self.product.dag.outputs, root, strict=True))
            for root in self.product.roots
        )
        module = self.assembler.finish(outputs[0] if single else outputs)
        return Built(module, self.values.calls, self.values.weights)

    def _one(self, node: Node, copy: Copy, total: int) -> None:
        place, values = (node.name, copy.index), self.values
        label = labelled(node.name, copy, total)
        reads = list(zip(node.reads, copy.reads, strict=True))
        if isinstance(node, Source):
            values.full[place] = self.assembler.source(next(iter(copy.runs)), node.name)
        elif isinstance(node, Join):
            values.add(place, label, reads)
        elif place not in values.wanted and (body := self._row_body(node.name)):
            given = [values.last_of(*read) for read in reads]
            values.rows[place] = values.call(node.name, given, label, body=body)
        else:
            given = [values.all_of(*read) for read in reads]
            values.full[place] = values.call(node.name, given, label)

    def _row_body(self, name: str) -> Body | None:
        columns = self.reading.columns if name in self.product.dag.outputs else None
        return self.parts.last_row(name, columns=columns)

    def _output(self, name: str, index: int) -> fx.Node:
        place, columns = (name, index), self.reading.columns
        if place in self.values.rows:
            return self.values.rows[place]
        read = self.values.last_of if self.reading.rows(self.parts, name) else self.values.all_of
        value = read(name, index)
        if columns is None:
            return value
        return self.assembler.graph.call_function(take, (value, -1, as_ranges(columns)))

    def _layer(self, name: str) -> Component | None:
        short, _, end = name.rpartition(".")
        component = self.parts.components.get(short)
        return component if end == "out" and component and component.members else None


def wanted_in_full(
    parts: Components, product: Product, reading: Reading, together: bool = False
) -> set[Place]:
    """Copies that somebody reads at all positions; of the others the last one is enough.

    `together` wants all copies of a node if one is wanted.
    """
    wanted: set[Place] = set()
    outputs = set(product.dag.outputs)
    wanted.update((name, i) for root in product.roots
                  for name, i in zip(product.dag.outputs, root, strict=True)
                  if not reading.rows(parts, name))
    for node in reversed(product.dag.nodes):
        names, columns = node.reads, reading.columns if node.name in outputs else None
        slots = _slots_in_full(parts, node, columns) if isinstance(node, Part) else ()
        places = {(node.name, copy.index) for copy in product.copies[node.name]}
        if together and places & wanted:
            wanted |= places
        for copy in reversed(product.copies[node.name]):  # mixtures before what they mix
            if (node.name, copy.index) in wanted:
                wanted.update(product.reads(node.name, copy.index))
            elif isinstance(copy, Copy):
                wanted.update((names[slot], copy.reads[slot]) for slot in slots)
    return wanted


def _slots_in_full(
    parts: Components, node: Part, columns: tuple[int, ...] | None
) -> Sequence[int]:
    """What a part reads at all positions if only its last one is needed."""
    every = range(len(node.ports))
    if node.name in parts.components:
        return () if parts.last_row(node.name, columns=columns) else every
    layer, head = parts.owner(node.name)
    if head is None or parts.last_row(layer, (head,)) is None:
        return every
    return [slot for slot in every if node.ports[slot].symbol.endswith((".k", ".v"))]


