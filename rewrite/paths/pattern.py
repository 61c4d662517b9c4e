"""Patterns as trees, and the text that each is written as.

`Name`, `Dots`, `Chain`, `Choice`, `Repeat` and `Maybe` spell stretches of a path; a tree of
these alone is a *walk*.  `Both`, `Minus` and `Not` are the algebra between whole patterns.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Name:
    """One node of the path, by any symbol that the atom `text` matches, at the position `at`.

    Of a port, spelt `.k` behind the position of its head, `port_at` is where it reads.
    """

    text: str
    at: str = ""
    port: str = ""
    port_at: str = ""

    @property
    def atom(self) -> str:
        """The name without positions.

        >>> Name("a9.h9", "END", "v", "IO").atom
        'a9.h9.v'
        """
        return f"{self.text}.{self.port}" if self.port else self.text


@dataclass(frozen=True, slots=True)
class Within:
    """`A[low:high]`: the stretches of A whose hops add up to one of low, ..., high - 1."""

    body: Pattern
    low: int | None
    high: int | None

    @property
    def window(self) -> str:
        """As it is written: one number, or a slice.

        >>> Within(Dots(), -3, 0).window, Within(Dots(), -1, 0).window
        ('[-3:0]', '[-1]')
        """
        if self.low is not None and self.high == self.low + 1:
            return f"[{self.low}]"
        low, high = ("" if end is None else end for end in (self.low, self.high))
        return f"[{low}:{high}]"


@dataclass(frozen=True, slots=True)
class Dots:
    """`...`: any number of nodes, also none."""


@dataclass(frozen=True, slots=True)
class Chain:
    """`A -> B`: A, then B directly behind it."""

    parts: tuple[Pattern, ...]


@dataclass(frozen=True, slots=True)
class Choice:
    """`A | B`: one of them; between whole patterns, the union."""

    parts: tuple[Pattern, ...]


@dataclass(frozen=True, slots=True)
class Repeat:
    """`(A)*`: A any number of times, also never."""

    body: Pattern


@dataclass(frozen=True, slots=True)
class Maybe:
    """`A?`: A or nothing."""

    body: Pattern


@dataclass(frozen=True, slots=True)
class Both:
    """`A & B`: the paths in every one of these sets."""

    parts: tuple[Pattern, ...]


@dataclass(frozen=True, slots=True)
class Minus:
    """`A - B`: the paths in A that are not in B."""

    left: Pattern
    right: Pattern


@dataclass(frozen=True, slots=True)
class Not:
    """`~A`: the paths that are not in A."""

    body: Pattern


Pattern = Name | Dots | Within | Chain | Choice | Repeat | Maybe | Both | Minus | Not


def joined(kind: type[Chain | Choice | Both], parts: Iterable[Pattern]) -> Pattern:
    """The parts under one node of this kind; inner nodes of the same kind are opened.

    >>> joined(Chain, [Name("a"), Chain((Name("b"), Name("c")))]) == joined(
    ...     Chain, [Name("a"), Name("b"), Name("c")])
    True
    """
    flat: list[Pattern] = []
    for part in parts:
        flat.extend(part.parts if isinstance(part, kind) else (part,))
    return flat[0] if len(flat) == 1 else kind(tuple(flat))


def complement(pattern: Pattern) -> Pattern:
    """`~A`, where `~~A` is `A`.

    >>> complement(complement(Dots()))
    Dots()
    """
    return pattern.body if isinstance(pattern, Not) else Not(pattern)


def names_in(pattern: Pattern) -> Iterator[str]:
    """The atoms of a pattern, in reading order, with repetitions.

    >>> list(names_in(Minus(Name("a5"), Repeat(Name("m5")))))
    ['a5', 'm5']
    """
    return (part.atom for part in walk(pattern) if isinstance(part, Name))


def places_in(pattern: Pattern) -> Iterator[str]:
    """The positions of a pattern, in reading order, with repetitions.

    >>> list(places_in(Chain((Name("tokens", "S2"), Name("a5.h3", "", "k", "[0]")))))
    ['S2', '[0]']
    """
    names = (part for part in walk(pattern) if isinstance(part, Name))
    return (place for name in names for place in (name.at, name.port_at) if place)


def walk(pattern: Pattern) -> Iterator[Pattern]:
    """A pattern and all patterns in it, in reading order.

    >>> [type(part).__name__ for part in walk(Minus(Name("a5"), Dots()))]
    ['Minus', 'Name', 'Dots']
    """
    yield pattern
    match pattern:
        case Name() | Dots():
            inner: tuple[Pattern, ...] = ()
        case Chain(parts) | Choice(parts) | Both(parts):
            inner = parts
        case Minus(left, right):
            inner = (left, right)
        case Repeat(body) | Maybe(body) | Not(body) | Within(body):
            inner = (body,)
    for part in inner:
        yield from walk(part)


def is_walk(pattern: Pattern) -> bool:
    """Whether the pattern spells a stretch of a path, free of `&`, `-` and `~`.

    >>> is_walk(Choice((Name("a5"), Dots()))), is_walk(Not(Name("a5")))
    (True, False)
    """
    match pattern:
        case Name() | Dots():
            return True
        case Chain(parts) | Choice(parts):
            return all(map(is_walk, parts))
        case Repeat(body) | Maybe(body) | Within(body):
            return is_walk(body)
        case Both() | Minus() | Not():
            return False


# How tightly each kind of tree binds; what binds less than its place allows gets parentheses.
UNION, MEET, CHAIN, ITEM = range(4)


def spell(pattern: Pattern, place: int = UNION) -> str:
    """The text of a pattern, with only the parentheses that it needs.

    >>> spell(Minus(Choice((Name("a5"), Name("m5"))), Not(Chain((Dots(), Maybe(Name("a7")))))))
    '(a5 | m5) - ~(... -> a7?)'
    """
    text, binds = _spelt(pattern)
    return text if binds >= place else f"({text})"


def _spelt(pattern: Pattern) -> tuple[str, int]:
    match pattern:
        case Name():
            return _name(pattern), ITEM
        case Dots():
            return "...", ITEM
        case Within(Name() | Dots() as body):
            return f"{spell(body)}{pattern.window}", ITEM
        case Within(body):
            return f"({spell(body)}){pattern.window}", ITEM
        case Repeat(body):
            return f"({spell(body)})*", ITEM
        case Maybe(Name() as name):
            return f"{_name(name)}?", ITEM
        case Maybe(body):
            return f"({spell(body)})?", ITEM
        case Chain(parts):
            return " -> ".join(spell(part, ITEM) for part in parts), CHAIN
        case Choice(parts):
            return " | ".join(spell(part, MEET) for part in parts), UNION
        case Both(parts):
            others = (spell(part, CHAIN) for part in parts[1:])
            return " & ".join((spell(parts[0], MEET), *others)), MEET
        case Minus(left, right):
            return f"{spell(left, MEET)} - {spell(right, CHAIN)}", MEET
        case Not(Name() as name):
            return f"~{_name(name)}", CHAIN
        case Not(body):
            return f"~({spell(body)})", CHAIN


def _name(name: Name) -> str:
    text = name.text + (f"@{name.at}" if name.at else "")
    port = f".{name.port}" if name.port else ""
    return text + port + (f"@{name.port_at}" if name.port_at else "")
