"""What each clause of the specification looks for; `rewrite.ir.spec` is their table.

Every function yields, for each place where its clause is broken, the node, what was found
there, and what would mend it.
"""

from __future__ import annotations

import inspect
import operator
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.experimental.sym_node import METHOD_TO_OPERATOR

from rewrite.errors import near
from rewrite.ir import ops
from rewrite.ir.graph import Graph
from rewrite.ir.values import (
    alike,
    attribute,
    expression,
    hints_of,
    infer,
    mode_of,
    needs_numbers,
)

aten = torch.ops.aten
Found = Iterator[tuple[str, str, str]]
OWN = {value for value in vars(ops).values() if inspect.isfunction(value)}
PLAIN = {  # on sizes, and on the results of operators that return several
    operator.getitem, operator.add, operator.sub, operator.mul, operator.floordiv, operator.mod,
    operator.truediv, operator.neg, operator.pow, operator.eq, operator.ne, operator.lt,
    operator.le, operator.gt, operator.ge, abs, *METHOD_TO_OPERATOR.values(), torch.sym_not,
    torch.sym_int, torch.sym_sum,
}
JOINS = {aten.add.Tensor, ops.total}
READABLE = (Tensor, torch.SymInt, torch.SymFloat, torch.SymBool, int, float, bool)


@dataclass(frozen=True)
class Subject:
    """The graph that is looked at.  A bare module has no inputs and outputs to compare with."""

    module: fx.GraphModule
    stage: str
    graph: Graph | None = None
    new: Collection[str] | None = None  # values are inferred again at these nodes (None: at all)

    @cached_property
    def nodes(self) -> list[fx.Node]:
        """Nodes in order."""
        return list(self.module.graph.nodes)

    @cached_property
    def order(self) -> dict[fx.Node, int]:
        """Position of each node."""
        return {node: index for index, node in enumerate(self.nodes)}

    @cached_property
    def places(self) -> list[fx.Node]:
        """The placeholders."""
        return [node for node in self.nodes if node.op == "placeholder"]

    def calls(self) -> Iterator[fx.Node]:
        """The nodes that compute something by a function."""
        return (node for node in self.nodes if node.op == "call_function")


def defined(at: Subject) -> Found:
    for node in at.nodes:
        for operand in node.all_input_nodes:
            place = at.order.get(operand)
            if place is None:
                yield (node.name, f"it reads %{operand.name}, which is not in this graph",
                       "read a node of this graph, or copy that one into it")
            elif place >= at.order[node]:
                yield (node.name, f"it reads %{operand.name}, which stands behind it",
                       f"insert it behind %{operand.name}")


def named(at: Subject) -> Found:
    for name, count in Counter(node.name for node in at.nodes).items():
        if count > 1:
            yield name, f"{count} nodes are called so", "let the graph choose names"
        elif not name.isidentifier():
            yield name, "the name is no Python identifier", "let the graph choose names"


def inputs(at: Subject) -> Found:
    if at.graph is None:
        return
    wanted, found = [s.name for s in at.graph.inputs], [str(n.target) for n in at.places]
    if wanted != found:
        where = at.places[0].name if at.places else at.nodes[-1].name
        yield (where, f"the placeholders are {found}, the inputs {wanted}",
               "keep one placeholder for each input, in their order")
        return
    named: dict[str, Any] = {}
    for spec, node in zip(at.graph.inputs, at.places, strict=True):
        value = node.meta.get("val")
        if not isinstance(value, Tensor):
            continue
        sizes = [expression(size) for size in value.shape]
        fits = len(sizes) == len(spec.shape) and value.dtype == spec.dtype and all(
            size == (dim if isinstance(dim, int) else named.setdefault(dim, size))
            for dim, size in zip(spec.shape, sizes, strict=True))
        if not fits:
            yield (node.name, f"its value is {value.dtype} {sizes}, the input {spec.describe()}",
                   "give the placeholder a value of the input's shape and type")


def outputs(at: Subject) -> Found:
    ends = [node for node in at.nodes if node.op == "output"]
    if len(ends) != 1 or at.nodes[-1] is not ends[0]:
        yield (at.nodes[-1].name if at.nodes else "graph", f"{len(ends)} output nodes are found",
               "end the graph with one output")
        return
    result = ends[0].args[0]
    if at.stage == "body":
        return
    if not isinstance(result, (tuple, list)) or not _nested(result, at.stage == "expanded"):
        yield (ends[0].name, f"it returns {_short(result)}", "return a tuple of nodes")
    elif at.graph is not None and len(result) != len(at.graph.outputs.names):
        names = ", ".join(at.graph.outputs.names)
        yield (ends[0].name, f"it returns {len(result)} values, the graph is to return {names}",
               "return one node for each name")


