"""Which paths a copy serves: the words from it to the output, without walking every path."""

from __future__ import annotations

from dataclasses import dataclass

from rewrite.expand import Product
from rewrite.ir.dag import Part

Place = tuple[str, int]  # a node and which copy of it


@dataclass(frozen=True)
class Serves:
    """How many ways lead from a copy to the outputs, and the shortest of them."""

    count: int = 0
    shortest: tuple[tuple[str, ...], ...] = ()

    def plus(self, other: Serves, symbol: str | None, most: int) -> Serves:
        """With the ways of a reader that is entered by `symbol` (None: a sum)."""
        head = () if symbol is None else (symbol,)
        ways = (*self.shortest, *((*head, *way) for way in other.shortest))
        return Serves(self.count + other.count, tuple(sorted(ways, key=len)[:most]))


def serves(product: Product, root: tuple[int, ...], most: int = 3) -> dict[Place, Serves]:
    """For every copy behind `root`: the ways to the output, the `most` shortest spelt out.

    Linear in copies: each passes its shortest ways on to what it reads.
    """
    found: dict[Place, Serves] = {
        place: Serves(1, ((),)) for place in zip(product.dag.outputs, root, strict=True)}
    for node in reversed(product.dag.nodes):
        ports = [port.symbol for port in node.ports] if isinstance(node, Part) else None
        for copy in product.copies[node.name]:
            here = found.get((node.name, copy.index))
            if here is None:
                continue
            symbols = ports or [None] * len(copy.reads)
            for name, index, symbol in zip(node.reads, copy.reads, symbols, strict=True):
                behind = found.get((name, index), Serves())
                found[name, index] = behind.plus(here, symbol, most)
    return found
