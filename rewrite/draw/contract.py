"""An expansion reduced to what its hypothesis touches.

A value of the residual stream adds up one copy of each part before it.  It is drawn as the
stream that it differs least from (the plain stream of a run, or another drawn sum), and the
copies that take the place of those in it.  A mixture by positions or hops is one value: a
term of sums, or what a port reads.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from rewrite.draw.layers import Layers
from rewrite.draw.sides import Place, Side, sides
from rewrite.draw.sketch import Lane
from rewrite.expand import Product
from rewrite.expand.product import Copy, Mixed
from rewrite.ir.dag import Constant, Join, Part, Source

RECENT = 8  # how many sums before it a sum is compared with

Terms = Mapping[str, int]  # which copy of each source or part is added


@dataclass(frozen=True)
class Sum:
    """A mixed sum: the stream `like`, in which `writes` take the place of other copies.

    Where `like` is another sum, later values of its run come in beside it.  They are drawn
    once, as `rest`, at the last sum of such a chain.
    """

    place: Place
    like: str | Lane | None
    writes: tuple[Place, ...]
    rest: Lane | None = None


def key(place: Place) -> str:
    """The id of a copy.

    >>> key(("a5.h3", 1))
    'a5.h3#1'
    """
    return f"{place[0]}#{place[1]}"


@dataclass
class Contraction:
    """Mixed sums and what stands for every value that is read, for one hypothesis.

    `reached` are the values of the hypothesis, without mixtures that only mixtures read.
    """

    product: Product
    layers: Layers
    reached: frozenset[Place]
    default: str
    sums: list[Sum] = field(default_factory=list)
    _stands_for: dict[Place, str | Lane] = field(default_factory=dict)
    _base: dict[str, str | None] = field(default_factory=dict)
    _terms: dict[Place, Terms] = field(default_factory=dict)
    _rests: dict[Lane, frozenset[Place]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        dag = self.product.dag
        read = {place for reader in self.reached
                if isinstance(dag[reader[0]], Part) or self.is_mixture(reader)
                for place in self.reads(reader)}
        for node in dag.nodes:
            for copy in self.product.copies[node.name] if isinstance(node, Join) else ():
                place = node.name, copy.index
                if place in read and isinstance(copy, Copy) and len(copy.runs) > 1:
                    self._sum(place)
        continued = {each.like for each in self.sums}
        self.sums = [each if key(each.place) in continued else self._with_rest(each)
                     for each in self.sums]

    def runs(self, place: Place) -> frozenset[str]:
        """The runs that reach a copy."""
        return self.product.copies[place[0]][place[1]].runs

    def is_mixture(self, place: Place) -> bool:
        """Whether a value is mixed of copies by positions or hops."""
        return isinstance(self.product.copies[place[0]][place[1]], Mixed)

    def sides(self, place: Place) -> tuple[Side, ...]:
        """The sides of a mixture."""
        return sides(self.product, place, self.default)

    def reads(self, place: Place) -> list[Place]:
        """The values that a copy reads, or the copies that a mixture is mixed of."""
        if self.is_mixture(place):
            return [side.place for side in self.sides(place)]
        return self.product.reads(*place)

    def refer(self, place: Place) -> str | Lane:
        """What stands for a copy that is read: an item, or the plain forward of a run."""
        if len(self.runs(place)) == 1:
            return Lane(next(iter(self.runs(place))), self.layers.position[place[0]])
        return self._stands_for.get(place, key(place))

    def behind(self, lane: Lane) -> frozenset[Place]:
        """The copies of sources and parts that a reading of a run adds up."""
        if lane in self._rests:
            return self._rests[lane]
        name = self.product.dag.nodes[lane.position].name
        copies = self.product.copies[name]
        index = next(copy.index for copy in copies if copy.runs == {lane.run})
        return frozenset(self.terms((name, index)).items())

    def terms(self, place: Place) -> Terms:
        """What a value adds up, sums crossed; a mixture is one term."""
        if place not in self._terms:
            node = self.product.dag[place[0]]
            if isinstance(node, Constant):
                self._terms[place] = {}
            elif isinstance(node, (Part, Source)) or self.is_mixture(place):
                self._terms[place] = dict([place])
            else:
                found: dict[str, int] = {}
                for term in self.reads(place):
                    found |= self.terms(term)
                self._terms[place] = found
        return self._terms[place]

    def _sum(self, place: Place) -> None:
        terms = self.terms(place)
        lanes = {run: self._differing(terms, run, {}) for run in self._single_runs(terms)}
        recent = {}
        for each in self.sums[-RECENT:]:
            known = self._terms[each.place]
            if known.keys() <= terms.keys():
                recent[each] = self._differing(terms, self._base[key(each.place)], known)
        cost = {each: self._boxes(writes) + self._boxes(
            place for place in writes if place[0] in self._terms[each.place])
            for each, writes in recent.items()}  # what replaces a drawn copy counts double
        run = min(lanes, key=lambda r: (self._boxes(lanes[r]), r != self.default, r), default=None)
        near = min(reversed(recent), key=cost.__getitem__, default=None)
        alone = [*terms.items()]
        like: str | Lane | None = None
        if near and (run is None or cost[near] <= self._boxes(lanes[run])):
            like, writes, base = key(near.place), recent[near], self._base[key(near.place)]
        elif run is not None:
            like, writes, base = (
                Lane(run, self.layers.position[place[0]], key(place)), lanes[run], run)
            self._rests[like] = frozenset(alone) - frozenset(writes)
        else:
            writes, base = alone, None
        if like is None and len(writes) == 1:
            self._stands_for[place] = key(writes[0])
        elif not writes and isinstance(like, str):
            self._stands_for[place] = like
        else:
            self._base[key(place)] = base
            self.sums.append(Sum(place, like, tuple(writes)))

    def _with_rest(self, each: Sum) -> Sum:
        """The end of a chain of sums, with what entered the chain unseen."""
        by_name = {key(other.place): other for other in self.sums}
        first, base = each, self._base[key(each.place)]
        drawn = set(each.writes)
        while isinstance(first.like, str) and first.like in by_name:
            first = by_name[first.like]
            drawn |= set(first.writes)
        known = self.terms(first.place)
        unseen = {(name, index) for name, index in self.terms(each.place).items()
                  if name not in known and self.runs((name, index)) == {base}} - drawn
        if base is None or first is each or not unseen:
            return each
        lane = Lane(base, self.layers.position[each.place[0]], key(each.place))
        self._rests[lane] = frozenset(unseen)
        return replace(each, rest=lane)

    def _single_runs(self, terms: Terms) -> list[str]:
        runs = {next(iter(r)) for r in map(self.runs, terms.items()) if len(r) == 1}
        return sorted(runs)

    def _differing(self, terms: Terms, base: str | None, known: Terms) -> list[Place]:
        """The terms that are neither in `known` nor, beyond it, plain values of `base`."""
        return [(name, index) for name, index in terms.items()
                if (known[name] != index if name in known else self.runs((name, index)) != {base})]

    def _boxes(self, places: Iterable[Place]) -> int:
        """In how many boxes copies would be drawn: one for each layer of heads and each run."""
        owner = self.layers.owner
        return len({(owner[name].short if name in owner else name, self.runs((name, index)))
                    for name, index in places})
