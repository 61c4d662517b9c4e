"""Regular expressions over letters 0, 1, ..., each kept once, and their derivatives.

The derivative of a language L by a letter c is `{ w : cw in L }`.  Of a regular expression
it is again one, and only finitely many come about when unions are kept as sets (Brzozowski,
"Derivatives of Regular Expressions", 1964): they are the states of a deterministic automaton.
Intersection is written with union and complement.

Words may have positions: each letter is read at a place, and some letters (keys and values of
attention) hop from one position to another.  A derivative then is a tree of expressions, whose
tests say where and how far the letter goes (`rewrite.paths.tree`).  A window on an expression
moves along with the hops that have been made, so that it too has finitely many derivatives.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import reduce

from rewrite.paths.terms import Cat, Either, Empty, Leaf, Other, Placed, Star, Term, Window
from rewrite.paths.tree import HERE, THERE, Condition, Tree, combine, hop, leaves, split


class Unfollowed(Exception):
    """A window cannot be followed through a letter: `letter`, and whether it may hop again."""

    def __init__(self, letter: int, again: bool) -> None:
        super().__init__(letter, again)
        self.letter: int = letter
        self.again: bool = again


@dataclass(frozen=True, slots=True)
class Motion:
    """What letters do to positions: `hops` may change it, `blurs` mix them beyond telling.

    If no letter looks `ahead`, hops are never positive.
    """

    hops: int = 0
    blurs: int = 0
    ahead: bool = False


class Expressions:
    """A store of expressions: equal terms have equal numbers, so `==` is on integers.

    Each constructor gives the number of a simplified term; its equations stand beside it.

    >>> e = Expressions(letters=2)
    >>> ab = e.cat(e.leaf(0b01), e.leaf(0b10))
    >>> e.nullable(e.derive(e.derive(ab, 0), 1))
    True
    """

    def __init__(self, letters: int, motion: Motion | None = None) -> None:
        self._any: int = (1 << letters) - 1
        self._motion: Motion = motion or Motion()
        self._terms: list[Term] = []
        self._nullable: list[bool] = []
        self._numbers: dict[Term, int] = {}
        self._derived: dict[tuple[int, int, int], Tree] = {}
        self._letters: dict[int, int] = {}
        self._kept: dict[tuple[int, int], int] = {}
        self._begun: dict[tuple[int, int], int] = {}
        self.tables: dict[object, object] = {}
        """What automata over these expressions remember."""
        self.none: int = self._number(Leaf(0), False)
        self.empty: int = self._number(Empty(), True)
        self.every: int = self._number(Other(self.none), True)

    def _number(self, term: Term, nullable: bool) -> int:
        number = self._numbers.setdefault(term, len(self._terms))
        if number == len(self._terms):
            self._terms.append(term)
            self._nullable.append(nullable)
        return number

    def __len__(self) -> int:
        """How much is kept: expressions, and their derivatives."""
        return len(self._terms) + len(self._derived)

    def nullable(self, number: int) -> bool:
        """Whether the language has the empty word."""
        return self._nullable[number]

    def leaf(self, mask: int) -> int:
        """One of the letters whose bits are set in `mask`."""
        return self._number(Leaf(mask), False)

    def cat(self, *parts: int) -> int:
        """One part after another."""
        return reduce(lambda then, first: self._cat(first, then), reversed(parts), self.empty)

    def _cat(self, first: int, then: int) -> int:
        if self.none in (first, then):  # none A = A none = none
            return self.none
        if then == self.empty:  # A empty = A
            return first
        if self.nullable(first) and self._starts_with_every(then):
            return then  # A every B = every B, when A has the empty word
        if first == self.every and self.nullable(then):
            return first  # every A = every, when A has the empty word
        match self._terms[first]:
            case Empty():  # empty A = A
                return then
            case Cat(head, tail):  # (A B) C = A (B C)
                return self._cat(head, self._cat(tail, then))
            case Either(members):  # (A | B) C = A C | B C
                return self.either(*(self._cat(member, then) for member in members))
            case _:
                nullable = self.nullable(first) and self.nullable(then)
                return self._number(Cat(first, then), nullable)

    def star(self, body: int) -> int:
        """Any number of words of `body`."""
        match self._terms[body]:
            case Leaf(0) | Empty():  # none* = empty* = empty
                return self.empty
            case Leaf(self._any):  # any* = every
                return self.every
            case Star():  # A** = A*
                return body
            case _ if body == self.every:  # every* = every
                return body
            case _:
                return self._number(Star(body), True)

    def other(self, body: int) -> int:
        """The complement of `body`."""
        match self._terms[body]:
            case Other(inner):  # ~~A = A
                return inner
            case _:
                return self._number(Other(body), not self.nullable(body))

    def both(self, *parts: int) -> int:
        """The intersection: A & B = ~(~A | ~B)."""
        return self.other(self.either(*map(self.other, parts)))

    def either(self, *parts: int) -> int:
        """The union.  It is a set: order and repetition of its parts do not matter."""
        members: set[int] = set()
        mask = 0
        for part in self._open(parts):  # (A | B) | C = A | B | C
            match self._terms[part]:
                case Leaf(letters):  # letter sets unite
                    mask |= letters
                case _:
                    members.add(part)
        if mask:
            members.add(self.leaf(mask))
        if self.empty in members and any(map(self.nullable, members - {self.empty})):
            members.discard(self.empty)  # A | empty = A, when A has the empty word
        members -= {part for part in members if self._ends_in(part, members)}
        if self._covers(members):
            return self.every
        if len(members) < 2:  # the union of nothing is none
            return next(iter(members), self.none)
        return self._number(Either(frozenset(members)), any(map(self.nullable, members)))

    def _open(self, parts: Iterable[int]) -> Iterator[int]:
        for part in parts:
            term = self._terms[part]
            yield from term.members if isinstance(term, Either) else (part,)

    def _covers(self, members: set[int]) -> bool:
        """A | ~A = every: whether a member is `every` or the complement of others."""
        bodies = (term.body for m in members if isinstance(term := self._terms[m], Other))
        return any(members.issuperset(self._open((body,))) or body == self.none for body in bodies)

    def _starts_with_every(self, number: int) -> bool:
        term = self._terms[number]
        return number == self.every or (isinstance(term, Cat) and term.first == self.every)

    def _ends_in(self, part: int, members: set[int]) -> bool:
        """A every B | every B = every B: whether another member has all that `part` has."""
        term = self._terms[part]
        while isinstance(term, Cat):
            if term.then in members and self._starts_with_every(term.then):
                return True
            term = self._terms[term.then]
        return False

    def placed(self, mask: int, here: str = "", there: str = "") -> int:
        """One of some letters, at these places; a letter that does not hop reads where it writes.

        >>> e = Expressions(letters=1)
        >>> e.placed(0b1) == e.leaf(0b1)
        True
        """
        if not mask or not (here or there):
            return self.leaf(mask)
        return self._number(Placed(mask, here, there), False)

    def window(
        self, body: int, low: int | None, high: int | None, letters: int | None = None
    ) -> int:
        """The words of `body`, over some letters, whose hops add up to one of [low, high).

        >>> e = Expressions(letters=2, motion=Motion(hops=0b10))
        >>> e.window(e.leaf(0b01), -3, 0) == e.none, e.window(e.every, -3, None) == e.every
        (True, False)
        """
        seen = self._any if letters is None else letters
        here = (low is None or low <= 0) and (high is None or high > 0)
        moves = self._motion.hops | self._motion.blurs
        if not self.letters(body) & seen & moves:  # no hop adds up to 0
            return body if here else self.none
        if not self._motion.ahead:
            if low is not None and low > 0:
                return self.none
            high = None if high is not None and high > 0 else high
        if low is None and high is None:
            return body
        return self._number(Window(body, low, high), here and self.nullable(body))

    def letters(self, number: int) -> int:
        """A mask that has all letters of all words of an expression."""
        if number not in self._letters:
            match self._terms[number]:
                case Empty():
                    found = 0
                case Leaf(mask) | Placed(mask):
                    found = mask
                case Cat(first, then):
                    found = self.letters(first) | self.letters(then)
                case Star(body) | Window(body):
                    found = self.letters(body)
                case Either(members):
                    found = reduce(lambda mask, each: mask | self.letters(each), members, 0)
                case Other():
                    found = self._any
            self._letters[number] = found
        return self._letters[number]

    def derive(self, number: int, letter: int, upstream: int | None = None) -> Tree:
        """What may follow `letter`: the derivative, remembered.

        It is an expression, or a tree of expressions where positions matter.  Letters that are
        not of the mask `upstream` never follow.
        """
        key = number, letter, self._any if upstream is None else upstream
        if key not in self._derived:
            self._derived[key] = self._derive(*key)
        return self._derived[key]

    def _derive(self, number: int, letter: int, upstream: int) -> Tree:
        match self._terms[number]:
            case Empty():
                return self.none
            case Leaf(mask):
                return self.empty if mask >> letter & 1 else self.none
            case Placed(mask, here, there):
                found: Tree = self.empty if mask >> letter & 1 else self.none
                for kind, place in ((THERE, there), (HERE, here)):
                    found = split(Condition(kind, 0, place), found, self.none) if place else found
                return found
            case Cat(first, then):
                rest = combine(lambda new: self._cat(new, then),
                               self.derive(first, letter, upstream))
                if not self.nullable(first):
                    return rest
                return combine(self.either, rest, self.derive(then, letter, upstream))
            case Star(body):
                return combine(lambda new: self._cat(new, number),
                               self.derive(body, letter, upstream))
            case Either(members):
                derived = (self.derive(member, letter, upstream) for member in sorted(members))
                return combine(self.either, *derived)
            case Other(body):
                return combine(self.other, self.derive(body, letter, upstream))
            case Window(body, low, high):
                rest = self.derive(body, letter, upstream)
                if rest == self.none:
                    return rest
                if self._motion.blurs >> letter & 1:
                    raise Unfollowed(letter, again=False)
                if not self._motion.hops >> letter & 1:
                    return combine(lambda new: self.window(new, low, high), rest)
                return self._after_hop(rest, letter, upstream, low, high)

    def _after_hop(
        self, rest: Tree, letter: int, upstream: int, low: int | None, high: int | None
    ) -> Tree:
        """Windows moved by the hop of a letter: one for each hop that makes a difference."""
        if self._motion.ahead:  # windows stay finite in number if this hop is the last
            rest = combine(lambda new: self.keep(new, upstream), rest)
            if any(self.letters(new) & upstream & self._motion.hops for new in leaves(rest)):
                raise Unfollowed(letter, again=True)
            inside: Tree = split(hop(low), True, False) if low is not None else True
            if high is not None:
                inside = combine(lambda beyond, near: near and not beyond,
                                 split(hop(high), True, False), inside)
            return combine(lambda passes, new: new if passes else self.none, inside, rest)
        bottom = low if low is not None else high  # further back it makes no difference
        assert bottom is not None
        offsets: Tree = bottom - 1
        for offset in range(bottom, 1):
            offsets = split(hop(offset), offset, offsets)
        return combine(lambda new, offset: self.window(
            new, None if low is None else low - offset,
            None if high is None else high - offset), rest, offsets)

    def keep(self, number: int, letters: int) -> int:
        """The same language for words over these letters, a bit mask: the others never come.

        It is smaller than the intersection, for what asks for another letter is dropped.

        >>> e = Expressions(letters=2)
        >>> e.keep(e.cat(e.leaf(0b01), e.leaf(0b10)), 0b01) == e.none
        True
        """
        key = number, letters
        if key not in self._kept:
            self._kept[key] = self._keep(number, letters)
        return self._kept[key]

    def _keep(self, number: int, letters: int) -> int:
        match self._terms[number]:
            case Empty():
                return number
            case Leaf(mask):
                return self.leaf(mask & letters)
            case Placed(mask, here, there):
                return self.placed(mask & letters, here, there)
            case Window(body, low, high):
                return self.window(self.keep(body, letters), low, high, letters)
            case Cat(first, then):
                return self._cat(self.keep(first, letters), self.keep(then, letters))
            case Star(body):
                return self.star(self.keep(body, letters))
            case Either(members):
                return self.either(*(self.keep(member, letters) for member in members))
            case Other(body):
                return self.other(self.keep(body, letters))

    def begin(self, number: int, letters: int) -> int:
        """The same language for words that begin with one of these letters, a bit mask.

        What only other words belong to is dropped.

        >>> e = Expressions(letters=2)
        >>> e.begin(e.cat(e.leaf(0b01), e.leaf(0b10)), 0b10) == e.none
        True
        """
        key = number, letters
        if key not in self._begun:
            self._begun[key] = self._begin(number, letters)
        return self._begun[key]

    def _begin(self, number: int, letters: int) -> int:
        match self._terms[number]:
            case Leaf(mask) | Placed(mask) if not mask & letters:
                return self.none
            case Cat(first, then) if not self.nullable(first):
                return self._cat(self.begin(first, letters), then)
            case Either(members):
                return self.either(*(self.begin(member, letters) for member in members))
            case Other(body):
                return self.other(self.begin(body, letters))
            case _:
                return number

    def step(self, number: int, letter: int, upstream: int) -> Tree:
        """What may follow `letter` when only the letters of the mask `upstream` come behind it."""
        derived = self.derive(number, letter, upstream)
        return combine(lambda rest: self.keep(rest, upstream), derived)

