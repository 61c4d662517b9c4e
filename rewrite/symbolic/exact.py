"""Floats as exact numbers."""

from __future__ import annotations

import math
from fractions import Fraction

Exact = int | Fraction


def simple(value: float) -> tuple[Exact, int]:
    """The simplest exact number that rounds to a float: `number * sqrt(root)`.

    0.1 is 1/10, 0.3333333333333333 is 1/3, 0.7071067811865476 is sqrt(2)/2; what is none of
    these is the decimal number that is printed.  Only so can a scale that is written as a
    float be equal to one that is computed (roots are allowed the rounding of one operation).

    >>> simple(0.1), simple(1 / 3), simple(0.5 ** 0.5)
    ((Fraction(1, 10), 1), (Fraction(1, 3), 1), (Fraction(1, 2), 2))
    """
    decimal = Fraction(repr(value))
    if decimal.denominator == 1 or len(repr(value)) <= 10:
        return whole(decimal), 1
    near = decimal.limit_denominator(1000)
    if float(near) == value:
        return near, 1
    square = Fraction(value * value).limit_denominator(4096)
    for root in (square.numerator * square.denominator,) if square else ():
        number = Fraction(1, square.denominator)
        found = float(number) * math.sqrt(root)
        if root <= 4096 and math.isclose(found, abs(value), rel_tol=4e-16):
            outer, inner = primes(Fraction(root))
            return whole(number * outer * (1 if value > 0 else -1)), math.prod(inner)
    return decimal, 1


def whole(value: Fraction) -> Exact:
    """An integer as an integer."""
    return value.numerator if value.denominator == 1 else value


def primes(square: Fraction) -> tuple[Fraction, list[int]]:
    """The root of a positive number as a number times roots of different primes.

    >>> primes(Fraction(12))
    (Fraction(2, 1), [3])
    """
    rest, outer, inner = square.numerator * square.denominator, 1, []
    if math.isqrt(rest) ** 2 == rest:
        return Fraction(math.isqrt(rest), square.denominator), []
    prime = 2
    while prime * prime <= rest and prime < 10_000:
        while rest % (prime * prime) == 0:
            rest, outer = rest // (prime * prime), outer * prime
        if rest % prime == 0:
            rest, inner = rest // prime, [*inner, prime]
        prime += 1
    if math.isqrt(rest) ** 2 == rest:
        rest, outer = 1, outer * math.isqrt(rest)
    return Fraction(outer, square.denominator), [*inner, rest] if rest > 1 else inner
