"""Path sets on a graph: names become sets of symbols, patterns become expressions.

Symbols that no name tells apart share a *letter*, so that the work done later depends on
what the patterns distinguish and not on the size of the graph.  Expressions are reversed:
they read a path from its output to its source, the way in which a graph is expanded.  After
each symbol, what asks for a letter that no longer lies upstream is dropped: so a path that
cannot come into the set any more is in the same state as all others of that kind.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from rewrite.errors import PathError, UnknownName, near
from rewrite.ir.dag import Dag, Part, symbols_of
from rewrite.paths.caret import point
from rewrite.paths.expressions import Expressions, Motion, Unfollowed
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
    Within,
    names_in,
    places_in,
    walk,
)
from rewrite.paths.tree import Tree, leaves


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
        """The state after `symbol`, whatever the positions: a word is in the set if it is at some.

        Raises `KeyError` for a symbol that the graph lacks.
        """
        return self.expressions.either(*leaves(self.tree(state, symbol)))

    def tree(self, state: int, symbol: str) -> Tree:
        """The states after `symbol`, by where it writes and reads.

        Raises `PathError` where a window cannot be followed.
        """
        try:
            return self.expressions.step(state, *self.places[symbol])
        except Unfollowed as stop:
            raise PathError(_unfollowed(symbol, stop.again)) from None

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
            derived = self.expressions.derive(state, self.places[symbol].letter)
            state = self.expressions.either(*leaves(derived))
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
    sets, wiring = [paths(path_set) for path_set in path_sets], Wiring.of(dag)
    named = {name: wiring.named(name) for each in sets for name in names_in(each.pattern)}
    if not all(named.values()):
        for each in sets:
            _check_names(each, named, dag)
    moves = _Moves.of(wiring, sets)
    letters = _letters(wiring.every, [*named.values(), *moves.groups])
    motion = moves.motion(letters)
    expressions = wiring.expressions(len(letters), motion)
    masks = {name: sum(1 << n for n, letter in enumerate(letters) if letter & symbols)
             for name, symbols in named.items()}
    reader, within = _Reader(expressions, masks, motion.hops, wiring.whole), _Within(
        wiring, letters)
    places = _Places(wiring, letters, within)
    return tuple(
        BoundSet(dag, expressions, places, within, reader.set(each.pattern)) for each in sets
    )


@dataclass(frozen=True)
class _Moves:
    """Symbols that hop and symbols that blur positions, as far as some patterns ask."""

    hops: int
    blurs: int
    ahead: bool

    @classmethod
    def of(cls, wiring: Wiring, sets: Sequence[PathSet]) -> _Moves:
        dag = wiring.dag
        windows = any(isinstance(part, Within) for each in sets for part in walk(each.pattern))
        if not windows and not any(True for each in sets for _ in places_in(each.pattern)):
            return cls(0, 0, False)
        hops = sum(wiring.bits[symbol] for symbol in dag.hops)
        if not windows:
            return cls(hops, 0, False)
        blurred = (symbol for node in dag.nodes if isinstance(node, Part)
                   and not dag.motion.keeps_positions(node.name) for symbol in symbols_of(node))
        blurs = sum(wiring.bits[symbol] for symbol in blurred) & ~hops
        return cls(hops, blurs, dag.motion.looks_ahead())

    @property
    def groups(self) -> tuple[int, ...]:
        return tuple(group for group in (self.hops, self.blurs) if group)

    def motion(self, letters: Sequence[int]) -> Motion:
        def mask(group: int) -> int:
            return sum(1 << n for n, letter in enumerate(letters) if letter & group)

        return Motion(mask(self.hops), mask(self.blurs), self.ahead)


def _unfollowed(symbol: str, again: bool) -> str:
    if again:
        return (f"a window over several hops cannot be followed through {symbol}: this model "
                "also looks ahead, so hops back and forth may add up to anything\n"
                f"put the window on the port: {symbol}[-3:0]")
    return (f"a window cannot be followed through {symbol}, which mixes positions by other means "
            "than attention\nend the window before it, or leave it out")


def _letters(every: int, groups: Iterable[int]) -> tuple[int, ...]:
    """Sets of symbols that every group has all or none of, those that come first in front."""
    cells = [every]
    for group in groups:
        cells = [part for cell in cells for part in (cell & group, cell & ~group) if part]
    return tuple(sorted(cells, key=lambda cell: cell & -cell))


class Wiring:
    """What binding needs to know of a graph, worked out once; sets of symbols are bit masks.

    Bound sets with equally many letters share a store of expressions: what one pattern has
    derived, another of the same form finds there.

    >>> from rewrite.ir.dag import Dag, Part, Port, Source
    >>> wiring = Wiring.of(Dag((Source("x"), Part("y", (Port("y", "x"),))), ("y",)))
    >>> wiring.named("y"), wiring.above
    (2, {'x': 1, 'y': 3})
    """

    def __init__(self, dag: Dag) -> None:
        self.dag: Dag = dag
        self.bits: dict[str, int] = {symbol: 1 << n for n, symbol in enumerate(dag.symbols)}
        self.every: int = (1 << len(self.bits)) - 1
        self.above: dict[str, int] = {}
        """For each node, the symbols on the paths that end there, its own included."""
        self.reads: dict[str, list[str]] = {symbol: [] for symbol in self.bits}
        """For each symbol, the values that a path can come from when it is spelt next."""
        self._named: dict[str, int] = {}
        """Atoms that have been asked for; those that are no patterns are known from the start."""
        self._stores: dict[tuple[int, Motion], Expressions] = {}
        for node in dag.nodes:
            above = sum({self.bits[symbol] for symbol in symbols_of(node)})
            for name in node.reads:
                above |= self.above[name]
            self.above[node.name] = above
            for port in node.ports if isinstance(node, Part) else ():
                self.reads[port.symbol].append(port.reads)
        for symbol, bit in self.bits.items():
            spelt = (symbol, *dag.spellings.get(symbol, ()))
            for name in {start for each in spelt for start in _starts(each)}:
                if matches(name, spelt):
                    self._named[name] = self._named.get(name, 0) | bit

    @classmethod
    def of(cls, dag: Dag) -> Wiring:
        """The one of this graph."""
        if cls not in dag.kept:
            dag.kept[cls] = cls(dag)
        return dag.kept[cls]

    def named(self, name: str) -> int:
        """The symbols that an atom names."""
        if name not in self._named:
            spellings = self.dag.spellings
            self._named[name] = sum(bit for symbol, bit in self.bits.items()
                                    if matches(name, (symbol, *spellings.get(symbol, ()))))
        return self._named[name]

    def whole(self, name: str) -> bool:
        """Whether an atom spells a symbol to its end, and so means a port."""
        spellings = self.dag.spellings
        return any(name.count(".") == spelt.count(".") and matches(name, (symbol, spelt))
                   for symbol, bit in self.bits.items() if bit & self.named(name)
                   for spelt in (symbol, *spellings.get(symbol, ())))

    def expressions(self, letters: int, motion: Motion) -> Expressions:
        """The store for this number of letters that move like this."""
        if (letters, motion) not in self._stores:
            self._stores[letters, motion] = Expressions(letters, motion)
        return self._stores[letters, motion]


class _Within(dict[str, int]):
    """For each node, the letters on the paths that end there, its own included."""

    def __init__(self, wiring: Wiring, letters: Sequence[int]) -> None:
        super().__init__()
        self._above: Mapping[str, int] = wiring.above
        self._letters: list[tuple[int, int]] = [(1 << n, cell) for n, cell in enumerate(letters)]

    def __missing__(self, node: str) -> int:
        above, mask = self._above[node], 0
        for bit, cell in self._letters:
            if above & cell:
                mask |= bit
        self[node] = mask
        return mask


class _Places(dict[str, Place]):
    """Each symbol with its letter, and the letters that a path can have before it."""

    def __init__(self, wiring: Wiring, letters: Sequence[int], within: _Within) -> None:
        super().__init__()
        self._wiring, self._letters, self._within = wiring, letters, within

    def __missing__(self, symbol: str) -> Place:
        bit, upstream = self._wiring.bits[symbol], 0
        for read in self._wiring.reads[symbol]:
            upstream |= self._within[read]
        letter = 0
        while not self._letters[letter] & bit:
            letter += 1
        self[symbol] = place = Place(letter, upstream)
        return place


def _check_names(path_set: PathSet, named: Mapping[str, int], dag: Dag) -> None:
    text = str(path_set)
    for token in tokens(text):
        if token.kind != "name":
            continue
        (atom,) = names_in(paths(token.text).pattern)
        if not named[atom]:
            place = point(text, token.column, len(token.text))
            hint = near(atom, _known(dag))
            raise UnknownName(f"the graph has no {atom}\n{place}\n{hint}")


def _known(dag: Dag) -> dict[str, None]:
    """All names that a pattern may use, without repetition."""
    spelt = [name for s in dag.symbols for name in (s, *dag.spellings.get(s, ()))]
    return dict.fromkeys(start for name in spelt for start in _starts(name))


def _starts(name: str) -> list[str]:
    """The name cut behind each of its segments."""
    segments = name.split(".")
    return [".".join(segments[:n]) for n in range(1, len(segments) + 1)]


@dataclass(frozen=True)
class _Reader:
    """Patterns to expressions, reversed."""

    to: Expressions
    masks: Mapping[str, int]
    hops: int
    whole: Callable[[str], bool]

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
            case Name():
                return self.name(pattern)
            case Within(body, low, high):
                return self.to.window(self.walk(body), low, high)
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

    def name(self, name: Name) -> int:
        """A position behind a port is where it reads, any other is where the node writes."""
        mask, here, there = self.masks[name.atom], name.at, name.port_at
        if not (here or there):
            return self.to.leaf(mask)
        if not name.port and self.whole(name.atom):
            here, there = "", here
        still = mask & ~self.hops
        rows = [self.to.placed(still, place) for place in (here, there) if place]
        same = rows[0] if len(set(rows)) == 1 else self.to.both(*rows)
        return self.to.either(self.to.placed(mask & self.hops, here, there), same)
