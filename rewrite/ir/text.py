"""Graphs as text that people read and compare, and that is read back (`rewrite.ir.text_read`).

    graph Small {
      @linear.weight : float32[4, 4]
      @linear.bias : float32[4]
      input %x : float32[batch, 4]
      %linear = linear(%x, @linear.weight, @linear.bias) : float32[batch, 4]  # linear
      output output = %linear
    }

A line is a node, in order.  Weights are called by their names in the model, behind `#` stands
the module that a node comes from, or the part that it computes.  The bodies that a component
graph calls follow it, once each.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any

import torch
from torch import fx

from rewrite.ir.graph import Graph
from rewrite.ir.spec import bodies
from rewrite.ir.text_names import name_of
from rewrite.ir.text_sizes import Sizes


def to_text(graph: Graph | fx.GraphModule, strides: bool = False) -> str:
    """A graph as text, which tracing the same model again gives again.

    Sizes are expressions in the named lengths of the inputs; a bare module, such as the one of
    an expansion, has none, and calls them `s0`, `s1`.  If `strides`, types say how values lie in
    memory, where it is not one entry behind the other: `float32[3, batch] by [1, 3]`.

    >>> graph = rw.trace(torch.nn.Linear(2, 3).eval(), inputs={"input": torch.ones(3, 2)})
    >>> print(to_text(graph))
    graph Linear {
      @weight : float32[3, 2]
      @bias : float32[3]
      input %input_1 = input : float32[batch, 2]
      %linear = linear(%input_1, @weight, @bias) : float32[batch, 3]
      output output = %linear
    }
    """
    module = graph.module if isinstance(graph, Graph) else graph
    specs = graph.inputs if isinstance(graph, Graph) else ()
    sizes = Sizes(specs, module.graph.find_nodes(op="placeholder"), strides)
    if isinstance(graph, Graph):
        head = f"graph {word(graph.name)}"
        lines = [*(f"guard {guard}" for guard in graph.guards), *node_lines(graph, sizes).values()]
    else:
        head = f"module {word(type(module).__name__)}"
        lines = list(_lines(module.graph, sizes).values())
    text = block(head, lines)
    for name, body in bodies(module).items():
        text += "\n" + block(f"body {word(name)}", _lines(body.graph, sizes).values())
    return text


def node_lines(graph: Graph, sizes: Sizes | None = None) -> dict[str, str]:
    """The line (or lines, for the output) of each node, by its name."""
    places = graph.module.graph.find_nodes(op="placeholder")
    lines = _lines(graph.module.graph, sizes or Sizes(graph.inputs, places))
    for spec, node in zip(graph.inputs, places, strict=False):
        _, _, kind = spec.describe().partition(": ")
        lines[node.name] = f"{_place(node)} : {kind.replace(' ', '', 1)}"
    end = next(iter(reversed(graph.module.graph.nodes)))
    results = end.args[0]
    if isinstance(results, (tuple, list)) and len(results) == len(graph.outputs.names):
        lines[end.name] = "\n".join(
            f"output {word(name)} = {argument(value)}"
            for name, value in zip(graph.outputs.names, results, strict=True))
    return lines


def block(head: str, lines: Any) -> str:
    """Lines between braces."""
    inner = "".join(f"  {line}\n" for text in lines for line in text.split("\n"))
    return f"{head} {{\n{inner}}}"


def _lines(graph: fx.Graph, sizes: Sizes) -> dict[str, str]:
    return {node.name: "".join(_line(node, sizes)) for node in graph.nodes}


def _line(node: fx.Node, sizes: Sizes) -> Iterator[str]:
    match node.op:
        case "placeholder":
            yield _place(node)
        case "get_attr":
            yield reference(node) if is_plain(node) else f"%{node.name} = @{node.target}"
        case "output":
            yield f"return {argument(node.args[0])}"
            return
        case "call_function":
            yield f"%{node.name} = {name_of(node.target)}({_arguments(node)})"
        case kind:
            verb = "call" if kind == "call_module" else "method"
            yield f"%{node.name} = {verb} {word(str(node.target))}({_arguments(node)})"
    if kind := sizes.type(node.meta.get("val")):
        yield f" : {kind}"
    if note := node.meta.get("component"):
        yield f"  # {node.meta.get('part', 'part')} {note}"
    elif (note := node.meta.get("module", "")) and not note.startswith("_"):  # torch's own
        yield f"  # {note}"


def _place(node: fx.Node) -> str:
    own = "" if node.name == node.target else f" = {word(str(node.target))}"
    return f"input %{node.name}{own}"


def _arguments(node: fx.Node) -> str:
    given = [argument(value) for value in node.args]
    given += [f"{name}={argument(value)}" for name, value in node.kwargs.items()]
    return ", ".join(given)


def argument(value: Any) -> str:
    """One argument of a call."""
    match value:
        case fx.Node():
            return reference(value)
        case list():
            return f"[{', '.join(map(argument, value))}]"
        case tuple():
            return f"({', '.join(map(argument, value))}{',' * (len(value) == 1)})"
        case dict():
            inner = (f"{argument(key)}: {argument(item)}" for key, item in value.items())
            return f"{{{', '.join(inner)}}}"
        case slice():
            return f"slice({', '.join(map(argument, (value.start, value.stop, value.step)))})"
        case torch.device():
            return f"device({str(value)!r})"
        case float() if math.isinf(value) or math.isnan(value):
            return str(value)
        case _ if value is Ellipsis:
            return "..."
    return repr(value)


def reference(node: fx.Node) -> str:
    """How other lines read a node: `%add`, `@wte.weight`."""
    return f"@{node.target}" if node.op == "get_attr" and is_plain(node) else f"%{node.name}"


def is_plain(node: fx.Node) -> bool:
    """Whether the name of a weight's node follows from that of the weight."""
    return node.name == plain_name(str(node.target))


def plain_name(target: str) -> str:
    """The name of the node that reads a weight, unless another node has taken it.

    >>> plain_name("h.0.ln_1.weight")
    'h_0_ln_1_weight'
    """
    return re.sub(r"\W", "_", target)


def word(name: str) -> str:
    """A name as it is, or quoted if it has other characters than those of names and dots."""
    return name if re.fullmatch(r"[A-Za-z_]\w*(\.\w+)*", name) else repr(name)
