"""The module of an expansion: one call per copy, heads and ports apart only where they differ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import fx

from rewrite.expand.anchors import Reads, base_of
from rewrite.expand.positions import Positions, Spots, groups_of
from rewrite.expand.product import Copy, Mixed, Product
from rewrite.expand.windows import APART, classes_by_port, classes_of, windowed
from rewrite.ir.dag import Constant, Join, Node, Part, Source
from rewrite.ir.ops import as_ranges, take
from rewrite.parts import Component, Components
from rewrite.parts.assemble import Assembler
from rewrite.parts.names import member_of
from rewrite.paths.tree import Tree, combine, is_split, leaves
from rewrite.rules.slicer import Body

Place = tuple[str, int]  # a node and which copy of it
PORTS = ("q", "k", "v")
LAST = ((-1, None),)  # the last position, on axis 1


@dataclass(frozen=True)
class Group:
    """Heads of a layer that are treated alike in every copy; `alike` merges equal readings."""

    heads: tuple[int, ...]
    alike: dict[str, str]


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
    """`full` and `rows` hold the value of each copy: at all positions, at the last one."""

    def __init__(
        self, parts: Components, product: Product, runs: Sequence[str], reading: Reading
    ) -> None:
        self.parts, self.product, self.reading = parts, product, reading
        self.assembler = Assembler(parts, runs)
        self.positions = Positions(self.assembler, groups_of(product, parts))
        self.full: dict[Place, fx.Node] = {}
        self.rows: dict[Place, fx.Node] = {}
        self.constants: dict[str, fx.Node] = {}
        self.calls = self.weights = 0
        self.layers = {n for c in parts.components.values() for n in c.member_names}
        self.wanted = wanted_in_full(parts, product, reading, together=reading.anchored)

    def build(self, single: bool) -> Built:
        """Node by node in the order of the model, all copies of a node together."""
        for node in self.product.dag.nodes:
            copies = self.product.copies[node.name]
            if isinstance(node, Constant) or node.name in self.layers:
                continue  # made where they are added up
            layer = self._layer(node.name) if isinstance(node, Join) else None
            if isinstance(node, Join) and layer:
                self._attention(layer, node, [c for c in copies if isinstance(c, Copy)])
            for copy in copies:
                if isinstance(copy, Mixed):
                    self._mixed(copy, node.name, node.name, len(copies))
                elif not layer:
                    self._one(node, copy, len(copies))
        outputs = tuple(
            tuple(self._output(name, index)
                  for name, index in zip(self.product.dag.outputs, root, strict=True))
            for root in self.product.roots
        )
        module = self.assembler.finish(outputs[0] if single else outputs)
        return Built(module, self.calls, self.weights)

    def _one(self, node: Node, copy: Copy, total: int) -> None:
        place = (node.name, copy.index)
        label = labelled(node.name, copy, total)
        if isinstance(node, Source):
            self.full[place] = self.assembler.source(next(iter(copy.runs)), node.name)
        elif isinstance(node, Join):
            self._add(place, label, list(zip(node.terms, copy.reads, strict=True)))
        elif place not in self.wanted and (body := self._row_body(node.name)):
            values = [self._row(*read) for read in zip(node.reads, copy.reads, strict=True)]
            self.rows[place] = self._call(node.name, values, label, body=body)
        else:
            values = [self._full(*read) for read in zip(node.reads, copy.reads, strict=True)]
            self.full[place] = self._call(node.name, values, label)

    def _mixed(self, copy: Mixed, name: str, key: str, total: int) -> None:
        """A value that is one copy at some positions and another elsewhere."""
        if copy.by_hop:  # its reader takes it apart
            return
        place, sides = (key, copy.index), [(key, copy.yes), (key, copy.no)]
        label = labelled(key, copy, total)
        if (name, copy.index) in self.wanted:
            self.full[place] = self.positions.mixed(
                copy.test, name, [self._full(*side) for side in sides], label)
        else:
            self.rows[place] = self.positions.mixed(
                copy.test, name, [self._row(*side) for side in sides], label, LAST)

    def _row_body(self, name: str) -> Body | None:
        columns = self.reading.columns if name in self.product.dag.outputs else None
        return self.parts.last_row(name, columns=columns)

    def _add(self, place: Place, label: str, terms: list[Place]) -> None:
        if place in self.wanted:
            self.full[place] = self.assembler.join(label, [self._full(*t) for t in terms])
        else:
            self.rows[place] = self.assembler.join(label, [self._row(*t) for t in terms])

    def _attention(self, layer: Component, join: Join, copies: list[Copy]) -> None:
        """All copies of a layer of heads: one call for each group and each set of readings."""
        names = [name for name in join.terms if name in self.layers]
        places = [list(zip(join.terms, copy.reads, strict=True)) for copy in copies]
        reads = [[readings_of(self.product, name, index) for name, index in terms
                  if name in self.layers] for terms in places]
        if self.reading.anchored and copies:
            self._anchored(layer, join, copies, reads)
            return
        groups = grouped(layer, reads)
        for copy, terms in zip(copies, places, strict=True):
            parts: list[Place] = []
            for group in groups:
                place = (_group_label(layer, group), terms[group.heads[0]][1])
                self._group(place, layer, group, names[group.heads[0]], len(groups))
                parts.append(place)
            here = (join.name, copy.index)
            if len(groups) == 1:
                for table in (self.full, self.rows):
                    if parts[0] in table:
                        table[here] = table[parts[0]]
            else:
                parts += [term for term in terms if term[0] not in self.layers]
                self._add(here, labelled(join.name, copy, len(copies)), parts)

    def _group(
        self, place: Place, layer: Component, group: Group, first: str, groups: int
    ) -> None:
        """A copy of a group of heads, or a mixture; `first` is the name of its first head."""
        if place in self.full or place in self.rows:
            return
        copies = self.product.copies[first]
        copy = copies[place[1]]
        if isinstance(copy, Mixed):
            for index in copy.reads:
                self._group((place[0], index), layer, group, first, groups)
            self._mixed(copy, first, place[0], len(copies))
        else:
            label = labelled(place[0], copy, len(copies))
            self._heads(place, label, layer, group, first, copy, groups)

    def _heads(
        self, place: Place, label: str, layer: Component, group: Group, first: str, copy: Copy,
        groups: int,
    ) -> None:
        heads = group.heads if groups > 1 else None
        full = (first, place[1]) in self.wanted
        if self._hops(layer, copy.reads):
            (made,), row = self._windowed(label, layer, heads, [copy.reads], full)
        else:
            made, row = self._plain(label, layer, heads, group.alike, copy.reads, full)
        table = self.rows if row else self.full
        table[place] = made

    def _places(self, layer: Component, reads: Reads) -> list[Place]:
        return list(zip(self.product.dag[layer.member_names[0]].reads, reads, strict=True))

    def _hops(self, layer: Component, reads: Reads) -> bool:
        return bool(classes_of(self.product, self._places(layer, reads)))

    def _plain(
        self, label: str, layer: Component, heads: tuple[int, ...] | None, alike: dict[str, str],
        reads: Reads, full: bool,
    ) -> tuple[fx.Node, bool]:
        """What heads write, and whether it is the last row only."""
        assert layer.region is not None
        places, apart = self._places(layer, reads), keys_apart(alike)
        if full or not (body := self.parts.last_row(layer.short, heads, apart)):
            values = [self._full(*place) for place in places]
            return self._call(layer.short, values, label, heads, alike), False
        values = [self._full(*place) if port in ("k", "v") else self._row(*place)
                  for (port, _), place in zip(layer.region.slots, places, strict=True)]
        return self._call(layer.short, values, label, heads, apart, body), True

    def _windowed(
        self, label: str, layer: Component, heads: tuple[int, ...] | None,
        readings: Sequence[Reads], full: bool,
    ) -> tuple[list[fx.Node], bool]:
        """Heads whose keys and values differ by the hop, called alike for each of some readings."""
        assert layer.region is not None
        classes, slots = classes_by_port(
            self.product, layer, [self._places(layer, reads) for reads in readings])
        body = None if full else self.parts.last_row(layer.short, heads, APART)
        row = body is not None
        body = windowed(body or self.parts.body(layer.short, heads, APART), classes, label)
        made: list[fx.Node] = []
        for i in range(len(readings)):
            self.calls += 1
            self.weights += body.weights
            given = {slot: self._row(*read[i]) if row and slot[0] in ("q", "") else
                     self._full(*read[i]) for slot, read in slots.items()}
            made.append(self.assembler.part_by_slots(
                body, given, label, None if row else layer.region.output))
        return made, row

    def _anchored(
        self, layer: Component, join: Join, copies: list[Copy], reads: list[list[Tree]]
    ) -> None:
        """Copies as the whole layer on what most heads read, and changes of the other heads."""
        bases = [base_of(self.product, layer, each) for each in reads]
        uniform = [[base] * layer.members for base in bases]
        apart = [each for each in reads if len(set(each)) > 1]
        (whole,) = grouped(layer, [*(each for each in reads if each not in apart), *uniform])
        groups = grouped(layer, [*apart, *uniform])
        full = (join.name, copies[0].index) in self.wanted
        known: dict[tuple[Any, ...], list[fx.Node]] = {}

        def called(group: Group, read: Reads, base: Reads) -> list[fx.Node]:
            """What heads write for a reading, and, if it hops, for the base in the same way."""
            heads = None if group is whole or len(groups) == 1 else group.heads
            key = (heads, read, base) if self._hops(layer, read) else (heads, read)
            if key not in known:
                label = _group_label(layer, group)
                if self._hops(layer, read):
                    made, row = self._windowed(label, layer, heads, [read, base], full)
                else:
                    one, row = self._plain(label, layer, heads, group.alike, read, full)
                    made = [one]
                known[key] = made if row or full else [
                    self.assembler.graph.call_function(take, (each, 1, LAST)) for each in made]
            return known[key]

        def side(group: Group, tree: Tree, base: Reads, old: bool) -> fx.Node:
            if is_split(tree):
                sides = [side(group, each, base, old) for each in (tree.yes, tree.no)]
                return self.positions.mixed(tree.test, layer.member_names[group.heads[0]], sides,
                                            _group_label(layer, group), None if full else LAST)
            if old and not self._hops(layer, tree):
                return called(group, base, base)[0]
            return called(group, tree, base)[old]

        for copy, each, base in zip(copies, reads, bases, strict=True):
            pairs = [side(group, each[group.heads[0]], base, old)
                     for group in (groups if each in apart else [whole])
                     if each[group.heads[0]] != base for old in (False, True)]
            value = called(whole, base, base)[0]
            if pairs:
                value = self.assembler.changed(
                    labelled(join.name, copy, len(copies)), value, pairs)
            table = self.full if full else self.rows
            table[join.name, copy.index] = value

    def _call(
        self, name: str, values: list[fx.Node], label: str, heads: tuple[int, ...] | None = None,
        alike: dict[str, str] | None = None, body: Body | None = None,
    ) -> fx.Node:
        if self.parts.component(name).region is not None:
            self.calls += 1
            self.weights += (body or self.parts.body(name, heads, alike)).weights
        return self.assembler.part(name, values, heads, alike, body, label)

    def _full(self, name: str, index: int) -> fx.Node:
        if isinstance(self.product.dag.by_name.get(name), Constant):
            if name not in self.constants:
                self.constants[name] = self.assembler.constant(name)
            return self.constants[name]
        return self.full[name, index]

    def _row(self, name: str, index: int) -> fx.Node:
        if (name, index) not in self.rows:
            value = self._full(name, index)
            if name.endswith(".bias"):  # the same for every position
                return value
            self.rows[name, index] = self.assembler.graph.call_function(take, (value, 1, LAST))
        return self.rows[name, index]

    def _output(self, name: str, index: int) -> fx.Node:
        place, columns = (name, index), self.reading.columns
        if place in self.rows:
            return self.rows[place]
        if not self.reading.rows(self.parts, name):
            value = self.full[place]
        else:
            value = self._row(name, index)
        if columns is None:
            return value
        return self.assembler.graph.call_function(take, (value, -1, as_ranges(columns)))

    def _layer(self, name: str) -> Component | None:
        short, _, end = name.rpartition(".")
        component = self.parts.components.get(short)
        return component if end == "out" and component and component.members else None


def readings_of(product: Product, name: str, index: int) -> Tree:
    """What a value of a head reads, as a tree if it is mixed of copies."""
    copies = product.copies[name]
    return combine(lambda i: copies[i].reads, product.tree(name, index))


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
    layer, head = member_of(node.name) or (node.name, 0)
    if parts.last_row(layer, (head,)) is None:
        return every
    return [slot for slot in every if node.ports[slot].symbol.endswith((".k", ".v"))]


def keys_apart(alike: dict[str, str]) -> dict[str, str]:
    """The same readings with q by itself, since it alone can be restricted to a position."""
    together = alike["k"] == alike["v"]
    return {"q": "q", "k": "kv" if together else "k", "v": "kv" if together else "v"}


def grouped(layer: Component, reads: Sequence[Sequence[Tree]]) -> list[Group]:
    """Heads that read the same copies in every copy of the layer, with equal ports merged.

    `reads[copy][head]` are the copies that a head reads, one for each slot of the layer, or a
    tree of such readings.
    """
    classes: dict[tuple[Tree, ...], list[int]] = {}
    for head in range(layer.members):
        classes.setdefault(tuple(copy[head] for copy in reads), []).append(head)
    return [Group(tuple(heads), _alike(layer, tuple(
        read for tree in key for read in (leaves(tree) if is_split(tree) else (tree,)))))
        for key, heads in classes.items()]


def _alike(layer: Component, reads: tuple[tuple[int, ...], ...]) -> dict[str, str]:
    """Ports that always read the same copies, under one name."""
    assert layer.region is not None
    read: dict[str, dict[fx.Node, tuple[int, ...]]] = {port: {} for port in PORTS}
    for slot, (port, node) in enumerate(layer.region.slots):
        if port:
            read[port][node] = tuple(copy[slot] for copy in reads)
    merged: list[tuple[list[str], dict[fx.Node, tuple[int, ...]]]] = []
    for port in PORTS:
        for names, known in merged:
            if all(known.get(node, copies) == copies for node, copies in read[port].items()):
                names.append(port)
                known.update(read[port])
                break
        else:
            merged.append(([port], dict(read[port])))
    if len(merged) == 1:
        return dict.fromkeys(PORTS, "x")
    return {port: "".join(names) for names, _ in merged for port in names}


def labelled(name: str, copy: Copy | Mixed, total: int) -> str:
    """Node name of a copy: with its run if it reads one, with its number if it mixes several."""
    if total == 1:
        return name
    (run, *others) = sorted(copy.runs) or [""]
    return f"{name}__{run}" if run and not others else f"{name}__mix{copy.index}"


def _group_label(layer: Component, group: Group) -> str:
    if len(group.heads) == layer.members:
        return layer.short
    return layer.member_names[group.heads[0]] + "".join(f"_{head}" for head in group.heads[1:])
