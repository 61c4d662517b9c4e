"""Terms: the small language in which rules and their examples are written.

    linear(a + b, W, c)      operators of ATen by name, + - * / @ ** and .mT
    total(*a, x, *b)         a star holds any number of operands
    [d], 0.5, None, True     lists and constants; anything else is a hole

A term is read once.  On the left of a rule it is a pattern; on the right, and in an example,
it is an instruction to build nodes.
"""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

from rewrite.errors import RuleError, near
from rewrite.ir.ops import take, total
from rewrite.ir.size_text import read_size

aten = torch.ops.aten

# Name -> the operators that it stands for; the first one is written, all are recognised.
OPERATORS: dict[str, tuple[Any, ...]] = {
    "add": (aten.add.Tensor,), "sub": (aten.sub.Tensor,), "mul": (aten.mul.Tensor,),
    "div": (aten.div.Tensor,), "neg": (aten.neg.default,), "pow": (aten.pow.Tensor_Scalar,),
    "matmul": (aten.matmul.default, aten.bmm.default, aten.mm.default),
    "linear": (aten.linear.default,), "addmm": (aten.addmm.default,),
    "attention": (aten.scaled_dot_product_attention.default,),
    "softmax": (aten.softmax.int,), "layer_norm": (aten.layer_norm.default,),
    "rms_norm": (aten.rms_norm.default,), "mean": (aten.mean.dim,),
    "sum": (aten.sum.dim_IntList,), "where": (aten.where.self,),
    "view": (aten.view.default, aten.reshape.default, aten._unsafe_view.default),
    "reshape": (aten.reshape.default, aten.view.default, aten._unsafe_view.default),
    "transpose": (aten.transpose.int,), "slice": (aten.slice.Tensor,),
    "squeeze": (aten.squeeze.dim,), "cast": (aten.to.dtype,),
    "masked_fill": (aten.masked_fill.Scalar,), "total": (total,), "take": (take,),
    "eq": (aten.eq.Scalar, aten.eq.Tensor), "ge": (aten.ge.Scalar, aten.ge.Tensor),
    "le": (aten.le.Scalar, aten.le.Tensor),
    "repeat_interleave": (aten.repeat_interleave.self_int,),
    "flatten": (aten.flatten.using_ints,), "unflatten": (aten.unflatten.int,),
    "select": (aten.select.int,), "unbind": (aten.unbind.int,), "movedim": (aten.movedim.int,),
    "index": (aten.index.Tensor,), "getitem": (operator.getitem,),
    "split": (aten.split.Tensor,), "expand": (aten.expand.default,),
    "multiply": (aten.multiply.Tensor, aten.multiply.Scalar),
    "divide": (aten.divide.Tensor, aten.divide.Scalar),
    "true_divide": (aten.true_divide.Tensor, aten.true_divide.Scalar),
    "subtract": (aten.subtract.Tensor, aten.subtract.Scalar),
    "rsub": (aten.rsub.Tensor, aten.rsub.Scalar), "lerp": (aten.lerp.Tensor,),
}
_SIGNS: dict[type, str] = {ast.Add: "add", ast.Sub: "sub", ast.Mult: "mul", ast.Div: "div",
                           ast.MatMult: "matmul", ast.Pow: "pow"}
COMMUTES = {"add", "mul"}
_CONSTANTS = {"inf": math.inf, "float32": torch.float32, "float64": torch.float64}


@dataclass(frozen=True)
class Hole:
    """Stands for one operand: a node, a number, a list."""

    name: str


@dataclass(frozen=True)
class Rest:
    """Stands for any number of operands in a row."""

    name: str


@dataclass(frozen=True)
class Literal:
    """A constant."""

    value: Any


@dataclass(frozen=True)
class Listed:
    """A list of terms."""

    items: tuple[Term, ...]


@dataclass(frozen=True)
class Call:
    """An operator and its operands."""

    name: str
    operands: tuple[Term, ...]


Term = Hole | Rest | Literal | Listed | Call


