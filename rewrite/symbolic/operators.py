"""How an operator of torch is applied to symbolic tensors."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.utils._mode_utils import no_dispatch
from torch.utils._pytree import tree_flatten, tree_map_only, tree_unflatten

from rewrite.errors import ProofError
from rewrite.symbolic import arithmetic, layers
from rewrite.symbolic.moves import MOVES, SHAPES
from rewrite.symbolic.table import Table
from rewrite.symbolic.tensor import (
    RULES,
    SymbolicTensor,
    dtype_of,
    indices,
    lift,
    table_of,
    wrapped,
)

aten = torch.ops.aten
arithmetic.enter_rules()
layers.enter_rules()


def apply(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The operator on arguments of which some are symbolic.

    In this order: its rule; the operator itself on the places of entries, if it moves them
    only; torch's own way to take it apart; a function that is not interpreted, if it works
    entry by entry.  Raises `ProofError` for everything else.
    """
    if func in RULES:
        return RULES[func](*args, **kwargs)
    if torch.Tag.nondeterministic_seeded in func.tags:
        raise ProofError(f"{func} is random, so it is equal to nothing; call .eval() on the module")
    if func.overloadpacket in SHAPES:
        return func(*_stand_ins(args), **_stand_ins(kwargs))
    table = table_of(args, kwargs)
    if func.overloadpacket in MOVES:
        return _moved(func, args, kwargs, table)
    if torch.Tag.inplace_view in func.tags:
        return _reshaped(func, args, kwargs)
    if func._schema.is_mutable:
        return _written(func, args, kwargs, table)
    if torch.Tag.pointwise in func.tags:
        return _uninterpreted(func, args, kwargs, table)
    made = func.decompose(*args, **kwargs)
    if made is not NotImplemented:
        return made
    if func in _decompositions():
        return _decompositions()[func](*args, **kwargs)
    raise ProofError(
        f"{func} has no meaning for symbolic entries: write one with "
        f"@rewrite.symbolic.operator_rule(torch.ops.{func!s}), a function of the operator's "
        "arguments that uses operators which are known")


@cache
def _decompositions() -> dict[Any, Any]:
    from torch._decomp import core_aten_decompositions

    return dict(core_aten_decompositions())


def _named(func: Any, args: Any, kwargs: Any) -> str:
    """The operator with its options: `gelu[approximate=tanh]`."""
    given = dict(zip((a.name for a in func._schema.arguments), args, strict=False)) | kwargs
    options = []
    for argument in func._schema.arguments:
        value, default = given.get(argument.name, argument.default_value), argument.default_value
        if isinstance(value, Tensor):
            options += [f"{argument.name}=_"] if argument.has_default_value() else []
        elif not argument.has_default_value() or value != default:
            options.append(f"{argument.name}={value}")
    name = func._schema.name.split("::")[1]
    return f"{name}[{', '.join(options)}]" if options else name


def _moved(func: Any, args: Any, kwargs: Any, table: Table) -> Any:
    adds = func.overloadpacket is aten.index_put and (kwargs.get("accumulate") or True in args[3:])
    if adds or "reduce" in func._overloadname:
        raise ProofError(f"{func} combines entries at places given by indices, which has no rule; "
                         "add whole tensors")
    dtype = next(x.dtype for x in tree_flatten((args, kwargs))[0] if isinstance(x, SymbolicTensor))
    kwargs = {k: v for k, v in kwargs.items() if k not in ("dtype", "layout", "pin_memory")}
    found = func(*indices(args, table), **indices(kwargs, table))
    return tree_map_only(Tensor, lambda ids: SymbolicTensor(ids, table, dtype), found)


def _stand_ins(values: Any) -> Any:
    """The same arguments with tensors of zeros where they are symbolic."""
    return tree_map_only(
        SymbolicTensor, lambda x: torch.empty(x.shape, dtype=x.dtype, device=x.device), values)


def _reshaped(func: Any, args: Any, kwargs: Any) -> SymbolicTensor:
    """`x.squeeze_(0)`: the tensor itself gets another shape, and so do the places of entries."""
    target, *rest = args
    target.ids = func(target.ids, *rest, **kwargs)
    with no_dispatch():
        before = torch._C._meta_in_tls_dispatch_include()
        torch._C._set_meta_in_tls_dispatch_include(True)
        try:
            func(*args, **kwargs)
        finally:
            torch._C._set_meta_in_tls_dispatch_include(before)
    return target


def _written(func: Any, args: Any, kwargs: Any, table: Table) -> Any:
    """`x.add_(y)`: what `x + y` yields is written to where the entries of `x` are."""
    name = func._schema.name.split("::")[1]
    plain = getattr(aten, name.removesuffix("_"), None)
    if not name.endswith("_") or plain is None or "out" in kwargs:
        raise ProofError(f"{func} writes into its operand; use the operator that does not")
    target = args[0]
    if not isinstance(target, SymbolicTensor):
        raise ProofError(f"{func} writes symbolic entries into a tensor that has none; make it "
                         "by torch.cat, torch.stack or torch.where")
    made = lift(table, plain(*args, **kwargs))
    target.ids.copy_(made.ids.expand(target.shape))
    return target


def _uninterpreted(func: Any, args: Any, kwargs: Any, table: Table) -> Any:
    """A function of entries that is equal where its operands are; its values are torch's own."""
    flat, spec = tree_flatten((args, kwargs))
    places = [i for i, x in enumerate(flat) if isinstance(x, Tensor)]
    held = torch.broadcast_tensors(*(lift(table, flat[i]).ids for i in places))
    for i, row in zip(places, held, strict=True):
        flat[i] = SymbolicTensor(row, table).samples
    sampled_args, sampled_kwargs = tree_unflatten(flat, spec)
    values = func(*sampled_args, **sampled_kwargs)
    if not isinstance(values, Tensor) or not values.is_floating_point():
        raise ProofError(f"{func} asks for the values of symbolic entries, which have none: "
                         "masks and choices must not depend on floating inputs")
    name = _named(func, args, kwargs)
    entries = zip(*(row.flatten().tolist() for row in held), strict=True)
    found = values.reshape(-1, values.shape[-1]).tolist()
    terms = [table.call(name, [table.terms[i] for i in ids], sample)
             for ids, sample in zip(entries, found, strict=True)]
    return wrapped(table, terms, held[0].shape, dtype_of(*tree_flatten((args, kwargs))[0]))
