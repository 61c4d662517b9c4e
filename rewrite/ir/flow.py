"""What depends on what in an op graph: values that carry the input, and context that does not."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, fx

aten = torch.ops.aten

# They look at the shape of their operand, never at its values.
SHAPE_ONLY = {
    aten.sym_size.int, aten.sym_numel.default, aten.new_ones.default, aten.new_zeros.default,
    aten.new_full.default, aten.new_empty.default, aten.zeros_like.default,
    aten.ones_like.default, aten.full_like.default, aten.empty_like.default,
}

# Products with a weight: (operand that carries the data, operand that is the weight, bias).
CONTRACTIONS: dict[Any, tuple[int, int, int | None]] = {
    aten.linear.default: (0, 1, 2),
    aten.addmm.default: (1, 2, 0),
    aten.mm.default: (0, 1, None),
    aten.matmul.default: (0, 1, None),
}
# Products of two operands that may both flow: experts chosen per token have gathered weights.
PAIRED: dict[Any, tuple[int, int]] = {
    aten.bmm.default: (0, 1), aten.matmul.default: (0, 1), aten.baddbmm.default: (1, 2),
}
CHOICES = {aten.index.Tensor, aten.index_select.default}
MOVES = {
    aten.transpose.int, aten.permute.default, aten.unsqueeze.default, aten.to.dtype,
    aten.contiguous.default, aten.view.default, aten.reshape.default, aten.expand.default,
}


def shape(node: fx.Node) -> tuple[Any, ...]:
    """Sizes of a tensor node: integers, or sympy expressions for sizes that vary.

    Of a node with several results (a sort), those of the first.
    """
    value = node.meta["val"]
    value = value[0] if isinstance(value, (tuple, list)) else value
    return tuple(size if isinstance(size, int) else size.node.expr for size in value.shape)


def args(node: fx.Node) -> tuple[Any, ...]:
    """Positional arguments of a node; their declared type is a union too wide to use."""
    return node.args


def is_float(node: fx.Node) -> bool:
    """Whether a node is a floating-point tensor."""
    value = node.meta.get("val")
    return isinstance(value, Tensor) and value.is_floating_point()


class Flow:
    """Dependence of the nodes of one graph on the values of its sources.

    A node *flows* if changing the value of a source can change it.  Everything else is
    *context*: parameters, masks, positions, sizes.
    """

    def __init__(self, graph: fx.Graph, sources: Iterable[str]) -> None:
        self.graph = graph
        self.order = {node: index for index, node in enumerate(graph.nodes)}
        wanted = set(sources)
        self.sources = [n for n in graph.nodes if n.op == "placeholder" and n.target in wanted]
        self.flowing: set[fx.Node] = set(self.sources)
        for node in graph.nodes:
            depends = any(operand in self.flowing for operand in node.all_input_nodes)
            if depends and node.op != "output" and node.target not in SHAPE_ONLY:
                self.flowing.add(node)

    def flows(self, node: fx.Node) -> bool:
        """Whether the value of `node` depends on the value of a source."""
        return node in self.flowing

    def operands(self, node: fx.Node) -> list[fx.Node]:
        """Operands of `node` that flow."""
        return [operand for operand in node.all_input_nodes if operand in self.flowing]

    def from_weights(self, node: fx.Node) -> bool:
        """Whether `node` is made of parameters and constants alone: no input, no size."""
        return node in self._weights

    @cached_property
    def _weights(self) -> set[fx.Node]:
        found: set[fx.Node] = set()
        for node in self.graph.nodes:
            operands = node.all_input_nodes
            if node.op == "get_attr" or (
                node.op == "call_function" and operands and all(o in found for o in operands)
            ):
                found.add(node)
        return found

    def contracts(self, node: fx.Node) -> bool:
        """Whether `node` multiplies a flowing operand with a weight (linear, addmm, conv, ...)."""
        if node.target in CONTRACTIONS:
            data, weight, _ = CONTRACTIONS[node.target]
            operands = (args(node)[data], args(node)[weight])
            if self.flows(operands[0]) and self.from_weights(operands[1]):
                return True
        if self.weight_first(node):
            return True
        if node.target in PAIRED:
            pair = [args(node)[i] for i in PAIRED[node.target]]
            return any(map(self.chosen, pair)) or (
                self.flows(node) and any(map(self.from_weights, pair)))
        mixes = "conv" in str(node.target) or "grouped_mm" in str(node.target)
        return mixes and any(self.from_weights(o) for o in node.all_input_nodes)

    def weight_first(self, node: fx.Node) -> bool:
        """Whether `node` is `W @ x`, a matrix product with its weight on the left."""
        return node.target in (aten.matmul.default, aten.mm.default) and (
            self.from_weights(args(node)[0]) and self.flows(args(node)[1]))

    def chosen(self, node: fx.Node) -> bool:
        """Whether a flowing node is a weight that the input only chooses: one of the experts'."""
        for _ in range(8):
            if node.op != "call_function" or not node.all_input_nodes:
                return False
            first = node.all_input_nodes[0]
            if node.target in CHOICES:
                return self.from_weights(first) and len(shape(first)) >= 3
            if node.target not in MOVES:
                return False
            node = first
        return False

    @cached_property
    def before(self) -> dict[fx.Node, int]:
        """Flowing ancestors of every flowing node, as a bit set over node indices."""
        return self._closure(lambda node, reached: reached)

    @cached_property
    def before_product(self) -> dict[fx.Node, int]:
        """Ancestors from which a way leads through at least one product with a weight."""
        return self._closure(
            lambda node, reached: self.before[node] if self.contracts(node) else reached,
            own=False,
        )

    def _closure(self, at: Any, own: bool = True) -> dict[fx.Node, int]:
        found: dict[fx.Node, int] = {}
        for node in self.graph.nodes:
            if node not in self.flowing:
                continue
            reached = 0
            for operand in self.operands(node):
                reached |= found[operand] | (1 << self.order[operand] if own else 0)
            found[node] = at(node, reached)
        return found

    def is_before(self, early: fx.Node, late: fx.Node, by_product: bool = False) -> bool:
        """Whether `late` depends on `early` (through a product with a weight)."""
        table = self.before_product if by_product else self.before
        return bool(table.get(late, 0) >> self.order[early] & 1)

    def cone(self, end: fx.Node, stops: set[fx.Node]) -> set[fx.Node]:
        """Flowing nodes that `end` needs, not looking behind `stops` (nor including them)."""
        found: set[fx.Node] = set()
        stack = [end]
        while stack:
            node = stack.pop()
            if node in found or (node in stops and node is not end):
                continue
            found.add(node)
            stack.extend(self.operands(node))
        return found
