"""Terms as sympy expressions."""

from __future__ import annotations

import sympy

from rewrite.symbolic.exact import Exact
from rewrite.symbolic.table import Term

KNOWN = {"exp": sympy.exp, "sqrt": sympy.sqrt, "tanh": sympy.tanh, "sin": sympy.sin,
         "cos": sympy.cos, "log": sympy.log, "erf": sympy.erf, "abs": sympy.Abs,
         "max": sympy.Max, "min": sympy.Min}
ELLIPSIS = sympy.Symbol("...")


def expression(term: Term, depth: int | None = None) -> sympy.Expr:
    """The term as sympy writes it; what lies deeper than `depth` is written as `...`."""
    known: dict[tuple[Term, int], sympy.Expr] = {}

    def of(t: Term, left: int) -> sympy.Expr:
        if (t, left) not in known:
            known[t, left] = _write(t, left)
        return known[t, left]

    def _write(t: Term, left: int) -> sympy.Expr:
        if t.kind == "number":
            return _rational(t.number)
        if t.kind == "infinity":
            return sympy.oo * int(t.number)
        if t.kind == "symbol":
            return sympy.Symbol(t.name)
        if left == 0:
            return ELLIPSIS
        parts = [(of(part, left - 1), n) for part, n in t.parts]
        if t.kind == "sum":
            return sympy.Add(*(part * _rational(n) for part, n in parts))
        if t.kind == "product":
            return sympy.Mul(*(part ** _rational(n) for part, n in parts))
        function = KNOWN.get(t.name) or sympy.Function(t.name)
        return function(*(part for part, _ in parts))

    return of(term, -1 if depth is None else depth)


def shortened(term: Term, width: int = 72) -> str:
    """The outer levels of a term, on one short line."""
    for depth in (6, 4, 3, 2):
        text = str(expression(term, depth))
        if len(text) <= width:
            return text
    return f"{text[: width - 3]}..."


def _rational(value: Exact) -> sympy.Expr:
    return sympy.Rational(value.numerator, value.denominator)
