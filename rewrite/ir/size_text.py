"""Sizes and conditions on sizes, read from text: arithmetic and comparisons, and nothing else.

    2*seq + 1        x.shape[1] % 8 == 0        math.trunc(0.5 * x.shape[1]) <= 4

Nothing is executed: what a text may call is listed here.
"""

from __future__ import annotations

import ast
import functools
import math
import operator
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import sympy
from torch.utils._sympy import functions

Function = Callable[..., Any]
LONGEST, LARGEST_BITS = 20_000, 4096  # characters of a text, bits of a power that is computed
LARGEST_POWER = 64  # of a size that varies


def _power(base: Any, exponent: Any) -> Any:
    """A power that is no larger than what a size can need."""
    if all(isinstance(part, (int, sympy.Integer)) for part in (base, exponent)):
        base, exponent = int(base), int(exponent)
        if abs(exponent) * base.bit_length() > LARGEST_BITS:
            raise ValueError(f"{base} ** {exponent} is too large for a size")
    elif any(isinstance(part, sympy.Basic) for part in (base, exponent)):
        varies = bool(sympy.sympify(exponent).free_symbols)
        if (varies and (sympy.sympify(base).free_symbols or sympy.sympify(exponent).has(sympy.Pow))
                ) or (not varies and abs(exponent) > LARGEST_POWER):
            raise ValueError(f"{base} ** {exponent} is too large for a size")
    return base**exponent


def _shifted(value: Any, by: Any) -> Any:
    return value * _power(2, by)


def _chosen(condition: Any, yes: Any, no: Any) -> Any:
    return yes if condition else no


def _opaque(name: str) -> tuple[Function, Function]:
    return getattr(math, name), getattr(functions, f"OpaqueUnaryFn_{name}")


# Each on numbers, and on expressions in sizes that vary.  `/` of sizes is Python's.
OPERATORS: dict[type, tuple[Function, Function]] = {
    ast.Add: (operator.add, operator.add), ast.Sub: (operator.sub, operator.sub),
    ast.Mult: (operator.mul, operator.mul), ast.Div: (operator.truediv, operator.truediv),
    ast.Pow: (_power, _power), ast.USub: (operator.neg, operator.neg),
    ast.UAdd: (operator.pos, operator.pos), ast.Not: (operator.not_, sympy.Not),
    ast.FloorDiv: (operator.floordiv, functions.FloorDiv),
    ast.Mod: (operator.mod, functions.Mod),
    ast.BitAnd: (operator.and_, functions.BitwiseFn_bitwise_and),
    ast.BitOr: (operator.or_, functions.BitwiseFn_bitwise_or),
    ast.BitXor: (operator.xor, functions.BitwiseFn_bitwise_xor),
    ast.Eq: (operator.eq, sympy.Eq), ast.NotEq: (operator.ne, sympy.Ne),
    ast.Lt: (operator.lt, sympy.Lt), ast.LtE: (operator.le, sympy.Le),
    ast.Gt: (operator.gt, sympy.Gt), ast.GtE: (operator.ge, sympy.Ge),
}
_TRUNC, _FLOOR, _CEIL = ((getattr(math, name), getattr(functions, made)) for name, made in (
    ("trunc", "TruncToInt"), ("floor", "FloorToInt"), ("ceil", "CeilToInt")))
_ROUND = (round, lambda x, *digits: (
    functions.RoundDecimal(x, *digits) if digits else functions.RoundToInt(x)))
