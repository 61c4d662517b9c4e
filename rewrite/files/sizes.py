"""Arithmetic on sizes in the few operators that torch writes to files."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from rewrite.ir.edit import copy_module

Call = Callable[..., fx.Node]


def writable(module: fx.GraphModule) -> fx.GraphModule:
    """The same graph, with floors, ceilings and absolute values of sizes that can be saved.

    `torch.export.save` refuses `round` too; nested branches, which would spell it, it cannot read.
    """
    if not any(_spelling(node) for node in module.graph.nodes):
        return module
    module = copy_module(module)
    graph = module.graph
    for node in list(graph.nodes):
        if (spelling := _spelling(node)) is None:
            continue
        with graph.inserting_before(node):
            new = spelling(graph.call_function, node.args[0])
        new.meta = dict(node.meta)
        node.replace_all_uses_with(new)
        graph.erase_node(node)
        new.name = node.name
    module.recompile()
    return module


def _spelling(node: fx.Node) -> Callable[[Call, Any], fx.Node] | None:
    return SPELLINGS.get(node.target) if node.op == "call_function" else None


def _floor(call: Call, x: Any) -> fx.Node:
    whole = call(math.trunc, (x,))
    below = call(operator.sub, (whole, 1))
    return call(torch.sym_ite, (call(operator.lt, (x, whole)), below, whole))


def _ceil(call: Call, x: Any) -> fx.Node:
    whole = call(math.trunc, (x,))
    above = call(operator.add, (whole, 1))
    return call(torch.sym_ite, (call(operator.gt, (x, whole)), above, whole))


def _abs(call: Call, x: Any) -> fx.Node:
    return call(torch.sym_max, (x, call(operator.neg, (x,))))


SPELLINGS: dict[Any, Callable[[Call, Any], fx.Node]] = {
    math.floor: _floor, math.ceil: _ceil, abs: _abs, operator.abs: _abs,
}
