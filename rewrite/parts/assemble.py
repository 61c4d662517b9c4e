"""Component bodies wired into one executable module."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import fx

from rewrite.ir.code import Code
from rewrite.ir.dag import Constant, Join, Source
from rewrite.ir.edit import Calling
from rewrite.ir.flow import args
from rewrite.ir.nested import Place
from rewrite.ir.notes import MEMBER
from rewrite.ir.ops import changed, total
from rewrite.ir.spec import check
from rewrite.ir.values import alike as same
from rewrite.ir.values import attribute, infer, mode_of
from rewrite.parts.component import Component, Components
from rewrite.parts.stacks import source_name
from rewrite.rules.slicer import Body

aten = torch.ops.aten


class Assembler:
    """Builds a module that calls bodies of components on values of one or more runs.

    Every method returns the `fx.Node` of a value.  Inputs that are not sources, and all
    context (masks, rotary tables, learned positions), are shared by the runs.  Nodes know the
    shape and type of their value (`meta["val"]`), but for bodies that differ from the model's.
    """

    def __init__(self, parts: Components, runs: Sequence[str]) -> None:
        self.parts, self.runs = parts, tuple(runs)
        self.graph = fx.Graph()
        self.root: dict[str, Any] = {}
        self.context: dict[fx.Node, fx.Node] = {}
        self.inputs: dict[tuple[str, str], fx.Node] = {}
        self.masks: dict[str, fx.Node] = {}
        self._sums = {parts.values[node]: node for node in parts.cut.sums}
        known = {str(node.target): node
                 for node in parts.graph.module.graph.find_nodes(op="placeholder")}
        self.sources = {str(node.target) for node in parts.cut.flow.sources}
        for run in self.runs:
            for spec in parts.graph.inputs:
                name = spec.name if spec.name not in self.sources or not run else (
                    f"{run}_{spec.name}")
                shared = next((v for (_, n), v in self.inputs.items()
                               if n == spec.name and spec.name not in self.sources), None)
                made = shared or self.graph.placeholder(Place(name))
                self.inputs[run, spec.name] = _noted(made, known[spec.name])
        self._context_at = self.graph.call_function(tuple, ())  # marks where context goes
        self._bodies: dict[int, str] = {}

    def source(self, run: str, name: str) -> fx.Node:
        """The value of source `name` in `run`."""
        nodes = self.parts.cut.flow.sources
        return next(self.inputs[run, str(n.target)] for n in nodes if source_name(n) == name)

    def constant(self, name: str) -> fx.Node:
        """A value that no run changes."""
        for node, known in self.parts.values.items():
            if known == name:
                return self.given(node)
        body = self.parts.bias(name.removesuffix(".bias"))
        assert body is not None, name
        return self._call(body, name, ())

    def join(self, name: str, terms: Sequence[fx.Node], label: str | None = None) -> fx.Node:
        """A sum, by the operator of the model; heads and experts are added in their order."""
        target: Any = aten.add.Tensor if len(terms) == 2 else total
        given, options = tuple(terms), {}
        if node := self._sums.get(name):
            target, known = node.target, self.parts.cut.sums[node]
            values = iter(terms)
            given, options = fx.map_arg((args(node), dict(node.kwargs)), lambda o: next(
                values) if o in known else self.given(o))
        label = label or name
        made = self.graph.create_node("call_function", target, given, options, name=_plain(label))
        made.meta["component"] = label
        return made

    def changed(self, label: str, base: fx.Node, pairs: Sequence[fx.Node]) -> fx.Node:
        """`base` plus what each two of `pairs` differ by."""
        made = self.graph.create_node(
            "call_function", changed, (base, *pairs), name=_plain(label))
        made.meta["component"] = label
        return made

    def part(
        self,
        name: str,
        values: Sequence[fx.Node],
        heads: tuple[int, ...] | None = None,
        alike: Mapping[str, str] | None = None,
        body: Body | None = None,
        label: str | None = None,
        start: fx.Node | None = None,
    ) -> fx.Node:
        """Component `name`, reading `values` (one for each slot of its region).

        A body that computes a tail of its rows is told where it starts.
        """
        component = self.parts.component(name)
        if component.region is None:
            return values[0]
        names = {"q": "x", "k": "x", "v": "x"} if alike is None else alike
        whole = body is None
        body = body or self.parts.body(name, heads, alike)
        given = {
            (names.get(port, port) if component.heads else "", node): value
            for (port, node), value in zip(_slots(component), values, strict=True)
        }
        made = self._call(body, label or name, tuple(given[slot] for slot in body.slots), start)
        return _noted(made, component.region.output) if whole else made

    def part_by_slots(
        self, body: Body, given: Mapping[tuple[str, fx.Node], fx.Node], label: str,
        output: fx.Node | None = None, start: fx.Node | None = None,
    ) -> fx.Node:
        """A body on the values of its slots; its result is like `output` if one is named."""
        made = self._call(body, label, tuple(given[slot] for slot in body.slots), start)
        return made if output is None else _noted(made, output)

    def number(self, name: str) -> fx.Node:
        """An integer that the module is given last; 0 if it is not."""
        with self.graph.inserting_before(self._context_at):
            return self.graph.placeholder(name, default_value=0)

    def where(self, place: str) -> fx.Node:
        """The mask [batch, positions] of a named position: an input of the module."""
        if place not in self.masks:
            with self.graph.inserting_before(self._context_at):
                self.masks[place] = self.graph.placeholder(f"at_{place}")
        return self.masks[place]

    def given(self, node: fx.Node) -> fx.Node:
        """A context value of the op graph."""
        if node not in self.context:
            with self.graph.inserting_before(self._context_at):
                item = self.graph.call_function(
                    operator.getitem, (self._context_at, len(self.context)))
            self.context[node] = _noted(item, node)
        return self.context[node]

    def finish(self, outputs: Any, stage: str = "expanded") -> fx.GraphModule:
        """The module that returns `outputs` (nodes in tuples), legal at its stage."""
        self.graph.output(outputs)
        self._place_context()
        module = Calling(self.root, self.graph, class_name=self.parts.graph.name)
        module.graph.eliminate_dead_code()
        self._infer_rest(module)
        check(module, stage)
        module.recompile()
        return module

    def _infer_rest(self, module: fx.GraphModule) -> None:
        """Note the values of biases, and of sums and slices of values that are known."""
        mode = mode_of(module.graph)
        for node in module.graph.nodes:
            values = [operand.meta.get("val") for operand in node.all_input_nodes]
            known = all(value is not None for value in values)
            plain = node.op == "call_function" or (node.op == "call_module" and not values)
            if not plain or "val" in node.meta or not known:
                continue
            sums = node.target in (aten.add.Tensor, total)
            alike = sums and all(same(value, values[0]) for value in values)
            node.meta["val"] = values[0] if alike else infer(node, mode, module)

    def _call(
        self, body: Body, name: str, values: Iterable[fx.Node], start: fx.Node | None = None
    ) -> fx.Node:
        key = id(body.module)  # alive as long as `root`, so no other body gets its number
        if key not in self._bodies:
            stem, count = _plain(name.partition("__")[0]), 0
            target = stem
            while target in self.root or hasattr(Calling, target):  # a part may be called `half`
                count += 1
                target = f"{stem}_{count}"
            self._bodies[key] = target
            self.root[target] = body.module
        args = (*values, *(self.given(node) for node in body.context))
        if body.tail:
            assert start is not None, name
            args = (*args, start)
        target = self._bodies[key]
        made = self.graph.create_node("call_module", target, args, name=_plain(name))
        made.meta["component"] = name
        return made

    def _place_context(self) -> None:
        """Replace the marker by one call that computes all context from the first run."""
        nodes, marker = list(self.context), self._context_at
        for item in self.context.values():
            marker.append(item)  # items read the marker, so they stand behind it
        if nodes:
            self.root["context"] = context_module(self.parts, nodes)
            args = tuple(self.inputs[self.runs[0], s.name] for s in self.parts.graph.inputs)
            with self.graph.inserting_before(marker):
                computed = self.graph.call_module("context", args)
            computed.meta["val"] = tuple(node.meta.get("val") for node in nodes)
            for index, node in enumerate(nodes):
                with self.graph.inserting_after(marker):
                    item = self.graph.call_function(operator.getitem, (computed, index))
                _noted(item, node).meta["component"] = "context"
                self.context[node].replace_all_uses_with(item)
                self.graph.erase_node(self.context[node])
        self.graph.erase_node(marker)


def _noted(made: fx.Node, origin: fx.Node) -> fx.Node:
    """A node with the shape and type of a value of the op graph."""
    if "val" in origin.meta:
        made.meta["val"] = origin.meta["val"]
    return made


def context_module(parts: Components, wanted: Sequence[fx.Node]) -> fx.GraphModule:
    """Masks, positions and the like, as a function of all inputs to a tuple."""
    flow = parts.cut.flow
    needed: set[fx.Node] = set()
    stack = list(wanted)
    while stack:
        node = stack.pop()
        if node not in needed:
            needed.add(node)
            stack.extend(node.all_input_nodes)
    graph, made, weights = fx.Graph(), {}, {}
    for node in flow.graph.nodes:
        if node.op == "placeholder" or node in needed:
            made[node] = graph.node_copy(node, made.__getitem__)
            if node.op == "get_attr":
                weights[node.target] = attribute(parts.graph.module, node.target)
    graph.output(tuple(made[node] for node in wanted))
    graph.lint()
    return Code(weights, graph)


def context_inputs(parts: Components) -> frozenset[str]:
    """Names of the inputs that are no sources: all runs share them."""
    sources = {str(node.target) for node in parts.cut.flow.sources}
    return frozenset(spec.name for spec in parts.graph.inputs) - sources


def split_module(parts: Components) -> fx.GraphModule:
    """The model with every head, and its q, k and v readings, as calls of their own."""
    build = Assembler(parts, ("",))
    alike = {port: port for port in "qkv"}
    values: dict[str, fx.Node] = {}
    for node in parts.dag.nodes:
        if isinstance(node, Source):
            values[node.name] = build.source("", node.name)
        elif isinstance(node, Constant):
            values[node.name] = build.constant(node.name)
        elif isinstance(node, Join):
            made = values[node.name] = build.join(node.name, [values[t] for t in node.terms])
            layer = parts.owner(node.terms[0])[0]
            if parts.components.get(layer) and parts.components[layer].members:
                made.meta["layer"] = (parts, layer)
        else:
            layer, member = parts.owner(node.name)
            heads = None if member is None else (member,)
            made = values[node.name] = build.part(
                layer, [values[r] for r in node.reads], heads,
                alike if heads else None, label=node.name)
            if heads:
                made.meta["part"] = MEMBER
    return build.finish(tuple(values[name] for name in parts.dag.outputs), "components")


def _slots(component: Component) -> tuple[tuple[str, fx.Node], ...]:
    assert component.region is not None
    if component.heads:
        return component.region.slots
    return tuple(dict.fromkeys(("", node) for _, node in component.region.slots))


def _plain(name: str) -> str:
    return name.replace(".", "_")
