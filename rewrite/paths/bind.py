"""Path sets on a graph: names become sets of symbols, patterns become expressions.

Symbols that no name tells apart share a *letter*, so that the work done later depends on
what the patterns distinguish and not on the size of the graph.  Expressions are reversed:
they read a path from its output to its source, the way in which a graph is expanded.  After
each symbol, what asks for a letter that no longer lies upstream is dropped: so a path that
cannot come into the set any more is in the same state as all others of that kind.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from rewrite.errors import UnknownName, near
from rewrite.ir.dag import Dag, Part, symbols_of
from rewrite.paths.caret import point
from rewrite.paths.expressions import Expressions
from rewrite.paths.names import matches
from rewrite.paths.parse import tokens
from rewrite.paths.pathset import PathSet, paths
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
    names_in,
)


class Place(NamedTuple):
    """All that patterns can tell of a symbol: its letter, and the letters upstream of it.

    >>> Place(letter=1, upstream=0b101)
    Place(letter=1, upstream=5)
    """

    letter: int
    upstream: int


@dataclass(frozen=True, eq=False)
class BoundSet:
    """A path set on one graph: a deterministic automaton whose states are integers.

    It reads a path of the graph from the output back to the source.  `word in bound` takes a
    word from source to output, and judges its spelling, be it a path of the graph or not.

    >>> from rewrite.ir.dag import Dag, Part, Port, Source
    >>> dag = Dag((Source("tokens"), Part("m0", (Port("m0", "tokens"),))), ("m0",))
    >>> bound = bind(paths("tokens -> m0"), dag)
    >>> bound.accepts(bound.step(bound.step(bound.start, "m0"), "tokens"))
    True
    >>> ("tokens", "m0") in bound
    True
    """

    dag: Dag
    expressions: Expressions = field(repr=False)
    places: Mapping[str, Place] = field(repr=False)
    within: Mapping[str, int] = field(repr=False)
    start: int

    def step(self, state: int, symbol: str) -> int:
        """The state after `symbol`.  Raises `KeyError` for a symbol that the graph lacks."""
        return self.expressions.step(state, *self.places[symbol])

    def enter(self, state: int, node: str) -> int:
        """The same state on arrival at a node: what does not lie upstream of it is forgotten.

        `step` does so on its own; this helps at sums, whose terms lie ever further upstream.
        Raises `KeyError` for a node that the graph lacks.
        """
        return self.expressions.keep(state, self.within[node])

    def accepts(self, state: int) -> bool:
        """Whether the path read so far, from its output back, is in the set."""
        return self.expressions.nullable(state)

    def __contains__(self, word: Sequence[str]) -> bool:
        state = self.start
        for symbol in reversed(word):
            state = self.expressions.derive(state, self.places[symbol].letter)
        return self.accepts(state)


def bind(path_set: PathSet | str, dag: Dag) -> BoundSet:
    """Find the names of a path set on a graph.

    >>> from rewrite.ir.dag import Dag, Source
    >>> bind("token", Dag((Source("tokens"),), ("tokens",)))
    Traceback (most recent call last):
    ...
    rewrite.errors.UnknownName: the graph has no token
        token
        ^^^^^
    did you mean tokens?

    Raises `UnknownName` that points at the first name without any symbol, and `PathError`
    if the set is given as a string that cannot be read.
    """
    return bind_all([path_set], dag)[0]


def bind_all(path_sets: Iterable[PathSet | str], dag: Dag) -> tuple[BoundSet, ...]:
    """Bind several path sets with the same letters and the same store of expressions.

    >>> from rewrite.ir.dag import Dag, Source
    >>> one, two = bind_all(["...", "tokens"], Dag((Source("tokens"),), ("tokens",)))
    >>> one.expressions is two.expressions
    True

    Raises what `bind` raises.
    """
    sets = [paths(path_set) for path_set in path_sets]
    asked = dict.fromkeys(name for each in sets for name in names_in(each.pattern))
    named = {name: _named(name, dag) for name in asked}
    for each in sets:
        _check_names(each, named, dag)
    letters = _letters(dag.symbols, named.values())
    expressions = Expressions(len(set(letters.values())))
    leaves = {
        name: expressions.leaf(sum(1 << letter for letter in {letters[s] for s in symbols}))
        for name, symbols in named.items()
    }
    reader, within = _Reader(expressions, leaves), _within(letters, dag)
    places = _places(letters, within, dag)
    return tuple(
        BoundSet(dag, expressions, places, within, reader.set(each.pattern)) for each in sets
    )


def _named(name: str, dag: Dag) -> frozenset[str]:
    return frozenset(s for s in dag.symbols if matches(name, (s, *dag.spellings.get(s, ()))))


def _letters(symbols: Iterable[str], groups: Iterable[frozenset[str]]) -> dict[str, int]:
    """A number for each symbol; two share it when every group has both or neither."""
    members = dict.fromkeys(symbols, 0)
    for bit, group in enumerate(groups):
        for symbol in group:
            members[symbol] |= 1 << bit
    numbers: dict[int, int] = {}
    return {s: numbers.setdefault(groups, len(numbers)) for s, groups in members.items()}


def _within(letters: Mapping[str, int], dag: Dag) -> dict[str, int]:
    """For each node, the letters on the paths that end there, its own included."""
    within: dict[str, int] = {}
    for node in dag.nodes:
        mask = 0
        for read in node.reads:
            mask |= within[read]
        for symbol in symbols_of(node):
            mask |= 1 << letters[symbol]
        within[node.name] = mask
    return within


def _places(letters: Mapping[str, int], within: Mapping[str, int], dag: Dag) -> dict[str, Place]:
    """Each symbol with the letters that a path can have before it."""
    upstream = dict.fromkeys(letters, 0)
    for node in dag.nodes:
        if isinstance(node, Part):
            for port in node.ports:
                upstream[port.symbol] |= within[port.reads]
    return {symbol: Place(letter, upstream[symbol]) for symbol, letter in letters.items()}


def _check_names(path_set: PathSet, named: Mapping[str, frozenset[str]], dag: Dag) -> None:
    text = str(path_set)
    for token in tokens(text):
        if token.kind == "name" and not named[token.text]:
            place = point(text, token.column, len(token.text))
            hint = near(token.text, _known(dag))
            raise UnknownName(f"the graph has no {token.text}\n{place}\n{hint}")


def _known(dag: Dag) -> dict[str, None]:
    """All names that a pattern may use, without repetition."""
    spelt = [name for s in dag.symbols for name in (s, *dag.spellings.get(s, ()))]
    cut = (name.split(".") for name in spelt)
    return dict.fromkeys(".".join(part[:n]) for part in cut for n in range(1, len(part) + 1))


@dataclass(frozen=True)
class _Reader:
    """Patterns to expressions, reversed."""

    to: Expressions
    leaves: Mapping[str, int]

    def set(self, pattern: Pattern) -> int:
        """A set of whole paths."""
        match pattern:
            case Choice(parts):
                return self.to.either(*map(self.set, parts))
            case Both(parts):
                return self.to.both(*map(self.set, parts))
            case Minus(left, right):
                return self.to.both(self.set(left), self.to.other(self.set(right)))
            case Not(body):
                return self.to.other(self.set(body))
            case walk:
                return self.to.cat(self.to.every, self.walk(walk), self.to.every)

    def walk(self, pattern: Pattern) -> int:
        """A stretch of a path."""
        match pattern:
            case Name(text):
                return self.leaves[text]
            case Dots():
                return self.to.every
            case Chain(parts):
                return self.to.cat(*map(self.walk, reversed(parts)))
            case Choice(parts):
                return self.to.either(*map(self.walk, parts))
            case Repeat(body):
                return self.to.star(self.walk(body))
            case Maybe(body):
                return self.to.either(self.walk(body), self.to.empty)
            case Both() | Minus() | Not():
                raise AssertionError(f"the parser lets no {pattern} into a concatenation")
