"""Shapes and types in texts: `float32[batch, seq + 1, 4]`, in the named lengths of the inputs."""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Iterable
from typing import Any

import sympy
import torch
from torch import Tensor, fx
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv
from torch.utils._sympy import functions

from rewrite.errors import near
from rewrite.ir.graph import Dim, InputSpec
from rewrite.ir.values import Value, expression, inferring

Types = (Tensor, torch.SymInt, torch.SymFloat, torch.SymBool, int, float)


class Sizes:
    """Names of the sizes that vary, and types in terms of them.

    Lengths of the inputs have the names of their specification, all others are `s0`, `s1`, or
    `u0`, `u1` if they depend on data, in the order in which they are written.
    """

    def __init__(self, inputs: Iterable[InputSpec], places: Iterable[fx.Node]) -> None:
        self.named: dict[Any, Any] = {}
        self.counts = {"s": 0, "u": 0}
        for spec, node in zip(inputs, places, strict=False):
            value = node.meta.get("val")
            for dim, size in zip(spec.shape, getattr(value, "shape", ()), strict=False):
                found = expression(size)
                if isinstance(dim, str) and isinstance(found, sympy.Symbol):
                    self.named.setdefault(found, symbol(dim))

    def size(self, value: Any) -> str:
        """A size as an expression."""
        found = expression(value)
        if not isinstance(found, sympy.Basic):
            return repr(found)
        for free in sorted(found.free_symbols - set(self.named), key=str):
            kind = "u" if str(free).startswith(("u", "zuf")) else "s"
            self.named[free] = symbol(f"{kind}{self.counts[kind]}")
            self.counts[kind] += 1
        return str(found.xreplace(self.named))

    def type(self, value: Value) -> str:
        """The type of a value; "" if it is not known."""
        if isinstance(value, Tensor):
            kind = str(value.dtype).removeprefix("torch.")
            device = "" if value.device.type == "cpu" else f" on {value.device}"
            return f"{kind}[{', '.join(map(self.size, value.shape))}]{device}"
        if isinstance(value, (tuple, list)):
            inner = ", ".join(self.type(item) or "none" for item in value)
            return f"({inner})" if isinstance(value, tuple) else f"[{inner}]"
        return self.size(value) if isinstance(value, Types) else ""


def symbol(name: str) -> sympy.Symbol:
    """The symbol that stands for a named size in expressions that are written."""
    return sympy.Symbol(name, integer=True, positive=True)


OPERATORS: dict[type, Callable[..., Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Pow: operator.pow,
    ast.FloorDiv: functions.FloorDiv, ast.Mod: functions.Mod, ast.USub: operator.neg,
    ast.Div: operator.truediv,
}
CALLS: dict[str, Any] = {"Max": sympy.Max, "Min": sympy.Min} | {
    name: value for name, value in vars(functions).items()
    if isinstance(value, type) and issubclass(value, sympy.Basic)}


def read_size(text: str, names: Callable[[str], Any]) -> Any:
    """The expression that a text spells, with `names` for its variables.

    Raises `ValueError` for what is no expression.

    >>> read_size("2*seq + 1", {"seq": 5}.__getitem__)
    11
    """

    def value(node: ast.AST) -> Any:
        match node:
            case ast.Constant(value=int() | float() as number):
                return number
            case ast.Name() | ast.Attribute():
                return names(ast.unparse(node))
            case ast.BinOp() if type(node.op) in OPERATORS:
                return OPERATORS[type(node.op)](value(node.left), value(node.right))
            case ast.UnaryOp() if type(node.op) in OPERATORS:
                return OPERATORS[type(node.op)](value(node.operand))
            case ast.Call(func=ast.Name(id=name)) if name in CALLS:
                return CALLS[name](*map(value, node.args))
        raise ValueError(f"{ast.unparse(node)!r} is not a size")

    try:
        return value(ast.parse(text, mode="eval").body)
    except SyntaxError as error:
        raise ValueError(f"{text!r} is not a size") from error


PRIMES = (11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 7, 5, 3)


class Shapes:
    """Values made from types that are read, all of one mode; the counterpart of `Sizes`."""

    def __init__(self, hints: dict[str, int]) -> None:
        self.environment = ShapeEnv()
        self.mode = FakeTensorMode(shape_env=self.environment, allow_non_fake_inputs=True)
        self.symbols = {name: self._symbol(name, hint) for name, hint in hints.items()}

    def _symbol(self, name: str, hint: int) -> Any:
        from torch._dynamo.source import ConstantSource  # takes most of a second

        return self.environment.create_symbol(
            hint, source=ConstantSource(name), dynamic_dim=DimDynamic.DYNAMIC, constraint_dim=None)

    def _named(self, name: str) -> Any:
        if name not in self.symbols and re.fullmatch(r"[su]\d+", name):
            depends = name.startswith("u")
            self.symbols[name] = (
                self.environment.create_unbacked_symint().node.expr if depends
                else self._symbol(name, PRIMES[len(self.symbols) % len(PRIMES)]))
        if name not in self.symbols:
            raise ValueError(f"no input has a length called {name!r}; "
                             f"{near(name, self.symbols)}")
        return self.symbols[name]

    def size(self, text: str) -> Any:
        """A size: a number, or one that varies."""
        found: Any = read_size(text, self._named)
        if not isinstance(found, sympy.Expr) or found.is_number:
            return found if isinstance(found, float) else int(found)  # pyright: ignore[reportArgumentType]
        sizes: Any = self.environment.backed_var_to_val
        hint: Any = found.xreplace(sizes)
        return self.environment.create_symintnode(
            found, hint=int(hint) if hint.is_number else None)

    def value(self, text: str) -> Value:
        """What a type describes; raises `ValueError` if it cannot be read."""
        text = text.strip()
        if text == "none":
            return None
        if text[:1] in ("(", "[") and text[-1:] in (")", "]"):
            items = [self.value(item) for item in pieces(text[1:-1])]
            return items if text.startswith("[") else tuple(items)
        if (found := re.fullmatch(r"(\w+)\[(.*)\](?: on (\S+))?", text)) is None:
            return self.size(text)
        dtype, sizes = dtype_of(found[1]), [self.size(size) for size in pieces(found[2])]
        with inferring(self.mode):
            return torch.empty(sizes, dtype=dtype, device=found[3] or "cpu")


def dtype_of(name: str) -> torch.dtype:
    """The type with this name; raises `ValueError` with near misses."""
    found = getattr(torch, name, None)
    if not isinstance(found, torch.dtype):
        known = [key for key, value in vars(torch).items() if isinstance(value, torch.dtype)]
        raise ValueError(f"there is no type {name!r}; {near(name, known)}")
    return found


def dims_of(text: str) -> tuple[Dim, ...]:
    """The lengths in the type of an input: numbers, and names."""
    return tuple(int(size) if size.isdigit() else size for size in pieces(text))


def pieces(text: str) -> list[str]:
    """What stands between the commas that are in no brackets.

    >>> pieces("batch, Max(1, seq), 4")
    ['batch', 'Max(1, seq)', '4']
    """
    found, depth = [""], 0
    for character in text:
        depth += (character in "([") - (character in ")]")
        if character == "," and depth == 0:
            found.append("")
        else:
            found[-1] += character
    return [part.strip() for part in found if part.strip()]
