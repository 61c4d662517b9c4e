"""Sizes under the names that inputs give them: `[batch, seq, 768]` instead of `[s95, s85, 768]`."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import sympy
import torch
from sympy import SympifyError
from sympy.parsing.sympy_parser import parse_expr
from torch import Tensor, fx
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext

from rewrite.errors import MatchError, near

if TYPE_CHECKING:
    from rewrite.ir.graph import Graph, InputSpec

FIRST_SIZE = 11  # of a size that varies; others are larger, so that no two are mistaken


def labels(graph: Graph) -> dict[Any, sympy.Symbol]:
    """The name of every size that varies, by the symbol that stands for it in values.

    >>> from rewrite.ir.sizes import labels
    >>> graph = rw.trace(torch.nn.ReLU().eval(), inputs={"input": torch.ones(3, 2)})
    >>> [str(name) for name in labels(graph).values()]
    ['batch']
    """
    found: dict[Any, sympy.Symbol] = {}
    places = {str(n.target): n for n in graph.module.graph.nodes if n.op == "placeholder"}
    for spec in graph.inputs:
        value = places[spec.name].meta.get("val") if spec.name in places else None
        if not isinstance(value, Tensor):
            continue
        for dim, size in zip(spec.shape, value.shape, strict=True):
            if isinstance(dim, str) and isinstance(size, torch.SymInt):
                found[size.node.expr] = sympy.Symbol(dim, integer=True, positive=True)
    return found


def named(value: Any, names: dict[Any, sympy.Symbol]) -> tuple[Any, ...] | None:
    """Sizes of a tensor as integers and named expressions; None for what is no tensor."""
    if not isinstance(value, Tensor):
        return None
    return tuple(size if isinstance(size, int) else size.node.expr.xreplace(names)
                 for size in value.shape)


def described(node: fx.Node, names: dict[Any, sympy.Symbol]) -> str:
    """Type and sizes of a node's value: `float32 [batch, seq, 768]`."""
    return described_value(node.meta.get("val"), names)


def described_value(value: Any, names: dict[Any, sympy.Symbol]) -> str:
    """Type and sizes of a value."""
    sizes = named(value, names)
    if sizes is None:
        return type(value).__name__
    dtype = str(value.dtype).removeprefix("torch.")
    return f"{dtype} [{', '.join(map(str, sizes))}]"


def size(text: str, names: dict[Any, sympy.Symbol]) -> Any:
    """The size that a text means: a name, or an expression in names such as `batch*seq`."""
    known = {str(symbol): symbol for symbol in names.values()}
    if text in known:
        return known[text]
    found: Any = None
    with suppress(SympifyError, SyntaxError, TypeError, AttributeError):
        found = parse_expr(text, local_dict=dict(known))
    unknown = [text] if found is None else sorted(
        str(symbol) for symbol in found.free_symbols if str(symbol) not in known)
    if unknown:
        raise MatchError(f"no size of an input is called {unknown[0]!r}; {near(unknown[0], known)}")
    return found


def place_inputs(graph: fx.Graph, inputs: Sequence[InputSpec]) -> FakeTensorMode:
    """Note of every input a value without entries, whose sizes vary as specified."""
    mode = FakeTensorMode(shape_env=ShapeEnv())
    sizes: dict[str, int] = {}
    places = {str(node.target): node for node in graph.find_nodes(op="placeholder")}
    for spec in inputs:
        lengths = [sizes.setdefault(dim, FIRST_SIZE + 2 * len(sizes)) if isinstance(dim, str)
                   else dim for dim in spec.shape]
        vary = [DimDynamic.DUCK if isinstance(dim, str) else DimDynamic.STATIC
                for dim in spec.shape]
        places[spec.name].meta["val"] = mode.from_tensor(
            torch.empty(lengths, dtype=spec.dtype),
            symbolic_context=StatelessSymbolicContext(dynamic_sizes=vary))
    return mode
