"""Terms are made once, equal ones are one term, and zero means zero to sympy."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import pytest
import sympy
from hypothesis import given, settings
from hypothesis import strategies as st

from rewrite.errors import ProofError
from rewrite.symbolic import Table, Term, expression
from rewrite.symbolic.exact import primes, simple
from rewrite.symbolic.vanishing import vanishes

often = settings(max_examples=150, derandomize=True, deadline=None)
LEAVES = st.one_of(st.sampled_from("xyz"), st.integers(-3, 3), st.fractions(-2, 2,
                                                                         max_denominator=4))


def grown(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(
        st.tuples(st.just("+"), inner, inner), st.tuples(st.just("*"), inner, inner),
        st.tuples(st.just("-"), inner, inner), st.tuples(st.just("/"), inner, inner),
        st.tuples(st.just("exp"), inner), st.tuples(st.just("square"), inner))


TREES = st.recursive(LEAVES, grown, max_leaves=7)


def term(tree: Any, table: Table) -> Term:
    if isinstance(tree, str):
        return table.symbol(tree)
    if not isinstance(tree, tuple):
        return table.number(tree)
    parts = [term(part, table) for part in tree[1:]]
    match tree[0]:
        case "+":
            return table.add([(p, 1) for p in parts])
        case "-":
            return table.add([(parts[0], 1), (parts[1], -1)])
        case "*":
            return table.multiply([(p, 1) for p in parts])
        case "/":
            return table.multiply([(parts[0], 1), (parts[1], -1)])
        case "square":
            return table.multiply([(parts[0], 2)])
    return table.exp(parts[0])


def sympied(tree: Any) -> Any:
    if isinstance(tree, str):
        return sympy.Symbol(tree)
    if not isinstance(tree, tuple):
        return sympy.Rational(tree.numerator, tree.denominator)
    parts = [sympied(part) for part in tree[1:]]
    match tree[0]:
        case "+":
            return parts[0] + parts[1]
        case "-":
            return parts[0] - parts[1]
        case "*":
            return parts[0] * parts[1]
        case "/":
            return parts[0] / parts[1]
        case "square":
            return parts[0] ** 2
    return sympy.exp(parts[0])


def is_zero(value: Any) -> bool:
    return sympy.simplify(sympy.powsimp(sympy.expand(value))) == 0


@often
@given(tree=TREES)
def test_terms_mean_what_sympy_says(tree: Any) -> None:
    try:
        made = term(tree, Table())
    except ProofError:
        return  # a division by zero
    assert is_zero(expression(made) - sympied(tree))


@often
@given(one=TREES, other=TREES)
def test_what_vanishes_is_zero(one: Any, other: Any) -> None:
    table = Table()
    try:
        parts = [(term(one, table), 1), (term(other, table), -1)]
    except ProofError:
        return
    if vanishes(parts, 10_000):
        assert is_zero(sympied(one) - sympied(other))


@often
@given(tree=TREES, factor=st.sampled_from(["x", ("+", "x", "y"), ("exp", "y")]))
def test_multiplied_out_is_the_same_term(tree: Any, factor: Any) -> None:
    table = Table()
    try:
        one = term(("*", factor, ("+", tree, "z")), table)
        other = term(("+", ("*", "z", factor), ("*", tree, factor)), table)
    except ProofError:
        return
    assert one is other or vanishes([(one, 1), (other, -1)], 10_000)


def test_equal_terms_are_one() -> None:
    table = Table()
    x, y = table.symbol("x"), table.symbol("y")
    product = table.multiply([(table.add([(x, 1), (y, 1)]), 1), (table.add([(x, 1), (y, -1)]), 1)])
    squares = table.add([(table.multiply([(x, 2)]), 1), (table.multiply([(y, 2)]), -1)])
    assert product is squares
    assert table.exp(product) is table.exp(squares)
    assert table.symbol("x") is x and table.add([(x, 1), (x, -1)]) is table.zero
    assert table.multiply([(x, 1), (x, -1)]) is table.one
    assert table.multiply([(table.exp(x), 1), (table.exp(table.add([(x, -1)])), 1)]) is table.one


def test_roots() -> None:
    table = Table()
    x = table.symbol("x")
    assert vanishes([(table.multiply([(table.root(x), 2)]), 1), (x, -1)], 10)
    eight = table.root(table.number(8))
    assert table.multiply([(eight, 2)]) is table.number(8)
    assert str(eight) == "2*sqrt(2)"
    with pytest.raises(ProofError, match="square root of -1"):
        table.root(table.number(-1))


def test_infinities() -> None:
    table = Table()
    x, low = table.symbol("x"), table.number(-math.inf)
    assert table.add([(x, 1), (low, 1)]) is low and table.exp(low) is table.zero
    assert table.multiply([(low, 1), (table.number(-2), 1)]) is table.number(math.inf)
    with pytest.raises(ProofError, match="inf - inf"):
        table.add([(low, 1), (table.number(math.inf), 1)])
    with pytest.raises(ProofError, match="infinity times a symbolic entry"):
        table.multiply([(low, 1), (x, 1)])
    with pytest.raises(ProofError, match="tanh of an infinity"):
        table.call("tanh", [low], [-0.5] * 4)
    with pytest.raises(ProofError, match="nan"):
        table.number(math.nan)


@pytest.mark.parametrize(("value", "number", "root"), [
    (0.1, Fraction(1, 10), 1), (3.0, 3, 1), (-1 / 3, Fraction(-1, 3), 1),
    (math.sqrt(2), 1, 2), (-1 / math.sqrt(64), Fraction(-1, 8), 1),
    (1 / math.sqrt(24), Fraction(1, 12), 6), (1e-05, Fraction(1, 100_000), 1),
    (0.044715, Fraction("0.044715"), 1), (0.7978845608028654, Fraction("0.7978845608028654"), 1),
    (1e-300, Fraction("1e-300"), 1),
])
def test_floats_are_read_as_simple_numbers(value: float, number: Any, root: int) -> None:
    assert simple(value) == (number, root)


@given(st.floats(allow_nan=False, allow_infinity=False))
@often
def test_a_number_rounds_to_the_float_that_is_read(value: float) -> None:
    number, root = simple(value)
    assert float(number) * math.sqrt(root) == pytest.approx(value, rel=1e-15, abs=0)


@given(st.fractions(min_value=0, max_value=10_000, max_denominator=50))
@often
def test_roots_of_primes(square: Fraction) -> None:
    if square:
        outer, inner = primes(square)
        assert outer ** 2 * math.prod(inner) == square
        assert len(set(inner)) == len(inner)


def test_terms_are_shown_short() -> None:
    table = Table()
    made = table.symbol("x")
    for _ in range(9):
        made = table.exp(table.add([(made, 1), (table.symbol("y"), 1)]))
    assert len(repr(made)) <= 72 and "..." in repr(made) and repr(table.number(2)) == "2"
