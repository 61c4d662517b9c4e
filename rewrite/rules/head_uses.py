"""Every place where a layer reads the queries, keys and values of its heads.

A core names the products in which they meet.  A head may read them elsewhere too: what
normalises linear attention is made of queries and keys once more, and a query may be added to
what it has attended.  Such a reading is one of the same port, as patching the query of a head
means all that the head does with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import fx

from rewrite.ir.flow import Flow, args
from rewrite.rules.heads import Attention
from rewrite.rules.slicing import SPLITS, as_slice

Place = tuple[fx.Node, int]
Indices = tuple[int, range] | None


def with_uses(
    flow: Flow, layer: Attention, stops: set[fx.Node]
) -> tuple[Attention | None, str]:
    """The layer with all ports of its heads; None, and why, if a reading may be of several."""
    uses, found = _Uses(flow, layer, stops), dict[Place, str]()
    stack, seen = [layer.output], set[fx.Node]()
    while stack:
        node = stack.pop()
        if node in seen or node in stops:
            continue
        seen.add(node)
        sliced = as_slice(node)
        for operand in [sliced[0]] if sliced else flow.operands(node):
            if operand in stops or uses.known(node, operand):
                continue
            ports = uses.ports(node, operand)
            if ports is None:
                stack.append(operand)
                continue
            places = [i for i, given in enumerate(args(node)) if given is operand]
            if ports and (len(ports) > 1 or not places):
                return None, (f"heads not split: {node.name} ({node.target}) reads {operand.name} "
                              f"beside the cores, which is the {' and the '.join(sorted(ports))} "
                              "of the heads")
            found |= {(node, i): port for port in ports for i in places}
    return (replace(layer, beside=found) if found else layer), ""


@dataclass
class _Uses:
    """What is computed of a port: `values` are behind a product, `last` behind the last one."""

    flow: Flow
    layer: Attention
    stops: set[fx.Node]

    def __post_init__(self) -> None:
        self.entries: dict[str, list[fx.Node]] = {}
        for (node, index), port in self.layer.ports.items():
            self.entries.setdefault(port, []).append(args(node)[index])
        self.values = {port: self._made(entries) for port, entries in self.entries.items()}
        self.last = {port: self._last(entries) for port, entries in self.entries.items()}

    def known(self, node: fx.Node, operand: fx.Node) -> bool:
        """Whether an operand enters by a port of a core."""
        return any(at is node and args(node)[index] is operand for at, index in self.layer.ports)

    def ports(self, node: fx.Node, operand: fx.Node) -> list[str] | None:
        """Of which ports a reading is one more, none if it is of its own; None: look behind it."""
        ports = [port for port, values in self.values.items() if operand in values]
        if not ports:
            return None
        if self.flow.contracts(node):  # what is multiplied again on the way to a core is no query
            ports = [port for port in ports if operand in self.last[port]]
        return [port for port in ports if self._meets(port, operand, _indices(node))]

    def _made(self, entries: Sequence[fx.Node]) -> set[fx.Node]:
        cone = set[fx.Node]().union(*(self.flow.cone(entry, self.stops) for entry in entries))
        found = set(entries)
        for node in sorted(cone, key=self.flow.order.__getitem__):
            if self.flow.contracts(node) or any(o in found for o in node.all_input_nodes):
                found.add(node)
        return found - self.stops

    def _last(self, entries: Sequence[fx.Node]) -> set[fx.Node]:
        found, stack = set[fx.Node](), list(entries)
        while stack:
            node = stack.pop()
            if node not in found | self.stops:
                found.add(node)
                stack += [] if self.flow.contracts(node) else self.flow.operands(node)
        made = {node for node in found if self.flow.contracts(node)}
        for node in sorted(found, key=self.flow.order.__getitem__):
            if not made.isdisjoint(node.all_input_nodes):
                made.add(node)
        return made

    def _meets(self, port: str, value: fx.Node, wanted: Indices) -> bool:
        """Whether a port reads some of what a slice of a value holds."""
        readers = [reader for user in value.users if user in self.values[port]
                   for reader in (user.users if user.target in SPLITS else [user])
                   if reader in self.values[port]]
        return value in self.entries[port] or any(
            wanted is None or read is None or read[0] != wanted[0] or not (
                set(read[1]).isdisjoint(wanted[1])) for read in map(_indices, readers))


def _indices(node: fx.Node) -> Indices:
    """The axis of its operand and the indices on it that a node reads; None if it is no slice."""
    sliced = as_slice(node)
    return None if sliced is None else sliced[1:]
