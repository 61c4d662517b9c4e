"""An expansion as a sketch: mixed copies, the copies that they mix, the rest folded by run."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable

from rewrite.draw.contract import Contraction, Sum, key
from rewrite.draw.layers import Layers, heads_of, layers
from rewrite.draw.mixtures import MANY, Mixtures
from rewrite.draw.serves import Serves, serves
from rewrite.draw.sides import Place
from rewrite.draw.sketch import Item, Lane, Read, Sketch
from rewrite.draw.text import number, plural, ranges, spell
from rewrite.expand import Expansion
from rewrite.ir.dag import Part, Source


def sketch_expansion(
    exp: Expansion, which: int, labels: int
) -> tuple[Sketch, Callable[[Lane], frozenset[str]]]:
    """One hypothesis, before layers and runs are folded, and which copies a `Lane` adds up."""
    root = exp.product.roots[which]
    default = exp.hypotheses[which].default
    served = serves(exp.product, root, max(labels, 1), default)
    where = layers(exp.parts)
    found = Contraction(exp.product, where, frozenset(served), default)
    runs = exp.hypotheses[which].run_names
    return _Drawing(found, where, served, labels, runs).sketch(root)


class _Drawing:
    def __init__(
        self, found: Contraction, where: Layers, served: dict[Place, Serves], labels: int,
        runs: tuple[str, ...],
    ) -> None:
        self.found, self.where, self.served, self.labels = found, where, served, labels
        self.runs = runs
        self.mixtures = Mixtures.of(found, where)
        self.dag = found.product.dag

    def sketch(
        self, root: tuple[int, ...]
    ) -> tuple[Sketch, Callable[[Lane], frozenset[str]]]:
        outputs = list(zip(self.dag.outputs, root, strict=True))
        mixed = [place for place in self.served
                 if isinstance(self.dag[place[0]], Part) and len(self.found.runs(place)) > 1
                 and not self.found.is_mixture(place)]
        groups = self._mixed_groups(mixed)
        writes, many = self._write_groups()
        plain = [[place] for place in outputs if len(self.found.runs(place)) == 1]
        boxes = {place: key(group[0]) for group in [*groups, *writes] for place in group}
        mixtures = self.mixtures.groups(boxes)
        names = {key(place): key(group[0]) for group in [*groups, *mixtures] for place in group}
        items = [self._mixed(group).reading(names) for group in groups]
        items += [self.mixtures.item(group, boxes, self._runs, self._several).reading(names)
                  for group in mixtures]
        items += [self._single(group) for group in [*writes, *plain]]
        items += [self._sum(each, writes, many).reading(names) for each in self.found.sums]
        drawn = {place for group in [*writes, *plain] for place in group}
        items += [self._rest(place) for place in self.served
                  if len(self.found.runs(place)) == 1 and place not in drawn
                  and isinstance(self.dag[place[0]], (Part, Source))]

        def behind(lane: Lane) -> frozenset[str]:
            return frozenset(map(key, self.found.behind(lane)))

        sketch = Sketch((), self.runs,
                        outputs=tuple(dict.fromkeys(names.get(key(p), key(p)) for p in outputs)))
        return sketch.with_items(items), behind

    def _mixed_groups(self, mixed: Iterable[Place]) -> list[list[Place]]:
        """Heads of a layer that read the same and are read by the same, together."""
        groups: dict[object, list[Place]] = defaultdict(list)
        for place in sorted(mixed, key=self._order):
            component = self.where.owner[place[0]]
            reads = tuple(self.found.refer(read) for read in self.found.reads(place))
            apart = "" if component.members else key(place)
            groups[component.short, reads, self.mixtures.readers.get(place),
                   apart].append(place)
        return list(groups.values())

    def _write_groups(self) -> tuple[list[list[Place]], dict[tuple[str, ...], list[Place]]]:
        """Copies of single runs that are added to mixed sums or mixed, those of a layer together.

        The second result are those too many to draw: by run and by what reads them.
        """
        readers = self.mixtures.writers()
        groups: dict[tuple[str, ...], list[Place]] = defaultdict(list)
        for place in sorted(readers, key=self._order):
            (run,) = self.found.runs(place)
            groups[self._owner(place[0]), run, *sorted(readers[place])].append(place)
        alike: dict[tuple[str, ...], list[list[Place]]] = defaultdict(list)
        for (_, *rest), group in groups.items():
            alike[tuple(rest)].append(group)
        drawn = [group for several in alike.values() if len(several) <= MANY for group in several]
        return drawn, {rest: [place for group in several for place in group]
                       for rest, several in alike.items() if len(several) > MANY}

    def _owner(self, name: str) -> str:
        return self.where.owner[name].short if name in self.where.owner else name

    def _mixed(self, group: list[Place]) -> Item:
        name, _ = first = group[0]
        node = self.dag[name]
        assert isinstance(node, Part)
        ports: dict[str, list[Place]] = defaultdict(list)
        for port, read in zip(node.ports, self.found.reads(first), strict=True):
            ports[port.symbol.removeprefix(name).lstrip(".")].append(read)
        cells: list[tuple[list[str], list[Place]]] = []
        for port, reads in ports.items():
            same = next((c for c in cells if c[1] == reads), None)
            same[0].append(port) if same else cells.append(([port], reads))
        reads = tuple(dict.fromkeys(
            Read(" ".join(names), self.found.refer(read))
            for names, places in cells for read in places))
        component = self.where.owner[name]
        return self._item(
            group, "heads" if component.heads else "part", reads,
            tuple((" ".join(names), self._runs(places)) for names, places in cells if names[0]))

    def _single(self, group: list[Place]) -> Item:
        return self._item(group, "pure", self._plain_reads(group[0]), ())

    def _plain_reads(self, place: Place) -> tuple[Read, ...]:
        found = (self.found.refer(read) for read in self.found.reads(place))
        return tuple(dict.fromkeys(Read("", of) for of in found))

    def _item(
        self, group: list[Place], kind: str, reads: tuple[Read, ...],
        cells: tuple[tuple[str, tuple[str, ...]], ...],
    ) -> Item:
        name, index = group[0]
        names = [place[0] for place in group]
        component = self.where.owner.get(name)
        heads = tuple(heads_of(names, self.where.owner)) if component else ()
        look = (kind, component.name.kind if component else "", heads, cells)
        return Item(
            key((name, index)), kind, self._title(names), self.where.position[name],
            self.where.block[name], reads, look, self._runs(group), len(group),
            self._labels(group[0]), cells, self.where.row.get(name, -1),
            members=tuple(map(key, group)), hover=self._spelt_out(group[0]))

    def _title(self, names: list[str]) -> str:
        if len(names) == 1:
            return names[0]
        letter = "h" if self.where.owner[names[0]].heads else "e"
        return f"{self._owner(names[0])}.{letter}{ranges(heads_of(names, self.where.owner))}"

    def _labels(self, place: Place) -> tuple[str, ...]:
        ways = self.served[place]
        if not self.labels or not any(map(any, ways.shortest)):
            return ()
        shown = ways.shortest[: self.labels if ways.count <= 100 else 1]
        lines = list(dict.fromkeys(spell(way.words, way.where) for way in shown if any(way)))
        if ways.count > len(lines):
            lines.append(f"+{number(ways.count - len(lines))} more")
        return tuple(lines)

    def _spelt_out(self, place: Place) -> str:
        """The ways whose middle is left out in the label, in full."""
        ways = [(spell(way.words, way.where), spell(way.words, way.where, 10**6))
                for way in self.served[place].shortest]
        return "; ".join(full for short, full in ways if short != full)

    def _sum(
        self, each: Sum, writes: list[list[Place]], many: dict[tuple[str, ...], list[Place]]
    ) -> Item:
        name = key(each.place)
        drawn = {place: group[0] for group in writes for place in group}
        added = [drawn.get(place, place) for place in sorted(each.writes, key=self._order)]
        reads = [Read("", each.like)] if each.like is not None else []
        reads += [Read("", key(place)) for place in dict.fromkeys(added)
                  if place in drawn or len(self.found.runs(place)) > 1]
        reads += [Read("", each.rest)] if each.rest is not None else []
        for (run, *sums), group in many.items():
            if name in sums:
                last = max(group, key=self._order)
                reads.append(Read(self._several(group), Lane(run, self._order(last)[0])))
        return Item(name, "sum", "+", self.where.position[each.place[0]],
                    self.where.block[each.place[0]], tuple(reads), ("sum",),
                    self._runs([each.place]), 0)

    def _several(self, group: list[Place]) -> str:
        """`60 heads of layers 0–4`."""
        owned = [self.where.owner.get(name) for name, _ in group]
        word = "head" if all(c and c.heads for c in owned) else "part"
        blocks = [self.where.label[b] for b in {self.where.block[n] for n, _ in group}
                  if b in self.where.label]
        return f"{plural(len(group), word)} of layers {ranges(map(int, blocks))}"

    def _rest(self, place: Place) -> Item:
        """A copy of a single run that nothing is said about: to be folded."""
        name = place[0]
        return Item(key(place), "rest", name, self.where.position[name], self.where.block[name],
                    self._plain_reads(place), runs=tuple(self.found.runs(place)),
                    members=(key(place),))

    def _runs(self, places: Iterable[Place]) -> tuple[str, ...]:
        return tuple(sorted(frozenset().union(*(self.found.runs(place) for place in places))))

    def _order(self, place: Place) -> tuple[int, int]:
        return self.where.position[place[0]], place[1]
