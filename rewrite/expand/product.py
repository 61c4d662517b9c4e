"""The product of a wiring with automata: every node copied as often as it is needed.

    copy(node, state)  = cons(node, [copy(source, step(state, edge)) for each reading])
    copy(source, state) = the run that the automaton assigns

`cons` returns the copy that already exists for the same node and the same copies read, so
the copies of a node are exactly the distinct assignments of runs to the paths behind it,
and the work is linear in nodes x states however many paths there are.

Where a step depends on positions, a value is *mixed* of copies: row by row, or, as keys and
values, hop by hop.  A mixed value asks its tests in the order of `rewrite.paths.tree`, each
once, so that equal mixtures are one.  No position has a copy of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rewrite.ir.dag import Dag, Part, Source
from rewrite.paths import Automaton
from rewrite.paths.tree import (
    HERE,
    HOP,
    THERE,
    Condition,
    Split,
    Tree,
    first_test,
    is_split,
    leaves,
    split,
    under,
)


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


@dataclass(frozen=True, slots=True)
class Mixed:
    """A value of a node that is one copy where `test` passes and another elsewhere.

    `THERE` tests the position of the value.  A `HOP` tests how far a key or value is from the
    query that reads it, so only ports that hop read such a value; it is asked first.
    """

    node: str
    index: int
    test: Condition
    yes: int
    no: int
    runs: frozenset[str]

    @property
    def reads(self) -> tuple[int, int]:
        """The copies that it mixes, of its own node."""
        return self.yes, self.no

    @property
    def by_hop(self) -> bool:
        """Whether it depends on who reads it."""
        return self.test.kind == HOP


@dataclass(frozen=True)
class Product:
    """Copies of every node in the order of the wiring; `roots[i]` are outputs of hypothesis i.

    `copies` are numbered together with mixtures of them; each comes after what it mixes.
    """

    dag: Dag
    copies: dict[str, list[Copy | Mixed]]
    roots: tuple[tuple[int, ...], ...]
    states: int

    @property
    def counts(self) -> dict[str, int]:
        """How many copies each source and part has."""
        return {n.name: sum(isinstance(copy, Copy) for copy in self.copies[n.name])
                for n in self.dag.nodes if isinstance(n, (Source, Part))}

    def reads(self, name: str, index: int) -> list[tuple[str, int]]:
        """What a copy reads, or a mixture mixes."""
        copy = self.copies[name][index]
        if isinstance(copy, Mixed):
            return [(name, copy.yes), (name, copy.no)]
        return list(zip(self.dag[name].reads, copy.reads, strict=True))

    def tree(self, name: str, index: int) -> Tree:
        """The copies that a value is mixed of, as a tree; a single number if it is a copy."""
        copy = self.copies[name][index]
        if isinstance(copy, Copy):
            return index
        return Split(copy.test, self.tree(name, copy.yes), self.tree(name, copy.no))


def expand_dag(dag: Dag, automata: Sequence[Automaton]) -> Product:
    """The smallest graph in which each path of each hypothesis reads the run assigned to it."""
    copying = _Copying(dag)
    roots = tuple(copying.roots(automaton) for automaton in automata)
    return Product(dag, copying.copies, roots, sum(each.states for each in automata))


Visit = tuple[str | int, int]  # a kind of node, and the state in which paths come to it


class _Copying:
    """Hash-consing of copies.  Where one run is decided for all paths, it is copied once."""

    def __init__(self, dag: Dag) -> None:
        self.dag = dag
        self.reads: dict[str, tuple[str, ...]] = {node.name: node.reads for node in dag.nodes}
        self.copies: dict[str, list[Copy | Mixed]] = {node.name: [] for node in dag.nodes}
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
            known[key] = len(self.copies[node])
            self.copies[node].append(Copy(node, known[key], reads, runs))
        return known[key]

    def mix(self, node: str, test: Condition, yes: int, no: int) -> int:
        """The value that is `yes` where a test passes, else `no`: asked in order, each test once.

        if t then (if t then a else b) else c = if t then a else c
        """
        if yes == no:
            return yes
        copies = [self.copies[node][each] for each in (yes, no)]
        inner = min((c.test for c in copies if isinstance(c, Mixed)), default=test)
        key = ("mix", test, yes, no)
        known = self.known[node]
        if key in known:
            return known[key]
        if inner > test or not any(isinstance(c, Mixed) for c in copies):
            made = len(self.copies[node])
            runs = copies[0].runs | copies[1].runs
            self.copies[node].append(Mixed(node, made, test, yes, no, runs))
        elif inner == test:
            made = self.mix(node, test, self._side(node, yes, test, True),
                            self._side(node, no, test, False))
        else:
            made = self.mix(node, inner, *(
                self.mix(node, test, *(self._side(node, each, inner, passes)
                                       for each in (yes, no)))
                for passes in (True, False)))
        known[key] = made
        return made

    def _side(self, node: str, index: int, test: Condition, passes: bool) -> int:
        copy = self.copies[node][index]
        if isinstance(copy, Mixed) and copy.test == test:
            return copy.yes if passes else copy.no
        return index

    def roots(self, automaton: Automaton) -> tuple[int, ...]:
        """The outputs for one automaton; only states that are not decided are walked."""
        start, decided = automaton.start, automaton.decided
        made: dict[tuple[str, int], int] = {}
        read: dict[Visit, Tree] = {}

        def copy(name: str, state: Tree) -> int:
            if is_split(state):
                return self.mix(name, state.test, copy(name, state.yes), copy(name, state.no))
            run = decided(state)
            return made[name, state] if run is None else self._plain(name, run)

        def reads(node: str, after: Sequence[Tree]) -> Tree:
            """The copies that a node reads, or a tree of them if it depends on where it writes."""
            test = first_test(*after)
            if test is None or test.kind != HERE:
                return tuple(map(copy, self.reads[node], after))
            sides = ([under(tree, test, passes) for tree in after] for passes in (True, False))
            return split(_of_value(test), *(reads(node, side) for side in sides))

        def written(node: str, tree: Tree) -> int:
            if is_split(tree):
                return self.mix(node, tree.test, written(node, tree.yes), written(node, tree.no))
            return self.cons(node, tree)

        def source(node: str, state: Tree) -> int:
            if is_split(state):
                sides = source(node, state.yes), source(node, state.no)
                return self.mix(node, _of_value(state.test), *sides)
            return self._plain(node, automaton.run(state))

        for node, (kind, state), after in reversed(self._asked(automaton)):
            if isinstance(self.dag[node], Source):
                made[node, state] = source(node, automaton.step(state, node))
            else:
                if (kind, state) not in read:
                    read[kind, state] = reads(node, after)
                made[node, state] = written(node, read[kind, state])
        return tuple(copy(name, start) for name in self.dag.outputs)

    def _asked(self, automaton: Automaton) -> list[tuple[str, Visit, tuple[Tree, ...]]]:
        """Each node in each open state, from the outputs up, with the states of what it reads."""
        decided = automaton.decided
        states: dict[str, dict[int, None]] = {}
        if decided(automaton.start) is None:
            states = {name: {automaton.start: None} for name in self.dag.outputs}
        asked: list[tuple[str, Visit, tuple[Tree, ...]]] = []
        known: dict[Visit, tuple[Tree, ...]] = {}
        for node in reversed(self.dag.nodes):
            for state in states.get(node.name, ()):
                visit = automaton.kind(node.name), state
                if visit not in known:
                    known[visit] = automaton.reads(state, node)
                    for name, tree in zip(node.reads, known[visit], strict=True):
                        for rest in leaves(tree):
                            if decided(rest) is None:
                                states.setdefault(name, {})[rest] = None
                asked.append((node.name, visit, known[visit]))
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


def _of_value(test: Condition) -> Condition:
    """What a part asks of the position that it writes, as readers of the value ask it."""
    return test._replace(kind=THERE)
