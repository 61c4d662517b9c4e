"""A table of expressions: sums, products and functions of symbols, each of them held once.

Every entry of a symbolic tensor is a `Term` of one table.  Terms are made of other terms and
are never multiplied out, so that a whole model fits.  Beside its parts a term knows its value
at a few random points.  Two terms with the same values are compared exactly (`vanishing`), and
become one term if they are equal; so equal entries stay equal in whatever is computed from
them, also inside functions that are not interpreted.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Literal

from rewrite.errors import ProofError
from rewrite.symbolic.exact import Exact, primes, simple
from rewrite.symbolic.vanishing import vanishes

POINTS = 4  # all symbols are positive at the first, so that roots exist, negative at the second
MERGE_LIMIT = 400  # monomials that a comparison may reach while terms are being made
Kind = Literal["number", "infinity", "symbol", "sum", "product", "call"]
Parts = tuple[tuple["Term", Exact], ...]


@dataclass(frozen=True, eq=False, repr=False)
class Term:
    """One expression.  Ids grow: the parts of a term have smaller ids than the term.

    `parts` are terms with coefficients in a sum, with integer exponents in a product, and with
    1 as arguments of a call.  `number` is the value of a number, the sign of an infinity.
    """

    id: int
    kind: Kind
    name: str
    parts: Parts = ()
    number: Exact = 0
    values: tuple[float, ...] = field(default=())

    def __repr__(self) -> str:
        from rewrite.symbolic.expression import shortened

        return shortened(self)


class Table:
    """Makes terms, and finds out which of them are equal."""

    def __init__(self) -> None:
        self.terms: list[Term] = []
        self._made: dict[Any, Term] = {}
        self._alike: dict[str, list[Term]] = {}  # by value at the first point
        self.zero, self.one = self.number(0), self.number(1)

    def number(self, value: Exact | float) -> Term:
        """An exact number, or an infinity; floats are read as `exact.simple` says."""
        if isinstance(value, float):
            if math.isnan(value):
                raise ProofError("a proof met nan, which is equal to nothing")
            if math.isinf(value):
                sign = 1 if value > 0 else -1
                return self._make(("oo", sign), "infinity", "oo", (), sign, (value,) * POINTS)
            return self._simple(value)
        value = value.numerator if value.denominator == 1 else value
        try:
            near = (float(value),) * POINTS
        except OverflowError:
            near = (math.nan,) * POINTS
        return self._make(("n", value), "number", str(value), (), value, near)

    def _simple(self, value: float) -> Term:
        number, root = simple(value)
        if root == 1:
            return self.number(number)
        return self.multiply([(self.number(number), 1), (self.root(self.number(root)), 1)])

    def symbol(self, name: str, place: tuple[int, ...] = ()) -> Term:
        """A free variable, an entry of what is called `name`; equal ones are one variable."""
        draw = random.Random(repr((name, place)))
        signs = (1, -1, *(draw.choice((-1, 1)) for _ in range(POINTS - 2)))
        values = tuple(sign * draw.randint(200, 1200) / 1000 for sign in signs)
        shown = "_".join(map(str, (name, *place)))
        return self._make(("s", name, place), "symbol", shown, (), 0, values)

    def add(self, parts: Iterable[tuple[Term, Exact]]) -> Term:
        """The sum of terms with coefficients."""
        found: dict[Term, Exact] = {}
        for term, factor in parts:
            if factor == 0:
                continue
            if term.kind == "sum" and len(term.parts) == 1:
                (term, inner), = term.parts
                factor = factor * inner
            elif term.kind == "number":
                term, factor = self.one, factor * term.number
            found[term] = found.get(term, 0) + factor
        kept = [(t, c) for t, c in found.items() if c != 0]
        signs = {t.number * (1 if c > 0 else -1) for t, c in kept if t.kind == "infinity"}
        if signs:
            if len(signs) > 1:
                raise ProofError("a proof met inf - inf, which is no number")
            return self.number(float(signs.pop()) * math.inf)
        if not kept:
            return self.zero
        if len(kept) == 1:
            (term, factor), = kept
            if term is self.one:
                return self.number(factor)
            if factor == 1:
                return term
        kept.sort(key=_by_id)
        values = tuple(_total([float(c) * t.values[i] for t, c in kept]) for i in range(POINTS))
        return self._make(("+", *_key(kept)), "sum", "+", tuple(kept), 0, values)

    def multiply(self, parts: Iterable[tuple[Term, int]]) -> Term:
        """The product of terms with integer exponents."""
        found: dict[Term, int] = {}
        factor: Exact = 1
        waiting = list(parts)
        while waiting:
            term, power = waiting.pop()
            if power == 0:
                continue
            if term.kind == "number":
                factor = factor * self._power(term.number, power)
            elif term.kind == "sum" and len(term.parts) == 1:
                (inner, scale), = term.parts
                factor = factor * self._power(scale, power)
                waiting.append((inner, power))
            elif term.kind == "product":
                waiting.extend((t, int(e) * power) for t, e in term.parts)
            elif term.kind == "call" and term.name == "sqrt" and term.parts[0][0].kind == "number":
                found[term] = found.get(term, 0) + power
                inside, whole = term.parts[0][0].number, found[term] // 2
                factor, found[term] = factor * Fraction(inside) ** whole, found[term] % 2
            else:
                found[term] = found.get(term, 0) + power
        kept = [(t, e) for t, e in found.items() if e != 0]
        if any(t.kind == "infinity" for t, _ in kept):
            return self._infinite(kept, factor)
        if factor == 0:
            return self.zero
        if not kept:
            return self.number(factor)
        return self.add([(self._product(kept), factor)])

    def _product(self, kept: list[tuple[Term, int]]) -> Term:
        if len(kept) == 1 and kept[0][1] == 1:
            return kept[0][0]
        kept.sort(key=_by_id)
        values = tuple(_raised([(t.values[i], e) for t, e in kept]) for i in range(POINTS))
        return self._make(("*", *_key(kept)), "product", "*", tuple(kept), 0, values)

    def _power(self, base: Exact, power: int) -> Exact:
        if base == 0 and power < 0:
            raise ProofError("a proof met a division by zero: a row that a mask hides completely, "
                             "or an operand that is zero")
        return Fraction(base) ** power if power < 0 else base ** power

    def _infinite(self, kept: list[tuple[Term, int]], factor: Exact) -> Term:
        (term, power), *others = kept
        if others or power != 1 or factor == 0:
            raise ProofError("a proof met an infinity times a symbolic entry or zero; use masks "
                             "of 0 and -inf that are added to scores")
        return self.number(math.copysign(math.inf, float(factor) * float(term.number)))

    def root(self, term: Term) -> Term:
        """The square root; of a number, in terms of square roots of primes."""
        if term.kind == "number":
            if term.number < 0:
                raise ProofError(f"a proof met the square root of {term.number}")
            outer, inner = primes(Fraction(term.number))
            roots = [(self._call("sqrt", (self.number(p),), _values(math.sqrt, p)), 1)
                     for p in inner]
            return self.multiply([(self.number(outer), 1), *roots])
        return self._call("sqrt", (term,), tuple(_safe(math.sqrt, v) for v in term.values))

    def exp(self, term: Term) -> Term:
        """The exponential function."""
        if term.kind == "infinity" and term.number < 0:
            return self.zero
        if term is self.zero:
            return self.one
        return self._call("exp", (term,), tuple(_safe(math.exp, v) for v in term.values))

    def call(self, name: str, terms: Sequence[Term], values: Sequence[float]) -> Term:
        """A function that is not interpreted; `values` is what it yields at the points.

        A function of zeros that yields whole numbers yields these numbers.
        """
        first = values[0]
        plain = all(t is self.zero or t.kind == "infinity" for t in terms)
        if plain and math.isfinite(first) and first == round(first):
            return self.number(round(first))
        if any(t.kind == "infinity" for t in terms):
            raise ProofError(f"a proof met {name} of an infinity")
        return self._call(name, tuple(terms), tuple(values))

    def _call(self, name: str, terms: tuple[Term, ...], values: tuple[float, ...]) -> Term:
        parts: Parts = tuple((t, 1) for t in terms)
        return self._make(("f", name, *(t.id for t in terms)), "call", name, parts, 0, values)

    def _make(
        self, key: Any, kind: Kind, name: str, parts: Parts, number: Exact,
        values: tuple[float, ...],
    ) -> Term:
        known = self._made.get(key)
        if known is None:
            made = Term(len(self.terms), kind, name, parts, number, values)
            known = self._made[key] = self._equal_to(made) or self._keep(made)
        return known

    def _keep(self, term: Term) -> Term:
        self.terms.append(term)
        if math.isfinite(term.values[0]):
            self._alike.setdefault(_rough(term), []).append(term)
        return term

    def _equal_to(self, term: Term) -> Term | None:
        """A term that was made before and is equal; nothing older holds a new leaf."""
        leaf = term.kind in ("number", "symbol") or (term.kind == "call" and term.name != "exp")
        if leaf or not math.isfinite(term.values[0]):
            return None
        alike = (t for t in self._alike.get(_rough(term), ()) if differs(t, term) is None)
        return next((t for t in alike if vanishes([(t, 1), (term, -1)], MERGE_LIMIT)), None)


def differs(a: Term, b: Term, rounding: float = 1e-9) -> int | None:
    """The first point at which two terms clearly have different values."""
    for i, (x, y) in enumerate(zip(a.values, b.values, strict=True)):
        if abs(x - y) > rounding * max(abs(x), abs(y), 1e-3):  # never so for nan
            return i
        if math.isinf(x) != math.isinf(y):
            return i
    return None


def _by_id(part: tuple[Term, Any]) -> int:
    return part[0].id


def _key(parts: Iterable[tuple[Term, Exact]]) -> Iterable[Any]:
    return ((t.id, c) for t, c in parts)


def _rough(term: Term) -> str:
    return f"{term.values[0]:.6e}" if abs(term.values[0]) > 1e-12 else "0"


def _total(values: list[float]) -> float:
    """The sum; zero where only rounding is left of it."""
    if not all(map(math.isfinite, values)):
        return math.nan
    total = math.fsum(values)
    return total if abs(total) > 1e-12 * max(map(abs, values)) else 0.0


def _raised(parts: list[tuple[float, int]]) -> float:
    try:
        return math.prod(value ** power for value, power in parts)
    except (ZeroDivisionError, OverflowError):
        return math.nan


def _safe(function: Callable[[float], float], value: float) -> float:
    try:
        return function(value)
    except (ValueError, OverflowError):
        return math.nan


def _values(function: Callable[[float], float], value: int) -> tuple[float, ...]:
    return (function(value),) * POINTS
