"""One layout of the residual stream: it is turned and viewed where it is read, not on its way.

    view(x) + y = view(x + y in the layout of x)

A model may write a part of the stream for flat tokens, or time first.  The sums are moved in front
of that, so that the stream has the layout in which it begins.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import torch
from torch import Tensor, fx

from rewrite.ir.flow import Flow, args, shape
from rewrite.ir.graph import Graph
from rewrite.rules.addends import MOVED, TURNS, elementwise
from rewrite.rules.declare import Rule, rule_on
from rewrite.rules.engine import rewrite
from rewrite.rules.flatten_sums import moved_stream
from rewrite.rules.site import Miss, Site

aten = torch.ops.aten


def one_layout(graph: Graph, sources: Collection[str]) -> Graph:
    """The same graph with all sums of the residual stream in one layout.

    >>> from rewrite.rules.layout import one_layout
    >>> one_layout(parts.graph, ["input_ids"]).code == parts.graph.code
    True
    """
    sums, views = moved_stream(Flow(graph.module.graph, sources))
    if not views:
        return graph
    names = {node.name for node in sums | views}
    done = rewrite(graph, (sum_before_view(names), view_and_back), lambda node: node.name in names)
    done.module.graph.eliminate_dead_code()
    done.module.recompile()
    return replace(done, certificate=graph.certificate)


def sum_before_view(stream: Collection[str] | None = None) -> Rule:
    """Sums, and scales by a number, in front of the view or turn of one operand.

    The operand is one of the nodes called as in `stream`; None: any.
    """

    @rule_on(*elementwise(), name="sum_before_view", equation="view(x) + y = view(x + back(y))",
             examples=("reshape(x, [-1, 2]) + y | x: b s 2, y: b*s 2",
                       "y - transpose(x, 0, 1) | x: b s d, y: s b d",
                       "unsqueeze(x, 1) * 3 | x: b s d", "transpose(x, 0, 1) / w | x: b s d, w: d"),
             refuses=("x + y | x: b s d, y: b s d", "transpose(x, 1, 2) * w | x: b s d, w: s",
                      "reshape(x, [-1, 2]) + w | x: b s 2, w: b*s 1"))
    def apply(site: Site) -> fx.Node | Miss | None:
        node = site.node
        operands = [o for o in node.all_input_nodes if isinstance(o.meta.get("val"), Tensor)]
        view = next((o for o in operands if o.target in MOVED and shape(o) == shape(node)
                     and (stream is None or o.name in stream)), None)
        if view is None:
            return Miss("no operand is a view of the stream")
        x = args(view)[0]
        for operand in operands:
            if shape(operand) != shape(node) and not _same_in_all(operand, view, x):
                return Miss("an operand has another layout in front of the view")

        def back(operand: fx.Node) -> fx.Node:
            if operand is view:
                return x
            whole = operand in operands and shape(operand) == shape(node)
            return _undone(site, operand, view) if whole else operand

        given, named = fx.map_arg((args(node), dict(node.kwargs)), back)
        return _again(site, view, site.call_with(node.target, given, named))

    return apply


@rule_on(*MOVED, name="view_and_back", equation="view(view(x)) = x in the shape of the whole",
         examples=("reshape(reshape(x, [-1, 2]), [b, s, 2]) | x: b s 2",
                   "transpose(transpose(x, 0, 1), 0, 1) | x: b s d",
                   "permute(transpose(x, 0, 1), [2, 1, 0]) | x: b s d",
                   "squeeze(unsqueeze(x, 1), 1) | x: b s d"),
         refuses=("reshape(x, [-1, 2]) | x: b s 2",
                  "reshape(transpose(x, 0, 1), [b, s, 2]) | x: b s 2"))
def view_and_back(site: Site) -> fx.Node | Miss | None:
    node = site.node
    inner = args(node)[0]
    if inner.target not in MOVED or (node.target in TURNS) != (inner.target in TURNS):
        return Miss("there are no two views, or no two turns")
    x = args(inner)[0]
    if node.target not in TURNS:
        return x if shape(x) == shape(node) else None
    order = [_order(inner)[i] for i in _order(node)]
    return x if order == sorted(order) else site.call(aten.permute.default, x, order)


def _undone(site: Site, y: fx.Node, view: fx.Node) -> fx.Node:
    """A value in the layout that `view` gives, in the layout of what it is a view of."""
    x = args(view)[0]
    if view.target in TURNS:
        order = _order(view)
        return site.call(aten.permute.default, y, [order.index(i) for i in range(len(order))])
    sizes = [site.size(x, axis) for axis in range(len(shape(x)))]
    return site.call(aten.reshape.default, y, sizes)


def _again(site: Site, view: fx.Node, x: fx.Node) -> fx.Node:
    """The same view of another value, which may lie in memory in another order."""
    made = site.again(view, lambda operand: x if operand is args(view)[0] else operand)
    if made.target in {aten.view.default, aten._unsafe_view.default}:
        made.target = aten.reshape.default
    return made


def _same_in_all(operand: fx.Node, view: fx.Node, x: fx.Node) -> bool:
    """Whether an operand is one number, or one for each feature, and features stay last."""
    sizes = shape(operand)
    if all(size == 1 for size in sizes[:-1]) and len(sizes) <= len(shape(x)):
        last = not sizes or sizes[-1] == 1
        kept = shape(view)[-1] == shape(x)[-1] and (
            view.target not in TURNS or _order(view)[-1] == len(shape(x)) - 1)
        return last or kept
    return False


def _order(turn: fx.Node) -> list[int]:
    """The axes of its operand that a transpose or permute puts in order."""
    rank = len(shape(turn))
    order = list(range(rank))
    if turn.target is aten.permute.default:
        return [axis % rank for axis in args(turn)[1]]
    a, b = (axis % rank for axis in args(turn)[1:3])
    order[a], order[b] = b, a
    return order
