"""What patterns can tell of a graph: its symbols, and the letters that stand for them.

Sets of symbols are bit masks, and so are sets of letters.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import cached_property, reduce
from operator import or_

from rewrite.ir.dag import Dag, Join, Part, Source, symbols_of
from rewrite.paths.expressions import Expressions, Motion
from rewrite.paths.names import matches


class Wiring:
    """What binding needs to know of a graph, worked out once.

    Bound sets with equally many letters share a store of expressions: what one pattern has
    derived, another of the same form finds there.

    >>> from rewrite.ir.dag import Dag, Part, Port, Source
    >>> wiring = Wiring.of(Dag((Source("x"), Part("y", (Port("y", "x"),))), ("y",)))
    >>> wiring.named("y"), wiring.above
    (2, {'x': 1, 'y': 3})
    """

    def __init__(self, dag: Dag) -> None:
        self.dag: Dag = dag
        self.bits: dict[str, int] = {symbol: 1 << n for n, symbol in enumerate(dag.symbols)}
        self.every: int = (1 << len(self.bits)) - 1
        self.hops: int = sum(self.bits[symbol] for symbol in dag.hops)
        self.ends: dict[str, int] = {}
        """For each node, the symbols with which a path that ends there can end."""
        self.above: dict[str, int] = {}
        """For each node, the symbols on the paths that end there, its own included."""
        self.before: dict[str, int] = dict.fromkeys(self.bits, 0)
        """For each symbol, the symbols on the paths that it can be spelt behind."""
        self.kinds: dict[str, int] = {}
        """For each node, a number that nodes share which read the same by ports that move alike."""
        self._named: dict[str, int] = {}
        """Atoms that have been asked for; those that are no patterns are known from the start."""
        self._stores: dict[tuple[int, Motion], Expressions] = {}
        for node in dag.nodes:
            above = reduce(or_, (self.above[name] for name in node.reads), 0)
            own = 0
            if above or isinstance(node, Source):  # else no path ends there
                own = sum(self.bits[symbol] for symbol in symbols_of(node))
            if isinstance(node, Join):
                own = reduce(or_, (self.ends[name] for name in node.reads), 0)
            self.ends[node.name], self.above[node.name] = own, above | own
            for port in node.ports if isinstance(node, Part) else ():
                self.before[port.symbol] |= self.above[port.reads]
        kinds: dict[object, int] = {}
        for node in dag.nodes:
            ports = node.ports if isinstance(node, Part) else ()
            moves = tuple((port.hops, self.before[port.symbol]) for port in ports)
            self.kinds[node.name] = kinds.setdefault((type(node), node.reads, moves), len(kinds))
        for symbol, bit in self.bits.items():
            spelt = (symbol, *dag.spellings.get(symbol, ()))
            for name in {start for each in spelt for start in starts(each)}:
                if matches(name, spelt):
                    self._named[name] = self._named.get(name, 0) | bit

    @classmethod
    def of(cls, dag: Dag) -> Wiring:
        """The one of this graph."""
        if cls not in dag.kept:
            dag.kept[cls] = cls(dag)
        return dag.kept[cls]

    def named(self, name: str) -> int:
        """The symbols that an atom names."""
        if name not in self._named:
            spellings = self.dag.spellings
            self._named[name] = sum(bit for symbol, bit in self.bits.items()
                                    if matches(name, (symbol, *spellings.get(symbol, ()))))
        return self._named[name]

    def whole(self, name: str) -> bool:
        """Whether an atom spells a symbol to its end, and so means a port."""
        spellings = self.dag.spellings
        return any(name.count(".") == spelt.count(".") and matches(name, (symbol, spelt))
                   for symbol, bit in self.bits.items() if bit & self.named(name)
                   for spelt in (symbol, *spellings.get(symbol, ())))

    @cached_property
    def blurs(self) -> int:
        """Symbols that mix positions by other means than hops."""
        keeps = self.dag.motion.keeps_positions
        blurred = (node for node in self.dag.nodes if isinstance(node, Part)
                   and not keeps(node.name))
        return reduce(or_, (self.bits[s] for node in blurred for s in symbols_of(node)),
                      0) & ~self.hops

    def expressions(self, letters: Letters) -> Expressions:
        """The store for letters of this number that move like these."""
        key = letters.count, letters.motion
        if key not in self._stores:
            self._stores[key] = Expressions(*key)
        return self._stores[key]


# All that patterns can tell of a symbol: its letter, and the letters upstream of it.
Place = tuple[int, int]
# Of a node: the letters by which a path that ends there can end, and all letters of such paths.
Arrival = tuple[int, int]


class Letters:
    """Letters of symbols: those that every group has all or none of share one.

    Letters are numbered by the first of their symbols.  Nodes none of whose symbols is in a
    group are `alike` if they read the same: paths that come to them in one state go on alike.

    >>> from rewrite.ir.dag import Dag, Part, Port, Source
    >>> dag = Dag((Source("x"), Part("y", (Port("y", "x"),))), ("y",))
    >>> letters = Letters(Wiring.of(dag), [0b10], Motion())
    >>> letters.count, letters.place("y"), letters.mask(0b11)
    (2, (1, 1), 3)
    """

    def __init__(self, wiring: Wiring, named: Collection[int], motion: Motion) -> None:
        cells = [wiring.every]
        for group in (*named, motion.hops, motion.blurs):
            cells = [part for cell in cells for part in (cell & group, cell & ~group) if part]
        self._wiring: Wiring = wiring
        cells.sort(key=lambda cell: cell & -cell)
        self._cells: list[tuple[int, int]] = [(1 << n, cell) for n, cell in enumerate(cells)]
        self._told: int = reduce(or_, named, motion.blurs)
        self._places: dict[str, Place] = {}
        self._arrivals: dict[str | int, Arrival] = {}
        self.motion: Motion = Motion(self.mask(motion.hops), self.mask(motion.blurs), motion.ahead)

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self._cells)

    def mask(self, symbols: int) -> int:
        """The letters of some symbols."""
        mask = 0
        for bit, cell in self._cells:
            if cell & symbols:
                mask |= bit
        return mask

    def place(self, symbol: str) -> Place:
        """What can be told of a symbol.  Raises `KeyError` for one that the graph lacks."""
        if symbol not in self._places:
            letter = self.mask(self._wiring.bits[symbol]).bit_length() - 1
            self._places[symbol] = letter, self.mask(self._wiring.before[symbol])
        return self._places[symbol]

    def arrival(self, node: str) -> Arrival:
        """What can be told of a node.  Raises `KeyError` for one that the graph lacks."""
        kind, wiring = self.kind(node), self._wiring
        if kind not in self._arrivals:
            self._arrivals[kind] = self.mask(wiring.ends[node]), self.mask(wiring.above[node])
        return self._arrivals[kind]

    def kind(self, node: str) -> str | int:
        """What nodes share that are alike; of a node that a group tells apart, its name."""
        return node if self._wiring.ends[node] & self._told else self._wiring.kinds[node]


def starts(name: str) -> list[str]:
    """The name cut behind each of its segments.

    >>> starts("a5.h3.q")
    ['a5', 'a5.h3', 'a5.h3.q']
    """
    segments = name.split(".")
    return [".".join(segments[:n]) for n in range(1, len(segments) + 1)]
