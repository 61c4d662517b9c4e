"""Functions, modules and graphs on symbolic inputs and symbolic parameters."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import keystr, tree_flatten_with_path

from rewrite.errors import ProofError, near
from rewrite.ir.graph import Graph, InputSpec
from rewrite.symbolic.table import Table
from rewrite.symbolic.tensor import SymbolicTensor, lift, symbols

Runnable = Graph | nn.Module | Callable[..., Any]
Given = Tensor | Sequence[int]  # a shape, or a tensor whose shape is meant if it is floating
SIZES = {"batch": 1, "seq": 2}


class Space:
    """Which free variables stand for which tensors, while several graphs are run.

    A parameter has one name: that under which it was seen first.  Parameters of two modules
    with the same name are the same variables only if their values are equal.
    """

    def __init__(self, table: Table | None = None) -> None:
        self.table = table or Table()
        self._held: dict[str, list[tuple[Tensor | None, SymbolicTensor]]] = {}
        self._own: dict[int, SymbolicTensor] = {}
        self._inputs: dict[tuple[str, tuple[int, ...]], SymbolicTensor] = {}

    def parameter(self, name: str, tensor: Tensor) -> SymbolicTensor:
        """The variables of a parameter."""
        if id(tensor) not in self._own:
            others = self._held.setdefault(name, [])
            found = next((made for other, made in others if _same(other, tensor)), None)
            if found is None:
                found = self._fresh(name, tensor.shape, tensor.dtype)
            others.append((tensor, found))  # holding the tensor keeps its id from being reused
            self._own[id(tensor)] = found
        return _copy(self._own[id(tensor)])

    def _fresh(
        self, name: str, shape: Sequence[int], dtype: torch.dtype = torch.float64
    ) -> SymbolicTensor:
        mark = "'" * len({id(made) for _, made in self._held.get(name, ())})
        return symbols(self.table, name + mark, shape, dtype)

    def input(self, name: str, given: Given, concrete: bool = False) -> Tensor:
        """Variables, of the shape of what is given; whole numbers and masks stay what they are."""
        if isinstance(given, SymbolicTensor):
            return given
        if isinstance(given, Tensor) and not given.is_floating_point():
            return given
        if isinstance(given, Tensor) and concrete:
            return lift(self.table, given)
        shape = tuple(given.shape) if isinstance(given, Tensor) else tuple(given)
        if (name, shape) not in self._inputs:
            dtype = given.dtype if isinstance(given, Tensor) else torch.float64
            made = self._inputs[name, shape] = self._fresh(name, shape, dtype)
            self._held.setdefault(name, []).append((None, made))
        return _copy(self._inputs[name, shape])


def _copy(x: SymbolicTensor) -> SymbolicTensor:
    """What one side writes into its inputs is not seen by the other."""
    return SymbolicTensor(x.ids.clone(), x.table, x.dtype)


def _same(a: Tensor | None, b: Tensor) -> bool:
    return a is not None and a.shape == b.shape and a.dtype == b.dtype and not (
        a.is_meta or b.is_meta) and torch.equal(a, b)


def run(
    what: Runnable,
    inputs: Mapping[str, Given] | None = None,
    *,
    sizes: Mapping[str, int] | None = None,
    concrete: Collection[str] = (),
    buffers: bool = False,
    space: Space | None = None,
) -> Any:
    """What a graph, a module or a function yields for symbolic inputs and parameters.

    `inputs` gives shapes by name (or tensors, whose shape is taken); tensors of whole numbers
    and masks stay as they are, and so do the floating ones named in `concrete`.  Inputs of a
    graph that are left out have the shape of its specification, with `sizes` for the named
    dimensions (by default batch 1, seq 2).  Parameters are variables, buffers are numbers
    (variables too if `buffers`).  The module itself is not touched.

    Raises `ProofError` if an input is missing, or where an operator has no meaning for
    symbolic entries.

    >>> from rewrite.symbolic import run
    >>> run(lambda x, y: torch.exp(x) * y, {"x": (2,), "y": (2,)}).expressions
    [y_0*exp(x_0), y_1*exp(x_1)]
    """
    space = space or Space()
    with torch.no_grad():
        if isinstance(what, Graph):
            given = given_for(what, inputs or {}, sizes or {})
            held = [space.input(name, value, name in concrete) for name, value in given.items()]
            return what.outputs(tuple(_called(what.module, space, buffers, held, {})))
        named = {name: space.input(name, value, name in concrete)
                 for name, value in (inputs or {}).items()}
        if isinstance(what, nn.Module):
            return _called(what, space, buffers, [], named)
        return what(**named)


def _called(
    module: nn.Module, space: Space, buffers: bool, args: Sequence[Tensor],
    kwargs: Mapping[str, Tensor],
) -> Any:
    held: dict[str, Tensor] = dict(module.named_parameters(remove_duplicate=False))
    if buffers:
        held |= dict(module.named_buffers(remove_duplicate=False))
    symbolic: dict[str, Tensor] = {
        name: space.parameter(name, x) for name, x in held.items() if x.is_floating_point()}
    return torch.func.functional_call(  # every name of a tied parameter is given
        module, symbolic, tuple(args), dict(kwargs), tie_weights=False)


def given_for(
    graph: Graph, inputs: Mapping[str, Given], sizes: Mapping[str, int]
) -> dict[str, Given]:
    """A value or shape for every input of a graph, in its order."""
    names = [spec.name for spec in graph.inputs]
    if extra := [name for name in inputs if name not in names]:
        raise ProofError(f"{graph.name} has no input {extra[0]!r}; {near(extra[0], names)}")
    return {spec.name: inputs[spec.name] if spec.name in inputs else _made_up(graph, spec, sizes)
            for spec in graph.inputs}


def _made_up(graph: Graph, spec: InputSpec, sizes: Mapping[str, int]) -> Given:
    shape = tuple(d if isinstance(d, int) else sizes.get(d, SIZES.get(d, 2)) for d in spec.shape)
    if not spec.dtype.is_floating_point:
        raise ProofError(f"{graph.name} needs the input {spec.describe()}, which cannot be "
                         f"symbolic: pass inputs={{{spec.name!r}: a tensor of shape {shape}}}")
    return torch.empty(shape, dtype=spec.dtype)


def leaves(outputs: Any) -> list[tuple[str, Tensor]]:
    """All tensors of an output, each with the place at which it stands."""
    found, _ = tree_flatten_with_path(outputs)
    return [(keystr(path) or "result", x) for path, x in found if isinstance(x, Tensor)]
