"""Shapes and types in texts: `float32[batch, seq + 1, 4]`, in the named lengths of the inputs."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import sympy
import torch
from torch import Tensor, fx
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv

from rewrite.errors import near
from rewrite.ir.graph import Dim, InputSpec
from rewrite.ir.size_text import read_size
from rewrite.ir.sizes import PRIMES
from rewrite.ir.values import Value, expression, inferring

Types = (Tensor, torch.SymInt, torch.SymFloat, torch.SymBool, int, float)
DTYPES = {name: value for name, value in vars(torch).items() if isinstance(value, torch.dtype)}
DEEPEST, LARGEST = 50, 2**63  # brackets inside one another; a size is below this
NAME = r"[^\W\d]\w*(\.\w+)*"  # of a length: `seq`, `pair.0.seq`


TYPE = re.compile(r"(\w+)\[([^\[\]]*)\](?: on (\S+))?(?: by \[([^\[\]]*)\])?")


class Sizes:
    """Names of the sizes that vary, and types in terms of them.

    Lengths of the inputs have the names of their specification, all others are `s0`, `s1`, or
    `u0`, `u1` if they depend on data, in the order in which they are written.  If `strides`,
    types say how values lie in memory, where it is not one entry behind the other.
    """

    def __init__(
        self, inputs: Iterable[InputSpec], places: Iterable[fx.Node], strides: bool = False
    ) -> None:
        self.strides = strides
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
        text = str(found.xreplace(self.named))
        return text[1:-1] if enclosed(text) else text

    def type(self, value: Value) -> str:
        """The type of a value; "" if it is not known."""
        if isinstance(value, Tensor):
            kind = str(value.dtype).removeprefix("torch.")
            device = "" if value.device.type == "cpu" else f" on {value.device}"
            shape = [self.size(size) for size in value.shape]
            steps = f" by [{', '.join(map(self.size, value.stride()))}]" if (
                self.strides and not _in_order(value)) else ""
            return f"{kind}[{', '.join(shape)}]{device}{steps}"
        if isinstance(value, (tuple, list)):
            inner = ", ".join(self.type(item) or "none" for item in value)
            end = "," * (len(value) == 1)
            return f"({inner}{end})" if isinstance(value, tuple) else f"[{inner}]"
        return self.size(value) if isinstance(value, Types) else ""


def symbol(name: str) -> sympy.Symbol:
    """The symbol that stands for a named size in expressions that are written."""
    return sympy.Symbol(name, integer=True, positive=True)


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
        if not isinstance(found, sympy.Basic):
            return found
        if not isinstance(found, sympy.Expr):
            condition: Any = found
            return self.environment.create_symboolnode(condition)
        if found.is_number:
            return int(found) if found.is_integer else float(found)
        sizes: Any = self.environment.backed_var_to_val
        hint: Any = found.xreplace(sizes)
        known = hint.is_number
        if not found.is_integer:
            return self.environment.create_symfloatnode(found, hint=float(hint) if known else None)
        return self.environment.create_symintnode(found, hint=int(hint) if known else None)

    def value(self, text: str, depth: int = DEEPEST) -> Value:
        """What a type describes; raises `ValueError` if it cannot be read."""
        text = text.strip()
        if not depth:
            raise ValueError(f"more than {DEEPEST} brackets lie inside one another")
        if text == "none":
            return None
        if enclosed(text):
            items = [self.value(item, depth - 1) for item in pieces(text[1:-1])]
            return items if text.startswith("[") else tuple(items)
        if (found := TYPE.fullmatch(text)) is None:
            return self.size(text)
        dtype, sizes = dtype_of(found[1]), [self.size(size) for size in pieces(found[2])]
        with inferring(self.mode):
            if found[4] is None:
                return torch.empty(sizes, dtype=dtype, device=found[3] or "cpu")
            steps = [self.size(step) for step in pieces(found[4])]
            return torch.empty_strided(sizes, steps, dtype=dtype, device=found[3] or "cpu")


def dtype_of(name: str) -> torch.dtype:
    """The type with this name; raises `ValueError` with near misses."""
    if name not in DTYPES:
        raise ValueError(f"there is no type {name!r}; {near(name, DTYPES)}")
    return DTYPES[name]


def dims_of(text: str) -> tuple[Dim, ...]:
    """The lengths in the type of an input: numbers, and names; `ValueError` for others."""
    return tuple(map(_dim, pieces(text)))


def _dim(text: str) -> Dim:
    if re.fullmatch(r"\d{1,19}", text, re.ASCII) and int(text) < LARGEST:
        return int(text)
    if not re.fullmatch(NAME, text):
        raise ValueError(f"a length is a number or a name such as seq, found {text[:40]!r}")
    return text


def _in_order(value: Tensor) -> bool:
    """Whether a value lies in memory as one that is made new."""
    step: Any = 1
    for size, found in zip(reversed(value.shape), reversed(value.stride()), strict=True):
        if sympy.sympify(expression(found) - step) != 0:
            return False
        step = step * expression(size)
    return True


def enclosed(text: str) -> bool:
    """Whether one pair of brackets is around a text.

    >>> enclosed("(a//2)"), enclosed("(a//2) + (b//2)"), enclosed("[a]")
    (True, False, True)
    """
    depth = 0
    for at, character in enumerate(text):
        depth += (character in "([") - (character in ")]")
        if depth == 0:
            return at > 0 and at == len(text) - 1
    return False


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
