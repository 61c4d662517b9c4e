"""Sums of products of sizes, as plain dicts: fast to add, and comparable term by term."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

from sympy import Add, Expr, Integer, Max, expand

Terms = Counter[Expr]  # product of sizes -> coefficient


@lru_cache(maxsize=4096)
def _terms(expression: Expr) -> tuple[tuple[Expr, int], ...]:
    found = expand(expression).as_coefficients_dict()
    return tuple((term, int(c) if c.is_Integer else c) for term, c in found.items() if c != 0)


def terms(expression: Expr) -> Terms:
    """A polynomial of sizes as its terms.

    >>> from sympy.abc import x, y
    >>> dict(terms(x * (2 + y)))
    {x: 2, x*y: 1}
    """
    return Counter(dict(_terms(expression)))


def total(of: Mapping[Expr, int]) -> Expr:
    """The terms as one expression."""
    return Add(*(term * count for term, count in of.items()))


def grow(into: Terms, by: Mapping[Expr, int], sign: int = 1) -> None:
    """Add terms in place; what cancels is dropped."""
    for term, count in by.items():
        into[term] += sign * count
        if not into[term]:
            del into[term]


class Largest:
    """The largest of many sums of sizes: a few candidates, none of which another one bounds.

    >>> from sympy.abc import x, y
    >>> Largest([terms(x + 2), terms(3 * x), terms(2 * x), terms(x * y)]).expression()
    Max(3*x, x*y)
    """

    def __init__(self, candidates: Iterable[Terms] = ()) -> None:
        self.candidates: list[Terms] = []
        for candidate in candidates:
            self.add(candidate)

    def add(self, candidate: Terms) -> None:
        """Take notice of one more sum."""
        if any(bounds(other, candidate) for other in self.candidates):
            return
        kept = [other for other in self.candidates if not bounds(candidate, other)]
        self.candidates = [*kept, candidate.copy()]

    def expression(self) -> Expr:
        """The largest as an expression."""
        sums = [total(candidate) for candidate in self.candidates] or [Integer(0)]
        # Comparing them symbolically is slow, and has been done.
        return sums[0] if len(sums) == 1 else Max(*sums, evaluate=False)


def bounds(larger: Terms, smaller: Terms) -> bool:
    """Whether one sum is at least another one at all sizes, by comparing coefficients.

    Sizes are at least 1, so what is missing of a term may be made up by a multiple of it.

    >>> from sympy.abc import x, y
    >>> bounds(terms(5 * x * y), terms(3 * x * y + 2 * x)), bounds(terms(9 * x), terms(y))
    (True, False)
    """
    spare: dict[Expr, int] = {}
    missing: dict[Expr, int] = {}
    for term in {*larger, *smaller}:
        difference = larger[term] - smaller[term]
        if difference:
            (spare if difference > 0 else missing)[term] = abs(difference)
    if not missing:
        return True
    for term, count in missing.items():
        for other in spare:
            if count and spare[other] and _divides(term, other):
                used = min(count, spare[other])
                spare[other] -= used
                count -= used
        if count:
            return False
    return True


@lru_cache(maxsize=65536)
def _divides(term: Expr, other: Expr) -> bool:
    quotient: Any = other / term
    return all(power.is_Integer and power > 0
               for base, power in quotient.as_powers_dict().items() if base != 1)
