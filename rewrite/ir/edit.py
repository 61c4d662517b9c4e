"""The pen with which graphs are edited: a copy, new nodes that know their values, checks."""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from copy import copy
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import sympy
import torch
from torch import Tensor, fx
from torch._subclasses.fake_tensor import DataDependentOutputException
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode, ShapeEnv
from torch.utils._sympy.functions import CleanDiv, FloorDiv, Mod
from torch.utils._sympy.printers import PythonPrinter

from rewrite.errors import SurgeryError, UnknownName
from rewrite.ir import find
from rewrite.ir.buffers import leave_out, transient
from rewrite.ir.code import Code
from rewrite.ir.selection import Match
from rewrite.ir.sizes import described, described_value, labels, place_inputs
from rewrite.ir.values import alike, attribute, fake, hints_of, inferring, mode_of
from rewrite.world import reason

if TYPE_CHECKING:
    from rewrite.ir.graph import Graph

aten = torch.ops.aten
ENDS = {"placeholder": "input", "output": "output"}
# What a new node takes over from the node that it stands for or follows.
KEPT = ("module", "nn_module_stack", "stack_trace")
# What an environment of sizes knows.
LEARNED = ("replacements", "var_to_range", "axioms", "divisible")


class Calling(Code):
    """A graph module that leaves the code of the bodies that it calls as it is.

    They are shared and never edited in place, and there may be hundreds of them.
    """

    def _recompile_submodules(self) -> list[tuple[str, Any]]:
        return []


def copy_module(module: fx.GraphModule) -> fx.GraphModule:
    """A module with its own graph that shares parameters and submodules with `module`."""
    graph = fx.Graph()
    output = graph.graph_copy(module.graph, {})
    copied = graph.output(output)
    copied.meta = dict(next(iter(reversed(module.graph.nodes))).meta)
    made = Calling(module, graph, class_name=type(module).__name__)
    leave_out(made, transient(module))
    return made


def _forget(sizes: ShapeEnv) -> None:
    """Answers to questions about sizes: what was asked before is asked again, and recorded."""
    sizes._version_counter += 1
    sizes._replacements_version_counter += 1
    sizes._inner_evaluate_expr.cache_clear()


