"""Attention cores, found by what they compute: weights of tokens by tokens, times values.

    softmax(q k^T) v        fused, or spelt out in any way: exp over its sum, with a sink, ...
    f(q k^T) v              weights that are not normalised: sigmoid, relu, decay
    g(q) (h(k)^T v)         linear attention: keys and values are summed up first
"""

from __future__ import annotations

from collections.abc import Callable

import sympy
import torch
from torch import fx

from rewrite.ir.flow import Flow, args, is_float, shape
from rewrite.rules.heads import Core, HeadAxis
from rewrite.rules.scores import PRODUCTS, Scores
from rewrite.rules.slicer import Slicer

aten = torch.ops.aten
FUSED = aten.scaled_dot_product_attention.default
SOFTMAX = {aten.softmax.int, aten._softmax.default, aten._safe_softmax.default}
FAR = 64  # steps between a softmax and the product that reads it


def find_cores(flow: Flow) -> list[Core]:
    """Every attention core of the graph, in order."""
    cores: dict[fx.Node, Core] = {}
    for node in flow.graph.nodes:
        if flow.flows(node):
            core = _fused(node) if node.target is FUSED else _open(flow, node)
            if core is not None:
                cores.setdefault(core.result, core)
    known = {node for core in cores.values() for node in _within(flow, core)}
    for node in flow.graph.nodes:
        if node in known or node.target not in PRODUCTS or not _flowing(flow, node):
            continue
        if not flow.contracts(node) and (core := _weighing(flow, node)) is not None:
            cores[node] = core
            known |= _within(flow, core)
    return sorted(cores.values(), key=lambda core: flow.order[core.result])


def _within(flow: Flow, core: Core) -> set[fx.Node]:
    """What computes a core from the products with weights in front of it."""
    found: set[fx.Node] = set()
    stack = [core.result]
    while stack:
        node = stack.pop()
        if node not in found and (node is core.result or not flow.contracts(node)):
            found.add(node)
            stack.extend(flow.operands(node))
    return found


def _fused(node: fx.Node) -> Core:
    ports = {(node, i): port for i, port in enumerate("qkv")}
    return Core(node, node, ports, _axes(node, len(shape(node)) - 2))


def unread(flow: Flow, cores: list[Core]) -> list[str]:
    """Why attention that is seen is no core that can be read: a sentence for each."""
    known = {node for core in cores for node in _within(flow, core)}
    notes = []
    for node in flow.graph.nodes:
        if not flow.flows(node) or node in known or node.target not in SOFTMAX:
            continue
        if _weighed(flow, node) is None and not _mixed(flow, node):
            continue
        mixed = Scores(flow, args(node)[0]).mixed or _mixing(flow, node)
        if mixed is not None:
            notes.append(f"heads not split: {mixed.name} ({mixed.target}) mixes the scores or "
                         f"patterns of several heads around {node.name}, so that no head attends "
                         "by itself (talking heads): use the layer as a whole")
        else:
            notes.append(f"heads not split: {node.name} attends, but its queries and keys "
                         "cannot be told apart: use the layer as a whole")
    return notes


def _mixing(flow: Flow, softmax: fx.Node) -> fx.Node | None:
    """The product with a weight that a pattern enters before it weighs values."""

    def onward(node: fx.Node) -> list[fx.Node]:
        return [user for user in node.users if is_float(user) and not (
            user.target in PRODUCTS and _flowing(flow, user))]

    return _first(softmax, onward, 8, flow.contracts)


def _mixed(flow: Flow, node: fx.Node) -> bool:
    """Whether a pattern enters a product by way of weights that mix it (talking heads)."""
    positions = len(shape(node)) == 4 and _counts_tokens(flow, node, 3)
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
    scores = Scores(flow, args(node)[0])
    if not scores.products or scores.mixed is not None:
        return None
    ports = {**scores.ports, (result, value): "v"}
    return Core(result, node, ports, _axes(result, len(shape(result)) - 2))


def _weighing(flow: Flow, result: fx.Node) -> Core | None:
    """A product of values with weights of tokens by tokens, or with a sum over tokens."""
    left, right = PRODUCTS[result.target]
    for side, other, axis in ((left, right, -1), (right, left, -2)):
        weights = args(result)[side]
        found = Scores(flow, weights, axis)
        if found.mixed is not None or not any(place is not None for _, place in found.products):
            continue
        axes = _axes(result, len(shape(result)) - 2)
        if _counts_tokens(flow, weights, axis):
            return Core(result, weights, {**found.ports, (result, other): "v"}, axes)
        (summed, place), *further = found.products
        keys = next(i for i in PRODUCTS[summed.target] if found.ports[summed, i] == "k")
        inner = -1 if keys == PRODUCTS[summed.target][0] else -2
        if further or place is None or not _counts_tokens(flow, args(summed)[keys], inner):
            continue
        ports: dict[tuple[fx.Node, int], str] = {
            (summed, i): "k" if i == keys else "v" for i in PRODUCTS[summed.target]}
        return Core(result, None, {**ports, (result, other): "q"}, axes)
    return None


def _counts_tokens(flow: Flow, node: fx.Node, axis: int) -> bool:
    """Whether an axis counts tokens: its size varies, or one index of it is no feature."""
    axis %= len(shape(node))
    products = {n for n in flow.flowing if flow.contracts(n)}
    if not isinstance(shape(node)[axis], int):  # chunks of tokens, and what fills them up, are none
        return any(shape(node)[axis] in shape(n) for n in products)
    slicer = Slicer(None, flow, products | {*flow.sources})
    slicer.emit(node, {axis: (0,)})
    return any(set(pick) - {len(shape(leaf)) - 1}
               for leaf, picks in slicer.read.items() for pick in picks)


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
