"""Which paths a copy serves: the words from it to the output, without walking every path."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from rewrite.draw.sides import Place, Side, sides
from rewrite.expand import Product
from rewrite.expand.product import Mixed
from rewrite.ir.dag import Join, Part, Port


class Way(NamedTuple):
    """From a copy to an output: where the copy is read at all (or ""), and the words that follow.

    Words say where they hold, as paths do: `a1.h2@END.v[-3:0]`.
    """

    where: str
    words: tuple[str, ...]


@dataclass(frozen=True)
class Serves:
    """How many ways lead from a copy to the outputs, and the shortest of them.

    What is read at some positions or hops and what is read at others are two ways.
    """

    count: int = 0
    shortest: tuple[Way, ...] = ()

    def plus(self, other: Serves, most: int) -> Serves:
        """With the ways of a reader."""
        ways = sorted((*self.shortest, *other.shortest), key=lambda way: len(way.words))
        return Serves(self.count + other.count, tuple(ways[:most]))

    def by(self, name: str, port: Port) -> Serves:
        """The ways of what a part reads by a port."""
        end = port.symbol.removeprefix(name)
        return Serves(self.count, tuple(
            Way("", (_at(name, where) + end if where else port.symbol, *words))
            for where, words in self.shortest))

    def on(self, side: Side, of_port: bool) -> Serves:
        """The ways of one side of a mixture, which the port that reads it or the copy decides."""
        return Serves(self.count, tuple(
            Way(where, (_at(words[0], side.text), *words[1:])) if of_port and words
            else Way(side.text, words) for where, words in self.shortest))


def serves(
    product: Product, root: tuple[int, ...], most: int = 3, default: str = ""
) -> dict[Place, Serves]:
    """For all that is read behind `root`: the ways to the output, the `most` shortest spelt out.

    Linear in copies: each passes its shortest ways on to what it reads.  Mixtures that only
    other mixtures of the same value read are not among them.
    """
    found: dict[Place, Serves] = {
        place: Serves(1, (Way("", ()),)) for place in zip(product.dag.outputs, root, strict=True)}

    def add(place: Place, ways: Serves) -> None:
        found[place] = found.get(place, Serves()).plus(ways, most)

    for node in reversed(product.dag.nodes):
        for copy in reversed(product.copies[node.name]):  # a mixture before what it mixes
            here = found.get((node.name, copy.index))
            if here is None:
                continue
            if isinstance(copy, Mixed):
                for side in sides(product, (node.name, copy.index), default):
                    add(side.place, here.on(side, copy.by_hop or isinstance(node, Join)))
                continue
            reads = product.reads(node.name, copy.index)
            if isinstance(node, Part):
                for port, place in zip(node.ports, reads, strict=True):
                    add(place, here.by(node.name, port))
            else:
                for place in reads:
                    add(place, here)
    return found


def _at(word: str, where: str) -> str:
    return f"{word}({where})" if " " in where or where.isalpha() else f"{word}{where}"
