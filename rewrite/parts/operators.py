"""A graph written out: operators alone, where it calls bodies, functions or modules.

Surgery edits graphs of parts as well as graphs of operators, and puts in functions and modules.
What comes later (recognition, slices, files) reads operators.  Their notes say which part they
were (`rewrite.ir.notes`), so that it keeps its name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx, nn

from rewrite.ir.clauses import JOINS, legal_target
from rewrite.ir.edit import Edit
from rewrite.ir.flow import args, is_float
from rewrite.ir.graph import Graph
from rewrite.ir.notes import BODY, OWN, SUM
from rewrite.ir.ops import take
from rewrite.ir.regions import unfold
from rewrite.ir.values import attribute
from rewrite.parts.functions import trace

if TYPE_CHECKING:
    from rewrite.parts.component import Components

aten = torch.ops.aten
PORTS = {port: port for port in "qkv"}


def written_out(graph: Graph, whole: bool = True) -> Graph:
    """The same graph as operators alone; itself, if it is.

    Bodies of parts are written out, and functions and modules that surgery has put in are
    traced.  If `whole`, layers of which nothing was changed are one again: they add up as the
    model does.  Raises `SurgeryError` for a function that looks at values or changes its operand.

    >>> from rewrite.parts.operators import written_out
    >>> whole = written_out(parts.as_graph().ablate("a0.h1"))
    >>> whole.count("a0_h2_*") > 10, whole.count("a1_h2_*")
    (True, 0)
    """
    if not any(_opaque(node) for node in graph.module.graph.nodes):
        return graph
    return _Writer(graph, whole).run()


def _opaque(node: fx.Node) -> bool:
    """Whether a node calls something else than an operator."""
    if node.op != "call_function":
        return node.op in ("call_module", "call_method")
    mutable = isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable
    return mutable or not legal_target(node.target, "rewritten")


class _Writer:
    """An edit that writes one node after the other out."""

    def __init__(self, graph: Graph, whole: bool) -> None:
        self.edit = Edit(graph)
        nodes = list(self.edit.nodes.nodes)
        self.bodies = {node: body for node in nodes if (body := self._body(node)) is not None}
        self.layers = {n for n in nodes if whole and self._layer(n) is not None}
        self.homes = {id(tensor): name for name, tensor in self._own_tensors()}

    def run(self) -> Graph:
        members = {term for node in self.layers for term in node.all_input_nodes}
        for node in list(self.edit.nodes.nodes):
            if node in members:
                continue
            if node in self.layers and (whole := self._layer(node)) is not None:
                self._write(node, *whole, node.meta["layer"][1], BODY)
            elif node in self.bodies:
                known, part = node.meta.get("component", node.name), node.meta.get("part", BODY)
                self._write(node, self.bodies[node], list(node.args), known, part)
            elif self.bodies and _adds(node):
                self._write_sum(node)
            elif _opaque(node):
                self._write_own(node)
        for node in self.edit.nodes.find_nodes(op="call_function", target=take):
            self._write_take(node)
        return self.edit.done()

    def _body(self, node: fx.Node) -> fx.GraphModule | None:
        called = self.edit.module.get_submodule(str(node.target)) if (
            node.op == "call_module") else None
        return called if isinstance(called, fx.GraphModule) else None

    def _layer(self, node: fx.Node) -> tuple[fx.GraphModule, list[Any]] | None:
        """The whole body of a layer and what it reads, if its heads or experts are as they were."""
        parts, short = node.meta.get("layer", (None, ""))
        if parts is None or not _adds(node):
            return None
        return whole_layer(parts, short, [
            (term, self.bodies.get(term)) for term in node.all_input_nodes
            if list(term.users) == [node]])

    def _write(
        self, node: fx.Node, body: fx.GraphModule, given: list[Any], name: str, part: str
    ) -> None:
        result = unfold(self.edit, node, body, given, self._home(body))
        if isinstance(result, fx.Node):
            result.meta |= {"component": name, "part": part}

    def _write_sum(self, node: fx.Node) -> None:
        """total(x, y, z) -> (x + y) + z, and total(x) -> x"""
        value, *terms = args(node)
        name = node.meta.get("component", node.name)
        with self.edit.nodes.inserting_before(node):
            for term in terms:
                value = self.edit.call(aten.add.Tensor, (value, term), node)
                value.meta["part"] = SUM
        if terms:
            self.edit.takes_place(value, node)
            value.meta["component"] = name
        else:
            node.replace_all_uses_with(value)
            self.edit.nodes.erase_node(node)

    def _write_own(self, node: fx.Node) -> None:
        """What surgery has put in is a part if it has a name, or stands among parts."""
        name = node.meta.get("component") or (node.name if self.bodies else None)
        traced = trace(self.edit, node)
        for inner in traced.graph.nodes:
            inner.meta |= {"own": node.name, "module": node.meta.get("module", "")}
        end = traced.graph.output_node()
        if name is not None and any(o.op == "placeholder" for o in end.all_input_nodes):
            with traced.graph.inserting_before(end):  # f(x) = x is a part too
                end.args = fx.map_arg(end.args, lambda value: traced.graph.call_function(
                    aten.clone.default, (value,)))
        given = node.all_input_nodes
        result = unfold(self.edit, node, traced, given, self._home(traced, f"{node.name}_value"))
        if isinstance(result, fx.Node):
            result.meta |= {key: node.meta[key] for key in ("from", "added") if key in node.meta}
            result.meta |= {} if name is None else {"component": name, "part": OWN}

    def _write_take(self, node: fx.Node) -> None:
        """take(x, d, ranges) -> cat(x[range at d], ...)"""
        x, dim, ranges = args(node)
        with self.edit.nodes.inserting_before(node):
            pieces = [self.edit.call(aten.slice.Tensor, (x, dim, *ends), node) for ends in ranges]
            made = pieces[0] if len(pieces) == 1 else self.edit.call(
                aten.cat.default, (pieces, dim), node)
        self.edit.takes_place(made, node)

    def _home(self, body: fx.GraphModule, wish: str | None = None) -> Callable[[str], str]:
        """Where the graph has the tensors of a body: under the names that the model gives them."""
        def home(target: str) -> str:
            tensor = attribute(body, target)
            if id(tensor) not in self.homes:
                self.homes[id(tensor)] = self.edit.place(tensor, wish or target, exact=False)
            return self.homes[id(tensor)]

        return home

    def _own_tensors(self) -> list[tuple[str, Tensor]]:
        """Weights of the graph itself, and of modules that surgery has put in."""
        found = [(str(n.target), attribute(self.edit.module, str(n.target)))
                 for n in self.edit.nodes.find_nodes(op="get_attr")]
        for node in self.edit.nodes.find_nodes(op="call_module"):
            called: nn.Module = self.edit.module.get_submodule(str(node.target))
            if node not in self.bodies:
                found += [(f"{node.target}.{name}", tensor) for name, tensor in (
                    *called.named_parameters(), *called.named_buffers())]
        return found


def _adds(node: fx.Node) -> bool:
    """Whether a node of a graph of parts adds up values, and nothing else."""
    return node.target in JOINS and not node.kwargs and all(
        isinstance(term, fx.Node) and is_float(term) for term in node.args)


def whole_layer(
    parts: Components, short: str, terms: list[tuple[fx.Node, fx.GraphModule | None]]
) -> tuple[fx.GraphModule, list[Any]] | None:
    """The body of a layer and what it reads, if it is what the terms of a sum add up to.

    `terms` are calls with their bodies.  None unless they are the heads (or experts) of the
    layer as the model has them, each reading the same values, and its bias.
    """
    bias, count = parts.bias(short), parts.component(short).members
    bodies = [parts.body(short, (member,), PORTS) for member in range(count)]
    wanted = [body.module for body in (*bodies, *([bias] if bias else []))]
    if [body for _, body in terms] != wanted:
        return None
    reads: dict[Any, Any] = {}
    for body, (call, _) in zip(bodies, terms, strict=False):
        for key, value in zip((*body.slots, *body.context), call.args, strict=True):
            if reads.setdefault(key, value) is not value:
                return None
    together = {("x" if port else "", node): value for (port, node), value in (
        item for item in reads.items() if isinstance(item[0], tuple))}
    same = all(together["x" if port else "", node] is value for (port, node), value in (
        item for item in reads.items() if isinstance(item[0], tuple)))
    whole = parts.body(short) if same else parts.body(short, None, PORTS)
    reads |= together if same else {}
    keys = (*whole.slots, *whole.context)
    return (whole.module, [reads[key] for key in keys]) if set(keys) <= set(reads) else None
