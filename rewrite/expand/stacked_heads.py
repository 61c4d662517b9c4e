"""Calls of attention layers on stacks of copies: whole, or opened at keys and values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import fx

from rewrite.expand.groups import Place, Reads, keys_apart, places_of
from rewrite.expand.positions import Spots
from rewrite.expand.product import Product
from rewrite.expand.stacks import ALL, LAST, Rows, Stacks
from rewrite.expand.tails import Tail
from rewrite.expand.windows import APART, classes_by_port, hops, windowed
from rewrite.ir.ops import changed, take
from rewrite.parts import Component, Components
from rewrite.parts.tails import opened
from rewrite.rules.opened import Opened, Opening

Reading = tuple[Place, ...]  # what one port reads
NOTHING: Spots = frozenset()


@dataclass(frozen=True)
class Based:
    """The reading that one equals before the first of some spots: itself if there are none."""

    reading: Reading
    spots: Spots


class StackedHeads:
    """Runs groups of heads on the distinct sets of copies that they read."""

    def __init__(
        self, parts: Components, product: Product, stacks: Stacks, anchored: bool
    ) -> None:
        self.parts, self.product, self.stacks = parts, product, stacks
        self.anchored = anchored
        self.assembler = stacks.assembler
        self.calls = 0

    def run(
        self, layer: Component, heads: tuple[int, ...] | None, alike: dict[str, str],
        reads: list[Reads], rows: Rows, by_hop: bool | None = None,
    ) -> fx.Node:
        """Some heads of a layer (None: all), one copy for each of `reads`.

        `by_hop` calls all of them as those that differ by the hop, or none; None: those that do.
        """
        places = [places_of(self.product, layer, read) for read in reads]
        apart = [i for i, read in enumerate(reads)
                 if by_hop or (by_hop is None and hops(self.product, layer, read))]
        if not apart:
            return self._plain(layer, heads, alike, places, rows)
        made = [self._windowed(layer, heads, [places[i] for i in apart], rows)]
        if plain := [i for i in range(len(reads)) if i not in apart]:
            made.append(self._plain(layer, heads, alike, [places[i] for i in plain], rows))
        order = [*apart, *plain]
        return self.stacks.gather(
            self.stacks.join(made), len(reads), [order.index(i) for i in range(len(reads))])

    def _plain(
        self, layer: Component, heads: tuple[int, ...] | None, alike: dict[str, str],
        places: list[list[Place]], rows: Rows,
    ) -> fx.Node:
        kind = rows if isinstance(rows, str) else "tail"
        if self._shares(layer, places, rows) and (
                found := opened(self.parts, layer.short, heads, kind)):
            return self._opened(layer, found, places, rows)
        assert layer.region is not None
        ports, body = [port for port, _ in layer.region.slots], None
        if rows == LAST:
            alike = keys_apart(alike)
            body = self.parts.last_row(layer.short, heads, alike)
        values = [self._values(places, slot,
                               LAST if body and ports[slot] not in ("k", "v") else ALL)
                  for slot in range(len(places[0]))]
        self.calls += 1
        with self.assembler.spread_over(len(places)):
            made = self.assembler.part(layer.short, values, heads, alike, body, layer.short)
        return made if body else self.stacks.at(made, rows)

    def _windowed(
        self, layer: Component, heads: tuple[int, ...] | None, places: list[list[Place]],
        rows: Rows,
    ) -> fx.Node:
        """Heads whose keys and values differ by the hop, on all of these readings together."""
        assert layer.region is not None
        classes, slots = classes_by_port(self.product, layer, places)
        narrow = self.parts.last_row(layer.short, heads, APART) if rows == LAST else None
        body = windowed(narrow or self.parts.body(layer.short, heads, APART), classes, layer.short)
        given = {slot: self.stacks.read(read[0][0], [index for _, index in read],
                                        LAST if narrow and slot[0] in ("q", "") else ALL)
                 for slot, read in slots.items()}
        self.calls += 1
        like = None if narrow or len(places) > 1 else layer.region.output
        with self.assembler.spread_over(len(places)):
            made = self.assembler.part_by_slots(body, given, layer.short, like)
        return made if narrow else self.stacks.at(made, rows)

    # opened at keys and values

    def _shares(self, layer: Component, places: list[list[Place]], rows: Rows) -> bool:
        """Whether keys and values need be computed for clearly fewer copies, or fewer rows."""
        if isinstance(rows, frozenset):
            return True
        readings = [self._readings(layer, places, port) for port in "kv"]
        if any(self._based(each).spots for found in readings for each in found):
            return True
        return sum(len(set(found)) for found in readings) * 4 <= len(places) * 7

    def _opened(
        self, layer: Component, found: Opened, places: list[list[Place]], rows: Rows
    ) -> fx.Node:
        assert layer.region is not None
        given = {
            slot: self._values(places, layer.region.slots.index(slot), rows)
            for slot in found.core.slots if slot[0] not in found.ports}
        given |= {opening.slot: self._entry(layer, opening, self._readings(layer, places, port))
                  for port, opening in found.ports.items()}
        self.calls += 1
        start = self.stacks.start(rows) if isinstance(rows, frozenset) else None
        with self.assembler.spread_over(len(places)):
            return self.assembler.part_by_slots(found.core, given, layer.short, start=start)

    def _entry(self, layer: Component, opening: Opening, readings: list[Reading]) -> fx.Node:
        """Keys or values, one copy for each reading."""
        by_spots: dict[Spots, dict[Reading, Reading]] = {NOTHING: {}}  # with what they are based on
        for reading in dict.fromkeys(readings):
            based = self._based(reading)
            if opening.tail is None or not based.spots:
                by_spots[NOTHING][reading] = reading
            else:
                by_spots.setdefault(based.spots, {})[reading] = based.reading
        for found in by_spots.values():
            by_spots[NOTHING] |= {base: base for base in found.values()}
        whole, order = list(by_spots.pop(NOTHING)), list[Reading]()
        pieces = [self._call(layer, opening, whole, ALL)]
        order += whole
        for spots, found in by_spots.items():
            base = self.stacks.gather(
                pieces[0], len(whole), [whole.index(each) for each in found.values()])
            tail = self._tail(layer, opening, found, base, spots)
            pieces.append(self.stacks.complete(base, tail, opening.axis, spots))
            order += found
        return self.stacks.gather(
            self.stacks.join(pieces), len(order), [order.index(each) for each in readings])

    def _tail(
        self, layer: Component, opening: Opening, found: dict[Reading, Reading], base: fx.Node,
        spots: Spots,
    ) -> fx.Node:
        """Keys or values from the first of some spots on, of readings with what they are based on.

        If copies are anchored, the bases are called again with them.
        """
        if not self.anchored:
            return self._call(layer, opening, list(found), spots)
        called = list(dict.fromkeys((*found, *found.values())))
        value = self._call(layer, opening, called, spots)
        new, old = (self.stacks.gather(value, len(called), [called.index(each) for each in some])
                    for some in (found.keys(), found.values()))
        rows = self.stacks.call(take, base, opening.axis, self.stacks.ranges(spots))
        return self.stacks.call(changed, rows, new, old)

    def _call(
        self, layer: Component, opening: Opening, readings: list[Reading], rows: Rows
    ) -> fx.Node:
        assert layer.region is not None
        body = opening.whole if rows == ALL else opening.tail
        assert body is not None
        own = [slot for slot in layer.region.slots if slot[0] == opening.slot[0]]
        given = {slot: self._values(readings, i, rows) for i, slot in enumerate(own)}
        start = self.stacks.start(rows) if isinstance(rows, frozenset) else None
        self.calls += 1
        with self.assembler.spread_over(len(readings)):
            return self.assembler.part_by_slots(body, given, layer.short, start=start)

    def _readings(
        self, layer: Component, places: list[list[Place]], port: str
    ) -> list[Reading]:
        assert layer.region is not None
        at = [i for i, (name, _) in enumerate(layer.region.slots) if name == port]
        return [tuple(read[i] for i in at) for read in places]

    def _based(self, reading: Reading) -> Based:
        tails = [self.stacks.tails.get(place, Tail(place[1], NOTHING)) for place in reading]
        return Based(tuple((name, each.base) for (name, _), each in zip(
            reading, tails, strict=True)), NOTHING.union(*(each.spots for each in tails)))

    def _values(self, places: Sequence[Sequence[Place]], slot: int, rows: Rows) -> fx.Node:
        """What one slot reads in each of some readings."""
        name = places[0][slot][0]
        return self.stacks.read(name, [read[slot][1] for read in places], rows)
