"""Terms of regular expressions over letters 0, 1, ...; other terms in them are numbers.

The store that numbers them is in `rewrite.paths.expressions`.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Leaf:
    """One letter out of a set, given as a bit mask.  The mask 0 is the empty language."""

    mask: int


@dataclass(frozen=True, slots=True)
class Empty:
    """The empty word."""


@dataclass(frozen=True, slots=True)
class Cat:
    """One expression, then another.  The first is itself no `Cat`."""

    first: int
    then: int


@dataclass(frozen=True, slots=True)
class Star:
    """Any number of words of an expression."""

    body: int


@dataclass(frozen=True, slots=True)
class Either:
    """A union: no member is a union, and at most one is a `Leaf`."""

    members: frozenset[int]


@dataclass(frozen=True, slots=True)
class Other:
    """Every word that the expression does not have."""

    body: int


@dataclass(frozen=True, slots=True)
class Placed:
    """One letter out of a set, that writes at the place `here` and reads at the place `there`.

    An empty place is any place.
    """

    mask: int
    here: str
    there: str


@dataclass(frozen=True, slots=True)
class Window:
    """The words of an expression whose hops add up to a number in [low, high)."""

    body: int
    low: int | None
    high: int | None


Term = Leaf | Empty | Cat | Star | Either | Other | Placed | Window
