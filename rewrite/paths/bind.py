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

from rewrite.errors import PathError, UnknownName, near
from rewrite.ir.dag import Dag
from rewrite.paths.caret import point
from rewrite.paths.expressions import Expressions, Motion, Unfollowed
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
    walk,
)
from rewrite.paths.tree import Tree, leaves
from rewrite.paths.wiring import Letters, Placing, Wiring, starts
from rewrite.turn import alone


@alone
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
    letters: Letters = field(repr=False)
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
            return self.expressions.step(state, *self.letters.place(symbol))
        except Unfollowed as stop:
            raise PathError(_unfollowed(symbol, stop.again)) from None

    def enter(self, state: int, node: str) -> int:
        """The same state on arrival at a node: what no path that ends there has is forgotten.

        It changes no answer, and helps at sums, whose terms lie ever further upstream.
        Raises `KeyError` for a node that the graph lacks.
        """
        own, upstream = self.letters.arrival(node)
        return self.expressions.keep(self.expressions.begin(state, own), upstream)

    def accepts(self, state: int) -> bool:
        """Whether the path read so far, from its output back, is in the set."""
        return self.expressions.nullable(state)

    def __contains__(self, word: Sequence[str]) -> bool:
        state = self.start
        for symbol in reversed(word):
            letter, _ = self.letters.place(symbol)
            derived = self.expressions.derive(state, letter)
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


@alone
def bind_all(path_sets: Iterable[PathSet | str], dag: Dag) -> tuple[BoundSet, ...]:
    """Bind several path sets with the same letters and the same store of expressions.

    >>> from rewrite.ir.dag import Dag, Source
    >>> one, two = bind_all(["...", "tokens"], Dag((Source("tokens"),), ("tokens",)))
    >>> one.expressions is two.expressions
    True

    Raises what `bind` raises.
    """
    sets, wiring = [paths(path_set) for path_set in path_sets], Wiring.of(dag)
    parts = [part for each in sets for part in walk(each.pattern)]
    names = list(dict.fromkeys(part for part in parts if isinstance(part, Name)))
    if not all(wiring.named(name.atom) for name in names):
        for each in sets:
            _check_names(each, wiring)
    placings = {name: wiring.placings(name) for name in names}
    groups = dict.fromkeys(each.symbols for name in placings for each in placings[name])
    letters = Letters(wiring, groups, _moves(wiring, parts))
    expressions = wiring.expressions(letters)
    masks = {group: letters.mask(group) for group in groups}
    reader = _Reader(expressions, {name: [each._replace(symbols=masks[each.symbols])
                                          for each in found] for name, found in placings.items()})
    return tuple(BoundSet(dag, expressions, letters, reader.set(each.pattern)) for each in sets)


def _moves(wiring: Wiring, parts: Sequence[Pattern]) -> Motion:
    """Symbols that hop and symbols that blur positions, as far as some patterns ask."""
    if any(isinstance(part, Within) for part in parts):
        return Motion(wiring.hops & ~wiring.blurs, wiring.blurs, wiring.dag.motion.looks_ahead())
    if any(isinstance(part, Name) and (part.at or part.port_at) for part in parts):
        return Motion(wiring.hops)
    return Motion()


def _unfollowed(symbol: str, again: bool) -> str:
    if again:
        return (f"a window over several hops cannot be followed through {symbol}: this model "
                "also looks ahead, so hops back and forth may add up to anything\n"
                f"put the window on the port: {symbol}[-3:0]")
    return (f"a window cannot be followed through {symbol}, which mixes positions by other means "
            "than attention\nend the window before it, or leave it out")


def _check_names(path_set: PathSet, wiring: Wiring) -> None:
    text = str(path_set)
    for token in tokens(text):
        if token.kind != "name":
            continue
        (atom,) = names_in(paths(token.text).pattern)
        if not wiring.named(atom):
            place = point(text, token.column, len(token.text))
            hint = near(atom, _known(wiring.dag))
            raise UnknownName(f"the graph has no {atom}\n{place}\n{hint}")


def _known(dag: Dag) -> dict[str, None]:
    """All names that a pattern may use, without repetition."""
    spelt = [name for s in dag.symbols for name in (s, *dag.spellings.get(s, ()))]
    return dict.fromkeys(start for name in spelt for start in starts(name))


@dataclass(frozen=True)
class _Reader:
    """Patterns to expressions, reversed."""

    to: Expressions
    placings: Mapping[Name, Sequence[Placing]]  # with letters in place of symbols

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
        """Its symbols, each at its places."""
        return self.to.either(*(
            self.to.both(*(self.to.placed(letters, place, there) for place in here or ("",)))
            for letters, here, there in self.placings[name]))
