"""Layers of heads, or of experts, in a literal module: a call for each group of heads and reading.

Heads that read alike in every copy of a layer are one group.  Where copies are anchored
(`rewrite.expand.anchors`), a copy is the whole layer and what changes of it.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import fx

from rewrite.expand.anchors import base_of
from rewrite.expand.groups import (
    Group,
    Place,
    Reads,
    group_label,
    grouped,
    keys_apart,
    labelled,
    places_of,
    readings_of,
)
from rewrite.expand.product import Copy, Mixed, Product
from rewrite.expand.values import LAST, Values
from rewrite.expand.windows import APART, classes_by_port, hops, windowed
from rewrite.ir.dag import Join
from rewrite.parts import Component, Components
from rewrite.paths.tree import Tree, is_split


class LiteralLayers:
    """Adds the copies of layers to the values."""

    def __init__(
        self, parts: Components, product: Product, values: Values, anchored: bool
    ) -> None:
        self.parts, self.product, self.values = parts, product, values
        self.anchored = anchored

    def add(self, layer: Component, join: Join, copies: list[Copy]) -> None:
        """All copies of what a layer writes: one call for each group and each set of readings."""
        names = layer.member_names
        places = [list(zip(join.terms, copy.reads, strict=True)) for copy in copies]
        reads = [[readings_of(self.product, name, index) for name, index in terms
                  if name in names] for terms in places]
        if self.anchored and copies:
            self._anchored(layer, join, copies, reads)
            return
        groups = grouped(layer, reads)
        for copy, terms in zip(copies, places, strict=True):
            parts: list[Place] = []
            for group in groups:
                place = (group_label(layer, group), terms[group.heads[0]][1])
                self._group(place, layer, group, names[group.heads[0]], len(groups))
                parts.append(place)
            here = (join.name, copy.index)
            if len(groups) == 1:
                for table in (self.values.full, self.values.rows):
                    if parts[0] in table:
                        table[here] = table[parts[0]]
            else:
                parts += [term for term in terms if term[0] not in names]
                self.values.add(here, labelled(join.name, copy, len(copies)), parts)

    def _group(
        self, place: Place, layer: Component, group: Group, first: str, groups: int
    ) -> None:
        """A copy of a group of heads, or a mixture; `first` is the name of its first head."""
        if place in self.values.full or place in self.values.rows:
            return
        copies = self.product.copies[first]
        copy = copies[place[1]]
        if isinstance(copy, Mixed):
            for index in copy.reads:
                self._group((place[0], index), layer, group, first, groups)
            self.values.mixed(copy, first, place[0], len(copies))
        else:
            label = labelled(place[0], copy, len(copies))
            self._heads(place, label, layer, group, first, copy, groups)

    def _heads(
        self, place: Place, label: str, layer: Component, group: Group, first: str, copy: Copy,
        groups: int,
    ) -> None:
        heads = group.heads if groups > 1 else None
        full = (first, place[1]) in self.values.wanted
        if hops(self.product, layer, copy.reads):
            (made,), row = self.windowed(label, layer, heads, [copy.reads], full)
        else:
            made, row = self.plain(label, layer, heads, group.alike, copy.reads, full)
        table = self.values.rows if row else self.values.full
        table[place] = made

    def plain(
        self, label: str, layer: Component, heads: tuple[int, ...] | None, alike: dict[str, str],
        reads: Reads, full: bool,
    ) -> tuple[fx.Node, bool]:
        """What heads write, and whether it is the last row only."""
        assert layer.region is not None
        places, apart = places_of(self.product, layer, reads), keys_apart(alike)
        if full or not (body := self.parts.last_row(layer.short, heads, apart)):
            values = [self.values.all_of(*place) for place in places]
            return self.values.call(layer.short, values, label, heads, alike), False
        values = [self.values.all_of(*place) if port in ("k", "v") else self.values.last_of(*place)
                  for (port, _), place in zip(layer.region.slots, places, strict=True)]
        return self.values.call(layer.short, values, label, heads, apart, body), True

    def windowed(
        self, label: str, layer: Component, heads: tuple[int, ...] | None,
        readings: Sequence[Reads], full: bool,
    ) -> tuple[list[fx.Node], bool]:
        """Heads whose keys and values differ by the hop, called alike for each of some readings."""
        assert layer.region is not None
        classes, slots = classes_by_port(
            self.product, layer, [places_of(self.product, layer, reads) for reads in readings])
        body = None if full else self.parts.last_row(layer.short, heads, APART)
        row = body is not None
        body = windowed(body or self.parts.body(layer.short, heads, APART), classes,
                        label.partition("__")[0])
        made: list[fx.Node] = []
        for i in range(len(readings)):
            self.values.calls += 1
            self.values.weights += body.weights
            given = {slot: self.values.last_of(*read[i]) if row and slot[0] in ("q", "") else
                     self.values.all_of(*read[i]) for slot, read in slots.items()}
            made.append(self.values.assembler.part_by_slots(
                body, given, label, None if row else layer.region.output))
        return made, row

    def _anchored(
        self, layer: Component, join: Join, copies: list[Copy], reads: list[list[Tree]]
    ) -> None:
        """Copies as the whole layer on what most heads read, and what changes of other heads."""
        bases = [base_of(self.product, layer, each) for each in reads]
        uniform = [[base] * layer.members for base in bases]
        alike = [each for each in reads if len(set(each)) == 1]
        apart = [each for each in reads if len(set(each)) > 1]
        whole, groups = grouped(layer, [*alike, *uniform]), grouped(layer, [*apart, *uniform])
        full = (join.name, copies[0].index) in self.values.wanted  # as it is of all of them
        calls = _Calls(self, layer, full)
        for copy, each, base in zip(copies, reads, bases, strict=True):
            pairs = [calls.side(group, each[group.heads[0]], base, old)
                     for group in (groups if each in apart else whole)
                     if each[group.heads[0]] != base for old in (False, True)]
            value = calls.of(whole[0], base, base)[0]
            if pairs:
                label = labelled(join.name, copy, len(copies))
                value = self.values.assembler.changed(label, value, pairs)
            (self.values.full if full else self.values.rows)[join.name, copy.index] = value


class _Calls:
    """Calls of groups of heads of one layer, each made once, at all positions or at the last."""

    def __init__(self, layers: LiteralLayers, layer: Component, full: bool) -> None:
        self.layers, self.layer, self.full = layers, layer, full
        self.known: dict[tuple[tuple[int, ...], Reads, Reads], list[fx.Node]] = {}

    def side(self, group: Group, tree: Tree, base: Reads, old: bool) -> fx.Node:
        """What heads write for a reading that may be mixed; `old`: for the base in its place."""
        if not is_split(tree):
            return self.of(group, tree, base)[old]
        return self.layers.values.positions.mixed(
            tree.test, self.layer.member_names[group.heads[0]],
            [self.side(group, each, base, old) for each in (tree.yes, tree.no)],
            group_label(self.layer, group), None if self.full else LAST)

    def of(self, group: Group, read: Reads, base: Reads) -> list[fx.Node]:
        """What heads write for a reading and for its base: if it hops, in the same way."""
        key, layer, values = (group.heads, read, base), self.layer, self.layers.values
        if key in self.known:
            return self.known[key]
        heads = group.heads if len(group.heads) < layer.members else None
        label = group_label(layer, group)
        if hops(self.layers.product, layer, read):
            made, row = self.layers.windowed(label, layer, heads, [read, base], self.full)
        elif read != base:
            made, row = [self.of(group, each, each)[0] for each in (read, base)], True
        else:
            one, row = self.layers.plain(label, layer, heads, group.alike, read, self.full)
            made = [one, one]
        self.known[key] = made if row or self.full else [values.last_row(each) for each in made]
        return self.known[key]
