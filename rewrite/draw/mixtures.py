"""Mixtures by positions and hops, as small boxes that their sides enter; those alike as one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from rewrite.draw.contract import Contraction, key
from rewrite.draw.layers import Layers
from rewrite.draw.sides import Place, Side, mixtures_behind
from rewrite.draw.sketch import Item, Lane, Read
from rewrite.ir.dag import Part, Source

MANY = 4  # more writers of one run into the same values than this are one box


@dataclass(frozen=True)
class Mixtures:
    """The mixtures of an expansion, each with its sides, and who reads each value that is drawn.

    Heads whose mixtures look alike, and are read alike, are read alike themselves.
    """

    found: Contraction
    where: Layers
    sides: Mapping[Place, tuple[Side, ...]]
    readers: Mapping[Place, frozenset[str]]

    @classmethod
    def of(cls, found: Contraction, where: Layers) -> Mixtures:
        """Look at everything that is read."""
        mixtures = {place: found.sides(place) for place in found.reached
                    if found.is_mixture(place)}
        readers: dict[Place, set[str]] = defaultdict(set)
        for each in found.sums:
            for place in each.writes:
                readers[place].add(key(each.place))
        for place in found.reached:
            if isinstance(found.product.dag[place[0]], Part) and place not in mixtures:
                for read in found.reads(place) if len(found.runs(place)) > 1 else ():
                    readers[read].add(key(place))
        for place, sides in mixtures.items():
            by = " ".join(sorted(readers[place])) or key(place)
            for side in sides:
                readers[side.place].add(f"{side.text} of {by}")
        return cls(found, where, mixtures, {p: frozenset(by) for p, by in readers.items()})

    def writers(self) -> dict[Place, frozenset[str]]:
        """Copies of single runs that are added to mixed sums or mixed, with their readers."""
        places = {place for each in self.found.sums for place in each.writes}
        places |= {side.place for sides in self.sides.values() for side in sides
                   if isinstance(self.found.product.dag[side.place[0]], (Part, Source))}
        return {place: self.readers[place] for place in places
                if len(self.found.runs(place)) == 1}

    def groups(self, drawn: Mapping[Place, str]) -> list[list[Place]]:
        """Mixtures of one layer that mix the same boxes and are read by the same.

        `drawn` is the box of copies; where those of many layers have none, layers do not matter.
        """
        found: dict[object, list[Place]] = defaultdict(list)
        for place in sorted(self.sides, key=self._order):
            owner = self.where.owner.get(place[0])
            of = tuple((side.text, self._refer(side.place, drawn)) for side in self.sides[place])
            name = owner.short if owner and owner.members else key(place)
            if all(isinstance(read, frozenset) for _, read in of):
                name = ""
            found[name, of, self.readers.get(place, key(place))].append(place)
        return list(found.values())

    def item(
        self, group: list[Place], drawn: Mapping[Place, str],
        runs: Callable[[list[Place]], tuple[str, ...]], several: Callable[[list[Place]], str],
    ) -> Item:
        """The box of a group."""
        last = group[-1]
        name = last[0]
        reads: list[Read] = []
        for side in self.sides[last]:
            of = self._refer(side.place, drawn)
            if isinstance(of, frozenset):  # not drawn: the run itself stands for it
                (run,) = of
                of = Lane(run, self.where.position[name])
            reads.append(Read(side.text, of))
        cells = tuple((side.text, runs([side.place])) for side in self.sides[last])
        layers = {self.where.block[place[0]] for place in group}
        said = ", ".join(f"{side.text}: {key(side.place)}" for side in self.sides[last])
        return Item(
            key(group[0]), "mixture", name, self.where.position[name], self.where.block[name],
            tuple(reads), ("mixture", cells), runs(group), 0,
            (several(group),) if len(layers) > 1 else (), cells,
            members=tuple(key(each) for place in group
                          for each in mixtures_behind(self.found.product, place)),
            hover=f"{'; '.join(map(key, group))} = {said}")

    def _refer(self, place: Place, drawn: Mapping[Place, str]) -> str | Lane | frozenset[str]:
        """The box of a copy, the run that a sum belongs to, or the runs of what has no box."""
        if place in drawn:
            return drawn[place]
        if isinstance(self.found.product.dag[place[0]], (Part, Source)) and len(
                self.found.runs(place)) == 1:
            return self.found.runs(place)
        return self.found.refer(place)

    def _order(self, place: Place) -> tuple[int, int]:
        return self.where.position[place[0]], place[1]
