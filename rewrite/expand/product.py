"""The product of a wiring with automata: every node copied as often as it is needed.

    copy(node, state)  = cons(node, [copy(source, step(state, edge)) for each reading])
    copy(source, state) = the run that the automaton assigns

`cons` returns the copy that already exists for the same node and the same copies read, so
the copies of a node are exactly the distinct assignments of runs to the paths behind it,
and the work is linear in nodes x states however many paths there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from rewrite.ir.dag import Dag, Join, Node, Part, Source
from rewrite.paths import Automaton


@dataclass(frozen=True)
class Copy:
    """A copy of a node: the copies that it reads (aligned with `node.reads`), and its runs.

    `runs` are the runs that reach it: one for a plain forward value, several for a mixture,
    none for a constant.
    """

    node: str
    index: int
    reads: tuple[int, ...]
    runs: frozenset[str]


@dataclass(frozen=True)
class Product:
    """Copies of every node in the order of the wiring; `roots[i]` are outputs of hypothesis i."""

    dag: Dag
    copies: dict[str, list[Copy]]
    roots: tuple[tuple[int, ...], ...]
    states: int

    @property
    def counts(self) -> dict[str, int]:
        """How many copies each source and part has."""
        counted = (Source, Part)
        return {n.name: len(self.copies[n.name]) for n in self.dag.nodes if isinstance(n, counted)}


@dataclass
class _Consing:
    """Hash-consing of the copies of one node."""

    node: Node
    known: dict[tuple[object, ...], int] = field(default_factory=dict)
    copies: list[Copy] = field(default_factory=list)

    def cons(self, key: tuple[object, ...], reads: tuple[int, ...], runs: frozenset[str]) -> int:
        index = self.known.setdefault(key, len(self.copies))
        if index == len(self.copies):
            self.copies.append(Copy(self.node.name, index, reads, runs))
        return index


def expand_dag(dag: Dag, automata: Sequence[Automaton]) -> Product:
    """The smallest graph in which each path of each hypothesis reads the run assigned to it."""
    tables = {node.name: _Consing(node) for node in dag.nodes}
    roots, states = [], 0
    for automaton in automata:
        needed = _needed(dag, automaton)
        made = _made(dag, automaton, needed, tables)
        roots.append(tuple(made[name, automaton.start] for name in dag.outputs))
        states += automaton.states
    copies = {name: table.copies for name, table in tables.items()}
    return Product(dag, copies, tuple(roots), states)


def _needed(dag: Dag, automaton: Automaton) -> dict[str, dict[int, None]]:
    """The states in which each node is read, walking from the outputs to the sources."""
    needed: dict[str, dict[int, None]] = {node.name: {} for node in dag.nodes}
    for name in dag.outputs:
        needed[name][automaton.start] = None
    for node in reversed(dag.nodes):
        states = needed[node.name]
        if isinstance(node, Part):
            for port in node.ports:
                needed[port.reads].update(
                    (automaton.step(state, port.symbol), None) for state in states)
        elif isinstance(node, Join):
            for term in node.terms:
                needed[term].update((automaton.enter(state, term), None) for state in states)
    return needed


def _made(
    dag: Dag, automaton: Automaton, needed: dict[str, dict[int, None]],
    tables: dict[str, _Consing],
) -> dict[tuple[str, int], int]:
    """The copy of each node in each state, from the sources to the outputs."""
    made: dict[tuple[str, int], int] = {}
    for node in dag.nodes:
        table = tables[node.name]
        for state in needed[node.name]:
            if isinstance(node, Source):
                run = automaton.run(automaton.step(state, node.name))
                made[node.name, state] = table.cons((run,), (), frozenset((run,)))
                continue
            if isinstance(node, Part):
                reads = tuple(
                    made[p.reads, automaton.step(state, p.symbol)] for p in node.ports)
            else:
                reads = tuple(made[name, automaton.enter(state, name)] for name in node.reads)
            behind = (tables[n].copies[i].runs for n, i in zip(node.reads, reads, strict=True))
            made[node.name, state] = table.cons(reads, reads, frozenset().union(*behind))
    return made
