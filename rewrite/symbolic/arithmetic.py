"""Operators that compute with entries: sums, products, roots, exponentials, choices by masks."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from rewrite.errors import ProofError
from rewrite.symbolic.table import Table, Term
from rewrite.symbolic.tensor import (
    SymbolicTensor,
    elementwise,
    lift,
    operator_rule,
    table_of,
    wrapped,
)

aten = torch.ops.aten


def enter_rules() -> None:
    """Importing this module enters its rules into the table; calling this says so."""


def _exact(value: Any, table: Table) -> Any:
    """A factor of `alpha=` and the like as an exact number."""
    if isinstance(value, int):
        return value
    term = table.number(float(value))
    if term.kind != "number":
        raise ProofError(f"{value} is no rational factor")
    return term.number


@operator_rule(aten.add.Tensor, aten.add.Scalar)
def _add(x: Any, y: Any, alpha: Any = 1) -> SymbolicTensor:
    table = table_of(x, y)
    factor = _exact(alpha, table)
    return elementwise(lambda a, b: table.add([(a, 1), (b, factor)]), x, y)


@operator_rule(aten.sub.Tensor, aten.sub.Scalar)
def _sub(x: Any, y: Any, alpha: Any = 1) -> SymbolicTensor:
    return _add(x, y, -alpha)


@operator_rule(aten.rsub.Scalar, aten.rsub.Tensor)
def _rsub(x: Any, y: Any, alpha: Any = 1) -> SymbolicTensor:
    return _sub(y, x, alpha)


@operator_rule(aten.mul.Tensor, aten.mul.Scalar)
def _mul(x: Any, y: Any) -> SymbolicTensor:
    table = table_of(x, y)
    return elementwise(lambda a, b: table.multiply([(a, 1), (b, 1)]), x, y)


@operator_rule(aten.div.Tensor, aten.div.Scalar)
def _div(x: Any, y: Any) -> SymbolicTensor:
    table = table_of(x, y)
    return elementwise(lambda a, b: table.multiply([(a, 1), (b, -1)]), x, y)


@operator_rule(aten.neg.default)
def _neg(x: SymbolicTensor) -> SymbolicTensor:
    return elementwise(lambda a: x.table.add([(a, -1)]), x)


@operator_rule(aten.reciprocal.default)
def _reciprocal(x: SymbolicTensor) -> SymbolicTensor:
    return elementwise(lambda a: x.table.multiply([(a, -1)]), x)


@operator_rule(aten.square.default)
def _square(x: SymbolicTensor) -> SymbolicTensor:
    return elementwise(lambda a: x.table.multiply([(a, 2)]), x)


@operator_rule(aten.sqrt.default)
def _sqrt(x: SymbolicTensor) -> SymbolicTensor:
    return elementwise(x.table.root, x)


@operator_rule(aten.rsqrt.default)
def _rsqrt(x: SymbolicTensor) -> SymbolicTensor:
    return elementwise(lambda a: x.table.multiply([(x.table.root(a), -1)]), x)


@operator_rule(aten.exp.default)
def _exp(x: SymbolicTensor) -> SymbolicTensor:
    return elementwise(x.table.exp, x)


@operator_rule(aten.sigmoid.default)
def _sigmoid(x: SymbolicTensor) -> Tensor:
    return 1 / (1 + torch.exp(-x))


@operator_rule(aten.silu.default)
def _silu(x: SymbolicTensor) -> Tensor:
    return x * torch.sigmoid(x)


@operator_rule(aten.pow.Tensor_Scalar)
def _pow(x: SymbolicTensor, power: float) -> SymbolicTensor:
    twice = Fraction(power) * 2
    if twice.denominator != 1:
        raise ProofError(f"a power of {power} is known for whole and half numbers only")
    if twice % 2 == 0:
        return elementwise(lambda a: x.table.multiply([(a, int(power))]), x)
    return elementwise(lambda a: x.table.multiply([(x.table.root(a), int(twice))]), x)


@operator_rule(aten.addcmul.default)
def _addcmul(x: Any, a: Any, b: Any, value: Any = 1) -> Any:
    return x + value * (a * b)


@operator_rule(aten.addcdiv.default)
def _addcdiv(x: Any, a: Any, b: Any, value: Any = 1) -> Any:
    return x + value * (a / b)


@operator_rule(aten.lerp.Tensor, aten.lerp.Scalar)
def _lerp(x: Any, y: Any, weight: Any) -> Any:
    return x + weight * (y - x)


@operator_rule(aten._to_copy.default, aten.to.dtype, aten.to.device, aten.to.dtype_layout)
def _to(x: SymbolicTensor, *_: Any, dtype: torch.dtype | None = None, **__: Any) -> SymbolicTensor:
    dtype = next((v for v in _ if isinstance(v, torch.dtype)), dtype or x.dtype)
    if not dtype.is_floating_point:
        raise ProofError(f"symbolic entries cannot become {str(dtype).removeprefix('torch.')}: "
                         "they have no values")
    return SymbolicTensor(x.ids.clone(), x.table, dtype)


@operator_rule(aten._local_scalar_dense.default, aten.item.default)
def _item(x: SymbolicTensor) -> float:
    term, = x.terms
    if term.kind != "number":
        raise ProofError(f"Python asks for the value of the symbolic entry {term!r}: control flow "
                         "must not depend on values")
    return float(term.number)


@operator_rule(aten.where.self, aten.where.ScalarOther, aten.where.ScalarSelf, aten.where.Scalar)
def _where(condition: Tensor, x: Any, y: Any) -> SymbolicTensor:
    table = table_of(x, y)
    x, y = lift(table, x), lift(table, y)
    dtype = torch.promote_types(x.dtype, y.dtype)
    return SymbolicTensor(torch.where(condition, x.ids, y.ids), table, dtype)


@operator_rule(aten.masked_fill.Scalar, aten.masked_fill.Tensor)
def _masked_fill(x: Any, mask: Tensor, value: Any) -> SymbolicTensor:
    return _where(mask, value, x)


@operator_rule(aten.scatter.value)
def _scatter_value(x: SymbolicTensor, dim: int, index: Tensor, value: float) -> SymbolicTensor:
    source = lift(x.table, value).ids.item()
    return SymbolicTensor(x.ids.scatter(dim, index, source), x.table, x.dtype)


@operator_rule(aten.constant_pad_nd.default)
def _pad(x: SymbolicTensor, pad: list[int], value: float = 0) -> SymbolicTensor:
    padded = aten.constant_pad_nd.default(x.ids, pad, lift(x.table, value).ids.item())
    return SymbolicTensor(padded, x.table, x.dtype)


def _axes(x: Tensor, dims: Any) -> list[int]:
    given = range(x.ndim) if dims is None or dims == [] else [dims] if isinstance(
        dims, int) else dims
    return [d % x.ndim for d in given] if x.ndim else []


def rows(x: SymbolicTensor, dims: Any) -> tuple[list[list[Term]], list[int]]:
    """Entries along the given axes for each place of the others, and the sizes of those."""
    axes = _axes(x, dims)
    kept = [d for d in range(x.ndim) if d not in axes]
    sizes = [x.shape[d] for d in kept]
    width = math.prod(x.shape[d] for d in axes)
    ids = x.ids.permute(*kept, *axes).reshape(-1, width) if x.ndim else x.ids.reshape(1, 1)
    return [[x.table.terms[i] for i in row] for row in ids.tolist()], sizes


def reduced(x: SymbolicTensor, dims: Any, keepdim: bool, function: Any) -> Tensor:
    """A function of rows of entries."""
    found, sizes = rows(x, dims)
    made: Tensor = wrapped(x.table, map(function, found), sizes, x.dtype)
    for axis in sorted(_axes(x, dims)) if keepdim else ():
        made = made.unsqueeze(axis)
    return made


@operator_rule(aten.sum.dim_IntList, aten.sum.default)
def _sum(
    x: SymbolicTensor, dims: Any = None, keepdim: bool = False, *, dtype: Any = None
) -> Tensor:
    return reduced(x, dims, keepdim, lambda row: x.table.add([(t, 1) for t in row]))


@operator_rule(aten.mean.dim, aten.mean.default)
def _mean(
    x: SymbolicTensor, dims: Any = None, keepdim: bool = False, *, dtype: Any = None
) -> Tensor:
    return reduced(x, dims, keepdim,
                   lambda row: x.table.add([(t, Fraction(1, len(row))) for t in row]))


@operator_rule(aten.var.correction)
def _var(
    x: SymbolicTensor, dims: Any = None, *, correction: Any = None, keepdim: bool = False
) -> Tensor:
    apart = x - _mean(x, dims, True)
    axes = _axes(x, dims)
    count = math.prod(x.shape[d] for d in axes) - (1 if correction is None else int(correction))
    return _sum(apart * apart, dims, keepdim) * _ratio(x.table, count)


def _ratio(table: Table, count: int) -> SymbolicTensor:
    return wrapped(table, [table.number(Fraction(1, count))], ())


@operator_rule(aten.linalg_vector_norm.default)
def _vector_norm(
    x: SymbolicTensor, order: float = 2, dims: Any = None, keepdim: bool = False, *,
    dtype: Any = None,
) -> Tensor:
    if order == 1:
        return _sum(aten.abs.default(x), dims, keepdim)
    if order == 2:
        return _sqrt(_sum(x * x, dims, keepdim))
    raise ProofError(f"norms are known of order 1 and 2, found order {order}")


@operator_rule(aten.prod.dim_int, aten.prod.default)
def _prod(
    x: SymbolicTensor, dim: Any = None, keepdim: bool = False, *, dtype: Any = None
) -> Tensor:
    return reduced(x, dim, keepdim, lambda row: x.table.multiply([(t, 1) for t in row]))


@operator_rule(aten.amax.default)
def _amax(x: SymbolicTensor, dims: Any = None, keepdim: bool = False) -> Tensor:
    return reduced(x, dims, keepdim, lambda row: _extreme(x.table, row, "max", max))


@operator_rule(aten.amin.default)
def _amin(x: SymbolicTensor, dims: Any = None, keepdim: bool = False) -> Tensor:
    return reduced(x, dims, keepdim, lambda row: _extreme(x.table, row, "min", min))


def _extreme(table: Table, row: list[Term], name: str, function: Any) -> Term:
    """The largest or smallest entry, as a function of the set of entries."""
    ignored = -1 if name == "max" else 1
    kept = sorted({t for t in row if not (t.kind == "infinity" and t.number == ignored)},
                  key=lambda t: t.id)
    if len(kept) < 2:
        return (kept or row)[0]
    return table.call(name, kept, [function(v) for v in zip(*(t.values for t in kept),
                                                            strict=True)])


@operator_rule(aten.empty_like.default, aten.new_empty.default, aten.new_empty_strided.default)
def _empty(*_: Any, **__: Any) -> Any:
    raise ProofError("a tensor is made without values, as dropout does: call .eval() on the "
                     "module, or make the tensor by zeros_like")


@operator_rule(aten.cumsum.default)
def _cumsum(x: SymbolicTensor, dim: int, *, dtype: Any = None) -> Tensor:
    table = x.table
    lines = x.ids.movedim(dim, -1)
    made = []
    for row in lines.reshape(-1, x.shape[dim]).tolist():
        held = [table.terms[i] for i in row]
        made += [table.add([(t, 1) for t in held[: n + 1]]) for n in range(len(held))]
    return wrapped(table, made, lines.shape, x.dtype).movedim(-1, dim)


@operator_rule(aten.mm.default, aten.bmm.default)
def _mm(x: Any, y: Any) -> SymbolicTensor:
    table = table_of(x, y)
    x, y = lift(table, x), lift(table, y)
    left = x.ids.reshape(-1, *x.shape[-2:]).tolist()
    right = y.ids.mT.reshape(-1, y.shape[-1], y.shape[-2]).tolist()
    terms = table.terms
    made = [
        table.add([(table.multiply([(terms[i], 1), (terms[j], 1)]), 1)
                   for i, j in zip(row, column, strict=True)])
        for a, b in zip(left, right, strict=True) for row in a for column in b]
    shape = (*x.shape[:-1], y.shape[-1])
    return wrapped(table, made, shape, torch.promote_types(x.dtype, y.dtype))


@operator_rule(aten.mv.default)
def _mv(x: Any, y: Any) -> Any:
    return aten.mm.default(x, y.unsqueeze(1)).squeeze(1)


@operator_rule(aten.dot.default)
def _dot(x: Any, y: Any) -> Any:
    return (x * y).sum()


@operator_rule(aten.addmm.default, aten.baddbmm.default)
def _addmm(c: Any, x: Any, y: Any, *, beta: Any = 1, alpha: Any = 1) -> Any:
    product = _mm(x, y)
    return (c if beta == 1 else beta * c) + (product if alpha == 1 else alpha * product)


@operator_rule(aten.index_add.default, aten.scatter_add.default)
def _no_accumulation(*_: Any, **__: Any) -> Any:
    raise ProofError("entries cannot be added at places given by indices; add whole tensors")


@operator_rule(aten.fill.Scalar, aten.fill.Tensor)
def _fill(x: SymbolicTensor, value: Any) -> SymbolicTensor:
    filled = lift(table_of(x), value).ids.expand(x.shape)
    return SymbolicTensor(filled.clone(), x.table, x.dtype)
