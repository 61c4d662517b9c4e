"""In-place ops as functions: add_(x, y) -> add(x, y) where nobody else looks at x afterwards."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor, fx

from rewrite.ir.flow import args
from rewrite.trace.cleanup import writes

aten = torch.ops.aten
# They may return their operand itself, although their schemas do not say so.
MAY_ALIAS = {
    aten._unsafe_view.default, aten.type_as.default, aten.dropout.default, operator.getitem,
    aten.alpha_dropout.default, aten.feature_dropout.default,
}


def mutates(graph: fx.Graph) -> list[fx.Node]:
    """Nodes that write into an operand."""
    return [node for node in graph.nodes if writes(node)]


def make_functional(graph: fx.Graph) -> None:
    """Replace in-place ops by functions where that keeps every value; leave the others.

    `x.add_(y)` can be `add(x, y)` if what is read later of the memory of `x` is read
    through the result or through `x` itself, which then means the result.  This does in
    milliseconds for most models what decomposing an exported program does in half the time
    of the export.
    """
    for node in mutates(graph):
        if node.target is aten.detach_.default:  # detach_(x) -> x, there are no gradients here
            node.replace_all_uses_with(args(node)[0])
            graph.erase_node(node)
            continue
        function = _function(node)
        if function is not None and _is_last_reader(graph, node):
            written, later = args(node)[0], _after(graph, node)
            written.replace_all_uses_with(node, delete_user_cb=later.__contains__)
            node.target = function


def lasting(graph: fx.Graph) -> list[fx.Node]:
    """Nodes that write into a weight or a buffer, which the next call would find changed."""
    roots = _roots(graph)
    return [node for node in mutates(graph) if roots[args(node)[0]].op == "get_attr"]


def _function(node: fx.Node) -> Any:
    """`aten.add.Tensor` for a node of `aten.add_.Tensor` if it returns the same type."""
    target: Any = node.target
    packet, overload = target._schema.name.removeprefix("aten::"), target._overloadname
    if not packet.endswith("_") or node.kwargs.get("out") is not None:
        return None
    function = getattr(getattr(aten, packet[:-1], None), overload, None)
    if function is None or len(function._schema.arguments) != len(target._schema.arguments):
        return None
    written = args(node)[0].meta.get("val")
    kept = isinstance(written, Tensor) and all(_keeps(written, v) for v in args(node)[1:])
    return function if kept else None


def _keeps(written: Tensor, other: Any) -> bool:
    """Whether a function of both has the type of `written` (in place, it has in any case)."""
    if isinstance(other, fx.Node):
        other = other.meta.get("val")
        if isinstance(other, Tensor):
            scalar = other.ndim == 0 < written.ndim
            numbers = other.is_floating_point() <= written.is_floating_point()
            return other.dtype in (written.dtype, torch.bool) or (scalar and numbers)
    if isinstance(other, (float, torch.SymFloat)):
        return written.is_floating_point()
    return not isinstance(other, complex)


def _is_last_reader(graph: fx.Graph, node: fx.Node) -> bool:
    roots, written = _roots(graph), args(node)[0]
    root = roots[written]
    if root.op != "call_function":  # an input or a buffer: somebody outside sees the change
        return False
    later = _after(graph, node)
    return not any(
        user in later
        for alias in graph.nodes if roots[alias] is root and alias is not written
        and alias not in later and alias is not node
        for user in alias.users
    )


def _roots(graph: fx.Graph) -> dict[fx.Node, fx.Node]:
    """For each node the one that made the memory that it returns."""
    roots: dict[fx.Node, fx.Node] = {}
    for node in graph.nodes:
        operand = _aliased(node)
        roots[node] = node if operand is None else roots[operand]
    return roots


def _aliased(node: fx.Node) -> fx.Node | None:
    """The operand whose memory a node may return."""
    operands = [arg for arg in args(node) if isinstance(arg, fx.Node)] if node.args else []
    if node.op != "call_function" or not operands:
        return None
    if node.target in MAY_ALIAS:
        return operands[0]
    schema = getattr(node.target, "_schema", None)
    shares = schema is not None and any(value.alias_info for value in schema.returns)
    return operands[0] if shares else None


def _after(graph: fx.Graph, node: fx.Node) -> set[fx.Node]:
    nodes = list(graph.nodes)
    return set(nodes[nodes.index(node) + 1:])
