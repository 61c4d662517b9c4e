"""The copies of each value in stacks, and reading them at all positions, at the last, from one on.

Copies are stacked along the batch: copy i of a stack holds rows i B to (i + 1) B.  A stack holds
its copies at the rows that somebody needs: all of them, the last one, or, for copies that equal
another one before some position, those from there on.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from rewrite.expand.groups import Place
from rewrite.expand.positions import Spots
from rewrite.expand.stackable import StackAssembler
from rewrite.expand.tails import Tail
from rewrite.expand.values import LAST as LAST_ROW
from rewrite.ir.dag import Constant, Dag
from rewrite.ir.ops import copies, take, with_tail
from rewrite.ir.values import devices

aten = torch.ops.aten
ALL, LAST = "all", "last"
Rows = str | Spots  # which positions: ALL, LAST, or those from the first of some spots on


@dataclass(frozen=True)
class Stack:
    """Copies of one value: its node, and the place of each copy in it."""

    node: fx.Node
    places: Mapping[int, int]


class Stacks:
    """What has been computed.  `tails` says which copies are kept from a position on only."""

    def __init__(self, assembler: StackAssembler, dag: Dag, tails: Mapping[Place, Tail]) -> None:
        self.assembler, self.dag, self.tails = assembler, dag, tails
        self.kept: dict[str, dict[Rows, Stack]] = {}
        self._starts: dict[Spots, fx.Node] = {}
        self._whole: dict[tuple[str, Spots], Stack] = {}
        self._indices = 0
        self.device, *_ = devices(assembler.parts.graph.module)

    def add(self, name: str, indices: Iterable[int], node: fx.Node, rows: Rows) -> None:
        """Keep copies of a value, behind those that are kept at these rows."""
        stacks = self.kept.setdefault(name, {})
        before = stacks.get(rows)
        places = [*before.places, *indices] if before else list(indices)
        joined = self.join([before.node, node]) if before else node
        stacks[rows] = Stack(joined, {index: at for at, index in enumerate(places)})
        if isinstance(rows, frozenset):
            self._whole.pop((name, rows), None)

    def read(self, name: str, wanted: Sequence[int], rows: Rows) -> fx.Node:
        """The copies of a value, at these rows, in the order in which they are wanted."""
        if isinstance(self.dag.by_name.get(name), Constant):
            with self.assembler.spread_over(len(wanted)):
                value = self.assembler.constant(name)
            return value if name.endswith(".bias") else self.at(value, rows)
        homes: dict[Rows, dict[int, None]] = {}
        for index in wanted:
            home = next(kind for kind, stack in self.kept[name].items() if index in stack.places)
            homes.setdefault(home, {})[index] = None
        if len(homes) == 1:
            stack = self._stack(name, next(iter(homes)), rows)
            return self.gather(stack.node, len(stack.places), [stack.places[i] for i in wanted])
        order = [index for found in homes.values() for index in found]
        pieces = [self.read(name, list(found), rows) for found in homes.values()]
        return self.gather(self.join(pieces), len(order), [order.index(i) for i in wanted])

    def is_kept(self, name: str, index: int, rows: Rows) -> bool:
        """Whether a copy is kept at just these rows."""
        stack = self.kept.get(name, {}).get(rows)
        return stack is not None and index in stack.places

    def at(self, value: fx.Node, rows: Rows) -> fx.Node:
        """These rows of a value that has all."""
        if rows == ALL:
            return value
        return self.call(take, value, 1, self.ranges(rows))

    def ranges(self, rows: Rows) -> Any:
        """Rows as ranges of positions; None for all."""
        if isinstance(rows, str):
            return LAST_ROW if rows == LAST else None
        return ((self.start(rows), None),)

    def start(self, spots: Spots) -> fx.Node:
        """The first position of some spots: a number that the module is given."""
        if spots not in self._starts:
            self._starts[spots] = self.assembler.number(f"start{len(self._starts)}")
        return self._starts[spots]

    @property
    def starts(self) -> tuple[Spots, ...]:
        """Whose first positions the module is given, in order."""
        return tuple(self._starts)

    def complete(self, base: fx.Node, tail: fx.Node, axis: int, spots: Spots) -> fx.Node:
        """Values at all positions: as `base` before the first of some spots, then as `tail`."""
        return self.call(with_tail, base, tail, axis, self.start(spots))

    def gather(self, node: fx.Node, count: int, wanted: Sequence[int]) -> fx.Node:
        """Some of the `count` copies in a stack, in this order."""
        if list(wanted) == list(range(count)):
            return node
        if list(wanted) == list(range(wanted[0], wanted[0] + len(wanted))):
            return self.call(copies, node, count, slice(wanted[0], wanted[0] + len(wanted)))
        name = f"index{self._indices}"
        self._indices += 1
        self.assembler.root[name] = torch.tensor(wanted, device=self.device)
        return self.call(copies, node, count, self.assembler.graph.get_attr(name))

    def join(self, nodes: Sequence[fx.Node]) -> fx.Node:
        """Stacks behind one another, as one."""
        return nodes[0] if len(nodes) == 1 else self.call(aten.cat.default, list(nodes))

    def call(self, function: Any, *args: Any) -> fx.Node:
        """A call of a function in the graph."""
        return self.assembler.graph.call_function(function, args)

    def _stack(self, name: str, kept: Rows, rows: Rows) -> Stack:
        """The copies that are kept at some rows, at other rows."""
        stack = self.kept[name][kept]
        if kept == rows:
            return stack
        if isinstance(kept, frozenset) and rows != LAST:
            stack = self._completed(name, kept)
        return Stack(self.at(stack.node, rows), stack.places)

    def _completed(self, name: str, spots: Spots) -> Stack:
        key = (name, spots)
        if key not in self._whole:
            stack = self.kept[name][spots]
            base = self.read(name, [self.tails[name, i].base for i in stack.places], ALL)
            self._whole[key] = Stack(self.complete(base, stack.node, 1, spots), stack.places)
        return self._whole[key]
