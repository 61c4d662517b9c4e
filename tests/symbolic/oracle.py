"""What an expression of sympy is worth, computed from its tree and the textbook functions."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import reduce

import sympy
import torch
from torch import Tensor

from rewrite.symbolic import SymbolicTensor

FUNCTIONS = {
    "exp": math.exp, "tanh": math.tanh, "sin": math.sin, "cos": math.cos, "log": math.log,
    "erf": math.erf, "Abs": abs, "Max": max, "Min": min, "relu": lambda x: max(x, 0.0),
    "gelu": lambda x: x / 2 * (1 + math.erf(x / math.sqrt(2))),
    "gelu[approximate=tanh]": lambda x: x / 2 * (
        1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x ** 3))),
    "clamp[min=-0.5, max=0.5]": lambda x: min(max(x, -0.5), 0.5),
    "maximum": max, "minimum": min, "softplus": lambda x: math.log1p(math.exp(x)),
    "leaky_relu[negative_slope=0.1]": lambda x: x if x > 0 else 0.1 * x,
    "pow": lambda x, y: x ** y,
}


def value(expr: sympy.Basic, at: Mapping[str, float], known: dict[sympy.Basic, float]) -> float:
    """The number that an expression is, for numbers in the place of its symbols."""
    if expr not in known:
        known[expr] = _value(expr, at, known)
    return known[expr]


def _value(expr: sympy.Basic, at: Mapping[str, float], known: dict[sympy.Basic, float]) -> float:
    if isinstance(expr, sympy.Symbol):
        return at[expr.name]
    if isinstance(expr, sympy.Number):
        return float(expr)
    parts = [value(arg, at, known) for arg in expr.args]
    if isinstance(expr, sympy.Add):
        return math.fsum(parts)
    if isinstance(expr, sympy.Mul):
        return math.prod(parts)
    if isinstance(expr, sympy.Pow):
        return parts[0] ** parts[1]
    return reduce(FUNCTIONS[name], parts) if (name := type(expr).__name__) in {
        "Max", "Min"} else FUNCTIONS[name](*parts)


def numeric(made: Tensor, given: Mapping[str, Tensor]) -> Tensor:
    """A symbolic tensor with the entries of tensors in the place of its symbols."""
    if not isinstance(made, SymbolicTensor):
        return made
    at = {"_".join(map(str, [name, *place])): x[tuple(place)].item()
          for name, x in given.items() for place in torch.ones(x.shape).nonzero().tolist()}
    known: dict[sympy.Basic, float] = {}
    expressions = made.expressions
    entries = list(expressions.reshape(made.numel())) if made.numel() else []
    values = [value(e, at, known) for e in entries]
    return torch.tensor(values, dtype=torch.float64).reshape(made.shape)
