"""Path sets: immutable values with an algebra, bound to no graph."""

from __future__ import annotations

from dataclasses import dataclass

from rewrite.paths.parse import parse
from rewrite.paths.pattern import Both, Choice, Dots, Minus, Pattern, complement, joined, spell


@dataclass(frozen=True, slots=True)
class PathSet:
    """A set of paths from sources to outputs, as a pattern says it.

    `|`, `&`, `-` and `~` are union, intersection, difference and complement; a string is
    understood on either side.  Two path sets are equal when they are written alike; which
    paths a set holds is a question to a graph (`bind`, `count_paths`).

    >>> (paths("a5.h3") | "m5") - "a9.h9.q -> logits"
    paths('(a5.h3 | m5) - a9.h9.q -> logits')

    The operators raise `PathError` when a string on the other side cannot be read.
    """

    pattern: Pattern

    @staticmethod
    def all() -> PathSet:
        """Every path.

        >>> PathSet.all()
        paths('...')
        """
        return PathSet(Dots())

    @staticmethod
    def none() -> PathSet:
        """No path.

        >>> PathSet.none()
        paths('~(...)')
        """
        return ~PathSet.all()

    def __or__(self, other: PathSet | str) -> PathSet:
        return PathSet(joined(Choice, (self.pattern, paths(other).pattern)))

    def __and__(self, other: PathSet | str) -> PathSet:
        return PathSet(joined(Both, (self.pattern, paths(other).pattern)))

    def __sub__(self, other: PathSet | str) -> PathSet:
        return PathSet(Minus(self.pattern, paths(other).pattern))

    def __ror__(self, other: str) -> PathSet:
        return paths(other) | self

    def __rand__(self, other: str) -> PathSet:
        return paths(other) & self

    def __rsub__(self, other: str) -> PathSet:
        return paths(other) - self

    def __invert__(self) -> PathSet:
        return PathSet(complement(self.pattern))

    def __str__(self) -> str:
        return spell(self.pattern)

    def __repr__(self) -> str:
        return f"paths({str(self)!r})"


def paths(text: PathSet | str) -> PathSet:
    """Read a path set; one that is read already is given back.

    A pattern names nodes from input to output.  It has `...` in front and behind, so that
    `a5.h3` means every path through that head.

    >>> paths("tokens -> ... -> a5.h3.{q,k} -> logits")
    paths('tokens -> ... -> a5.h3.{q,k} -> logits')

    Raises `PathError` that quotes the text and points at what cannot be read.
    """
    return text if isinstance(text, PathSet) else PathSet(parse(text))
