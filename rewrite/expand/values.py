"""The values of copies in a literal module: at all positions, or at the last one."""

from __future__ import annotations

from collections.abc import Set as AbstractSet

from torch import fx

from rewrite.expand.groups import Place, labelled
from rewrite.expand.positions import Positions
from rewrite.expand.product import Mixed, Product
from rewrite.ir.dag import Constant
from rewrite.ir.ops import take
from rewrite.parts import Components
from rewrite.parts.assemble import Assembler
from rewrite.rules.slicer import Body

LAST = ((-1, None),)  # the last position, on axis 1


class Values:
    """What has been computed: `full` at all positions, `rows` at the last one.

    Places in `wanted` are read at all positions by somebody.
    """

    def __init__(
        self, parts: Components, product: Product, assembler: Assembler, positions: Positions,
        wanted: AbstractSet[Place],
    ) -> None:
        self.parts, self.product, self.assembler = parts, product, assembler
        self.positions, self.wanted = positions, wanted
        self.full: dict[Place, fx.Node] = {}
        self.rows: dict[Place, fx.Node] = {}
        self.constants: dict[str, fx.Node] = {}
        self.calls = self.weights = 0

    def all_of(self, name: str, index: int) -> fx.Node:
        """A copy at all positions."""
        if isinstance(self.product.dag.by_name.get(name), Constant):
            if name not in self.constants:
                self.constants[name] = self.assembler.constant(name)
            return self.constants[name]
        return self.full[name, index]

    def last_of(self, name: str, index: int) -> fx.Node:
        """A copy at the last position."""
        if (name, index) not in self.rows:
            value = self.all_of(name, index)
            if name.endswith(".bias"):  # the same for every position
                return value
            self.rows[name, index] = self.last_row(value)
        return self.rows[name, index]

    def last_row(self, value: fx.Node) -> fx.Node:
        """The last row of a value that has all."""
        return self.assembler.graph.call_function(take, (value, 1, LAST))

    def mixed(self, copy: Mixed, name: str, key: str, total: int) -> None:
        """A value that is one copy at some positions and another elsewhere."""
        if copy.by_hop:  # its reader takes it apart
            return
        place, sides = (key, copy.index), [(key, copy.yes), (key, copy.no)]
        label = labelled(key, copy, total)
        if (name, copy.index) in self.wanted:
            self.full[place] = self.positions.mixed(
                copy.test, name, [self.all_of(*side) for side in sides], label)
        else:
            self.rows[place] = self.positions.mixed(
                copy.test, name, [self.last_of(*side) for side in sides], label, LAST)

    def add(self, place: Place, label: str, terms: list[Place]) -> None:
        """A sum of copies."""
        if place in self.wanted:
            self.full[place] = self.assembler.join(
                place[0], [self.all_of(*t) for t in terms], label)
        else:
            self.rows[place] = self.assembler.join(
                place[0], [self.last_of(*t) for t in terms], label)

    def call(
        self, name: str, values: list[fx.Node], label: str, heads: tuple[int, ...] | None = None,
        alike: dict[str, str] | None = None, body: Body | None = None,
    ) -> fx.Node:
        """A call of a part, or of some heads of a layer, that is counted."""
        if self.parts.component(name).region is not None:
            self.calls += 1
            self.weights += (body or self.parts.body(name, heads, alike)).weights
        return self.assembler.part(name, values, heads, alike, body, label)
