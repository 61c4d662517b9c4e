"""The product of a wiring with automata: every node copied as often as it is needed.

    copy(node, state)  = cons(node, [copy(source, step(state, edge)) for each reading])
    copy(source, state) = the run that the automaton assigns

`cons` returns the copy that already exists for the same node and the same copies read, so
the copies of a node are exactly the distinct assignments of runs to the paths behind it,
and the work is linear in nodes x states however many paths there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rewrite.ir.dag import Dag, Node, Part, Source
from rewrite.paths import Automaton


@dataclass(frozen=True, slots=True)
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


def expand_dag(dag: Dag, automata: Sequence[Automaton]) -> Product:
    """The smallest graph in which each path of each hypothesis reads the run assigned to it."""
    copying = _Copying(dag)
    roots = tuple(copying.roots(automaton) for automaton in automata)
    return Product(dag, copying.copies, roots, sum(each.states for each in automata))


class _Copying:
    """Hash-consing of copies.  Where one run is decided for all paths, it is copied once."""

    def __init__(self, dag: Dag) -> None:
        self.dag = dag
        self.copies: dict[str, list[Copy]] = {node.name: [] for node in dag.nodes}
        self.known: dict[str, dict[tuple[object, ...], int]] = {n.name: {} for n in dag.nodes}
        self.plain: dict[tuple[str, str], int] = {}

    def cons(self, node: Node, reads: tuple[int, ...], run: str = "") -> int:
        """The copy of a node that reads these copies; of a source, the one for this run."""
        known, key = self.known[node.name], (run, *reads)
        if key not in known:
            behind = {self.copies[name][i].runs for name, i in zip(node.reads, reads, strict=True)}
            runs = behind.pop() if len(behind) == 1 else (
                frozenset((run,) if run else ()).union(*behind))
            known[key] = len(known)
            self.copies[node.name].append(Copy(node.name, known[key], reads, runs))
        return known[key]

    def roots(self, automaton: Automaton) -> tuple[int, ...]:
        """The outputs for one automaton; only states that are not decided are walked."""
        start, asked = automaton.start, _asked(self.dag, automaton)
        made: dict[tuple[str, int], int] = {}

        def copy(name: str, state: int) -> int:
            run = automaton.decided(state)
            return made[name, state] if run is None else self._plain(name, run)

        for node, state, reads in reversed(asked):
            run = ""
            if isinstance(node, Source):
                run = automaton.run(automaton.step(state, node.name))
            found = tuple([copy(*read) for read in reads])
            made[node.name, state] = self.cons(node, found, run)
        return tuple(copy(name, start) for name in self.dag.outputs)

    def _plain(self, name: str, run: str) -> int:
        """The copy of a node in the forward pass of one run."""
        stack = [] if (name, run) in self.plain else [name]
        while stack:
            node = self.dag[stack[-1]]
            if missing := [read for read in node.reads if (read, run) not in self.plain]:
                stack += missing
                continue
            reads = tuple(self.plain[read, run] for read in node.reads)
            self.plain[node.name, run] = self.cons(
                node, reads, run if isinstance(node, Source) else "")
            stack.pop()
        return self.plain[name, run]


Visit = tuple[str, int]  # a node, and the state in which paths come to it


def _asked(dag: Dag, automaton: Automaton) -> list[tuple[Node, int, list[Visit]]]:
    """Each node in each open state, from the outputs to the sources, with what it reads there."""
    states: dict[str, dict[int, None]] = {name: {} for name in dag.by_name}
    decided, step, enter = automaton.decided, automaton.step, automaton.enter
    if decided(automaton.start) is None:
        for name in dag.outputs:
            states[name][automaton.start] = None
    asked: list[tuple[Node, int, list[Visit]]] = []
    for node in reversed(dag.nodes):
        for state in states[node.name]:
            if isinstance(node, Part):
                reads = [(port.reads, step(state, port.symbol)) for port in node.ports]
            else:
                reads = [(name, enter(state, name)) for name in node.reads]
            asked.append((node, state, reads))
            for name, after in reads:
                if decided(after) is None:
                    states[name][after] = None
    return asked
