"""The stacked module of an expansion: each part is called once, on all of its copies together.

Copies of one node never depend on each other, so they are stacked along the batch.  What a part
reads is gathered from the stacks of what writes it; masks and tables are the same for all
copies.  The number of kernels does not grow with the number of paths, and the results are those
of the literal module.  What nobody reads is not computed, and copies that equal another one
before some position are computed from there on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import fx

from rewrite.expand.build import Built, Reading, wanted_in_full
from rewrite.expand.positions import Positions, groups_of
from rewrite.expand.product import Copy, Mixed, Product
from rewrite.expand.stackable import StackAssembler
from rewrite.expand.stacked_heads import StackedHeads
from rewrite.expand.stacked_layers import StackedLayers
from rewrite.expand.stacks import ALL, LAST, Rows, Stacks
from rewrite.expand.tails import tails_of
from rewrite.ir.dag import Constant, Join, Node, Source
from rewrite.ir.ops import as_ranges, changed, take
from rewrite.parts import Component, Components
from rewrite.parts.tails import tail
from rewrite.rules.slicer import Body


def build_stacked(
    parts: Components, product: Product, runs: Sequence[str], reading: Reading,
    single: bool = True, together: bool = False,
) -> Built:
    """Wire stacks of copies, node by node in the order of the model.

    `together` leaves the outputs of all roots stacked, in their order.
    """
    return _Stacker(parts, product, runs, reading).build(single, together)


class _Stacker:
    """Keeps each copy at the rows that its readers need (see `rewrite.expand.stacks`)."""

    def __init__(
        self, parts: Components, product: Product, runs: Sequence[str], reading: Reading
    ) -> None:
        self.parts, self.product, self.reading = parts, product, reading
        self.assembler = StackAssembler(parts, runs)
        self.positions = Positions(self.assembler, groups_of(product, parts))
        self.members = {n for c in parts.components.values() for n in c.member_names}
        self.wanted = wanted_in_full(parts, product, reading)
        self.tails = tails_of(parts, product, self.wanted)
        self.stacks = Stacks(self.assembler, product.dag, self.tails)
        self.heads = StackedHeads(parts, product, self.stacks, reading.anchored)
        self.layers = StackedLayers(product, self.stacks, self.heads, self.positions)
        self.calls = 0

    def build(self, single: bool, together: bool) -> Built:
        for node in self.product.dag.nodes:
            if isinstance(node, Constant) or node.name in self.members:
                continue  # made where they are added up
            every = self.product.copies[node.name]
            made = [copy for copy in every if isinstance(copy, Copy)]
            if isinstance(node, Join) and (layer := self._layer(node.name)):
                self.layers.add(layer, node, self._by_need(node.name, made))
            elif isinstance(node, Source):
                self._source(node, made)
            elif isinstance(node, Join):
                for rows, some in self._by_need(node.name, made).items():
                    self._join(node, some, rows)
            else:
                needs = self._by_need(node.name, made)
                if LAST in needs and self._row_body(node.name) is None:  # all positions or none
                    needs.setdefault(ALL, []).extend(needs.pop(LAST))
                for rows, some in needs.items():
                    self._part(node, some, rows)
            self._mix(node.name, [copy for copy in every if isinstance(copy, Mixed)])
        names = self.product.dag.outputs
        roots = self.product.roots
        if together:
            outputs: Any = tuple(self._output(name, [root[slot] for root in roots])
                                 for slot, name in enumerate(names))
        else:
            outputs = tuple(tuple(self._output(name, [i]) for name, i in zip(
                names, root, strict=True)) for root in roots)
        module = self.assembler.finish(outputs[0] if single and not together else outputs)
        return Built(module, self.calls + self.heads.calls, 0, self.stacks.starts)

    def _by_need(self, name: str, made: Sequence[Copy | Mixed]) -> dict[Rows, list[Any]]:
        """Copies by the rows that are needed of them."""
        found: dict[Rows, list[Any]] = {}
        for copy in made:
            place = (name, copy.index)
            tailed = self.tails.get(place)
            rows = LAST if place not in self.wanted else tailed.spots if tailed else ALL
            found.setdefault(rows, []).append(copy)
        return dict(sorted(found.items(), key=lambda item: item[0] != ALL))

    # one kind of node after the other

    def _source(self, node: Source, made: list[Copy]) -> None:
        if made:
            values = [self.assembler.source(next(iter(c.runs)), node.name) for c in made]
            self.stacks.add(node.name, [c.index for c in made], self.stacks.join(values), ALL)

    def _join(self, node: Join, made: list[Copy], rows: Rows) -> None:
        terms = [self.stacks.read(name, [c.reads[t] for c in made], rows)
                 for t, name in enumerate(node.terms)]
        joined = self.assembler.join(node.name, terms)
        self.stacks.add(node.name, [c.index for c in made], joined, rows)

    def _part(self, node: Node, made: list[Copy], rows: Rows) -> None:
        body = self._row_body(node.name) if rows == LAST else (
            None if rows == ALL else tail(self.parts, node.name))
        start = self.stacks.start(rows) if isinstance(rows, frozenset) else None
        anchors = self._anchors(node.name, made, rows)
        further = [self.product.copies[node.name][i] for i in dict.fromkeys(anchors)]
        called = [*made, *(copy for copy in further if isinstance(copy, Copy))]
        values = [self.stacks.read(name, [c.reads[slot] for c in called], rows)
                  for slot, name in enumerate(node.reads)]
        if self.parts.component(node.name).region is not None:
            self.calls += 1
        with self.assembler.spread_over(len(called)):
            value = self.assembler.part(
                node.name, values, body=body, label=node.name, start=start)
        if anchors:
            places = [c.index for c in called]
            value = self.stacks.call(
                changed, self._read(node.name, anchors, rows),
                self.stacks.gather(value, len(called), range(len(made))),
                self.stacks.gather(value, len(called), [places.index(i) for i in anchors]))
        self.stacks.add(node.name, [c.index for c in made], value, rows)

    def _anchors(self, name: str, made: list[Copy], rows: Rows) -> list[int]:
        """For each copy at some rows one that is kept at all, where copies are anchored."""
        whole = self.stacks.kept.get(name, {}).get(ALL)
        if not self.reading.anchored or rows == ALL or whole is None:
            return []
        if self.parts.component(name).region is None:
            return []
        first = next(iter(whole.places))
        return [self.tails[name, c.index].base if (name, c.index) in self.tails else first
                for c in made]

    def _mix(self, name: str, mixed: list[Mixed]) -> None:
        """Values that are one copy at some positions and another elsewhere."""
        levels: dict[int, int] = {}  # a value that mixes mixed ones comes behind them
        for each in mixed:
            if not each.by_hop:  # those are taken apart by their readers
                levels[each.index] = 1 + max(levels.get(side, 0) for side in each.reads)
        for level in sorted(set(levels.values())):
            some = [each for each in mixed if levels.get(each.index) == level]
            for rows, alike in self._by_need(name, some).items():
                values = [self.positions.mixed(
                    each.test, name, [self.stacks.read(name, [i], rows) for i in each.reads],
                    name, self.stacks.ranges(rows)) for each in alike]
                indices = [each.index for each in alike]
                self.stacks.add(name, indices, self.stacks.join(values), rows)

    def _output(self, name: str, wanted: list[int]) -> fx.Node:
        return self._read(name, wanted, LAST if self.reading.rows(self.parts, name) else ALL)

    def _read(self, name: str, wanted: Sequence[int], rows: Rows) -> fx.Node:
        """Copies at some rows; of outputs only the columns that are asked for."""
        value, columns = self.stacks.read(name, wanted, rows), self._columns(name)
        if columns is None or (rows == LAST and self.stacks.is_kept(name, wanted[0], LAST)):
            return value
        return self.stacks.call(take, value, -1, as_ranges(columns))

    def _columns(self, name: str) -> tuple[int, ...] | None:
        return self.reading.columns if name in self.product.dag.outputs else None

    def _row_body(self, name: str) -> Body | None:
        return self.parts.last_row(name, columns=self._columns(name))

    def _layer(self, name: str) -> Component | None:
        short, _, end = name.rpartition(".")
        component = self.parts.components.get(short)
        return component if end == "out" and component and component.members else None
