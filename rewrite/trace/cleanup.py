"""Removal of what export leaves behind.  Every step keeps the values bit for bit."""

from __future__ import annotations

import sys

import torch
from torch import Tensor, fx

from rewrite.ir.flow import args

aten = torch.ops.aten

CHECKS = {
    aten._assert_async.msg, aten._assert_async.default, aten._assert_scalar.default,
    aten._assert_tensor_metadata.default, aten.sym_constrain_range.default,
    aten.sym_constrain_range_for_size.default,
}
CASTS = {
    aten.to.dtype, aten.to.device, aten.to.dtype_layout, aten.to.other, aten.type_as.default,
    aten._to_copy.default,
}
REGIONS = {"wrap_with_autocast", "wrap_with_set_grad_enabled"}
SAME = {aten.alias.default, aten.lift_fresh_copy.default}  # detach stops gradients, so it stays


def clean(graph: fx.Graph) -> None:
    """Drop checks, then nodes that return an operand unchanged, then dead code."""
    for node in list(graph.nodes):
        if node.op == "call_function" and (node.target in CHECKS or _is_guard(node)):
            graph.erase_node(node)
    for node in list(graph.nodes):
        if node.op == "call_module" and "guards" in str(node.target):
            graph.erase_node(node)
    for node in list(graph.nodes):
        if node.op == "call_function" and (same := _unchanged(node)) is not None:
            node.replace_all_uses_with(same)
            graph.erase_node(node)
    if any("conv" in str(node.target) for node in graph.nodes):
        for node in graph.nodes:  # what a convolution returns may lie otherwise in memory than
            if node.target is aten.view.default:  # export expects, and `view` would then refuse
                node.target = aten.reshape.default
    sweep(graph)


def sweep(graph: fx.Graph) -> None:
    """Drop what nobody reads, but for writes: attention and random numbers too, which fx keeps."""
    graph.eliminate_dead_code(lambda node: node.op in ("placeholder", "output") or writes(node))


def writes(node: fx.Node) -> bool:
    """Whether a node writes into an operand."""
    return isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable


def is_region(node: fx.Node) -> bool:
    """Whether a node runs operators under a setting, such as autocast, that casts would spell."""
    return isinstance(node.target, torch._ops.HigherOrderOperator) and node.target.name() in REGIONS


def _is_guard(node: fx.Node) -> bool:
    return not node.users and getattr(node.target, "__name__", "") in {"_assert", "_check"}


def _unchanged(node: fx.Node) -> fx.Node | None:
    """The operand that a node returns unchanged."""
    if node.target is aten.copy.default:  # copy(x, y) -> y if it has the shape and type of x
        x, y = args(node)[:2]
        alike = _same_kind(node, y) and x.meta["val"].shape == y.meta["val"].shape
        return y if alike else None
    return args(node)[0] if _changes_nothing(node) else None


def _changes_nothing(node: fx.Node) -> bool:
    if node.target in SAME:  # alias(x) -> x
        return True
    if node.target in CASTS:  # x.to(x.dtype) -> x
        return _same_kind(node, args(node)[0]) and not node.kwargs.get("copy", False)
    if node.target is aten.dropout.default:  # dropout(x, p, train=False) -> x
        return args(node)[2] is False
    if node.target is aten.slice.Tensor:  # x[0:] -> x
        start, end, step = (*args(node)[2:], *(None, None, 1)[len(args(node)[2:]):])[:3]
        return start in (0, None) and (end is None or end == sys.maxsize) and step in (None, 1)
    return False


def _same_kind(node: fx.Node, operand: fx.Node) -> bool:
    before, after = (n.meta.get("val") for n in (operand, node))
    if not isinstance(before, Tensor) or not isinstance(after, Tensor):
        return False
    return all(getattr(before, a) == getattr(after, a) for a in ("dtype", "device", "layout"))