def targets(at: Subject) -> Found:
    known = {name for name, _ in at.module.named_modules() if name}
    for node in at.nodes:
        if node.op == "call_function" and not legal_target(node.target, at.stage):
            yield (node.name, f"it calls {_name(node.target)}",
                   "use an ATen operator (torch.ops.aten...) or a function of rewrite.ir.ops")
        elif node.op == "call_module":
            if at.stage not in ("edited", "components", "expanded"):
                yield node.name, f"it calls the module {node.target}", "write its operators instead"
            elif node.target not in known:
                yield (node.name, f"there is no module {str(node.target)!r}",
                       near(str(node.target), known))
        elif node.op == "call_method":
            yield (node.name, f"it calls the method {node.target}",
                   f"use torch.ops.aten.{node.target}")


def legal_target(target: Any, stage: str) -> bool:
    """Whether graphs of a stage may call this function."""
    if isinstance(target, torch._ops.OpOverload) or stage == "edited":
        return callable(target)
    return target in OWN or target in PLAIN


def attributes(at: Subject) -> Found:
    for node in at.nodes:
        if node.op != "get_attr":
            continue
        try:
            tensor = attribute(at.module, str(node.target))
        except AttributeError:
            names = (*dict(at.module.named_parameters()), *dict(at.module.named_buffers()))
            yield (node.name, f"the module has no {str(node.target)!r}",
                   near(str(node.target), names))
            continue
        value = node.meta.get("val")
        if isinstance(value, Tensor) and isinstance(tensor, Tensor) and (
                value.shape != tensor.shape or value.dtype != tensor.dtype):
            yield (node.name, f"{node.target} is {_short(tensor)}, its value {_short(value)}",
                   "infer the values again after weights are changed")


def pure(at: Subject) -> Found:
    for node in at.calls():
        if isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable:
            plain = node.target._schema.name.removesuffix("_").replace("::", ".")
            yield (node.name, f"{node.target} writes into its operand", f"use {plain}")


def arguments(at: Subject) -> Found:
    for node in at.calls():
        if found := unbound(node):
            yield node.name, found, f"call it as {_signature(node.target)}"


def unbound(node: fx.Node) -> str:
    """Why the arguments of a call do not fit what it calls; "" if they do."""
    if not isinstance(node.target, torch._ops.OpOverload):
        signature = _python(node.target)
        try:
            if signature is not None:
                signature.bind(*node.args, **node.kwargs)
        except TypeError as error:
            return str(error)
        return ""
    wanted = node.target._schema.arguments
    open_to = [a for a in wanted if not a.kwarg_only]
    if len(node.args) > len(open_to):
        return f"{len(node.args)} arguments are given, it takes {len(open_to)}"
    given = dict(zip((a.name for a in open_to), node.args, strict=False))
    for name, value in node.kwargs.items():
        if name in given:
            return f"{name} is given twice"
        given[name] = value
    known = {a.name: a for a in wanted}
    if unknown := [name for name in given if name not in known]:
        return f"it has no argument {unknown[0]!r}, {near(unknown[0], known)}"
    if missing := [a.name for a in wanted if a.name not in given and not a.has_default_value()]:
        return f"{missing[0]} is not given"
    wrong = next((n for n, v in given.items() if not _fits(str(known[n].type), v)), None)
    return "" if wrong is None else f"{wrong} is {_short(given[wrong])}, not {known[wrong].type}"


def _fits(kind: str, value: Any) -> bool:
    """A coarse look at the type of an argument; the operator itself has the last word."""
    if value is None:
        return kind.startswith("Optional") or kind == "NoneType"
    kind = kind.removeprefix("Optional[")
    if kind.startswith("Tensor"):
        return isinstance(value, (fx.Node, int, float, complex))
    if kind.startswith("List[Tensor") or kind.startswith("List[Optional[Tensor"):
        return isinstance(value, (fx.Node, list, tuple))
    if kind.startswith("str"):
        return isinstance(value, str)
    return not isinstance(value, str) or kind.startswith(("Device", "Any"))


