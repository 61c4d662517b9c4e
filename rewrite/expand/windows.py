"""Attention whose keys and values differ by the hop: a body that reads several of each.

    scores[i, j]  = q[i] . k_c[j]           c = the class of the hop j - i
    result[i]     = sum_c (pattern * [class = c])[i] v_c

The classes are few (those that a hypothesis tells apart), whatever the length.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sympy
import torch
from torch import fx

from rewrite.errors import HypothesisError
from rewrite.expand.groups import PORTS, Place, Reads, places_of
from rewrite.expand.product import Copy, Mixed, Product
from rewrite.ir.code import Code
from rewrite.ir.flow import CONTRACTIONS, args, shape
from rewrite.ir.ops import at_hops, attention_pattern, attention_scores, by_hop, weighed
from rewrite.ir.values import attribute
from rewrite.parts import Component
from rewrite.rules.scores import PRODUCTS
from rewrite.rules.slicer import Body, Slot

aten = torch.ops.aten
FUSED = aten.scaled_dot_product_attention.default
SIZES = {aten.sym_size.int, aten.sym_stride.int, aten.sym_numel.default}
ALIGNED = {aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, operator.add, operator.mul}
APART = {"q": "q", "k": "k", "v": "v"}


@dataclass(frozen=True)
class Classes:
    """Classes of hops: class 0 has those of at least `offsets[0]`, ..., the last all others.

    `keys[c]` and `values[c]` number the distinct readings of k and v that class c uses.
    """

    offsets: tuple[int, ...]
    keys: tuple[int, ...]
    values: tuple[int, ...]


def classes_of(product: Product, reads: Sequence[Place]) -> tuple[int, ...]:
    """The offsets that tell apart the hops of what a head reads, the nearest first."""
    offsets: set[int] = set()
    stack = list(reads)
    while stack:
        name, index = stack.pop()
        copy = _copy(product, name, index)
        if isinstance(copy, Mixed) and copy.by_hop:
            offsets.add(copy.test.offset)
            stack += [(name, copy.yes), (name, copy.no)]
    return tuple(sorted(offsets, reverse=True))


def hops(product: Product, layer: Component, reads: Reads) -> bool:
    """Whether keys or values of a reading differ by the hop."""
    return bool(classes_of(product, places_of(product, layer, reads)))


def classes_by_port(
    product: Product, layer: Component, reads: Sequence[Sequence[Place]]
) -> tuple[Classes, dict[Slot, list[Place]]]:
    """The classes of hops of a layer, and what each slot of its body reads.

    `reads` are the readings of one copy of the layer or of several that run together.
    """
    assert layer.region is not None
    check_hops(layer)
    offsets = classes_of(product, [place for each in reads for place in each])
    kinds = range(len(offsets) + 1)
    slots: dict[Slot, list[Place]] = {}
    used: dict[str, tuple[int, ...]] = {}
    for side in ("q", "k", "v", ""):
        at = [i for i, (port, _) in enumerate(layer.region.slots) if port == side]
        nodes = [layer.region.slots[i][1] for i in at]
        by_class = [tuple(tuple(_at_class(product, each[i], offsets, kind) for each in reads)
                          for i in at) for kind in (kinds if side in ("k", "v") else kinds[:1])]
        distinct = list(dict.fromkeys(by_class))
        used[side] = tuple(map(distinct.index, by_class))
        for number, readings in enumerate(distinct):
            port = f"{side}{number}" if side in ("k", "v") else side
            slots |= {(port, node): list(read)
                      for node, read in zip(nodes, readings, strict=True)}
    return Classes(offsets, used["k"], used["v"]), slots


def check_hops(layer: Component) -> None:
    """Raise `HypothesisError` unless queries and keys count the same positions, in order.

    They do not in cross-attention, nor where attention is computed in blocks.
    """
    assert layer.region is not None and layer.region.layer is not None
    read = {sympy.sympify(shape(node)[1]) for port, node in layer.region.slots
            if port in PORTS and len(shape(node)) > 2}
    if {"k", "v"} & set(layer.region.layer.beside.values()):
        raise HypothesisError(
            f"{layer.short} has no hops: its heads read keys or values beside their pattern too; "
            "use a position such as .k@S2 in place of a window")
    seen: set[sympy.Basic] = set()
    for core, _ in layer.region.layer.cores:
        node = core.pattern
        if node is None:
            raise HypothesisError(
                f"{layer.short} has no hops: it sums up keys and values of all tokens before a "
                "query meets them (linear attention); use a position such as .k@S2 in place of a "
                "window")
        sizes = [shape(args(node)[i])[-2] for i in (0, 1)] if node.target is FUSED else (
            shape(node)[-2:])
        seen.update(map(sympy.sympify, sizes))
    if len(read) != 1 or seen != read:
        counts = ", ".join(sorted(map(str, seen | read)))
        raise HypothesisError(
            f"{layer.short} has no hops: its queries and keys count {counts} positions, which "
            "are not those of one sequence; use a position such as .k@S2 in place of a window")


def _at_class(product: Product, place: Place, offsets: Sequence[int], kind: int) -> Place:
    """What a mixture is for hops of one class."""
    if not offsets:
        return place
    hop = offsets[kind] if kind < len(offsets) else offsets[-1] - 1
    name, index = place
    while isinstance(copy := _copy(product, name, index), Mixed) and copy.by_hop:
        index = copy.yes if hop >= copy.test.offset else copy.no
    return name, index


def windowed(body: Body, classes: Classes, name: str) -> Body:
    """A body of heads with ports apart, with several k and v: slots `k0`, `k1`, ..., `v0`, ...

    Raises `HypothesisError` where keys or values do not enter by products with rows in front.
    """
    return _Windowing(body, classes, name).made()


def _copy(product: Product, name: str, index: int) -> Copy | Mixed | None:
    copies = product.copies[name]
    return copies[index] if copies else None


class _Windowing:
    """Copies the body; what depends on k or v alone is copied for each reading."""

    def __init__(self, body: Body, classes: Classes, name: str) -> None:
        self.body, self.classes, self.name = body, classes, name
        self.graph = fx.Graph()
        self.sides: dict[fx.Node, str] = {}  # the ports that a node depends on, "" for none
        self.made_of: dict[tuple[fx.Node, int], fx.Node] = {}  # copy for a reading, or (node, 0)
        self.slots: list[tuple[str, fx.Node]] = []

    def count(self, side: str) -> int:
        """How many readings the values behind `side` have."""
        numbers = {"k": self.classes.keys, "v": self.classes.values}.get(side)
        return max(numbers) + 1 if numbers else 1

    def made(self) -> Body:
        places = self.body.module.graph.find_nodes(op="placeholder")
        for place, (port, node) in zip(places, self.body.slots, strict=False):
            side = port if port in ("k", "v") else "q"
            self.sides[place] = side
            for i in range(self.count(side)):
                known = side in "kv"
                self.made_of[place, i] = self.graph.placeholder(
                    f"{place.name}_{i}" if known else place.name)
                self.slots.append((f"{side}{i}" if known else port, node))
        for place in list(places)[len(self.body.slots):]:
            self.sides[place] = ""
            self.made_of[place, 0] = self.graph.node_copy(place)
        for node in self.body.module.graph.nodes:
            if node.op not in ("placeholder", "output"):
                self._node(node)
        (output,) = self.body.module.graph.find_nodes(op="output")
        self.graph.output(fx.map_arg(output.args[0], lambda n: self.made_of[n, 0]))
        self.graph.lint()
        module = Code(self.body.module, self.graph)
        module.graph.eliminate_dead_code()
        module.recompile()
        again = sum(self._weights(node) for node, reading in self.made_of if reading)
        return Body(module, tuple(self.slots), self.body.context, self.body.stuck,
                    self.body.weights + again)

    def _weights(self, node: fx.Node) -> int:
        """Entries of the weight that a node multiplies with."""
        if node.target not in CONTRACTIONS:
            return 0
        weight = args(node)[CONTRACTIONS[node.target][1]]
        return 0 if self.sides[weight] else self._meta(weight).numel()

    def _meta(self, node: fx.Node) -> torch.Tensor:
        """What a weight, or a slice of one, is like."""
        if node.op == "get_attr":
            return attribute(self.body.module, str(node.target)).to("meta")
        target: Any = node.target
        return target(*fx.map_arg(node.args, self._meta), **fx.map_arg(node.kwargs, self._meta))

    def _node(self, node: fx.Node) -> None:
        sides = {self.sides[each] for each in node.all_input_nodes} - {""}
        if node.target in SIZES:  # equal for all readings
            sides = set()
        side = sides.pop() if len(sides) == 1 else "" if not sides else "q"
        self.sides[node] = side
        if side in ("k", "v"):
            for i in range(self.count(side)):
                self.made_of[node, i] = self._copy(node, i)
        elif not sides:  # plain, or on the side of queries alone
            self.made_of[node, 0] = self._copy(node, 0)
        elif node.target is FUSED:
            self.made_of[node, 0] = self._fused(node)
        else:
            self.made_of[node, 0] = self._meeting(node)

    def _copy(self, node: fx.Node, reading: int) -> fx.Node:
        """The node for one reading of k or v."""
        return self.graph.node_copy(
            node, lambda n: self.made_of[n, reading if self.sides[n] in ("k", "v") else 0])

    def _meeting(self, node: fx.Node) -> fx.Node:
        """Where queries meet keys, or a pattern meets values."""
        met = {self.sides[each] for each in node.all_input_nodes} & {"k", "v"}
        if not met:
            return self._copy(node, 0)
        (side, *others) = sorted(met)
        if others or not self._fits(node, side):
            raise HypothesisError(
                f"{self.name} cannot read by hops: its {' and '.join(sorted(met))} enter "
                f"{node.name} ({node.target}), which is no product of rows with columns; use a "
                "position such as .k@S2 in place of a window")
        copies = [self._copy(node, i) for i in range(self.count(side))]
        return self._by_hop(copies) if side == "k" else self._sum(node)

    def _fits(self, node: fx.Node, side: str) -> bool:
        if node.target in PRODUCTS:
            second = node.args[PRODUCTS[node.target][1]]
            return isinstance(second, fx.Node) and self.sides[second] == side
        return side == "k" and node.target in ALIGNED

    def _by_hop(self, copies: Sequence[fx.Node]) -> fx.Node:
        if len(copies) == 1:
            return copies[0]
        chosen = tuple(copies[i] for i in self.classes.keys)
        return self.graph.call_function(by_hop, (self.classes.offsets, *chosen))

    def _sum(self, node: fx.Node) -> fx.Node:
        """A product of pattern and values, added up over readings."""
        pattern = node.args[PRODUCTS[node.target][0]]
        assert isinstance(pattern, fx.Node)
        return self._added(self.made_of[pattern, 0], lambda i, kept: self.graph.node_copy(
            node, lambda n: kept if n is pattern else self.made_of[
                n, i if self.sides[n] == "v" else 0]))

    def _added(self, pattern: fx.Node, product: Any) -> fx.Node:
        count = self.count("v")
        if count == 1:
            return product(0, pattern)
        total = None
        for i in range(count):
            wanted = tuple(c for c, used in enumerate(self.classes.values) if used == i)
            kept = self.graph.call_function(at_hops, (self.classes.offsets, wanted, pattern))
            term = product(i, kept)
            total = term if total is None else self.graph.call_function(
                aten.add.Tensor, (total, term))
        assert total is not None
        return total

    def _fused(self, node: fx.Node) -> fx.Node:
        """Fused attention spelt out, with the same scale, mask and sharing of keys."""
        call = self.graph.call_function
        names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
        given: dict[str, Any] = dict(zip(names, node.args, strict=False)) | node.kwargs
        mask, causal = given.get("attn_mask"), given.get("is_causal", False)
        scale, shared = given.get("scale"), given.get("enable_gqa", False)
        q = self.made_of[given["query"], 0]
        keys = [call(attention_scores, (q, self.made_of[given["key"], i], scale, shared))
                for i in range(self.count("k"))]
        mask = self.made_of[mask, 0] if isinstance(mask, fx.Node) else mask
        pattern = call(attention_pattern, (self._by_hop(keys), mask, causal))
        return self._added(pattern, lambda i, kept: call(
            weighed, (kept, self.made_of[given["value"], i], shared)))
