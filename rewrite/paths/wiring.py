"""What patterns can tell of a graph: its symbols, and the letters that stand for them.

Sets of symbols are bit masks, and so are sets of letters.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import cached_property, reduce
from operator import or_
from typing import NamedTuple

from rewrite.ir.dag import Dag, Join, Part, Source, symbols_of
from rewrite.paths.expressions import Expressions, Motion
from rewrite.paths.names import first_segment, heads
from rewrite.paths.pattern import Name


class Placing(NamedTuple):
    """Symbols, all the places where they must write, and the place where they must read.

    A symbol that does not hop reads where it writes.
    """

    symbols: int
    here: frozenset[str] = frozenset()
    there: str = ""


MOST = 100_000  # expressions and derivatives of one graph: some 30 MB


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
        self._spelt: dict[str, tuple[str, ...]] = {}
        """How each symbol is spelt: a module path that begins like a short name yields to it."""
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
        short = {first_segment(symbol) for symbol in self.bits}
        for symbol, bit in self.bits.items():
            others = short - {first_segment(symbol)}
            further = (spelling for spelling in dag.spellings.get(symbol, ())
                       if first_segment(spelling) not in others)
            self._spelt[symbol] = spelt = (symbol, *further)
            for name in {start for each in spelt for start in starts(each)}:
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
            self._named[name] = sum(bit for symbol, bit in self.bits.items()
                                    if heads(name, self._spelt[symbol]))
        return self._named[name]

    def members(self, name: str) -> list[str]:
        """The names that an atom with `*`, ranges and lists stands for, in the order of the graph.

        A further spelling counts where no short name of the symbol fits as well.

        >>> from rewrite.ir.dag import Dag, Part, Port, Source
        >>> ports = tuple(Port(f"a0.h1.{port}", "x") for port in "qk")
        >>> dag = Dag((Source("x"), Part("a0.h1", ports)), ("a0.h1",), {"a0.h1.k": ("a0.kv0.k",)})
        >>> [Wiring.of(dag).members(atom) for atom in ("*0", "a0.*", "a0.{kv0,h1}", "a0.*0.*")]
        [['a0'], ['a0.h1'], ['a0.h1', 'a0.kv0'], ['a0.kv0.k']]
        """
        found: dict[str, None] = {}
        for symbol in self.symbols(name):
            by_choice: dict[tuple[str, ...], str] = {}
            for head in heads(name, self._spelt[symbol]):
                by_choice.setdefault(head.groups(), head[0])
            found |= dict.fromkeys(by_choice.values())
        return list(found)

    def placings(self, name: Name) -> tuple[Placing, ...]:
        """The symbols of a name with their places.

        A position behind a port is where the port reads, any other is where the node writes: of
        each symbol by itself, it is behind the port where the name spells the symbol to its end.
        """
        symbols = self.named(name.atom)
        if not (name.at or name.port_at):
            return (Placing(symbols),)
        node, port = (name.at, name.port_at) if name.port else ("", name.at)
        ended, begun = self._ends(name.atom)
        every = frozenset({node, port}) - {""}
        found = (Placing(symbols & ~self.hops, every), Placing(begun, every),
                 Placing(ended, frozenset({node}) - {""}, port))
        return tuple(each for each in found if each.symbols)

    def symbols(self, name: str) -> list[str]:
        """The symbols that an atom names, in the order of the graph."""
        meant = self.named(name)
        return [symbol for symbol, bit in self.bits.items() if bit & meant]

    def narrowed(self, name: Name, symbol: str, owner: str, text: str) -> Name | None:
        """`text`, the node `owner` or a port of it, where a name has one of the node's symbols.

        None if no single name says that.

        >>> from rewrite.ir.dag import Dag, Part, Port, Source
        >>> ports = tuple(Port(f"a1.h3.{port}", "x", hops=True) for port in "kv")
        >>> wiring = Wiring.of(Dag((Source("x"), Part("a1.h3", ports)), ("a1.h3",)))
        >>> wiring.narrowed(Name("a1", "END"), "a1.h3.v", "a1.h3", "a1.h3.v")
        Name(text='a1.h3', at='END', port='v', port_at='')
        >>> wiring.narrowed(Name("a1.*.*", "END"), "a1.h3.v", "a1.h3", "a1.h3.v")
        Name(text='a1.h3.v', at='END', port='', port_at='')
        """
        placings = [each for each in self.placings(name) if each.symbols & self.bits[symbol]]
        if len(placings) != 1 or len(placings[0].here) > 1:
            return None
        _, places, there = placings[0]
        here, port = "".join(places), text.removeprefix(owner).removeprefix(".")
        if there and not port:
            return None
        if here and port:
            return Name(owner, here, port, there)
        return Name(text, here or there)

    def _ends(self, name: str) -> tuple[int, int]:
        """Symbols that hop which an atom spells to the end, and those that it spells in part."""
        ended = begun = 0
        for symbol in self.symbols(name):
            bit = self.bits[symbol] & self.hops
            for head in heads(name, self._spelt[symbol]) if bit else ():
                if head.end() == len(head.string):
                    ended |= bit
                else:
                    begun |= bit
        return ended, begun

    @cached_property
    def blurs(self) -> int:
        """Symbols that mix positions by other means than hops, or hop by unknown numbers."""
        keeps = self.dag.motion.keeps_positions
        blurred = (node for node in self.dag.nodes if isinstance(node, Part)
                   and not keeps(node.name))
        return reduce(or_, (self.bits[s] for node in blurred for s in symbols_of(node)),
                      0)

    def expressions(self, letters: Letters) -> Expressions:
        """The store for letters of this number that move like these.

        Patterns of new forms never end: when much has been kept, stores are begun anew, and what
        is bound already keeps its own.
        """
        key = letters.count, letters.motion
        if sum(map(len, self._stores.values())) > MOST:
            self._stores.clear()
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