@cache
def operators(name: str) -> tuple[Any, ...]:
    """The operators that a name stands for, the one to write first; empty if there is none.

    >>> operators("gelu")
    (<OpOverload(op='aten.gelu', overload='default')>,)
    """
    if name in OPERATORS:
        return OPERATORS[name]
    packet = getattr(aten, name, None)
    return (packet.default,) if packet is not None and "default" in packet.overloads() else ()


@cache
def read(text: str) -> Term:
    """The term that a text describes; raises `RuleError` that points at what is wrong.

    >>> read("gelu(x) * 2")
    Call(name='mul', operands=(Call(name='gelu', operands=(Hole(name='x'),)), Literal(value=2)))
    """
    try:
        return _read(ast.parse(text.strip(), mode="eval").body, text.strip())
    except SyntaxError as error:
        raise RuleError(f"a term is written like linear(a + b, W, c), found {text!r}: "
                        f"{error.msg} at column {error.offset}") from None


def _read(node: ast.expr, text: str) -> Term:
    match node:
        case ast.Name(id=name):
            return Literal(_CONSTANTS[name]) if name in _CONSTANTS else Hole(name)
        case ast.Constant(value=value):
            return Literal(value)
        case ast.Starred(value=ast.Name(id=name)):
            return Rest(name)
        case ast.List(elts=items) | ast.Tuple(elts=items):
            return Listed(tuple(_read(item, text) for item in items))
        case ast.BinOp(left=left, op=sign, right=right) if type(sign) in _SIGNS:
            return Call(_SIGNS[type(sign)], (_read(left, text), _read(right, text)))
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=(int() | float()) as value)):
            return Literal(-value)
        case ast.UnaryOp(op=ast.USub(), operand=ast.Name(id="inf")):
            return Literal(-math.inf)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return Call("neg", (_read(operand, text),))
        case ast.Attribute(value=value, attr="mT"):
            return Call("transpose", (_read(value, text), Literal(-2), Literal(-1)))
        case ast.Call(func=ast.Name(id=name), args=operands, keywords=[]):
            if not operators(name):
                raise RuleError(f"{text!r}: there is no operator {name!r}; "
                                f"{near(name, [*OPERATORS, *dir(aten)])}")
            return Call(name, tuple(_read(operand, text) for operand in operands))
    shown = ast.get_source_segment(text, node) or text
    raise RuleError(f"{text!r}: {shown!r} is no term; write operators of ATen by name, "
                    "+ - * / @ **, .mT, lists, constants and names of holes")


def walk(term: Term) -> Iterator[Term]:
    """The term and all terms in it."""
    yield term
    match term:
        case Call(operands=inside) | Listed(items=inside):
            for operand in inside:
                yield from walk(operand)


def holes(term: Term) -> tuple[str, ...]:
    """Names of the holes of a term, in order."""
    found = (t.name for t in walk(term) if isinstance(t, (Hole, Rest)))
    return tuple(dict.fromkeys(found))


def depth(term: Term) -> int:
    """How many operators lie above each other."""
    match term:
        case Call(operands=inside):
            return 1 + max((depth(t) for t in inside), default=0)
        case Listed(items=inside):
            return max((depth(t) for t in inside), default=0)
    return 0


def sizes_of(text: str) -> dict[str, tuple[str, ...]]:
    """Shapes by letters: `"x: b s h*d, W: e h*d"`.

    >>> sizes_of("x: b s 2*d, c: d")
    {'x': ('b', 's', '2*d'), 'c': ('d',)}
    """
    found = {}
    for entry in filter(None, (part.strip() for part in text.split(","))):
        name, colon, sizes = entry.partition(":")
        if not colon:
            raise RuleError(f"shapes are written like 'x: b s d, W: e d', found {entry!r}")
        found[name.strip()] = tuple(sizes.split())
    return found


def size(expression: str, letters: Mapping[str, int]) -> int:
    """A size such as `2*d`, given what its letters are."""
    try:
        return int(read_size(expression, letters.__getitem__))
    except (KeyError, ValueError) as error:
        raise RuleError(f"a size is a product of letters and numbers such as 2*d, found "
                        f"{expression!r}: {error}") from None
