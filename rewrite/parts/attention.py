"""Attention cores, found by what they compute: softmax(q k^T) v, fused or spelt out."""

from __future__ import annotations

from collections.abc import Callable

import sympy
import torch
from torch import fx

from rewrite.ir.flow import Flow, args, is_float, shape
from rewrite.rules.heads import Core, HeadAxis
from rewrite.rules.scores import PRODUCTS, readings

aten = torch.ops.aten
FUSED = aten.scaled_dot_product_attention.default
SOFTMAX = {aten.softmax.int, aten._softmax.default, aten._safe_softmax.default}
FAR = 64  # steps between a softmax and the product that reads it


def find_cores(flow: Flow) -> list[Core]:
    """Every attention core of the graph, in order."""
    cores = []
    for node in flow.graph.nodes:
        if flow.flows(node):
            core = _fused(node) if node.target is FUSED else _open(flow, node)
            if core is not None:
                cores.append(core)
    return cores


def _fused(node: fx.Node) -> Core:
    ports = {(node, i): port for i, port in enumerate("qkv")}
    return Core(node, node, ports, _axes(node, len(shape(node)) - 2))


def unread(flow: Flow, cores: list[Core]) -> list[fx.Node]:
    """Softmaxes over positions that weigh values and are no core that could be read."""
    known = {core.softmax for core in cores}
    nodes = [node for node in flow.graph.nodes if flow.flows(node) and node not in known]
    return [node for node in nodes if node.target in SOFTMAX and (
        _weighed(flow, node) is not None or _mixed(flow, node))]


def _mixed(flow: Flow, node: fx.Node) -> bool:
    """Whether a pattern enters a product by way of weights that mix it (talking heads)."""
    positions = not isinstance(shape(node)[-1], int) and len(shape(node)) == 4
    return positions and _first(
        node, lambda n: [u for u in n.users if is_float(u)], 8,
        lambda n: n.target in PRODUCTS and _flowing(flow, n)) is not None


def _weighed(flow: Flow, node: fx.Node) -> fx.Node | None:
    """The product of two flowing values that a softmax enters first."""
    return _first(node, lambda n: [u for u in n.users if is_float(u) and not flow.contracts(u)],
                  FAR, lambda n: n.target in PRODUCTS and _flowing(flow, n))


def _open(flow: Flow, node: fx.Node) -> Core | None:
    """A softmax whose scores come from products of flowing operands and that feeds a product."""
    if node.target not in SOFTMAX or args(node)[1] % len(shape(node)) != len(shape(node)) - 1:
        return None
    result = _weighed(flow, node)
    if result is None:
        return None
    a = args(result)[PRODUCTS[result.target][0]]
    first = a is node or flow.is_before(node, a)
    value = PRODUCTS[result.target][1 if first else 0]
    scores = readings(flow, args(node)[0])
    if scores is None:
        return None
    ports = {**scores, (result, value): "v"}
    return Core(result, node, ports, _axes(result, len(shape(result)) - 2))


def _axes(node: fx.Node, before: int) -> tuple[HeadAxis, ...]:
    """Axes in front of (rows, features): those of fixed size, and fixed parts of varying ones."""
    sizes = shape(node)[:before]
    plain = [HeadAxis(i, _each(size)) for i, size in enumerate(sizes) if isinstance(size, int)]
    folded = []
    for i, size in enumerate(sizes):
        if not isinstance(size, int):
            factor = sympy.sympify(size).as_coeff_Mul()[0]
            if factor.is_Integer and factor > 1:
                folded.append(HeadAxis(i, _each(int(factor)), True))
    # Heads come right before the rows more often than windows do.
    plain.sort(key=lambda a: (a.heads == 1, -(a.axis or 0)))
    whole = [] if folded or before > 1 else [HeadAxis(None, ((0,),))]  # it may be one head's
    return (*plain, *folded, *whole)


def _each(size: int) -> tuple[tuple[int, ...], ...]:
    return tuple((i,) for i in range(size))


def _flowing(flow: Flow, node: fx.Node) -> bool:
    return all(flow.flows(args(node)[i]) for i in PRODUCTS[node.target])


def _first(
    node: fx.Node, onward: Callable[[fx.Node], list[fx.Node]], far: int,
    stop: Callable[[fx.Node], bool],
) -> fx.Node | None:
    """The nearest node that satisfies `stop` on the ways from `node`."""
    seen, layer = {node}, [node]
    for _ in range(far):
        following = [n for at in layer for n in onward(at) if n not in seen]
        if not following:
            return None
        for found in following:
            if stop(found):
                return found
        seen.update(following)
        layer = following
    return None
