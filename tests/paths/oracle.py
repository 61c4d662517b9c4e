"""The meaning of the path language by brute force: every path spelt out and matched naively.

Nothing here uses the expressions or automata of `rewrite.paths`.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from fnmatch import fnmatchcase

from rewrite.ir.dag import Dag, symbols_of
from rewrite.paths.pattern import (
    Both,
    Chain,
    Choice,
    Dots,
    Maybe,
    Minus,
    Name,
    Not,
    Pattern,
    Repeat,
)

Word = tuple[str, ...]


def words(dag: Dag) -> list[Word]:
    """All paths from sources to outputs, along the direct edges."""
    readings: dict[str, set[str]] = {}
    for writer, symbol in dag.edges:
        readings.setdefault(symbol, set()).add(writer)

    def ending(symbol: str) -> Iterator[Word]:
        if symbol in dag.sources:
            yield (symbol,)
        for writer in sorted(readings.get(symbol, ())):
            for before in symbols_of(dag[writer]):
                for word in ending(before):
                    yield (*word, symbol)

    return [
        w for name in sorted(set(dag.outputs)) for s in symbols_of(dag[name]) for w in ending(s)
    ]


def names(atom: str, symbol: str, dag: Dag) -> bool:
    """Whether an atom stands for a symbol: brackets spelt out, then globs by segment."""
    pieces = re.split(r"(\[.*?\]|\{.*?\})", atom)
    options = []
    for piece in pieces:
        if piece.startswith("["):
            low, high = map(int, piece[1:-1].split("-"))
            options.append([str(n) for n in range(low, high + 1)])
        elif piece.startswith("{"):
            options.append(piece[1:-1].split(","))
        else:
            options.append([piece])
    for choice in itertools.product(*options):
        asked = "".join(choice).split(".")
        for spelling in (symbol, *dag.spellings.get(symbol, ())):
            has = spelling.split(".")
            if len(asked) <= len(has) and all(map(fnmatchcase, has, asked)):
                return True
    return False


def holds(pattern: Pattern, word: Word, dag: Dag) -> bool:
    """Whether a whole path is in the set that the pattern means."""
    match pattern:
        case Both(parts):
            return all(holds(part, word, dag) for part in parts)
        case Minus(left, right):
            return holds(left, word, dag) and not holds(right, word, dag)
        case Not(body):
            return not holds(body, word, dag)
        case Choice(parts):
            return any(holds(part, word, dag) for part in parts)
        case walk:
            return any(ends(walk, word, start, dag) for start in range(len(word) + 1))


def ends(pattern: Pattern, word: Word, start: int, dag: Dag) -> set[int]:
    """Where a stretch of the path that begins at `start` and fits the pattern may end."""
    match pattern:
        case Name(text):
            fits = start < len(word) and names(text, word[start], dag)
            return {start + 1} if fits else set()
        case Dots():
            return set(range(start, len(word) + 1))
        case Choice(parts):
            return set().union(*(ends(part, word, start, dag) for part in parts))
        case Chain(parts):
            found = {start}
            for part in parts:
                found = set().union(*(ends(part, word, at, dag) for at in found))
            return found
        case Maybe(body):
            return {start} | ends(body, word, start, dag)
        case Repeat(body):
            found, new = {start}, {start}
            while new:
                new = set().union(*(ends(body, word, at, dag) for at in new)) - found
                found |= new
            return found
        case _:
            raise AssertionError(pattern)
