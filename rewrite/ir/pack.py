"""Graph modules as data: what pickle writes of them, and what a deep copy is made from.

torch would trace the generated code again and lose what nodes know of themselves.  Tensors stay
tensors, so that whoever copies or pickles decides what becomes of them: `copy.deepcopy` copies
them, as it does those of any module, `pickle` writes them, and `torch.multiprocessing` puts them
into memory that processes share.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from functools import reduce
from typing import Any

import torch
from torch import Tensor, fx
from torch._ops import HigherOrderOperator, OpOverload, OpOverloadPacket
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.fx.experimental.sym_node import SymNode
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from rewrite.errors import UnknownName
from rewrite.ir.buffers import leave_out, transient
from rewrite.ir.values import attribute, inferring, mode_of

# What nodes know of themselves; the rest is what torch keeps of how they came about.
KNOWN = ("added", "component", "from", "layer", "module", "nn_module_stack", "own", "part",
         "provenance", "stack_trace", "val")
# Of the environment of sizes: caches, and real and fake tensors that it was made for.
LEFT = ("fake_tensor_cache", "log", "tracked_fakes")
SIZES: dict[type, Any] = {int: torch.SymInt, float: torch.SymFloat, bool: torch.SymBool}


@dataclass(frozen=True, slots=True)
class Spot:
    """The node with this number."""

    number: int


@dataclass(frozen=True, slots=True)
class Operator:
    """An operator, by its name below `torch.ops`."""

    name: str

    def found(self) -> Any:
        """The operator itself.  Raises `UnknownName` where nobody has registered it."""
        try:
            return reduce(getattr, self.name.split("."), torch.ops)
        except AttributeError as error:
            raise UnknownName(f"the graph calls torch.ops.{self.name}, which is not registered "
                              "in this process: import the package that defines it before the "
                              "graph is read") from error


@dataclass(frozen=True, slots=True)
class Size:
    """A number that varies, as an expression."""

    expr: Any
    kind: type


@dataclass(frozen=True, slots=True)
class Value:
    """A tensor that is known by its kind only."""

    sizes: tuple[Any, ...]
    strides: tuple[Any, ...]
    dtype: torch.dtype
    device: torch.device


LEAVES = (Spot, Operator, Size, Value)


class Scope:
    """The sizes that the values of some graphs have in common."""

    def __init__(self, mode: FakeTensorMode) -> None:
        self.mode = mode
        self.values: dict[Value, Tensor] = {}  # those that were made again

    @classmethod
    def of(cls, mode: FakeTensorMode | None) -> Scope | None:
        """One for each mode, so that graphs that are written together still share it."""
        return None if mode is None else vars(mode).setdefault("rewrite_scope", cls(mode))

    def thing(self, what: Size | Value) -> Any:
        """A size, or a tensor without entries; equal ones are one."""
        if isinstance(what, Size):
            return SIZES[what.kind](SymNode(what.expr, self.mode.shape_env, what.kind, None))
        if what not in self.values:
            sizes, strides = (tuple(self.thing(size) if isinstance(size, Size) else size
                                    for size in of) for of in (what.sizes, what.strides))
            with inferring(self.mode):
                self.values[what] = torch.empty_strided(
                    sizes, strides, dtype=what.dtype, device=what.device)
        return self.values[what]

    def __reduce__(self) -> Any:
        known = self.mode.shape_env
        tables = {name: table for name, table in vars(known).items() if name not in LEFT}
        return _scope, (None if known is None else tables,)


def _scope(tables: Mapping[str, Any] | None) -> Scope:
    known = None if tables is None else ShapeEnv()
    vars(known).update(tables or {})
    return Scope(FakeTensorMode(shape_env=known))


@dataclass(frozen=True)
class Pack:
    """A graph module: its nodes, what they use of it by name, and what their values share."""

    kind: Callable[..., fx.GraphModule]
    name: str
    nodes: tuple[tuple[Any, ...], ...]  # op, name, target, args, kwargs, what it knows
    held: Mapping[str, Any]
    transient: frozenset[str]
    scope: Scope | None

    @classmethod
    def of(cls, module: fx.GraphModule) -> Pack:
        """Pack a module; nothing of it is copied."""
        numbers = {node: number for number, node in enumerate(module.graph.nodes)}

        def data(value: Any) -> Any:
            return mapped(value, lambda leaf: _data(leaf, numbers))

        nodes = tuple(
            (n.op, n.name, data(n.target), data(n.args), data(n.kwargs),
             {key: data(n.meta[key]) if key == "val" else n.meta[key]
              for key in KNOWN if key in n.meta})
            for n in numbers)
        held = {n.target: attribute(module, str(n.target)) for n in numbers
                if n.op in ("get_attr", "call_module")}
        return cls(type(module).__mro__[1], type(module).__name__, nodes, held,
                   frozenset(transient(module)), Scope.of(mode_of(module.graph)))

    def module(self) -> fx.GraphModule:
        """The module, over the tensors and submodules of this pack."""
        graph, made = fx.Graph(), list[fx.Node]()

        def thing(value: Any) -> Any:
            return mapped(value, lambda leaf: _thing(leaf, made, self.scope))

        for op, name, target, args, kwargs, known in self.nodes:
            node = graph.create_node(op, thing(target), thing(args), thing(kwargs), name)
            node.name = name
            node.meta = {key: thing(what) if key == "val" else what
                         for key, what in known.items()}
            made.append(node)
        built = self.kind(dict(self.held), graph, class_name=self.name)
        leave_out(built, self.transient)
        return built


def mapped(value: Any, change: Callable[[Any], Any], known: dict[int, Any] | None = None) -> Any:
    """The same containers, dataclasses of this package too, with other things in them.

    What is one object stays one; `known` holds those that are made already.

    >>> mapped({"a": (1, [2])}, lambda number: number + 1 if number in (1, 2) else number)
    {'a': (2, [3])}
    """
    known = {} if known is None else known

    def inner(value: Any) -> Any:
        return mapped(value, change, known)

    if isinstance(value, dict):
        return {inner(key): inner(item) for key, item in value.items()}
    if isinstance(value, slice):
        return slice(inner(value.start), inner(value.stop), inner(value.step))
    if isinstance(value, (set, frozenset)) or type(value) is tuple:
        return type(value)(map(inner, value))
    if isinstance(value, list):
        return list(map(inner, value))
    own = type(value).__module__.startswith("rewrite.") and is_dataclass(value)
    if not own or isinstance(value, LEAVES):
        return change(value)
    if id(value) not in known:
        known[id(value)] = made = object.__new__(type(value))
        for field in fields(value):
            object.__setattr__(made, field.name, inner(getattr(value, field.name)))
    return known[id(value)]


def _data(value: Any, numbers: Mapping[fx.Node, int]) -> Any:
    if isinstance(value, fx.Node):
        return Spot(numbers[value])
    if isinstance(value, (OpOverload, OpOverloadPacket)):
        return Operator(str(value))
    if isinstance(value, HigherOrderOperator):
        return Operator(f"higher_order.{value.name()}")
    if isinstance(value, tuple(SIZES.values())):
        return Size(value.node.expr, value.node.pytype)
    if isinstance(value, FakeTensor):
        sizes, strides = (mapped(tuple(of), lambda size: _data(size, numbers))
                          for of in (value.shape, value.stride()))
        return Value(sizes, strides, value.dtype, value.device)
    return value


def _thing(value: Any, made: list[fx.Node], scope: Scope | None) -> Any:
    if isinstance(value, Spot):
        return made[value.number]
    if isinstance(value, Operator):
        return value.found()
    if isinstance(value, (Size, Value)):
        assert scope is not None, value  # it comes with the values of its nodes
        return scope.thing(value)
    return value