_FLOAT = (float, functions.ToFloat)
_DIVISION = (operator.floordiv, functions.FloorDiv)
CALLS: dict[str, tuple[Function, Function]] = {
    "max": (max, functions.Max), "Max": (max, functions.Max),
    "min": (min, functions.Min), "Min": (min, functions.Min),
    "abs": (abs, sympy.Abs), "Abs": (abs, sympy.Abs),
    "int": _TRUNC, "trunc": _TRUNC, "sym_int": _TRUNC, "TruncToInt": _TRUNC,
    "floor": _FLOOR, "FloorToInt": _FLOOR, "ceil": _CEIL, "ceiling": _CEIL, "CeilToInt": _CEIL,
    "TruncToFloat": (lambda x: float(math.trunc(x)), functions.TruncToFloat),
    "round": _ROUND, "RoundToInt": _ROUND, "RoundDecimal": _ROUND,
    "float": _FLOAT, "sym_float": _FLOAT, "ToFloat": _FLOAT,
    "FloorDiv": _DIVISION, "CleanDiv": _DIVISION,
    "CeilDiv": (lambda a, b: -(-a // b), functions.CeilDiv),
    "Mod": (operator.mod, functions.Mod), "PythonMod": (operator.mod, functions.PythonMod),
    "ModularIndexing": (lambda a, b, c: a // b % c, functions.ModularIndexing),
    "IntTrueDiv": (operator.truediv, functions.IntTrueDiv),
    "FloatTrueDiv": (operator.truediv, functions.FloatTrueDiv),
    "PowByNatural": (_power, functions.PowByNatural), "FloatPow": (_power, functions.FloatPow),
    "LShift": (_shifted, functions.LShift), "RShift": (operator.rshift, functions.RShift),
    "BitwiseFn_bitwise_and": OPERATORS[ast.BitAnd], "BitwiseFn_bitwise_or": OPERATORS[ast.BitOr],
    "BitwiseFn_bitwise_xor": OPERATORS[ast.BitXor],
    "Where": (_chosen, functions.Where), "Identity": (lambda x: x, functions.Identity),
    "Eq": OPERATORS[ast.Eq], "Ne": OPERATORS[ast.NotEq],
} | {
    spelling: _opaque(name)
    for name in ("sqrt", "cos", "cosh", "sin", "sinh", "tan", "tanh", "asin", "acos", "atan",
                 "exp", "log", "log2", "asinh")
    for spelling in (name, f"sym_{name}", f"_sym_{name}", f"OpaqueUnaryFn_{name}")
}
CONSTANTS = {"True": True, "False": False, "inf": math.inf, "nan": math.nan, "e": math.e,
             "pi": math.pi, "int_oo": math.inf, "oo": math.inf}
LETTERS = {"e", "pi"}  # by themselves they are names of sizes, `math.e` is the number
# A name and all that belongs to it: `seq`, `pair.0.seq`, `x.shape[1]`, `math.floor`.
_NAME = re.compile(r"(?<![\w.])[^\W\d]\w*(?:\.\w+)*(?:\[\d+\])?")
_WORDS = {"and", "or", "not"}


def read_size(text: str, names: Callable[[str], Any]) -> Any:
    """What a text spells: a size or a condition, with `names` for its variables.

    Numbers give a number, and expressions of sympy an expression.  Raises `ValueError` for what
    is neither, and for powers that no size needs.

    >>> read_size("2*seq + 1", {"seq": 5}.__getitem__)
    11
    >>> read_size("max(1, math.trunc(0.5 * x.shape[1])) < 3", {"x.shape[1]": 5}.__getitem__)
    True
    """
    tree, variables = _parsed(text)
    known = {key: names(name) for key, name in variables.items()}
    try:
        return _value(tree, known)
    except (TypeError, ArithmeticError, RecursionError) as error:
        raise ValueError(f"{text!r} cannot be computed: {error}") from error


def variables_of(text: str) -> tuple[str, ...]:
    """The names in a text, `x.shape[1]` among them.

    >>> variables_of("2*seq + max(1, x.shape[1])")
    ('seq', 'x.shape[1]')
    """
    return tuple(_parsed(text)[1].values())


def unmet(guards: Iterable[str], sizes: Mapping[str, tuple[int, ...]]) -> str | None:
    """The first condition that the sizes of the inputs violate.

    >>> unmet(("x.shape[1] > 1",), {"x": (2, 1)})
    'x.shape[1] > 1'
    """
    def size(name: str) -> int:
        place = re.fullmatch(r"(.+)\.shape\[(\d+)\]", name)
        known = sizes.get(place[1], ()) if place else ()
        if place is None or len(place[2]) > 3 or int(place[2]) >= len(known):
            raise ValueError(f"{name!r} is no size of an input")
        return known[int(place[2])]

    return next((guard for guard in guards if not read_size(guard, size)), None)


@functools.lru_cache(4096)
def _parsed(text: str) -> tuple[ast.expr, dict[str, str]]:
    """The tree of a text, and the names that its variables stand for."""
    found: dict[str, str] = {}

    def variable(match: re.Match[str]) -> str:
        name = match[0]
        called = text[match.end() :].lstrip().startswith("(")
        plain = name.removeprefix("math.").removeprefix("torch.")
        constant = plain in CONSTANTS and name not in LETTERS
        if name in _WORDS or called or constant:
            return plain
        key = next((k for k, n in found.items() if n == name), f"_{len(found)}")
        found[key] = name
        return key

    if len(text) > LONGEST:
        raise ValueError(f"{text[:40]!r}... is too long for a size")
    try:
        return ast.parse(_NAME.sub(variable, text.strip()), mode="eval").body, found
    except (SyntaxError, RecursionError, MemoryError) as error:
        raise ValueError(f"{text!r} is not a size") from error


def _value(node: ast.AST, known: Mapping[str, Any]) -> Any:
    match node:
        case ast.Constant(value=int() | float() as number):
            return number
        case ast.Name(id=name) if name in known or name in CONSTANTS:
            return known[name] if name in known else CONSTANTS[name]
        case ast.BinOp(left=left, op=sign, right=right) if type(sign) in OPERATORS:
            return _applied(OPERATORS[type(sign)], _value(left, known), _value(right, known))
        case ast.UnaryOp(op=sign, operand=operand) if type(sign) in OPERATORS:
            return _applied(OPERATORS[type(sign)], _value(operand, known))
        case ast.BoolOp(op=sign, values=parts):
            found = [_value(part, known) for part in parts]
            every = isinstance(sign, ast.And)
            return _applied((lambda *x: all(x), sympy.And) if every else
                            (lambda *x: any(x), sympy.Or), *found)
        case ast.Compare(left=left, ops=signs, comparators=others) if all(
                type(sign) in OPERATORS for sign in signs):
            terms = [_value(term, known) for term in (left, *others)]
            pairs = zip(signs, terms, terms[1:], strict=False)
            found = [_applied(OPERATORS[type(sign)], a, b) for sign, a, b in pairs]
            return found[0] if len(found) == 1 else _applied((lambda *x: all(x), sympy.And), *found)
        case ast.Call(func=ast.Name(id=name), args=given, keywords=[]) if name in CALLS:
            return _applied(CALLS[name], *(_value(part, known) for part in given))
    raise ValueError(f"{ast.unparse(node)!r} is not a size")


def _applied(function: tuple[Function, Function], *operands: Any) -> Any:
    """On numbers or on expressions: one that is no number any more makes it the latter."""
    on_numbers, on_expressions = function
    varies = any(isinstance(operand, sympy.Basic) for operand in operands)
    return (on_expressions if varies else on_numbers)(*operands)
