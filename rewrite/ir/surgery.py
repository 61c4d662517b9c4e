"""Edits of one node by name.  Module in, new module out; the original is never touched."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx

from rewrite.errors import SurgeryError
from rewrite.ir.find import get


def copy_module(module: fx.GraphModule) -> fx.GraphModule:
    """A module with its own graph that shares parameters and submodules with `module`."""
    graph = fx.Graph()
    output = graph.graph_copy(module.graph, {})
    copied = graph.output(output)
    copied.meta = dict(next(iter(reversed(module.graph.nodes))).meta)
    return fx.GraphModule(module, graph, class_name=type(module).__name__)


def replace(module: fx.GraphModule, name: str, by: Callable[..., Any] | Tensor) -> fx.GraphModule:
    """`name` is computed by `by` from the same operands, or is the given tensor."""
    result = copy_module(module)
    node = _editable(result.graph, name)
    with result.graph.inserting_after(node):
        new = _constant(result, node, by) if isinstance(by, Tensor) else _call(result, node, by)
    new.meta = dict(node.meta)
    node.replace_all_uses_with(new)
    result.graph.erase_node(node)
    return _finish(result)


def insert(module: fx.GraphModule, after: str, function: Callable[..., Any]) -> fx.GraphModule:
    """All readers of `after` read `function(after)`."""
    result = copy_module(module)
    node = get(result.graph, after)
    if node.op == "output":
        raise SurgeryError(f"nothing can be inserted after the output; insert after "
                           f"{node.all_input_nodes[0].name!r} instead")
    readers = list(node.users)
    with result.graph.inserting_after(node):
        new = _call(result, node, function, (node,), {})
    new.meta = dict(node.meta)
    for reader in readers:
        reader.replace_input_with(node, new)
    return _finish(result)


def delete(module: fx.GraphModule, name: str) -> fx.GraphModule:
    """Readers of `name` read its first operand instead."""
    result = copy_module(module)
    node = _editable(result.graph, name)
    if not node.all_input_nodes:
        raise SurgeryError(f"{name!r} has no operand to take its place; "
                           f"use replace({name!r}, tensor)")
    node.replace_all_uses_with(node.all_input_nodes[0])
    result.graph.erase_node(node)
    return _finish(result)


def _editable(graph: fx.Graph, name: str) -> fx.Node:
    node = get(graph, name)
    if node.op in {"placeholder", "output"}:
        raise SurgeryError(f"{name!r} is an {'in' if node.op == 'placeholder' else 'out'}put of "
                           "the graph and cannot be taken out; insert after it or before it")
    return node


def _constant(module: fx.GraphModule, node: fx.Node, value: Tensor) -> fx.Node:
    known = node.meta.get("val")
    if isinstance(known, Tensor) and known.dtype != value.dtype:
        raise SurgeryError(f"{node.name!r} is {known.dtype}, the tensor given for it {value.dtype}")
    target = _free_name(module, f"{node.name}_value")
    module.register_buffer(target, value, persistent=False)
    return module.graph.get_attr(target)


def _call(
    module: fx.GraphModule,
    node: fx.Node,
    function: Callable[..., Any],
    args: tuple[Any, ...] | None = None,
    kwargs: dict[str, Any] | None = None,
) -> fx.Node:
    args = node.args if args is None else args
    kwargs = dict(node.kwargs) if kwargs is None else kwargs
    if isinstance(function, torch.nn.Module):
        target = _free_name(module, f"{node.name}_new")
        module.add_module(target, function)
        return module.graph.call_module(target, args, kwargs)
    return module.graph.call_function(function, args, kwargs)


def _free_name(module: torch.nn.Module, wish: str) -> str:
    name, count = wish, 0
    while hasattr(module, name):
        count += 1
        name = f"{wish}_{count}"
    return name


def _finish(module: fx.GraphModule) -> fx.GraphModule:
    module.graph.eliminate_dead_code()
    module.graph.lint()
    module.recompile()
    return module
