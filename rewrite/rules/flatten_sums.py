"""flatten_sums: (a + b) + c = total(a, b, c), which makes the residual stream explicit.

An addition belongs to the residual stream if one operand depends on the other by way of a
product with a weight (a skip connection), or if it only collects terms for such an addition
(parallel branches, token plus position embedding).  Rotary arithmetic, biases and the
polynomial in an activation are additions too, and are none of these.
"""

from __future__ import annotations

import torch
from torch import fx

from rewrite.ir.flow import Flow, args, is_float, shape
from rewrite.ir.graph import Graph
from rewrite.rules.engine import rewrite
from rewrite.rules.simplify import flatten
from rewrite.rules.sums import as_total

aten = torch.ops.aten
ADDITIONS = {aten.add.Tensor, aten.add_.Tensor}
COPIES = {aten.to.device, aten.to.dtype_layout, aten._to_copy.default}


def residual_sums(flow: Flow) -> list[fx.Node]:
    """Additions of the residual stream, in graph order.

    Where layers lie on several devices, the stream is moved from one to the next: such a move
    is a sum of one term.
    """
    additions = [node for node in flow.graph.nodes if _is_addition(flow, node)]
    sums = {node for node in additions if _is_skip(flow, node)}
    known = set(additions)
    stream = [node for node in flow.graph.nodes if node in known or _is_move(flow, node)]
    for node in reversed(stream):
        if any(user in sums for user in node.users):
            sums.add(node)
    for node in stream:
        if len(terms_of(node)) == 1 and terms_of(node)[0] in sums:
            sums.add(node)
    return [node for node in stream if node in sums]


def terms_of(node: fx.Node) -> list[fx.Node]:
    """What a residual sum adds up: two terms, or the one that is moved to another device."""
    return [operand for operand in args(node)[:2] if isinstance(operand, fx.Node)]


def flatten_sums(graph: Graph, sources: tuple[str, ...] | None = None) -> Graph:
    """A graph in which every reading of the residual stream adds all of its writers directly.

    The order of addition changes, so results agree to rounding only.  The component graph
    keeps the nesting of the model (and its bits) and crosses it when paths are followed.

    >>> flat = flatten_sums(parts.graph)
    >>> len([n for n in flat.module.graph.nodes if n.name == "add_11"][0].args)
    6
    """
    names = sources or tuple(spec.name for spec in graph.inputs)
    sums = {node.name for node in residual_sums(Flow(graph.module.graph, names))}
    return rewrite(graph, [as_total, flatten], lambda node: node.name in sums)


def _is_addition(flow: Flow, node: fx.Node) -> bool:
    if node.target not in ADDITIONS or node.kwargs.get("alpha", 1) != 1 or len(args(node)) != 2:
        return False
    if not all(isinstance(operand, fx.Node) for operand in args(node)):
        return False
    left, right = args(node)
    if not (is_float(left) and is_float(right) and flow.flows(node)):
        return False
    if left.op == "get_attr" or right.op == "get_attr":
        return False  # a bias
    same = shape(left) == shape(right) == shape(node)
    # A context term (learned positions) may lack the batch: [1, seq, d] + [batch, seq, d].
    terms = (left, right) if flow.flows(left) else (right, left)
    broadcast = (
        not flow.flows(terms[1]) and shape(terms[0]) == shape(node)
        and len(shape(terms[1])) == len(shape(node)) and not flow.from_weights(terms[1])
    )
    return (same and flow.flows(left) and flow.flows(right)) or broadcast


def _is_move(flow: Flow, node: fx.Node) -> bool:
    """Whether a flowing node is its operand on another device, and nothing else."""
    if node.target not in COPIES or not flow.flows(node):
        return False
    before, after = args(node)[0].meta["val"], node.meta["val"]
    return is_float(node) and before.device != after.device and before.dtype == after.dtype


def _is_skip(flow: Flow, node: fx.Node) -> bool:
    left, right = args(node)
    if not (flow.flows(left) and flow.flows(right)):
        return False
    return flow.is_before(left, right, by_product=True) or flow.is_before(
        right, left, by_product=True
    )