def values(at: Subject) -> Found:
    for node in at.nodes:
        value = node.meta.get("val")
        items = value if isinstance(value, (tuple, list)) else (value,)
        if node.op != "output" and not any(isinstance(item, READABLE) for item in items):
            found = "it has none" if value is None else f"it is {_short(value)}"
            yield node.name, found, "infer it from the operands (rewrite.ir.values.infer)"


def shapes(at: Subject) -> Found:
    mode = mode_of(at.module.graph)
    hints = hints_of(mode)
    for node in at.nodes:
        chosen = at.new is None or node.name in at.new
        knows = "val" in node.meta and all("val" in o.meta for o in node.all_input_nodes)
        if not chosen or not knows or not node.op.startswith("call_"):
            continue
        if node.op == "call_module" and not isinstance(
                at.module.get_submodule(str(node.target)), fx.GraphModule):
            continue
        try:
            found = infer(node, mode, at.module)
        except Exception as error:  # operators raise errors of many kinds
            if needs_numbers(error):
                continue
            yield (node.name, f"it cannot read {_operands(node)}: {str(error).splitlines()[0]}",
                   "give it operands that fit")
            continue
        if not alike(found, node.meta["val"], hints):
            yield (node.name, f"it gives {_short(found)} and says {_short(node.meta['val'])}",
                   "set meta['val'] to what it gives")


def alive(at: Subject) -> Found:
    for node in at.nodes:
        if not node.users and node.op not in ("output", "placeholder"):
            yield node.name, "nobody reads it", "call graph.eliminate_dead_code()"


def joins(at: Subject) -> Found:
    for node in at.calls():
        terms = [n.meta.get("val") for n in node.all_input_nodes]
        tensors = [value for value in terms if isinstance(value, Tensor)]
        if node.target not in JOINS or len(tensors) < len(terms):
            continue
        sizes = [tuple(expression(s) for s in value.shape) for value in tensors]
        whole = max(sizes, key=len)  # a bias or learned positions may have fewer axes, or size 1
        whole = next((s for s in sizes if len(s) == len(whole) and 1 not in s), whole)
        if odd := next((s for s in sizes if not _within(s, whole)), None):
            yield (node.name, f"a term is {list(odd)}, another one {list(whole)}",
                   "add terms of one shape")


def _within(small: tuple[Any, ...], whole: tuple[Any, ...]) -> bool:
    """Whether a term broadcasts to the shape of the sum."""
    last = zip(reversed(small), reversed(whole), strict=False)
    return len(small) <= len(whole) and all(a in (b, 1) for a, b in last)


def arity(at: Subject) -> Found:
    for node in at.nodes:
        body = None
        if node.op == "call_module":
            body = dict(at.module.named_children()).get(str(node.target))
        if isinstance(body, fx.GraphModule):
            wanted = [str(n.target) for n in body.graph.find_nodes(op="placeholder")]
            if len(node.args) != len(wanted) or node.kwargs:
                given = len(node.args) + len(node.kwargs)
                yield (node.name, f"{given} arguments are given, {node.target} takes {wanted}",
                       "give one value for each placeholder, by position")


def _nested(result: Any, deep: bool) -> bool:
    if deep and isinstance(result, (tuple, list)):
        return all(_nested(item, deep) for item in result)
    return isinstance(result, fx.Node) or (
        isinstance(result, (tuple, list)) and all(isinstance(item, fx.Node) for item in result))


@cache
def _python(target: Any) -> inspect.Signature | None:
    """The signature of a Python function; None where it has none that can be read."""
    try:
        return inspect.signature(target)
    except (ValueError, TypeError):
        return None


def _signature(target: Any) -> str:
    if isinstance(target, torch._ops.OpOverload):
        return str(target._schema)
    return f"{_name(target)}{_python(target) or '(...)'}"


def _name(target: Any) -> str:
    return getattr(target, "__qualname__", None) or str(target)


def _operands(node: fx.Node) -> str:
    return ", ".join(_short(o.meta["val"]) for o in node.all_input_nodes) or "its arguments"


def _short(value: Any) -> str:
    """A value as `float32 [2, seq]`."""
    if isinstance(value, Tensor):
        kind = str(value.dtype).removeprefix("torch.")
        return f"{kind} [{', '.join(str(s) for s in value.shape)}]"
    if isinstance(value, (tuple, list)):
        return f"({', '.join(_short(item) for item in value)})"
    return f"%{value.name}" if isinstance(value, fx.Node) else repr(value)
