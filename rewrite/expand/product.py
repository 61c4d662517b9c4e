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

from rewrite.ir.dag import Dag, Part, Source
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
        self.reads: dict[str, tuple[str, ...]] = {node.name: node.reads for node in dag.nodes}
        self.symbols: dict[str, tuple[str, ...]] = {
            node.name: tuple(port.symbol for port in node.ports)
            for node in dag.nodes if isinstance(node, Part)}
        self.copies: dict[str, list[Copy]] = {node.name: [] for node in dag.nodes}
        self.known: dict[str, dict[tuple[object, ...], int]] = {n.name: {} for n in dag.nodes}
        self.plain: dict[tuple[str, str], int] = {}

    def cons(self, node: str, reads: tuple[int, ...], run: str = "") -> int:
        """The copy of a node that reads these copies; of a source, the one for this run."""
        known, key = self.known[node], (run, *reads)
        if key not in known:
            behind = {self.copies[name][i].runs
                      for name, i in zip(self.reads[node], reads, strict=True)}
            runs = behind.pop() if len(behind) == 1 else (
                frozenset((run,) if run else ()).union(*behind))
            known[key] = len(known)
            self.copies[node].append(Copy(node, known[key], reads, runs))
        return known[key]

    def roots(self, automaton: Automaton) -> tuple[int, ...]:
        """The outputs for one automaton; only states that are not decided are walked."""
        start, decided = automaton.start, automaton.decided
        made: dict[tuple[str, int], int] = {}

        def copy(name: str, state: int) -> int:
            run = decided(state)
            return made[name, state] if run is None else self._plain(name, run)

        for node, state, after in reversed(self._asked(automaton)):
            run = ""
            if isinstance(self.dag[node], Source):
                run = automaton.run(automaton.step(state, node))
            made[node, state] = self.cons(node, tuple(map(copy, self.reads[node], after)), run)
        return tuple(copy(name, start) for name in self.dag.outputs)

    def _asked(self, automaton: Automaton) -> list[tuple[str, int, list[int]]]:
        """Each node in each open state, from the outputs up, with the states of what it reads."""
        states: dict[str, dict[int, None]] = {}
        decided, step, enter = automaton.decided, automaton.step, automaton.enter
        if decided(automaton.start) is None:
            for name in self.dag.outputs:
                states.setdefault(name, {})[automaton.start] = None
        asked: list[tuple[str, int, list[int]]] = []
        for node in reversed(self.reads):
            for state in states.get(node, ()):
                if node in self.symbols:
                    after = [step(state, symbol) for symbol in self.symbols[node]]
                else:
                    after = [enter(state, name) for name in self.reads[node]]
                asked.append((node, state, after))
                for name, open_state in zip(self.reads[node], after, strict=True):
                    if decided(open_state) is None:
                        states.setdefault(name, {})[open_state] = None
        return asked

    def _plain(self, name: str, run: str) -> int:
        """The copy of a node in the forward pass of one run."""
        stack = [] if (name, run) in self.plain else [name]
        while stack:
            node = stack[-1]
            if missing := [read for read in self.reads[node] if (read, run) not in self.plain]:
                stack += missing
                continue
            reads = tuple(self.plain[read, run] for read in self.reads[node])
            self.plain[node, run] = self.cons(
                node, reads, run if isinstance(self.dag[node], Source) else "")
            stack.pop()
        return self.plain[name, run]
