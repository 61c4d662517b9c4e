"""Copies that equal another one before some position: only what follows is computed again.

A copy is *based* on the copy that it becomes where every value mixed by position is its `no`
side.  Before the first position at which one of the tests passes, the two are equal: sums and
parts that treat positions for themselves keep that, and so does attention that never reads
ahead.
"""

from __future__ import annotations

from dataclasses import dataclass

from rewrite.expand.groups import Place
from rewrite.expand.positions import Spot, Spots, input_of
from rewrite.expand.product import Copy, Mixed, Product
from rewrite.ir.dag import Constant, Node, Part
from rewrite.parts import Components
from rewrite.parts.sequences import sequence_of
from rewrite.parts.tails import opened, tail
from rewrite.paths.tree import Condition


@dataclass(frozen=True)
class Tail:
    """A copy that equals the copy `base` before the first position of any of `spots`."""

    base: int
    spots: Spots


def tails_of(parts: Components, product: Product, wanted: set[Place]) -> dict[Place, Tail]:
    """The copies among `wanted` that equal another one of them before some position."""
    if not any(isinstance(copy, Mixed) for copies in product.copies.values() for copy in copies):
        return {}
    return _Basing(parts, product, wanted).tails


class _Basing:
    def __init__(self, parts: Components, product: Product, wanted: set[Place]) -> None:
        self.parts, self.product, self.wanted = parts, product, wanted
        self.tails: dict[Place, Tail] = {}
        self._sequences: dict[str, str | None] = {}
        for node in product.dag.nodes:
            if isinstance(node, Constant):
                continue
            copies = product.copies[node.name]
            known = {c.reads: c.index for c in copies if isinstance(c, Copy)}
            for copy in copies:
                found = self._mixed(copy) if isinstance(copy, Mixed) else (
                    self._copied(node, copy, known))
                if found and {(node.name, copy.index), (node.name, found.base)} <= wanted:
                    self.tails[node.name, copy.index] = found

    def based(self, name: str, index: int) -> Tail:
        """What a copy is based on: itself, at no spot, if nothing else is known."""
        return self.tails.get((name, index), Tail(index, frozenset()))

    def _mixed(self, copy: Mixed) -> Tail | None:
        if copy.by_hop:
            return None
        no = self.based(copy.node, copy.no)
        return Tail(no.base, no.spots | {spot_of(self.parts, copy.node, copy.test)})

    def _copied(self, node: Node, copy: Copy, known: dict[tuple[int, ...], int]) -> Tail | None:
        found = [self.based(*read) for read in zip(node.reads, copy.reads, strict=True)]
        spots = frozenset[Spot]().union(*(each.spots for each in found))
        base = known.get(tuple(each.base for each in found)) if spots else None
        sequences = {sequence for _, sequence in spots}
        if base is None or (isinstance(node, Part) and sequences != {self._keeps(node.name)}):
            return None
        return Tail(base, spots)

    def _keeps(self, part: str) -> str | None:
        """The input of whose positions equal rows stay equal, up to the first that differs."""
        layer, _ = self.parts.owner(part)
        if layer not in self._sequences:
            component = self.parts.component(layer)
            whole = component.members == 0 and tail(self.parts, layer) is not None
            keeps = whole or (opened(self.parts, layer, None, "tail") is not None
                              and not self.product.dag.motion.looks_ahead())
            region = component.region if keeps else None
            self._sequences[layer] = sequence_of(self.parts, region.output) if region else None
        return self._sequences[layer]


def spot_of(parts: Components, name: str, test: Condition) -> Spot:
    """Where a test passes, asked of a value."""
    return test.place, input_of(parts, name)
