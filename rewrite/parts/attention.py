"""Attention cores, found by what they compute: softmax(q k^T) v, fused or spelt out."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import fx

from rewrite.ir.flow import Flow, args, shape

aten = torch.ops.aten
FUSED = aten.scaled_dot_product_attention.default
SOFTMAX = {aten.softmax.int, aten._softmax.default}
PRODUCTS = {aten.matmul.default, aten.bmm.default}


@dataclass(frozen=True)
class Core:
    """One attention: its result, and the operand positions that are its q, k and v.

    `ports[(node, i)]` is the port by which operand `i` of `node` enters.
    """

    result: fx.Node
    ports: dict[tuple[fx.Node, int], str]
    heads: int

    def operand(self, port: str) -> fx.Node:
        """The node that enters by `port`."""
        return next(args(node)[i] for (node, i), name in self.ports.items() if name == port)


def find_cores(flow: Flow) -> list[Core]:
    """Every attention core of the graph, in order."""
    cores = []
    for node in flow.graph.nodes:
        if not flow.flows(node):
            continue
        core = _fused(node) if node.target is FUSED else _open(flow, node)
        if core is not None:
            cores.append(core)
    return cores


def unread(flow: Flow, cores: list[Core]) -> list[fx.Node]:
    """Nodes that attend and are no core that could be read: heads folded into the batch, say."""
    known = {core.result for core in cores}
    nodes = [node for node in flow.graph.nodes if flow.flows(node)]
    fused = [node for node in nodes if node.target is FUSED and node not in known]
    products = [_around(flow, node) for node in nodes if node.target in SOFTMAX]
    return fused + [found[1] for found in products if found and found[1] not in known]


def _fused(node: fx.Node) -> Core | None:
    sizes = shape(node)
    if len(sizes) != 4 or not isinstance(sizes[1], int):
        return None
    return Core(node, {(node, i): port for i, port in enumerate("qkv")}, sizes[1])


def _open(flow: Flow, node: fx.Node) -> Core | None:
    """softmax whose scores come from a product of two flowing operands and feed a product."""
    if node.target not in SOFTMAX or len(shape(node)) != 4 or not isinstance(shape(node)[1], int):
        return None
    found = _around(flow, node)
    if found is None:
        return None
    scores, result = found
    pattern = next((i for i in (0, 1) if flow.is_before(node, args(result)[i])
                    or args(result)[i] is node), None)
    if pattern != 0:
        return None
    return Core(result, {(scores, 0): "q", (scores, 1): "k", (result, 1): "v"}, shape(node)[1])


def _around(flow: Flow, node: fx.Node) -> tuple[fx.Node, fx.Node] | None:
    """The products of two flowing values in front of and behind a softmax."""
    scores = _first(node, lambda n: flow.operands(n)[:1], lambda n: _product(flow, n))
    result = _first(node, lambda n: list(n.users), lambda n: _product(flow, n))
    return None if scores is None or result is None else (scores, result)


def _product(flow: Flow, node: fx.Node) -> bool:
    return node.target in PRODUCTS and all(flow.flows(operand) for operand in args(node)[:2])


def _first(node: fx.Node, onward, stop) -> fx.Node | None:
    """The first node that satisfies `stop` on the only way from `node`."""
    for _ in range(32):
        following = onward(node)
        if not following:
            return None
        node = following[0]
        if stop(node):
            return node
    return None