class Edit:
    """One edit of a graph: nodes of a copy are changed, `done` gives the new graph."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.module = copy_module(graph.module)
        self.nodes = self.module.graph
        self.mode = mode_of(self.nodes)
        if self.mode is None:
            self._infer()
        self.names = labels(graph.with_module(self.module))
        self.guards = graph.guards

    def _infer(self) -> None:
        """Note what is known of every value, in a graph that comes without such notes."""
        self.mode = place_inputs(self.nodes, self.graph.inputs)
        for node in self.nodes.nodes:
            if node.op == "get_attr":
                node.meta["val"] = fake(attribute(self.module, str(node.target)), self.mode)
            elif node.op not in ENDS:
                with suppress(SurgeryError):  # of a function that needs values, nothing is known
                    node.meta["val"] = self.value(node, node)

    def node(self, name: str | fx.Node) -> fx.Node:
        """The node called `name`."""
        return find.get(self.nodes, name)

    def some(self, what: Match | str) -> list[fx.Node]:
        """The nodes that are selected, at least one; a plain name is looked up as such."""
        if isinstance(what, str):
            try:
                return [self.node(what)]
            except UnknownName:
                if not set("*?[") & set(what):
                    raise
        return [self.node(name) for name in find.expect(self.graph, what, None)]

    def inner(self, what: Match | str) -> list[fx.Node]:
        """Selected nodes that can be taken out: neither inputs nor the output."""
        found = self.some(what)
        for node in found:
            if node.op in ENDS:
                raise SurgeryError(f"{node.name!r} is an {ENDS[node.op]} of the graph and cannot "
                                   "be taken out; insert after it or before it")
        return found

    def describe(self, node: fx.Node) -> str:
        """Type and sizes of a node's value, in the names that the inputs give them."""
        return described(node, self.names)

    def call(
        self, function: Callable[..., Any], args: tuple[Any, ...], origin: fx.Node,
        kwargs: Mapping[str, Any] | None = None, name: str | None = None, alike: bool = False,
    ) -> fx.Node:
        """A node that calls a function or a module; it is made because of `origin`.

        `alike`: the function is known to return the shape and type of `origin`.
        """
        named = hasattr(function, "__name__") or isinstance(function, torch.nn.Module)
        if not callable(function) or not named:
            raise SurgeryError(f"what is to be called at {origin.name!r} is a "
                               f"{type(function).__name__}, no function or module: "
                               "write lambda value: ...")
        if isinstance(function, torch.nn.Module):
            target: Any = self.place(function, name or f"{origin.name}_new", name is not None)
            new = self.nodes.create_node("call_module", target, args, dict(kwargs or {}), name)
        else:
            new = self.nodes.create_node("call_function", function, args, dict(kwargs or {}), name)
        self.note(new, origin)
        new.meta["val"] = origin.meta.get("val") if alike else self.value(new, origin)
        return new

    def note(self, new: fx.Node, origin: fx.Node) -> fx.Node:
        """`new` says where it comes from."""
        new.meta |= {key: origin.meta[key] for key in KEPT if key in origin.meta}
        new.meta["from"] = origin.meta.get("from", origin.name)
        return new

    def value(self, node: fx.Node, origin: fx.Node) -> Any:
        """What a node computes, on fake tensors; of a function of values, what `origin` is."""
        if self.mode is None or any("val" not in o.meta for o in node.all_input_nodes):
            return None
        args, kwargs = fx.map_arg((node.args, dict(node.kwargs)), lambda n: n.meta["val"])
        try:
            with self.shapes_only():
                if node.op != "call_module":
                    function: Any = node.target
                    found = function(*args, **kwargs)
                    if found is None:
                        raise TypeError("it returns None, and a value is needed")
                    return found
                module = self.module.get_submodule(str(node.target))
                tensors = {name: fake(tensor, self.mode) for name, tensor in
                           (*module.named_parameters(), *module.named_buffers())}
                return torch.func.functional_call(module, tensors, args, kwargs)
        except (GuardOnDataDependentSymNode, DataDependentOutputException):
            return origin.meta.get("val")
        except Exception as error:
            given = ", ".join(f"{o.name}: {self.describe(o)}" for o in node.all_input_nodes)
            raise SurgeryError(f"{called(node, self.module)} cannot be called on ({given}), which "
                               f"{origin.name!r} would have it do: {reason(error)}") from error

    @contextmanager
    def shapes_only(self, asked: list[Any] | None = None) -> Iterator[None]:
        """Functions of the user may hold real tensors; nothing is learned about sizes.

        What a function asked of sizes was answered for the example only: it goes to `asked`.
        """
        mode = self.mode
        assert mode is not None
        sizes = mode.shape_env
        with patch.object(mode, "allow_non_fake_inputs", True), inferring(mode):
            if sizes is None:
                yield
                return
            known = {name: copy(getattr(sizes, name)) for name in LEARNED}
            before = len(sizes.guards)
            _forget(sizes)
            try:
                with nullcontext() if asked is not None else sizes.suppress_guards():
                    yield
            finally:
                if asked is not None:
                    asked.extend(guard.expr for guard in sizes.guards[before:])
                    del sizes.guards[before:]
                for name, table in known.items():
                    setattr(sizes, name, table)
                _forget(sizes)

    def fits(self, new: fx.Node, old: fx.Node, advice: str = "") -> fx.Node:
        """`new`, if it has the shape and type of `old`; otherwise `SurgeryError`."""
        found, wanted = new.meta.get("val"), old.meta.get("val")
        if found is not None and wanted is not None and not alike(
                found, wanted, hints_of(self.mode)):
            raise SurgeryError(f"{old.name!r} is {self.describe(old)}, what is to stand for it "
                               f"({new.name}) is {described_value(found, self.names)}"
                               f"{f'; {advice}' if advice else ''}")
        return new

    def place(
        self, thing: Any, wish: str, exact: bool = True, gone: Collection[fx.Node] = ()
    ) -> str:
        """Add a module or a tensor under a name; if not `exact`, under a free one like it.

        What only the nodes `gone` use may be put aside for it.
        """
        name, count = wish, 0
        if not name.isprintable():
            raise SurgeryError(f"a name is on one line and printable, found {name!r}")
        if exact and self._taken(name, gone):
            raise SurgeryError(f"{self.graph.name} uses a module or weight called {name!r}: "
                               "choose another one by name=...")
        while self._taken(name, gone):
            count += 1
            name = f"{wish}_{count}"
        owner, leaf = self._owner(name)
        if hasattr(owner, leaf):
            delattr(owner, leaf)
        if isinstance(thing, Tensor) and not isinstance(thing, torch.nn.Parameter):
            owner.register_buffer(leaf, thing)
        else:
            setattr(owner, leaf, thing)
        return name

    def _owner(self, name: str) -> tuple[torch.nn.Module, str]:
        *path, leaf = name.split(".")
        owner: torch.nn.Module = self.module
        for part in path:
            if not hasattr(owner, part):
                owner.add_module(part, torch.nn.Module())
            owner = getattr(owner, part)
        return owner, leaf

    def _taken(self, name: str, gone: Collection[fx.Node]) -> bool:
        """Whether something that the graph uses has this name, or lies inside it or around it."""
        used = {str(node.target) for node in self.nodes.nodes
                if node.op in ("get_attr", "call_module") and node not in gone}
        return ("." not in name and hasattr(type(self.module), name)) or any(
            f"{u}.".startswith(f"{name}.") or f"{name}.".startswith(f"{u}.") for u in used)

    def constant(self, value: Tensor | float, like: fx.Node) -> fx.Node:
        """A node that holds a tensor, of the shape and type of `like`.

        Sizes that vary are filled where the tensor has size 1 or lacks the axis; where it has
        another size, the graph is from now on for inputs of that size only.
        """
        known = like.meta.get("val")
        if not isinstance(value, Tensor):
            dtype, device = (known.dtype, known.device) if isinstance(known, Tensor) else (
                torch.float32, None)
            value = torch.full((), value, dtype=dtype, device=device)
        if isinstance(known, Tensor) and known.dtype != value.dtype:
            raise SurgeryError(f"{like.name!r} is {known.dtype}, the tensor given for it "
                               f"{value.dtype}: convert it by tensor.to({known.dtype})")
        new = self.nodes.get_attr(self.place(value, f"{like.name}_value", exact=False))
        self.note(new, like)
        new.meta["val"] = fake(value, self.mode)
        if not isinstance(known, Tensor):
            return new
        # Varying sizes are never compared with numbers: that would fix them for the whole graph.
        wanted = [size if isinstance(size, int) else None for size in known.shape]
        missing = known.ndim - value.ndim
        sizes = [1] * missing + list(value.shape)
        if missing < 0 or any(have not in (1, want) and want is not None
                              for have, want in zip(sizes, wanted, strict=True)):
            raise SurgeryError(f"{like.name!r} is {self.describe(like)}, the tensor given for it "
                               f"has shape {list(value.shape)}, which does not broadcast to it")
        for axis, (have, want, size) in enumerate(zip(sizes, wanted, known.shape, strict=True)):
            if want is None and have != 1:
                self._guard(size, have)
                new = self._along(new, axis - missing, size, like)
        if missing or any(have == 1 and want != 1
                          for have, want in zip(sizes, wanted, strict=True)):
            shape = [self._size(size, like) if have == 1 else -1
                     for have, size in zip(sizes, known.shape, strict=True)]
            new = self.call(aten.expand.default, (new, shape), like)
        new.meta["val"] = known
        return new

    def _along(self, value: fx.Node, axis: int, size: Any, like: fx.Node) -> fx.Node:
        """A value with as many entries along an axis as the inputs say.

        A guard says that it has so many.  It is read by index, so that it knows its size as one
        that varies, like all that is computed with it: values of one graph are never of two kinds.
        """
        count = self._size(size, like)
        steps = self.call(aten.arange.default, (count,), like, {"device": like.meta["val"].device})
        return self.call(aten.index_select.default, (value, axis, steps), like)

    def _axes(self) -> dict[Any, tuple[fx.Node, int]]:
        """Input and axis that a varying size is read from."""
        found: dict[Any, tuple[fx.Node, int]] = {}
        for node in self.nodes.find_nodes(op="placeholder"):
            value = node.meta.get("val")
            for axis, size in enumerate(value.shape if isinstance(value, Tensor) else ()):
                if isinstance(size, torch.SymInt):
                    found.setdefault(size.node.expr, (node, axis))
        return found

    def _size(self, size: Any, like: fx.Node) -> Any:
        """A size as an argument: a number, or nodes that compute it from the inputs."""
        if isinstance(size, int):
            return size
        expr = size.node.expr if isinstance(size, torch.SymInt) else size
        if isinstance(expr, sympy.Integer):
            return int(expr)
        if expr in (axes := self._axes()):
            return self.call(aten.sym_size.int, axes[expr], like)
        functions = {sympy.Mul: operator.mul, sympy.Add: operator.add, Mod: operator.mod,
                     FloorDiv: operator.floordiv, CleanDiv: operator.floordiv}
        if type(expr) not in functions:
            raise SurgeryError(f"the size {expr} of {like.name!r} cannot be computed from the "
                               "sizes of the inputs, so no constant can stand for it; edit a node "
                               "whose sizes are those of the inputs")
        first, *rest = (self._size(part, like) for part in expr.args)
        for part in rest:
            first = self.call(functions[type(expr)], (first, part), like)
        return first

    def _guard(self, size: Any, found: int) -> None:
        """From now on the graph is for inputs of one size only."""
        if size.node.expr.free_symbols <= set(self._axes()):
            self.require(sympy.Eq(size.node.expr, found, evaluate=False))

    def require(self, condition: Any) -> None:
        """From now on the graph is for inputs of which a condition on sizes holds."""
        axes = self._axes()
        if unknown := condition.free_symbols - set(axes):
            raise SurgeryError(f"the condition {condition} asks about {unknown.pop()}, which is no "
                               f"size of an input of {self.graph.name}")
        text = PythonPrinter().doprint(condition.xreplace({
            s: sympy.Symbol(f"{axes[s][0].target!s}.shape[{axes[s][1]}]", integer=True,
                            positive=True) for s in condition.free_symbols}))
        self.guards = tuple(dict.fromkeys((*self.guards, text)))

    def takes_place(self, new: fx.Node, old: fx.Node) -> None:
        """Readers of `old` read `new`, which takes over its name; `old` is gone."""
        old.replace_all_uses_with(new)
        if "component" in old.meta:
            new.meta["component"] = old.meta["component"]
        self.nodes.erase_node(old)
        new.name = old.name

    def sweep(self) -> None:
        """Nodes that nobody reads are gone."""
        for node in reversed(self.nodes.nodes):
            if not node.users and node.op not in ENDS:
                self.nodes.erase_node(node)

    def done(self) -> Graph:
        """The new graph: dead nodes and weights that nobody reads are gone."""
        in_order(self.nodes)
        self.sweep()
        used = {str(node.target): attribute(self.module, str(node.target))
                for node in self.nodes.nodes if node.op in ("get_attr", "call_module")}
        made = Calling(used, self.nodes, class_name=type(self.module).__name__)
        leave_out(made, transient(self.module))
        made.graph.lint()
        return replace(self.graph.with_module(made), guards=self.guards)


