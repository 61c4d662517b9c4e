"""Treeification by brute force: every path spelt out, and its run asked of a plain function.

Nothing here uses the automata, the path language or the expansion of `rewrite`.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from functools import cache, cached_property

import numpy as np

from rewrite.ir.dag import Constant, Dag, Join, Part, Source

Word = tuple[str, ...]  # the symbols of a path, or of its end, towards the output
Chooser = Callable[[Word], str]  # which run a whole path reads
Assignment = frozenset[tuple[Word, str]]  # runs of the paths up to a node
WIDTH = 3


def draw(name: str, *shape: int) -> np.ndarray:
    """Random numbers that depend on a name only."""
    return np.random.default_rng(zlib.crc32(name.encode())).normal(size=shape)


@cache
def weights(name: str, port: int) -> tuple[np.ndarray, np.ndarray]:
    """The numbers of one port of one part."""
    return draw(f"{name}/{port}", WIDTH, WIDTH), draw(f"{name}/{port}/bias", WIDTH)


def compute(name: str, readings: Sequence[np.ndarray]) -> np.ndarray:
    """A nonlinear function of the readings, another one for each part and each port."""
    mixed, product = np.zeros(WIDTH), np.ones(WIDTH)
    for port, value in enumerate(readings):
        matrix, bias = weights(name, port)
        mixed = mixed + matrix @ value + bias
        product = product * np.cos(bias + value)
    return np.tanh(0.4 * mixed) + product


@cache
def given(name: str, run: str = "") -> np.ndarray:
    """The value of a source in a run, or of a constant."""
    return draw(f"given/{name}/{run}", WIDTH)


def add(terms: Sequence[np.ndarray]) -> np.ndarray:
    """A sum, from left to right."""
    result = terms[0]
    for term in terms[1:]:
        result = result + term
    return result


def joined(node: Join, terms: Sequence[np.ndarray]) -> np.ndarray:
    """A sum with its factors; those that are no known numbers depend on the name alone."""
    factors = [draw(f"{node.name}.scale", WIDTH) if factor == "some" else np.float64(factor)
               for factor in node.factors or (1.0,) * len(terms)]
    shift = draw(f"{node.name}.shift", WIDTH) if node.shift == "some" else node.shift
    return add([term * factor for term, factor in zip(terms, factors, strict=True)]) + shift


def treeified(dag: Dag, name: str, choose: Chooser, after: Word = ()) -> np.ndarray:
    """The value of a node at the place in the tree from which the path goes on as `after`."""
    node = dag[name]
    match node:
        case Source():
            return given(name, choose((name, *after)))
        case Constant():
            return given(name)
        case Join(_, terms):
            return joined(node, [treeified(dag, term, choose, after) for term in terms])
        case Part(_, ports):
            return compute(name, [
                treeified(dag, port.reads, choose, (port.symbol, *after)) for port in ports])


class Tree:
    """Places of the tree: for every node, the ways on from it and the ways up to it."""

    def __init__(self, dag: Dag) -> None:
        self.dag = dag
        self._behind: dict[str, frozenset[Word]] = {}

    def behind(self, name: str) -> frozenset[Word]:
        """Paths from a source up to and including this node."""
        if name not in self._behind:
            self._behind[name] = frozenset(self._find(name))
        return self._behind[name]

    def _find(self, name: str) -> Iterator[Word]:
        node = self.dag[name]
        if isinstance(node, Source):
            yield (name,)
        for term in getattr(node, "terms", ()):
            yield from self.behind(term)
        for port in getattr(node, "ports", ()):
            for word in self.behind(port.reads):
                yield (*word, port.symbol)

    @cached_property
    def after(self) -> dict[str, set[Word]]:
        """The ways on from each node to an output, the node itself excluded."""
        found: dict[str, set[Word]] = {node.name: set() for node in self.dag.nodes}
        stack: list[tuple[str, Word]] = [(name, ()) for name in self.dag.outputs]
        while stack:
            name, word = stack.pop()
            if word in found[name]:
                continue
            found[name].add(word)
            node = self.dag[name]
            stack.extend((term, word) for term in getattr(node, "terms", ()))
            stack.extend((p.reads, (p.symbol, *word)) for p in getattr(node, "ports", ()))
        return found

    def paths(self) -> set[Word]:
        """All paths from a source to an output."""
        return {word for name in self.dag.outputs for word in self.behind(name)}

    def assignments(self, choosers: Sequence[Chooser]) -> dict[str, set[Assignment]]:
        """For every node, the distinct ways in which runs are assigned to the paths behind it."""
        return {
            name: {
                frozenset((word, choose((*word, *after))) for word in self.behind(name))
                for choose in choosers for after in contexts
            }
            for name, contexts in self.after.items()
        }
