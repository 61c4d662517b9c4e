"""Patterns as trees, and the text that each is written as.

`Name`, `Dots`, `Chain`, `Choice`, `Repeat` and `Maybe` spell stretches of a path; a tree of
these alone is a *walk*.  `Both`, `Minus` and `Not` are the algebra between whole patterns.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Name:
    """One node of the path, by any symbol that the atom `text` matches."""

    text: str


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


Pattern = Name | Dots | Chain | Choice | Repeat | Maybe | Both | Minus | Not


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
    match pattern:
        case Name(text):
            yield text
        case Dots():
            return
        case Chain(parts) | Choice(parts) | Both(parts):
            for part in parts:
                yield from names_in(part)
        case Minus(left, right):
            yield from names_in(left)
            yield from names_in(right)
        case Repeat(body) | Maybe(body) | Not(body):
            yield from names_in(body)


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
        case Repeat(body) | Maybe(body):
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
        case Name(text):
            return text, ITEM
        case Dots():
            return "...", ITEM
        case Repeat(body):
            return f"({spell(body)})*", ITEM
        case Maybe(Name(text)):
            return f"{text}?", ITEM
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
        case Not(Name(text)):
            return f"~{text}", CHAIN
        case Not(body):
            return f"~({spell(body)})", CHAIN
