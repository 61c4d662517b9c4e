"""The greatest length that a graph takes, where a table of positions says it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, fx

from rewrite.ir.code import Code
from rewrite.ir.values import attribute
from rewrite.trace.probes import Shapes, Sizes

aten = torch.ops.aten


def longest(module: fx.GraphModule, shapes: Shapes, sizes: Sizes) -> Sizes:
    """The greatest size of each axis along which rows of a table are counted up.

    Rows are looked up by numbers that depend on sizes and on no value of an input, so the first
    size at which they leave the table is found without the model.
    """
    found: Sizes = {}
    for node in module.graph.find_nodes(op="call_function", target=aten.embedding.default):
        table, index = node.args[0], node.args[1]
        if not isinstance(table, fx.Node) or not isinstance(index, fx.Node):
            continue
        if table.op != "get_attr" or (needed := _by_sizes(index)) is None:
            continue
        rows = attribute(module, str(table.target)).shape[0]
        counted = _Count(module, needed, index, shapes)
        for dim, size in sizes.items():
            last = counted.at(sizes)
            if last is None or counted.at(sizes | {dim: size + 1}) != last + 1:
                continue
            most = rows - 1 - (last - size)
            if counted.at(sizes | {dim: most}) == rows - 1:
                found[dim] = min(most, found.get(dim, most))
    return found


def _by_sizes(index: fx.Node) -> list[fx.Node] | None:
    """The nodes that a value is made of, in order; None if they read a value of an input."""
    needed: set[fx.Node] = set()
    stack = [index]
    while stack:
        node = stack.pop()
        if node in needed:
            continue
        needed.add(node)
        stack.extend(node.all_input_nodes)
    if any(operand.op == "placeholder" and not _is_size(node)
           for node in needed for operand in node.all_input_nodes):
        return None
    return None if index.op == "placeholder" else [n for n in index.graph.nodes if n in needed]


def _is_size(node: fx.Node) -> bool:
    return node.target in (aten.sym_size.int, aten.sym_numel.default)


class _Count:
    """The largest entry of a value that depends on sizes only."""

    def __init__(
        self, module: fx.GraphModule, needed: Sequence[fx.Node], index: fx.Node, shapes: Shapes
    ) -> None:
        graph, copies = fx.Graph(), dict[fx.Node, fx.Node]()
        for node in needed:
            copies[node] = graph.node_copy(node, copies.__getitem__)
        graph.output(copies[index])
        self._names = [str(node.target) for node in needed if node.op == "placeholder"]
        self._module, self._shapes = Code(module, graph), shapes

    def at(self, sizes: Mapping[str, int]) -> int | None:
        """None if it cannot be worked out at these sizes."""
        given = [torch.zeros([sizes[d] if isinstance(d, str) else d for d in self._shapes[name]])
                 for name in self._names]
        try:
            with torch.no_grad():
                value: Tensor = self._module(*given)
                return int(value.max())
        except Exception:
            return None
