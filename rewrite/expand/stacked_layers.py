"""Layers of heads, or of experts, on stacks of copies.

Copies whose heads read alike are one call of the whole layer, the others calls of groups of
heads, added up; or, where copies are anchored (`rewrite.expand.anchors`), what changes of one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import fx

from rewrite.expand.anchors import base_of
from rewrite.expand.groups import Group, Reads, grouped, readings_of
from rewrite.expand.positions import Positions
from rewrite.expand.product import Copy, Product
from rewrite.expand.stacked_heads import StackedHeads
from rewrite.expand.stacks import ALL, Rows, Stacks
from rewrite.expand.windows import hops
from rewrite.ir.dag import Join
from rewrite.ir.ops import changed
from rewrite.parts import Component
from rewrite.paths.tree import Tree, combine, is_split, leaves

Needs = Mapping[Rows, Sequence[Copy]]  # copies by the rows that are needed of them


Place = tuple[int, bool, Reads]  # a group of heads, whether by hops, and what it reads


@dataclass(frozen=True)
class Made:
    """A stack of what heads write, and where in it the copy for each reading is."""

    node: fx.Node
    places: Mapping[Any, int]


class StackedLayers:
    """Adds the copies of layers to the stacks."""

    def __init__(
        self, product: Product, stacks: Stacks, heads: StackedHeads, positions: Positions
    ) -> None:
        self.product, self.stacks, self.heads = product, stacks, heads
        self.positions = positions

    def add(self, layer: Component, join: Join, needs: Needs) -> None:
        """Keep copies of what a layer writes, `join`, at the rows that are needed of them."""
        reads = {c.index: [readings_of(self.product, name, index)
                           for name, index in zip(join.terms, c.reads, strict=True)
                           if name in layer.member_names]
                 for some in needs.values() for c in some}
        if self.heads.anchored:
            self._anchored(layer, join, needs, reads)
            return
        for rows, some in needs.items():
            whole, apart = _by_reading([c.index for c in some], reads)
            if whole:
                (group,) = grouped(layer, [reads[i] for i in whole])
                value = self._trees(layer, None, group, [reads[i][0] for i in whole], rows)
                self.stacks.add(join.name, whole, value, rows)
            if apart:
                terms = [self._trees(layer, group.heads, group,
                                     [reads[i][group.heads[0]] for i in apart], rows)
                         for group in grouped(layer, [reads[i] for i in apart])]
                terms += [self.stacks.read(name, [0] * len(apart), rows)
                          for name in join.terms if name not in layer.member_names]
                value = self.stacks.assembler.join(join.name, terms)
                self.stacks.add(join.name, apart, value, rows)

    def _trees(
        self, layer: Component, heads: tuple[int, ...] | None, group: Group,
        trees: Sequence[Tree], rows: Rows,
    ) -> fx.Node:
        """A group of heads for each reading, which may be a mixture of readings."""
        distinct = list(dict.fromkeys(read for tree in trees for read in leaves(tree)))
        places = {read: at for at, read in enumerate(distinct)}
        node = self.heads.run(layer, heads, group.alike, distinct, rows)
        return self._mixed(layer, Made(node, places), trees, rows)

    def _mixed(
        self, layer: Component, made: Made, trees: Sequence[Tree], rows: Rows
    ) -> fx.Node:
        """Readings that have been made, or mixtures of them, in this order."""
        if not any(map(is_split, trees)):
            return self.stacks.gather(
                made.node, len(made.places), [made.places[read] for read in trees])

        def value(tree: Tree) -> fx.Node:
            if not is_split(tree):
                return self._mixed(layer, made, [tree], rows)
            sides = [value(tree.yes), value(tree.no)]
            return self.positions.mixed(
                tree.test, layer.short, sides, layer.short, self.stacks.ranges(rows))

        return self.stacks.join([value(tree) for tree in trees])

    # anchored

    def _anchored(
        self, layer: Component, join: Join, needs: Needs, reads: Mapping[int, Sequence[Tree]]
    ) -> None:
        """One call of the whole layer; copies that are not of it are one of it and what changes."""
        bases = {i: base_of(self.product, layer, trees) for i, trees in reads.items()}
        home = ALL if ALL in needs else next(iter(needs))
        of_it = {c.index for c in needs[home] if len(set(reads[c.index])) == 1 and not any(
            hops(self.product, layer, read) for read in leaves(reads[c.index][0]))}
        wanted = list(dict.fromkeys(read for c in needs[home] for read in (
            leaves(reads[c.index][0]) if c.index in of_it else (bases[c.index],))))
        node = self.heads.run(layer, None, _alike(layer, wanted), wanted, home, False)
        for rows, some in needs.items():
            whole = Made(node if rows == home else self.stacks.at(node, rows),
                         {read: at for at, read in enumerate(wanted)})
            if found := [c.index for c in some if c.index in of_it]:
                value = self._mixed(layer, whole, [reads[i][0] for i in found], rows)
                self.stacks.add(join.name, found, value, rows)
            for others in _by_reading([c.index for c in some if c.index not in of_it], reads):
                if others:
                    self._changed(layer, join, {i: reads[i] for i in others}, bases, whole, rows)

    def _changed(
        self, layer: Component, join: Join, reads: Mapping[int, Sequence[Tree]],
        bases: Mapping[int, Reads], whole: Made, rows: Rows,
    ) -> None:
        """Copies as one that the whole layer was called for, and what changes."""
        first = next(iter(whole.places))
        anchors = {i: bases[i] if bases[i] in whole.places else first for i in reads}
        uniform = [[read] * layer.members for i in reads for read in (bases[i], anchors[i])]
        changes = _Changes(self.heads, layer, rows)
        for group in grouped(layer, uniform):
            changes.add(group, {i: (bases[i], anchors[i]) for i in reads})
        for group in grouped(layer, [*reads.values(), *uniform]):
            changes.add(group, {i: (reads[i][group.heads[0]], bases[i]) for i in reads})
        for count in sorted(set(map(len, changes.pairs.values()))):
            some = {i: pairs for i, pairs in changes.pairs.items() if len(pairs) == count}
            sides = [self._mixed(layer, changes.made, [pairs[n][side] for pairs in some.values()],
                                 rows)
                     for n in range(count) for side in (0, 1)]
            value = self._mixed(layer, whole, [anchors[i] for i in some], rows)
            if sides:
                value = self.stacks.call(changed, value, *sides)
            self.stacks.add(join.name, some, value, rows)


class _Changes:
    """Calls of groups of heads, and by which two readings of them a copy changes."""

    def __init__(self, heads: StackedHeads, layer: Component, rows: Rows) -> None:
        self.heads, self.layer, self.rows = heads, layer, rows
        self.nodes: list[fx.Node] = []
        self.places: dict[Place, int] = {}
        self.pairs: dict[int, list[tuple[Tree, Tree]]] = {}

    def add(self, group: Group, wanted: Mapping[int, tuple[Tree, Reads]]) -> None:
        """Call a group for what it reads in each copy, and for what it reads in its base.

        Readings that differ by the hop are another call: the base is in each.
        """
        number = len(self.nodes)
        some = {i: (tree, base) for i, (tree, base) in wanted.items() if tree != base}
        for by_hop in (False, True):
            distinct = list(dict.fromkeys(
                each for tree, base in some.values() for read in leaves(tree)
                if hops(self.heads.product, self.layer, read) == by_hop for each in (read, base)))
            if distinct:
                heads = group.heads if len(group.heads) < self.layer.members else None
                self.nodes.append(
                    self.heads.run(self.layer, heads, group.alike, distinct, self.rows, by_hop))
                for read in distinct:
                    self.places[number, by_hop, read] = len(self.places)
        for i, (tree, base) in wanted.items():
            pairs = self.pairs.setdefault(i, [])
            if i in some:
                pairs.append((combine(lambda read: self._place(number, read, read), tree),
                              combine(lambda read, base=base: self._place(number, read, base),
                                      tree)))

    def _place(self, number: int, read: Reads, wanted: Reads) -> Place:
        """Where `wanted` is, of the call in which `read` is."""
        return number, hops(self.heads.product, self.layer, read), wanted

    @cached_property
    def made(self) -> Made:
        """All calls in one stack."""
        return Made(self.heads.stacks.join(self.nodes), self.places)


def _alike(layer: Component, reads: Sequence[Reads]) -> dict[str, str]:
    """Ports that read the same in all of these readings of all heads."""
    (group,) = grouped(layer, [[read] * layer.members for read in reads])
    return group.alike


def _by_reading(
    copies: Sequence[int], reads: Mapping[int, Sequence[Tree]]
) -> tuple[list[int], list[int]]:
    """Copies whose heads read alike, and the others."""
    whole = [i for i in copies if len(set(reads[i])) == 1]
    return whole, [i for i in copies if i not in whole]
