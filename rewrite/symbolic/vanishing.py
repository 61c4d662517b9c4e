"""Whether a sum of terms is zero, by exact arithmetic with polynomials.

The sum is a polynomial whose variables are terms.  The variable that was made last is replaced
by what it is made of, again and again; what both sides share cancels before it is looked into.
A variable with negative exponents is multiplied through before it is replaced (it is no zero
where the expression is defined), and sqrt(v)^2 = v.  What is left at the end is a polynomial in
symbols and in functions that are not interpreted: it is zero if and only if it has no terms.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rewrite.symbolic.exact import Exact
    from rewrite.symbolic.table import Term

Monomial = tuple[tuple["Term", int], ...]  # sorted by id, newest first; exponents are not zero
Polynomial = dict[Monomial, "Exact"]


class TooLarge(Exception):
    """A polynomial has more monomials than it may have."""


def vanishes(parts: Iterable[tuple[Term, Exact]], limit: int) -> bool | None:
    """True if the sum of terms with coefficients is zero, False if it is a polynomial that is
    not, None if it has more than `limit` monomials on the way.

    False is no proof of the contrary where functions obey laws that are not used here.
    """
    p: Polynomial = {}
    for term, factor in parts:
        if term.kind == "infinity":
            return None
        _put(p, _monomial({term: 1}), factor)
    try:
        left = _leaves(p, limit)
        return not left or not _leaves(_split_exponentials(left, limit), limit)
    except TooLarge:
        return None


def _leaves(p: Polynomial, limit: int, through: bool = True) -> Polynomial:
    """The polynomial in terms of leaves; {} if it is zero.

    `through`: it is multiplied by what has negative exponents; else that is a leaf.
    """
    done: set[Term] = set()
    while p:
        newest = max((t for m in p for t, _ in m if t not in done),
                     key=lambda t: t.id, default=None)
        if newest is None:
            return p
        below = newest.kind == "sum" and any(e < 0 for m in p for t, e in m if t is newest)
        if not below or through:
            p = _replaced(p, newest, limit)
        if newest.kind in ("symbol", "call") or (below and not through):
            done.add(newest)
    return p


def _replaced(p: Polynomial, v: Term, limit: int) -> Polynomial:
    if v.kind == "symbol" or (v.kind == "call" and v.name != "sqrt"):
        return p
    powers = {dict(m).get(v, 0) for m in p}
    lift = -min(powers) if v.kind == "sum" and min(powers) < 0 else 0
    values = {power: _power(v, power + lift, limit) for power in powers}
    result: Polynomial = {}
    for monomial, factor in p.items():
        held = dict(monomial)
        value = values[held.pop(v, 0)]
        _add_product(result, {_monomial(held): factor}, value, limit)
    return result


def _power(v: Term, power: int, limit: int) -> Polynomial:
    """What `v` is made of, to a power that is not negative for sums."""
    if power == 0:
        return {(): 1}
    if v.kind == "number":
        return {(): Fraction(v.number) ** power}
    if v.kind == "product":
        return {_monomial({t: int(e) * power for t, e in v.parts}): 1}
    if v.kind == "call":  # sqrt(u)^5 = u^2 sqrt(u)
        inside = v.parts[0][0]
        return {_monomial({inside: power // 2, v: power % 2}): 1}
    once: Polynomial = {}
    for term, factor in v.parts:
        if term.kind == "number":
            _put(once, (), factor * term.number)
        else:
            _put(once, _monomial({term: 1}), factor)
    result = once
    for _ in range(power - 1):
        result, before = {}, result
        _add_product(result, before, once, limit)
    return result


def _split_exponentials(p: Polynomial, limit: int) -> Polynomial:
    """exp(2 x y + z / 3) = exp(x y)^2 exp(z / 3), for all exponentials in a polynomial."""
    found = {t for m in p for t, _ in m if t.kind == "call" and t.name == "exp"}
    inside = {t: _leaves({_monomial({t.parts[0][0]: 1}): 1}, limit, through=False) for t in found}
    parts: dict[Monomial, int] = {}  # into how many equal parts a monomial is cut
    for monomial, factor in (item for q in inside.values() for item in q.items()):
        parts[monomial] = math.lcm(parts.get(monomial, 1), factor.denominator)
    units: dict[Monomial, Any] = {m: _Unit(-1 - i) for i, m in enumerate(parts)}
    result: Polynomial = {}
    for monomial, factor in p.items():
        powers: dict[Any, int] = {}
        for term, power in monomial:
            split = {units[m]: int(c * parts[m]) for m, c in inside[term].items()
                     } if term in found else {term: 1}
            for unit, e in split.items():
                powers[unit] = powers.get(unit, 0) + e * power
        _put(result, _monomial(powers), factor)
    return result


@dataclass(frozen=True)
class _Unit:
    """Stands for the exponential of a monomial; older than every term."""

    id: int
    kind: str = "symbol"


def _monomial(powers: dict[Any, int]) -> Monomial:
    return tuple(sorted(((t, e) for t, e in powers.items() if e), key=lambda part: -part[0].id))


def _put(p: Polynomial, monomial: Monomial, factor: Exact) -> None:
    total = p.get(monomial, 0) + factor
    if total:
        p[monomial] = total
    else:
        p.pop(monomial, None)


def _add_product(result: Polynomial, a: Polynomial, b: Polynomial, limit: int) -> None:
    for m, c in a.items():
        for n, d in b.items():
            powers = dict(m)
            for term, power in n:
                powers[term] = powers.get(term, 0) + power
            _put(result, _monomial(powers), c * d)
        if len(result) > limit:
            raise TooLarge
