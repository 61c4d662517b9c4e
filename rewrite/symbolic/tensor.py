"""`SymbolicTensor`: a tensor whose entries are expressions, on which torch itself computes.

It is a tensor of integers, the ids of its entries in a `Table`, dressed as a floating tensor.
An operator that only moves entries is the real operator of torch, run on the integers.  One
that computes has a rule; one that is made of others is taken apart by torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import reduce
from itertools import product
from typing import Any

import sympy
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only

from rewrite.errors import ProofError
from rewrite.symbolic.table import Table, Term

# Masks write the lowest number of a type for -inf: a score that is added to it is rounded away.
LOWEST = torch.finfo(torch.bfloat16).min
Rule = Callable[..., Any]
RULES: dict[Any, Rule] = {}
CALLS: dict[Any, Rule] = {}  # functions that are met before torch takes them apart


class SymbolicTensor(Tensor):
    """A floating tensor whose entries are terms of a table.

    >>> from rewrite.symbolic import Table, symbols
    >>> table = Table()
    >>> x, w = symbols(table, "x", (1, 2)), symbols(table, "w", (2, 1))
    >>> (x @ w).expressions
    [[w_0_0*x_0_0 + w_1_0*x_0_1]]
    """

    ids: Tensor
    table: Table

    @staticmethod
    def __new__(
        cls, ids: Tensor, table: Table, dtype: torch.dtype = torch.float64
    ) -> SymbolicTensor:
        made = Tensor._make_wrapper_subclass(
            cls, ids.shape, dtype=dtype, strides=ids.stride(),
            storage_offset=ids.storage_offset())
        made.ids, made.table = ids, table
        return made

    @property
    def terms(self) -> list[Term]:
        """All entries, in one row."""
        return [self.table.terms[i] for i in self.ids.flatten().tolist()]

    @property
    def expressions(self) -> sympy.Array:
        """The entries as sympy expressions."""
        from rewrite.symbolic.expression import expression

        return sympy.Array([expression(t) for t in self.terms], tuple(self.shape))

    @property
    def samples(self) -> Tensor:
        """Values at the random points, `[*shape, points]`."""
        values = [t.values for t in self.terms]
        return torch.tensor(values, dtype=torch.float64).reshape(*self.shape, -1)

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return f"SymbolicTensor({list(self.shape)})"

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        with torch._C.DisableTorchFunctionSubclass():  # what is ordinary stays ordinary
            return CALLS.get(func, func)(*args, **(kwargs or {}))  # type: ignore[misc]

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        from rewrite.symbolic.operators import apply

        return apply(func, args, kwargs or {})


def operator_rule(*targets: Any) -> Callable[[Rule], Rule]:
    """Say what an operator does to symbolic tensors: a function of the operator's arguments.

    The function may use any operator that is known already, and `elementwise`.

    >>> from rewrite.symbolic import operator_rule
    >>> @operator_rule(torch.ops.aten.addcmul.default)
    ... def _addcmul(x, a, b, value=1):
    ...     return x + value * a * b
    """

    def enter(rule: Rule) -> Rule:
        RULES.update(dict.fromkeys(targets, rule))
        return rule

    return enter


def call_rule(*functions: Any) -> Callable[[Rule], Rule]:
    """Like `operator_rule`, for functions that torch would take apart into fused operators."""

    def enter(rule: Rule) -> Rule:
        CALLS.update(dict.fromkeys(functions, rule))
        return rule

    return enter


def symbols(
    table: Table, name: str, shape: Sequence[int], dtype: torch.dtype = torch.float64
) -> SymbolicTensor:
    """A tensor of free variables `name_0_1`."""
    places = product(*map(range, shape))
    terms = [table.symbol(name, place) for place in places]
    return wrapped(table, terms, shape, dtype)


def wrapped(
    table: Table, terms: Iterable[Term], shape: Sequence[int], dtype: torch.dtype = torch.float64
) -> SymbolicTensor:
    """The tensor with these entries."""
    ids = torch.tensor([t.id for t in terms], dtype=torch.int64).reshape(tuple(shape))
    return SymbolicTensor(ids, table, dtype)


def lift(table: Table, values: Tensor | float) -> SymbolicTensor:
    """A concrete tensor with exact numbers as entries (see `exact.simple`)."""
    if isinstance(values, SymbolicTensor):
        return values
    if isinstance(values, float):
        values = torch.tensor(values, dtype=torch.float64)
    values = torch.as_tensor(values)
    dtype = values.dtype if values.is_floating_point() else torch.float64
    terms = [table.number(_read(v, values.dtype)) for v in values.flatten().tolist()]
    return wrapped(table, terms, values.shape, dtype)


def _read(value: Any, dtype: torch.dtype) -> Any:
    if isinstance(value, (bool, int)):
        return int(value)
    if value <= LOWEST or value <= torch.finfo(dtype).min:
        return float("-inf")
    if dtype == torch.float32:
        return float(str(torch.tensor(value, dtype=dtype).numpy()))
    return value


def table_of(*values: Any) -> Table:
    """The one table of all symbolic tensors among the values."""
    found = {id(v.table): v.table for v in tree_leaves(values) if isinstance(v, SymbolicTensor)}
    if len(found) != 1:
        raise ProofError(f"symbolic tensors of {len(found)} tables meet; make them with one table")
    return next(iter(found.values()))


def indices(values: Any, table: Table) -> Any:
    """Arguments with every floating tensor as the ids of its entries."""

    def bare(value: Tensor) -> Tensor:
        if isinstance(value, SymbolicTensor):
            return value.ids
        return lift(table, value).ids if value.is_floating_point() else value

    return tree_map_only(Tensor, bare, values)


def elementwise(function: Callable[..., Term], *operands: Any) -> SymbolicTensor:
    """A function of terms, applied to each entry of tensors that are broadcast."""
    table = table_of(operands)
    rows = torch.broadcast_tensors(*(lift(table, x).ids for x in operands))
    known: dict[tuple[int, ...], Term] = {}
    terms = []
    for ids in zip(*(row.flatten().tolist() for row in rows), strict=True):
        if ids not in known:
            known[ids] = function(*(table.terms[i] for i in ids))
        terms.append(known[ids])
    return wrapped(table, terms, rows[0].shape, dtype_of(*operands))


def dtype_of(*operands: Any) -> torch.dtype:
    """The type of a result: that of the operands, where a single number gives way to a tensor."""
    floats = [x for x in operands if isinstance(x, Tensor) and x.is_floating_point()]
    kept = [x.dtype for x in floats if x.ndim] or [x.dtype for x in floats]
    return reduce(torch.promote_types, kept)
