"""push_down_slice: slice(f(x)) = f'(slice(x)), moved up until it lands on weights.

`Slicer` copies the part of an op graph behind one value into a small graph of its own, a
*body*.  It can copy the value whole or any slice of it; a slice is pushed towards the inputs
by the rules of `rewrite.rules.slicing`, so that one head of a layer costs one head.  Where no
rule applies the slice stays, which is correct and merely slower, and is noted in `stuck`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, fx

from rewrite.ir.code import Code
from rewrite.ir.flow import CONTRACTIONS, Flow, args, shape
from rewrite.ir.ops import as_ranges, take, take_every
from rewrite.ir.values import attribute
from rewrite.rules.picks import TAIL, Every, Indices, Pick, SizeOf, compose
from rewrite.rules.slicing import SPLITS, as_slice
from rewrite.rules.slicing_products import enter_rules
from rewrite.rules.slicing_table import push

aten = torch.ops.aten
enter_rules()
FACTORIES = {
    aten.arange.default, aten.arange.start, aten.arange.start_step, aten.zeros.default,
    aten.ones.default, aten.full.default, aten.empty_like.default, aten.zeros_like.default,
    aten.ones_like.default, aten.full_like.default, aten.new_zeros.default,
    aten.new_ones.default, aten.new_full.default, aten.new_empty.default,
}
Slot = tuple[str, fx.Node]  # (name of the reading, value that is read)


@dataclass(frozen=True)
class Share:
    """A product on some of the features that it sums over, and without its bias.

    `picks` are those features, by operand position; `bias` is the position of what is left out.
    """

    picks: Mapping[int, Pick]
    bias: int | None = None


@dataclass(frozen=True)
class Body:
    """A piece of the model as a graph of its own.

    It is called with the values of `slots`, then those of `context`, then, if it computes a
    `tail` of its rows, the number of the first one.
    """

    module: fx.GraphModule
    slots: tuple[Slot, ...]
    context: tuple[fx.Node, ...]
    stuck: tuple[str, ...] = ()
    weights: int = 0  # entries of the weights that one token is multiplied with
    tail: bool = False


class Slicer:
    """Copies values, or slices of them, from an op graph into a body.

    `leaves` are the values that the body receives instead of computing them.  `ports` maps
    operand positions `(node, i)` to the name of a port; everything behind a port is copied
    for that port, and reads its own slots.  `alike` maps ports to the name under which
    they read (ports with the same name share their copies).  With `rows`, the leaves behind
    the ports `by_row` hold that slice of themselves already, and `reads_whole` tells whether
    more of them was asked for.
    """

    def __init__(
        self,
        owner: torch.nn.Module | None,
        flow: Flow,
        leaves: Iterable[fx.Node],
        ports: Mapping[tuple[fx.Node, int], str] | None = None,
        alike: Mapping[str, str] | None = None,
        rows: Pick | None = None,
        by_row: Iterable[str] = ("", "q"),
    ) -> None:
        self.owner, self.flow, self.leaves = owner, flow, set(leaves)
        self.ports, self.alike = dict(ports or {}), dict(alike or {})
        self.graph = fx.Graph()
        self.made: dict[Any, fx.Node] = {}
        self.slots: dict[Slot, fx.Node] = {}
        self.context: dict[fx.Node, fx.Node] = {}
        self.weights: dict[Any, fx.Node] = {}
        self.passed: dict[fx.Node, list[Pick]] = {}
        self.read: dict[fx.Node, list[Pick]] = {}
        self.stuck: list[str] = []
        self.start: fx.Node | None = None  # of the rows, where it is given by the caller
        self.rows, self.by_row = dict(rows or {}), set(by_row)
        self.reads_whole = False
        self.multiplied = 0
        self.special: dict[fx.Node, Callable[[Pick], fx.Node]] = {}
        self.shares: dict[fx.Node, Share] = {}
        self.instead: dict[fx.Node, fx.Node] = {}  # of a sum, the one term that is not zero
        self._cones: dict[str, set[fx.Node]] = {}

    def emit(self, node: fx.Node, pick: Pick | None = None, port: str = "") -> fx.Node:
        """A copy of `node`, or of the slice `pick` of it, as read through `port`."""
        pick = {d: i for d, i in (pick or {}).items() if not _is_all(node, d, i)}
        port = self.alike.get(port, port) if self.flow.flows(node) else ""
        key = (node, port, frozenset(pick.items()))
        if key not in self.made:
            self.made[key] = self._make(node, pick, port)
        return self.made[key]

    def finish(self, result: fx.Node) -> Body:
        """The body that returns `result`."""
        slots = tuple(sorted(self.slots, key=lambda s: (s[0], self.flow.order[s[1]])))
        context = tuple(sorted(self.context, key=self.flow.order.__getitem__))
        ordered = [self.slots[slot] for slot in slots] + [self.context[node] for node in context]
        if self.start is not None:
            ordered.append(self.start)
        for holder in reversed(ordered):
            first = next(iter(self.graph.nodes))
            if holder is not first:
                first.prepend(holder)
        self.graph.output(result)
        self.graph.lint()
        module = Code(self._parameters(), self.graph)
        return Body(module, slots, context, tuple(dict.fromkeys(self.stuck)), self.multiplied,
                    self.start is not None)

    # one kind of node after the other

    def compute(self, node: fx.Node) -> fx.Node:
        """A copy of `node` whole, whatever `special` says of it."""
        return self._compute(node, {}, "")

    def _make(self, node: fx.Node, pick: dict[int, Indices], port: str) -> fx.Node:
        if node in self.leaves:
            self.read.setdefault(node, []).append(pick)
            return self._leaf(node, pick, port)
        if not self.flow.flows(node):
            if not isinstance(node.meta.get("val"), Tensor):
                return self._scalar(node)
            if node.op == "get_attr":
                return self._pick(self._weight(node), pick)
            if not pick and self._can_make(node):
                return self._compute(node, pick, port)  # its sizes are those of what it is used on
            if not self.flow.from_weights(node):
                return self._pick(self._given(node), {
                    axis: indices.rest if isinstance(indices, Every)
                    and indices.period == shape(node)[axis] else indices
                    for axis, indices in pick.items()})
        if node in self.special and len(shape(node)) - 1 not in pick:
            return self.special[node](pick)
        if node in self.instead:
            return self.emit(self.instead[node], pick, port)
        if (sliced := as_slice(node)) is not None:
            return self._slice(node, sliced, pick, port)
        if node.target is aten.cat.default and (made := self._pieces(node, pick, port)):
            return made
        return self._compute(node, pick, port)

    def _can_make(self, node: fx.Node) -> bool:
        """Whether a tensor is made of sizes, those of values that the body has anyway."""
        if node.target not in FACTORIES:
            return False
        needed: set[fx.Node] = set()
        for operand in node.all_input_nodes:
            if self.flow.flows(operand):
                if self.ports:  # behind which port it would be read is not told
                    return False
                needed |= {operand} | self.flow.cone(operand, self.leaves)
        needed |= {o for n in needed - self.leaves for o in self.flow.operands(n)}
        return needed & self.leaves <= {leaf for _, leaf in self.slots}

    def _pieces(self, node: fx.Node, pick: dict[int, Indices], port: str) -> fx.Node | None:
        """concat(x, y; d)[I at d] = concat(x[I_x], y[I_y]; d), without pieces of no interest."""
        pieces, *rest = args(node)
        dim = (rest[0] if rest else 0) % len(shape(node))
        wanted, sizes = pick.get(dim), [shape(piece)[dim] for piece in pieces]
        if not isinstance(wanted, tuple) or not all(isinstance(size, int) for size in sizes):
            return None
        made, start, order = [], 0, []
        for piece, size in zip(pieces, sizes, strict=True):
            inside = tuple(i - start for i in wanted if start <= i < start + size)
            order += [i + start for i in inside]
            if inside:
                made.append(self.emit(piece, {**pick, dim: inside}, port))
            start += size
        if tuple(order) != wanted or any(i < 0 for i in wanted):
            return None
        if len(made) == 1:
            return made[0]
        joined = self.graph.create_node("call_function", node.target, (made, dim), name=node.name)
        self._note(joined, node)
        return joined

    def _slice(
        self, node: fx.Node, sliced: tuple[fx.Node, int, range], pick: Pick, port: str
    ) -> fx.Node:
        operand, dim, indices = sliced
        if dim in pick or self._leaves_out(sliced, port):
            return self.emit(operand, compose(pick, {dim: tuple(indices)}), port)
        whole = self.emit(operand, pick, port)
        return self._pick(whole, {dim: tuple(indices)})

    def _compute(self, node: fx.Node, pick: dict[int, Indices], port: str) -> fx.Node:
        pushed = push(node, pick) if pick else None
        if pick and pushed is None:
            self.stuck.append(f"{node.name} ({node.target})")
            return self._pick(self.emit(node, {}, port), pick)
        self.passed.setdefault(node, []).append(pick)
        operands = pushed.operands if pushed else {}
        share = self.shares.get(node)
        if share is not None:
            operands = {**operands, **{place: {**cast(Pick, operands.get(place, {})), **features}
                                       for place, features in share.picks.items()}}
        self._count(node, operands)
        positional: list[Any] = []
        for position, arg in enumerate(args(node)):
            if share is not None and position == share.bias:
                positional.append(None)
                continue
            if pushed and position in pushed.args:
                arg = pushed.args[position]
            inner = self.ports.get((node, position), port)
            positional.append(self._argument(arg, operands.get(position, {}), inner))
        kwargs = {
            name: self._argument(arg, operands.get(name, {}), port)
            for name, arg in (dict(node.kwargs) | dict(pushed.kwargs if pushed else {})).items()
        }
        positional = [self._sized(arg, positional) for arg in positional]
        # A slice may not be contiguous, which `view` requires and `reshape` does not.
        views = {aten.view.default, aten._unsafe_view.default}
        target = aten.reshape.default if node.target in views else node.target
        if target is aten.addmm.default and positional[0] is None:
            target, positional = aten.mm.default, positional[1:3]
        made = self.graph.create_node(node.op, target, tuple(positional), kwargs, name=node.name)
        self._note(made, node)
        if not pick and not self.rows:
            made.meta["whole"] = node.meta.get("val")  # no slice: its value is that of `node`
        return self._pick(made, pushed.after if pushed else {})

    def _sized(self, value: Any, positional: list[Any]) -> Any:
        if not isinstance(value, list):
            return value
        return [self.graph.call_function(aten.sym_size.int, (positional[0], entry.axis))
                if isinstance(entry, SizeOf) else entry for entry in value]

    def _count(self, node: fx.Node, operands: Mapping[int | str, Any]) -> None:
        if node.target in CONTRACTIONS and self.flow.contracts(node):
            position = 0 if self.flow.weight_first(node) else CONTRACTIONS[node.target][1]
            if self.flow.from_weights(args(node)[position]):  # and none that the input chooses
                self.count(args(node)[position], operands.get(position, {}))

    def count(self, weight: fx.Node, pick: Pick) -> None:
        """Add the entries of a slice of `weight` to those that a token is multiplied with."""
        sizes = [len(pick.get(dim, range(size))) for dim, size in enumerate(shape(weight))]
        self.multiplied += math.prod(sizes)

    def _argument(self, value: Any, pick: Pick | tuple[Pick, ...], port: str) -> Any:
        if isinstance(pick, tuple):
            return [self.emit(item, one, port) for item, one in zip(value, pick, strict=True)]
        return fx.map_arg(value, lambda operand: self.emit(operand, pick, port))

    def _scalar(self, node: fx.Node) -> fx.Node:
        """A size, taken from what the body itself is given."""
        if node.target is aten.sym_size.int:
            wanted = node.meta["val"].node.expr
            for (port, leaf), holder in self.slots.items():
                kept = [None if port in self.by_row and axis in self.rows else size
                        for axis, size in enumerate(shape(leaf))]
                if wanted in kept:
                    axis = kept.index(wanted)
                    made = self.graph.call_function(aten.sym_size.int, (holder, axis))
                    self._note(made, node)
                    return made
            return self._given(node)
        if node.op != "call_function":
            return self._given(node)
        return self._compute(node, {}, "")

    def _length(self, symbol: Any) -> fx.Node:
        """A size that varies, taken from the input of the model that has it."""
        node = next(node for node in self.flow.graph.find_nodes(op="placeholder")
                    if symbol in shape(node))
        holder = self._given(node)
        return self.graph.call_function(aten.sym_size.int, (holder, shape(node).index(symbol)))

    # where values come from

    def _leaf(self, node: fx.Node, pick: dict[int, Indices], port: str) -> fx.Node:
        rows = self.rows if port in self.by_row else {}
        self.reads_whole |= any(pick.get(axis) != indices for axis, indices in rows.items())
        left = {axis: indices for axis, indices in pick.items() if axis not in rows}
        return self._pick(self.slot(node, port), left)

    def slot(self, node: fx.Node, port: str) -> fx.Node:
        """What the body is given of `node` for readers behind this port."""
        slot = (port, node)
        if slot not in self.slots:
            taken = {str(holder.target) for holder in self.slots.values()}
            wish = port or "x"
            names = (wish, f"{wish}_{node.name}", *(f"{wish}_{node.name}_{i}" for i in range(99)))
            self.slots[slot] = self._placeholder(next(n for n in names if n not in taken))
        return self.slots[slot]

    def open_slots(self, slots: Iterable[Slot]) -> None:
        """Create the placeholders of `slots` first, so that sizes can be read off them."""
        for port, node in slots:
            self.slot(node, self.alike.get(port, port))

    def _given(self, node: fx.Node) -> fx.Node:
        if node not in self.context:
            self.context[node] = self._placeholder(f"given_{node.name}")
        return self.context[node]

    def _weight(self, node: fx.Node) -> fx.Node:
        if node.target not in self.weights:
            self.weights[node.target] = self.graph.get_attr(str(node.target))
            self._note(self.weights[node.target], node)
        return self.weights[node.target]

    def _placeholder(self, name: str) -> fx.Node:
        first = next(iter(self.graph.nodes), None)
        if first is None or first.op == "root":
            return self.graph.placeholder(name)
        with self.graph.inserting_before(first):
            return self.graph.placeholder(name)

    def _pick(self, node: fx.Node, pick: Pick) -> fx.Node:
        for dim, indices in pick.items():
            if isinstance(indices, Every):
                period, ranges = indices.period, self._ranges(indices.rest)
                size = period if isinstance(period, int) else self._length(period)
                taken = self.graph.call_function(take_every, (node, dim, size, ranges))
            else:
                taken = self.graph.call_function(take, (node, dim, self._ranges(indices)))
            self._note(taken, node)
            node = taken
        return node

    def _ranges(self, indices: Any) -> Any:
        if indices is not TAIL:
            return as_ranges(indices)
        if self.start is None:
            self.start = self._placeholder("start")
        return ((self.start, None),)

    def _note(self, made: fx.Node, origin: fx.Node) -> None:
        made.meta["module"] = origin.meta.get("module", "")
        made.meta["from"] = origin.name

    def _parameters(self) -> dict[str, Any]:
        return {name: attribute(self.owner, name) for name in self.weights}

    def _leaves_out(self, sliced: tuple[fx.Node, int, range], port: str) -> bool:
        """Whether behind this port nobody reads some of what is sliced."""
        operand, dim, _ = sliced
        cone = self._cone(port) if port else set()
        if operand not in cone:
            return False
        readers = [user for user in operand.users if user in cone]
        pieces = [u for r in readers for u in (r.users if r.target in SPLITS else [r]) if u in cone]
        slices = [as_slice(piece) for piece in pieces]
        read = {i for s in slices if s is not None and s[1] == dim for i in s[2]}
        same_axis = all(s is not None and s[1] == dim for s in slices)
        return same_axis and len(read) < shape(operand)[dim]

    def _cone(self, port: str) -> set[fx.Node]:
        if port not in self._cones:
            cones = (self.flow.cone(args(n)[i], self.leaves)
                     for (n, i), p in self.ports.items() if self.alike.get(p, p) == port)
            self._cones[port] = set().union(*cones)
        return self._cones[port]


def _is_all(node: fx.Node, dim: int, indices: Indices) -> bool:
    if isinstance(indices, Every):
        period = indices.period
        return isinstance(period, int) and indices.rest == tuple(range(period))
    size = shape(node)[dim]
    return isinstance(size, int) and tuple(indices) == tuple(range(size))
