"""Sizes under the names that inputs give them: `[batch, seq, 768]` instead of `[s95, s85, 768]`."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import sympy
import torch
from torch import Tensor, fx
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext

from rewrite.errors import MatchError, near
from rewrite.ir.size_text import read_size, unmet, variables_of

if TYPE_CHECKING:
    from rewrite.ir.graph import Graph, InputSpec

PRIMES = (11, 7, 13, 5, 17, 19, 23, 3, 29, 31, 37, 53, 67, 101, 131, 257, 521, 1031)
TRIED = range(2, 4097)  # where guards allow no prime
PER_NAME, COMBINED = 24, 20_000
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

    def variable(name: str) -> sympy.Symbol:
        if name not in known:
            raise ValueError(f"no size of an input is called {name!r}; {near(name, known)}")
        return known[name]

    try:
        return sympy.sympify(read_size(text, variable))
    except ValueError as error:
        raise MatchError(str(error)) from error


def fitting(
    inputs: Iterable[InputSpec], guards: Sequence[str], given: Mapping[str, int] | None = None
) -> Iterator[dict[str, int]]:
    """Sizes for the names in the shapes of inputs that guards allow; different ones come first.

    >>> from rewrite.ir.graph import InputSpec
    >>> x = InputSpec("x", ("batch", "seq", 4), torch.float32)
    >>> next(fitting([x], ("x.shape[1] % 8 == 0",)))
    {'batch': 11, 'seq': 8}
    """
    shapes = {spec.name: spec.shape for spec in inputs}
    names = list(dict.fromkeys(d for shape in shapes.values() for d in shape if isinstance(d, str)))
    held = dict(given or {})
    free = [name for name in names if name not in held]
    about = [(guard, {_place(variable, shapes) for variable in variables_of(guard)})
             for guard in guards]

    def shaped(sizes: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
        return {name: tuple(d if isinstance(d, int) else sizes.get(d, 0) for d in shape)
                for name, shape in shapes.items()}

    def alone(name: str) -> list[int]:
        own = [guard for guard, dims in about
               if name in dims and dims <= {name, None, *held}]
        allowed = (n for n in (*PRIMES, *TRIED) if n not in held.values()
                   and unmet(own, shaped({**held, name: n})) is None)
        return list(dict.fromkeys(itertools.islice(allowed, PER_NAME)))

    every = itertools.product(*map(alone, free))
    some = sorted(itertools.islice(every, COMBINED), key=lambda sizes: -len(set(sizes)))
    for chosen in some:
        sizes = {**held, **dict(zip(free, chosen, strict=True))}
        if unmet(guards, shaped(sizes)) is None:
            yield {name: sizes[name] for name in names}


def _place(variable: str, shapes: Mapping[str, tuple[int | str, ...]]) -> str | None:
    """The named size that `x.shape[1]` is; None for one that is fixed."""
    name, _, axis = variable.removesuffix("]").partition(".shape[")
    found = shapes[name][int(axis)]
    return found if isinstance(found, str) else None


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