def in_order(graph: fx.Graph) -> None:
    """Move nodes so that each stands behind what it reads; `SurgeryError` if there is a cycle."""
    done: set[fx.Node] = set()
    order: list[fx.Node] = []
    for start in sorted(graph.nodes, key=lambda node: node.op not in ("get_attr", "placeholder")):
        stack, open_ = [start], dict[fx.Node, None]()
        while stack:
            node = stack[-1]
            if node in done:
                stack.pop()
                continue
            waiting = [operand for operand in node.all_input_nodes if operand not in done]
            if not waiting:
                done.add(stack.pop())
                open_.pop(node, None)
                order.append(node)
                continue
            open_[node] = None
            if looped := [operand for operand in waiting if operand in open_]:
                path = list(open_)[list(open_).index(looped[0]):]
                names = " -> ".join(n.name for n in (looped[0], *reversed(path)))
                raise SurgeryError(f"the edit makes a cycle: {names}; read a value that does not "
                                   f"depend on {looped[0].name!r}")
            stack.extend(reversed(waiting))
    at = order[0]
    for node in order[1:]:
        if at.next is not node:
            at.append(node)
        at = node


def called(node: fx.Node, module: torch.nn.Module) -> str:
    """What a node calls, in words."""
    if node.op == "call_module":
        return f"a {type(module.get_submodule(str(node.target))).__name__}"
    return getattr(node.target, "__name__", str(node.target))
