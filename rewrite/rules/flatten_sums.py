"""flatten_sums: (a + b) + c = total(a, b, c), which makes the residual stream explicit.

A sum belongs to the residual stream if one of the terms that it adds up, however they are nested,
depends on another one by way of a product with a weight (a skip connection), or if it only
collects terms for such a sum (parallel branches, token plus position embedding).  So does a
scale, a bias or a cast of the stream on its way to such a sum.  Rotary arithmetic, biases
of products and the polynomial in an activation are additions too, and are none of these.
"""

from __future__ import annotations

from functools import cached_property

from torch import fx

from rewrite.ir.flow import Flow
from rewrite.ir.graph import Graph
from rewrite.ir.notes import SUM
from rewrite.rules.addends import MOVED, Addends, addends, is_move
from rewrite.rules.engine import rewrite
from rewrite.rules.simplify import flatten
from rewrite.rules.sums import as_total

Terms = dict[fx.Node, tuple[fx.Node, ...]]


def residual_sums(flow: Flow) -> Terms:
    """The sums of the residual stream, in graph order, and what each adds up.

    The stream scaled, shifted or cast (to another type, or another device) is a sum of one term.
    """
    return _Stream(flow).sums


def moved_stream(flow: Flow) -> tuple[set[fx.Node], set[fx.Node]]:
    """Sums of the stream in whatever layout, and the stream in another one on its way to a sum."""
    stream = _Stream(flow, moved=True)
    sums = stream.sums
    views = {step for node in sums for term in stream.carried(node)
             for step in stream.chain(term)[0] if step in sums and step.target in MOVED}
    return {node for node in sums if node.target not in MOVED}, views


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


class _Stream:
    """Sums of a graph and the leaves of each: the values that it adds up in the end.

    Sets of nodes are bits over their places in the graph, as in `Flow.before`.
    """

    def __init__(self, flow: Flow, moved: bool = False) -> None:
        self.flow = flow
        found = {node: addends(flow, node, moved) for node in flow.graph.nodes}
        self.known: dict[fx.Node, Addends] = {n: a for n, a in found.items() if a is not None}
        self._leaves: dict[fx.Node, int] = {}
        self._reached: dict[fx.Node, int] = {}  # by way of a product, from the leaves
        for node in flow.graph.nodes:
            if flow.flows(node):
                self._note(node)

    @cached_property
    def sums(self) -> Terms:
        """Skip connections and what leads from one to the next, in graph order."""
        found: Terms = {}
        stack = [node for node in self.known
                 if self.carried(node) or node.meta.get("part") == SUM]
        while stack:
            node = stack.pop()
            if node in found:
                continue
            found[node] = self.known[node].terms
            for term in found[node]:
                chain, base = self.chain(term)
                if self._adds(base):
                    stack.append(base)
                else:
                    chain = self._behind_shared(chain, base)
                found |= {step: self.known[step].terms for step in chain}
        for node, each in self.known.items():
            if is_move(node) and each.terms[0] in found:
                found[node] = each.terms
        return dict(sorted(found.items(), key=lambda item: self.flow.order[item[0]]))

    def _note(self, node: fx.Node) -> None:
        """The leaves of a value, and what they depend on by way of a product."""
        each, place = self.known.get(node), self.flow.order[node]
        through = each is not None and (
            len(each.terms) > 1 or each.plain or self._adds(self.chain(node)[1]))
        if each is None or not through:
            self._leaves[node] = 1 << place
            self._reached[node] = self.flow.before_product[node]
            return
        self._leaves[node] = self._reached[node] = 0
        for term in filter(self.flow.flows, each.terms):
            self._leaves[node] |= self._leaves[term]
            self._reached[node] |= self._reached[term]

    def carried(self, node: fx.Node) -> list[fx.Node]:
        """The terms of a sum that others of its terms depend on, by way of a product."""
        terms = [term for term in self.known[node].terms if self.flow.flows(term)]
        return [term for i, term in enumerate(terms) if any(
            self._reached[other] & self._leaves[term]
            for j, other in enumerate(terms) if i != j)]

    def _adds(self, node: fx.Node) -> bool:
        return node in self.known and len(self.known[node].terms) > 1

    def chain(self, node: fx.Node) -> tuple[list[fx.Node], fx.Node]:
        """The sums of one term from `node` back, and what the last of them scales."""
        chain = []
        while node in self.known and not self._adds(node):
            chain.append(node)
            (node,) = self.known[node].terms
        return chain, node

    def _behind_shared(self, chain: list[fx.Node], base: fx.Node) -> list[fx.Node]:
        """The steps of a chain behind the first value that something else reads too.

        That value enters the stream there; a scale in front of it is its own affair.
        """
        values = [base, *reversed(chain)]
        first = next((i for i, value in enumerate(values) if len(
            [user for user in value.users if self.flow.flows(user)]) > 1), len(values))
        return values[first + 1:]
