"""Running a graph on tensors that have sizes and no values, and noting what each kernel does.

Everything that a dispatch mode sees of such a run, eager execution does too: the same ATen
calls, the same views, and, since the code of a graph drops every value after its last use, the
same memory at the same time.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

import sympy
import torch
from sympy import Expr, Integer, Symbol
from torch import Tensor, fx, nn
from torch._dispatch.python import enable_python_dispatcher
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._sympy import functions

from rewrite.errors import TraceError
from rewrite.symbolic import cost_kernels as kernels
from rewrite.symbolic.cost_kernels import Operand
from rewrite.symbolic.cost_terms import Largest, Terms, grow, terms

# torch's own functions of sizes, in the words of sympy
SPELT = {
    functions.FloorDiv: lambda a, b: sympy.floor(a / b), functions.CleanDiv: lambda a, b: a / b,
    functions.PythonMod: sympy.Mod, functions.Mod: sympy.Mod,
    functions.Max: sympy.Max, functions.Min: sympy.Min,
}


@dataclass
class Tally:
    """What some kernels do together; `products` are FLOPs by kind of product."""

    products: dict[str, Terms] = field(default_factory=dict)
    elementwise: Terms = field(default_factory=Counter)
    bytes: Terms = field(default_factory=Counter)
    kernels: int = 0

    def add(self, other: Tally) -> None:
        """Count the kernels of `other` too."""
        for kind, flops in other.products.items():
            grow(self.products.setdefault(kind, Counter()), flops)
        grow(self.elementwise, other.elementwise)
        grow(self.bytes, other.bytes)
        self.kernels += other.kernels


class Sizes:
    """Named sizes as symbols of torch and of sympy."""

    def __init__(self, mode: FakeTensorMode, hints: Mapping[str, int]) -> None:
        from torch._dynamo.source import ConstantSource
        from torch.fx.experimental.symbolic_shapes import DimDynamic

        env = mode.shape_env
        assert env is not None
        self.names: dict[Expr, Symbol] = {}
        self.ints: dict[str, torch.SymInt] = {}
        self._known: dict[Expr, Expr] = {}
        for name, hint in hints.items():
            source = ConstantSource(f"__{name}")
            symbol = env.create_symbol(hint, source=source, dynamic_dim=DimDynamic.DYNAMIC,
                                       do_not_specialize_zero_one=True)
            made = env.create_symintnode(symbol, hint=hint, source=source)
            assert isinstance(made, torch.SymInt)
            self.ints[name] = made
            self.names[symbol] = Symbol(name, integer=True, positive=True)

    def expression(self, size: int | torch.SymInt) -> Expr:
        """A size as an expression in the named ones."""
        if isinstance(size, int):
            return Integer(size)
        found = size.node.expr
        if found not in self._known:
            spelt = found.xreplace(self.names)
            for theirs, ours in SPELT.items():
                if spelt.has(theirs):
                    spelt = spelt.replace(theirs, ours)
            if spelt.free_symbols - set(self.names.values()):
                raise RuntimeError(f"{found} is none of {', '.join(self.ints)}")
            self._known[found] = spelt
        return self._known[found]

    @property
    def fixed(self) -> dict[str, int]:
        """Sizes that decided between kernels by being exactly what they are."""
        found = {name: size.node.expr for name, size in self.ints.items()}
        return {name: int(size) for name, size in found.items() if size.is_Integer}

    def operand(self, tensor: Tensor) -> Operand:
        """What a kernel sees of a tensor."""
        shape = tuple(self.expression(size) for size in tensor.shape)
        distinct: Expr = Integer(1)
        for size, stride in zip(shape, tensor.stride(), strict=True):
            distinct = distinct * (1 if isinstance(stride, int) and stride == 0 else size)
        return Operand(shape, tensor.element_size(), distinct, tensor.is_contiguous())

    def signature(self, value: Any) -> Any:
        """All that the work on `value` depends on."""
        if isinstance(value, Tensor):
            sizes = tuple(self.expression(s) for s in (*value.shape, *value.stride()))
            return sizes, value.dtype, value.device
        return self.expression(value) if isinstance(value, torch.SymInt) else value


class Meter(TorchDispatchMode):
    """Counts the ATen calls below it, and the memory that they hold.

    Tensors that enter from outside (weights, constants) become fake ones, on the cpu if they
    have no values; memory is counted for what is made under the mode only.
    """

    def __init__(self, mode: FakeTensorMode, sizes: Sizes) -> None:
        super().__init__()
        self.mode, self.sizes, self.threads = mode, sizes, torch.get_num_threads()
        self.tally, self.top, self.live = Tally(), Largest(), Counter[Expr]()
        self.watched: weakref.WeakKeyDictionary[Any, Terms] = weakref.WeakKeyDictionary()
        self.paused = False
        self._fakes: dict[int, tuple[Tensor, Tensor]] = {}

    def fake(self, tensor: Tensor) -> Tensor:
        """The fake tensor that stands for one from outside."""
        if isinstance(tensor, FakeTensor) and tensor.fake_mode is self.mode:
            return tensor
        if id(tensor) not in self._fakes:
            device = "cpu" if tensor.is_meta else tensor.device
            with self.aside():
                made = torch.empty_strided(tensor.size(), tensor.stride(), dtype=tensor.dtype,
                                           device=device)
            self._fakes[id(tensor)] = (tensor, made)
        return self._fakes[id(tensor)][1]

    @contextmanager
    def aside(self) -> Iterator[None]:
        """What happens here is no work of the graph."""
        before, self.paused = self.paused, True
        try:
            with self.mode:
                yield
        finally:
            self.paused = before

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        args, kwargs = pytree.tree_map_only(Tensor, self.fake, (args, kwargs or {}))
        with self.mode, enable_python_dispatcher():  # for meta functions that call others
            result = func(*args, **kwargs)
        if not self.paused and func.namespace != "prim":
            self._note(func, args, kwargs, result)
        return result

    def _note(self, func: Any, args: tuple[Any, ...], kwargs: Any, result: Any) -> None:
        given = [a for a in pytree.tree_leaves((args, kwargs)) if isinstance(a, Tensor)]
        made = [a for a in pytree.tree_leaves(result) if isinstance(a, Tensor)]
        known = {a.untyped_storage()._cdata for a in given}
        fresh = [a for a in made if a.untyped_storage()._cdata not in known]
        for tensor in fresh:
            self.watch(tensor)
        name = func._opname
        if not (fresh or func._schema.is_mutable) or name in kernels.EMPTY:
            self.top.add(self.live)
            return
        read = [self.sizes.operand(a) if isinstance(a, Tensor) else None for a in args]
        written = [self.sizes.operand(a) for a in made]
        every = [self.sizes.operand(a) for a in given]
        self._count(name, args, read, every, written)
        cpu = bool(made) and made[0].device.type == "cpu"
        inside = kernels.workspace(name, read, written, self.threads) if cpu else []
        for size in inside or [Integer(0)]:
            moment = self.live.copy()
            grow(moment, terms(size))
            self.top.add(moment)

    def _count(self, name: str, args: tuple[Any, ...], read: list[Operand | None],
               every: list[Operand], written: list[Operand]) -> None:
        tally = self.tally
        tally.kernels += 1
        entries = [operand.entries for operand in written]
        if name in kernels.GATHERS:
            moved = [written[0], *every[1:], *written]
        else:
            moved = [*every, *written]
            entries += [operand.entries for operand in every]
        for operand in moved:
            grow(tally.bytes, terms(operand.bytes))
        if name == "convolution" and args[6]:
            name = "transposed convolution"
        if name in kernels.PRODUCTS:
            kind, formula = kernels.PRODUCTS[name]
            flops = formula(read, written[0])
            grow(tally.products.setdefault(kind, Counter()), terms(flops))
            entries = [kernels.scores(read)] if kind == "attention" else []
        if entries:
            most = Largest(terms(size) for size in entries).candidates
            grow(tally.elementwise, most[0] if len(most) == 1 else terms(entries[0]))

    def watch(self, tensor: Tensor, size: Terms | None = None) -> None:
        """Count the memory of a tensor from now until nothing refers to it any more."""
        storage = tensor.untyped_storage()
        size = terms(self.sizes.expression(storage.nbytes())) if size is None else size
        grow(self.live, size)
        self.watched[storage] = size
        weakref.finalize(storage, self._freed, size).atexit = False

    def _freed(self, size: Terms) -> None:
        grow(self.live, size, -1)


@dataclass(frozen=True)
class _Measured:
    """A body that has been run: its work, its memory, and what it returns."""

    tally: Tally
    top: Largest
    result: tuple[Any, ...]  # sizes, strides, type, device
    owner: int | None  # the argument that the result is a view of
    size: Terms | None  # the memory that the result holds, if it is no view


class Walk(fx.Interpreter):
    """Runs a graph under a meter and keeps a tally for each label of its nodes.

    A body that is called again with inputs of the same sizes is not run again.
    """

    def __init__(
        self, module: fx.GraphModule, meter: Meter, label: Callable[[fx.Node], str]
    ) -> None:
        super().__init__(module)
        self.extra_traceback = False
        self.meter, self.label = meter, label
        self.tallies: dict[str, Tally] = {}
        self._measured: dict[Any, _Measured] = {}
        self._structures: dict[int, str] = {}
        for node in module.graph.nodes:  # as generated code does, drop what nobody reads
            if not node.users and node.op != "output":
                self.user_to_last_uses.setdefault(node, []).append(node)

    def run_node(self, n: fx.Node) -> Any:
        if n.op in ("call_function", "call_module", "call_method"):
            self.meter.tally = self.tallies.setdefault(self.label(n), Tally())
        try:
            return super().run_node(n)
        except RuntimeError as error:
            raise TraceError(f"the cost of {self.label(n)} cannot be worked out before it runs (do "
                             f"sizes in it depend on values?): {str(error).splitlines()[0]}"
                             ) from error

    def call_module(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        body, meter = self.fetch_attr(str(target)), self.meter
        key = (self._structure(body), tuple(meter.sizes.signature(arg) for arg in args))
        if known := self._measured.get(key):
            return self._again(known, args)
        outer = meter.tally, meter.top, meter.live
        meter.tally, meter.top, meter.live = Tally(), Largest(), Counter()
        result = body(*args, **kwargs)
        inner = meter.tally, meter.top
        held, (meter.tally, meter.top, meter.live) = meter.live, outer
        self._note(*inner)
        grow(meter.live, held)
        if isinstance(result, Tensor):
            storage = result.untyped_storage()
            owner = next((i for i, a in enumerate(args) if isinstance(a, Tensor)
                          and a.untyped_storage()._cdata == storage._cdata), None)
            self._measured[key] = _Measured(
                *inner, (result.shape, result.stride(), result.dtype, result.device), owner,
                meter.watched.get(storage))
        return result

    def _again(self, known: _Measured, args: tuple[Any, ...]) -> Tensor:
        self._note(known.tally, known.top)
        shape, stride, dtype, device = known.result
        with self.meter.aside():
            if known.owner is not None:
                return args[known.owner].as_strided(shape, stride)
            made = torch.empty_strided(shape, stride, dtype=dtype, device=device)
        if known.size is not None:
            self.meter.watch(made, known.size)
        return made

    def _note(self, tally: Tally, top: Largest) -> None:
        """Work that was done by a body, on top of what is alive outside of it."""
        self.meter.tally.add(tally)
        for candidate in top.candidates:
            moment = self.meter.live.copy()
            grow(moment, candidate)
            self.meter.top.add(moment)

    def _structure(self, body: nn.Module) -> str:
        """Equal for two bodies that do the same with other weights of the same sizes."""
        if id(body) not in self._structures:
            self._structures[id(body)] = (
                _spelt(body, self.meter.sizes) if isinstance(body, fx.GraphModule)
                and not body.graph.find_nodes(op="call_module") else f"module {id(body)}")
        return self._structures[id(body)]


def _spelt(body: fx.GraphModule, sizes: Sizes) -> str:
    """The graph as text, its nodes numbered and its weights replaced by their sizes."""
    number = {node: f"%{index}" for index, node in enumerate(body.graph.nodes)}
    lines = []
    for node in body.graph.nodes:
        target: Any = "" if node.op == "placeholder" else node.target
        if node.op == "get_attr":
            target = sizes.signature(attrgetter(str(node.target))(body))
        read = fx.map_arg((node.args, node.kwargs), number.__getitem__)
        lines.append(f"{node.op} {target} {read}")
    return "\n".join(lines)
