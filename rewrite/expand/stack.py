"""The stacked module of an expansion: each part is called once, on all of its copies together.

Copies of one node never depend on each other, so they are stacked along the batch: value i of
a stack holds rows i B to (i + 1) B.  What a part reads is gathered from the stacks of what
writes it; masks and tables are the same for all copies.  The number of kernels does not grow
with the number of paths, and the results are those of the literal module.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from rewrite.expand.build import (
    LAST,
    Built,
    Place,
    Reading,
    grouped,
    keys_apart,
    readings_of,
    wanted_in_full,
)
from rewrite.expand.positions import Positions, groups_of
from rewrite.expand.product import Copy, Mixed, Product
from rewrite.expand.stackable import StackAssembler
from rewrite.expand.windows import APART, classes_by_port, classes_of, windowed
from rewrite.ir.dag import Constant, Join, Node, Source
from rewrite.ir.ops import as_ranges, copies, take
from rewrite.parts import Component, Components
from rewrite.paths.tree import Tree, is_split, leaves
from rewrite.rules.slicer import Body

aten = torch.ops.aten
Reads = tuple[int, ...]


@dataclass(frozen=True)
class Stack:
    """Copies of one value: its node, and the place of each copy in it."""

    node: fx.Node
    places: dict[int, int]


def build_stacked(
    parts: Components, product: Product, runs: Sequence[str], reading: Reading,
    single: bool = True, together: bool = False,
) -> Built:
    """Wire stacks of copies, node by node in the order of the model.

    `together` leaves the outputs of all roots stacked, in their order.
    """
    return _Stacker(parts, product, runs, reading).build(single, together)


class _Stacker:
    """`full` and `rows` hold stacks: of copies at all positions, and at the last one only."""

    def __init__(
        self, parts: Components, product: Product, runs: Sequence[str], reading: Reading
    ) -> None:
        self.parts, self.product, self.reading = parts, product, reading
        self.assembler = StackAssembler(parts, runs)
        self.positions = Positions(self.assembler, groups_of(product, parts))
        self.full: dict[str, Stack] = {}
        self.rows: dict[str, Stack] = {}
        self.last: dict[str, Stack] = {}
        self.calls = self.weights = self.gathered = 0
        self.members = {n for c in parts.components.values() for n in c.member_names}
        self.wanted = wanted_in_full(parts, product, reading)
        parameter = next(parts.graph.module.parameters(), None)
        self.device = torch.device("cpu") if parameter is None else parameter.device

    def build(self, single: bool, together: bool) -> Built:
        for node in self.product.dag.nodes:
            if isinstance(node, Constant) or node.name in self.members:
                continue  # made where they are added up
            every = self.product.copies[node.name]
            made = [copy for copy in every if isinstance(copy, Copy)]
            whole = [c for c in made if (node.name, c.index) in self.wanted]
            rest = [c for c in made if (node.name, c.index) not in self.wanted]
            if isinstance(node, Join) and (layer := self._layer(node.name)):
                self._attention(layer, node, made)
            elif isinstance(node, Source):
                self._source(node, made)
            elif isinstance(node, Join):
                self._join(node, whole, False)
                self._join(node, rest, True)
            else:
                body = self._row_body(node.name) if rest else None
                if body is None:  # all positions or none
                    whole, rest = made, []
                self._part(node, whole, False)
                self._part(node, rest, True, body)
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
        return Built(module, self.calls, self.weights)

    # one kind of node after the other

    def _source(self, node: Source, made: list[Copy]) -> None:
        values = [self.assembler.source(next(iter(c.runs)), node.name) for c in made]
        joined = values[0] if len(values) == 1 else self._call(aten.cat.default, values)
        self.full[node.name] = Stack(joined, {c.index: i for i, c in enumerate(made)})

    def _join(self, node: Join, made: list[Copy], rows: bool) -> None:
        if made:
            terms = [self._read(name, [c.reads[t] for c in made], rows)
                     for t, name in enumerate(node.terms)]
            self._keep(node.name, made, self.assembler.join(node.name, terms), rows)

    def _part(self, node: Node, made: list[Copy], rows: bool, body: Body | None = None) -> None:
        if not made:
            return
        values = [self._read(name, [c.reads[slot] for c in made], rows)
                  for slot, name in enumerate(node.reads)]
        self._keep(node.name, made, self._run(node.name, values, len(made), body=body), rows)

    def _mix(self, name: str, mixed: list[Mixed]) -> None:
        """Values that are one copy at some positions and another elsewhere join the stack."""
        for rows in (False, True):
            stacks = self.rows if rows else self.full
            made: dict[int, fx.Node] = {}
            for each in mixed:
                if each.by_hop or ((name, each.index) in self.wanted) == rows:
                    continue  # those by the hop are taken apart by their readers
                sides = [made[i] if i in made else self._read(name, [i], rows)
                         for i in each.reads]
                made[each.index] = self.positions.mixed(each.test, name, sides, name, rows)
            if made:
                nodes, places = list(made.values()), list(made)
                if known := stacks.get(name):
                    nodes, places = [known.node, *nodes], [*known.places, *places]
                joined = nodes[0] if len(nodes) == 1 else self._call(aten.cat.default, nodes)
                stacks[name] = Stack(joined, {i: at for at, i in enumerate(places)})
                self.last.pop(name, None)

    def _attention(self, layer: Component, join: Join, made: list[Copy]) -> None:
        """Copies whose heads read alike are one call of the layer, the others calls of heads."""
        names = [name for name in join.terms if name in self.members]
        reads = {c.index: [readings_of(self.product, name, index)
                           for name, index in zip(join.terms, c.reads, strict=True)
                           if name in self.members] for c in made}
        fused = [c for c in made if len(set(reads[c.index])) == 1]
        apart = [c for c in made if len(set(reads[c.index])) > 1]
        pieces: dict[bool, list[tuple[fx.Node, list[Copy]]]] = {False: [], True: []}
        for rows, some in self._by_need(join.name, fused):
            (group,) = grouped(layer, [reads[c.index] for c in some])
            trees = [reads[c.index][0] for c in some]
            value = self._trees(layer, None, group.alike, trees, rows)
            pieces[rows].append((value, some))
        for rows, some in self._by_need(join.name, apart):
            terms = [self._trees(layer, group.heads, group.alike,
                                 [reads[c.index][group.heads[0]] for c in some], rows)
                     for group in grouped(layer, [reads[c.index] for c in some])]
            terms += [self._read(name, [0] * len(some), rows)
                      for name in join.terms if name not in names]
            pieces[rows].append((self.assembler.join(join.name, terms), some))
        for rows, found in pieces.items():
            if found:
                nodes = [node for node, _ in found]
                joined = nodes[0] if len(nodes) == 1 else self._call(aten.cat.default, nodes)
                self._keep(join.name, [c for _, some in found for c in some], joined, rows)

    def _trees(
        self, layer: Component, heads: tuple[int, ...] | None, alike: dict[str, str],
        trees: list[Tree], rows: bool,
    ) -> fx.Node:
        """A group of heads for each reading, which may be a mixture of readings."""
        distinct = list(dict.fromkeys(
            read for tree in trees for read in (leaves(tree) if is_split(tree) else (tree,))))
        stack = self._heads(layer, heads, alike, distinct, rows)
        if not any(map(is_split, trees)):
            return self._gather(stack, len(distinct), [distinct.index(read) for read in trees])

        def value(tree: Tree) -> fx.Node:
            if not is_split(tree):
                return self._gather(stack, len(distinct), [distinct.index(tree)])
            sides = [value(tree.yes), value(tree.no)]
            return self.positions.mixed(tree.test, layer.short, sides, layer.short, rows)

        nodes = [value(tree) for tree in trees]
        return nodes[0] if len(nodes) == 1 else self._call(aten.cat.default, nodes)

    def _by_need(self, name: str, made: list[Copy]) -> list[tuple[bool, list[Copy]]]:
        whole = [c for c in made if (name, c.index) in self.wanted]
        rest = [c for c in made if (name, c.index) not in self.wanted]
        return [(rows, some) for rows, some in ((False, whole), (True, rest)) if some]

    def _heads(
        self, layer: Component, heads: tuple[int, ...] | None, alike: dict[str, str],
        reads: list[Reads], rows: bool,
    ) -> fx.Node:
        """A group of heads on the distinct sets of copies that it reads."""
        assert layer.region is not None
        first = self.product.dag[layer.member_names[heads[0] if heads else 0]]
        places = [list(zip(first.reads, read, strict=True)) for read in reads]
        hopping = [i for i, each in enumerate(places) if classes_of(self.product, each)]
        if hopping:
            made = [self._windowed(layer, heads, [places[i] for i in hopping], rows)]
            if plain := [i for i in range(len(reads)) if i not in hopping]:
                made.append(self._heads(layer, heads, alike, [reads[i] for i in plain], rows))
                joined = self._call(aten.cat.default, made)
                order = [*hopping, *plain]
                return self._gather(joined, len(reads), [order.index(i) for i in range(len(reads))])
            return made[0]
        ports, body = [port for port, _ in layer.region.slots], None
        if rows:
            alike = keys_apart(alike)
            body = self.parts.last_row(layer.short, heads, alike)
        narrow = body is not None
        values = [self._read(name, [read[slot] for read in reads],
                             narrow and ports[slot] not in ("k", "v"))
                  for slot, name in enumerate(first.reads)]
        made = self._run(layer.short, values, len(reads), heads, alike, body)
        if rows and not narrow:
            made = self.assembler.graph.call_function(take, (made, 1, LAST))
        return made

    def _windowed(
        self, layer: Component, heads: tuple[int, ...] | None, reads: list[list[Place]],
        rows: bool,
    ) -> fx.Node:
        """Heads whose keys and values differ by the hop, on all of these readings together."""
        assert layer.region is not None
        classes, slots = classes_by_port(self.product, layer, reads)
        narrow = self.parts.last_row(layer.short, heads, APART) if rows else None
        body = windowed(narrow or self.parts.body(layer.short, heads, APART), classes, layer.short)
        given = {slot: self._read(read[0][0], [index for _, index in read],
                                  narrow is not None and slot[0] in ("q", ""))
                 for slot, read in slots.items()}
        self.calls += 1
        self.weights += len(reads) * body.weights
        self.assembler.count = len(reads)
        made = self.assembler.part_by_slots(
            body, given, layer.short, layer.region.output, narrow is not None or len(reads) > 1)
        self.assembler.count = 1
        if rows and narrow is None:
            made = self.assembler.graph.call_function(take, (made, 1, LAST))
        return made

    def _run(
        self, name: str, values: list[fx.Node], count: int,
        heads: tuple[int, ...] | None = None, alike: dict[str, str] | None = None,
        body: Body | None = None,
    ) -> fx.Node:
        if self.parts.component(name).region is not None:
            self.calls += 1
            self.weights += count * (body or self.parts.body(name, heads, alike)).weights
        self.assembler.count = count
        made = self.assembler.part(name, values, heads, alike, body, name)
        self.assembler.count = 1
        return made

    # reading and keeping stacks

    def _keep(self, name: str, made: list[Copy], node: fx.Node, rows: bool) -> None:
        places = {c.index: i for i, c in enumerate(made)}
        (self.rows if rows else self.full)[name] = Stack(node, places)

    def _read(self, name: str, wanted: list[int], rows: bool) -> fx.Node:
        """The copies of a value in the order in which they are read."""
        if isinstance(self.product.dag.by_name.get(name), Constant):
            self.assembler.count = len(wanted)
            value = self.assembler.constant(name)
            self.assembler.count = 1
            needs = rows and not name.endswith(".bias")  # a bias is the same at all positions
            return self._call(take, value, 1, LAST) if needs else value
        stack = self._last(name) if rows else self.full[name]
        return self._gather(stack.node, len(stack.places), [stack.places[i] for i in wanted])

    def _last(self, name: str) -> Stack:
        """All copies of a value at the last position."""
        if name not in self.last:
            whole, rest = self.full.get(name), self.rows.get(name)
            nodes, places = [], {}
            for stack, narrow in ((whole, False), (rest, True)):
                if stack is not None:
                    nodes.append(stack.node if narrow else self._call(take, stack.node, 1, LAST))
                    places |= {i: at + len(places) for i, at in stack.places.items()}
            joined = nodes[0] if len(nodes) == 1 else self._call(aten.cat.default, nodes)
            self.last[name] = Stack(joined, places)
        return self.last[name]

    def _gather(self, node: fx.Node, count: int, wanted: list[int]) -> fx.Node:
        if wanted == list(range(count)):
            return node
        if wanted == list(range(wanted[0], wanted[0] + len(wanted))):
            return self._call(copies, node, count, slice(wanted[0], wanted[0] + len(wanted)))
        name = f"index{self.gathered}"
        self.gathered += 1
        self.assembler.root[name] = torch.tensor(wanted, device=self.device)
        return self._call(copies, node, count, self.assembler.graph.get_attr(name))

    def _output(self, name: str, wanted: list[int]) -> fx.Node:
        stack, columns = self.full.get(name), self.reading.columns
        if self.reading.last:
            narrow = name in self.rows and wanted[0] in self.rows[name].places
            value = self._read(name, wanted, True)
            if narrow or columns is None:
                return value
            return self._call(take, value, -1, as_ranges(columns))
        assert stack is not None
        return self._gather(stack.node, len(stack.places), [stack.places[i] for i in wanted])

    def _row_body(self, name: str) -> Body | None:
        columns = self.reading.columns if name in self.product.dag.outputs else None
        return self.parts.last_row(name, columns=columns)

    def _call(self, function: Any, *args: Any) -> fx.Node:
        return self.assembler.graph.call_function(function, args)

    def _layer(self, name: str) -> Component | None:
        short, _, end = name.rpartition(".")
        component = self.parts.components.get(short)
        return component if end == "out" and component and component.members else None


