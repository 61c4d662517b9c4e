"""Decision trees over positions: what a step leads to may depend on where it is made.

A step of a path has two positions: where the node writes (here) and where it reads (there);
they differ by the hop of attention, `there - here`.  A tree asks tests in one fixed order and
never asks twice, so equal trees are equal values.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeGuard

HERE, HOP, THERE = range(3)


class Condition(NamedTuple):
    """`HERE` or `THERE`: the position is in `place`.  `HOP`: it is at least `-rank` tokens on.

    Tests are asked in their order as tuples: hops from the nearest token back.

    >>> sorted([Condition(THERE, 0, "S2"), hop(-3), hop(0), Condition(HERE, 0, "END")])[1] == hop(0)
    True
    """

    kind: int
    rank: int = 0
    place: str = ""

    @property
    def offset(self) -> int:
        """Of a hop: the least `there - here` that passes."""
        return -self.rank


def hop(offset: int) -> Condition:
    """Whether `there - here >= offset`."""
    return Condition(HOP, -offset)


@dataclass(frozen=True, slots=True)
class Split:
    """`yes` where the test passes, else `no`."""

    test: Condition
    yes: Any
    no: Any


Tree = Any  # a Split, or a leaf of any other type


def is_split(tree: Tree) -> TypeGuard[Split]:
    """Whether a tree still asks."""
    return isinstance(tree, Split)


def split(test: Condition, yes: Tree, no: Tree) -> Tree:
    """The tree that asks `test` first; it asks nothing that does not matter.

    >>> split(hop(0), "a", split(hop(-1), "a", "b"))
    Split(test=Condition(kind=1, rank=1, place=''), yes='a', no='b')
    """
    if yes == no:
        return yes
    if test.kind == HOP and is_split(no) and no.test.kind == HOP and no.yes == yes:
        return no
    return Split(test, yes, no)


def under(tree: Tree, test: Condition, passes: bool) -> Tree:
    """The tree where the outcome of a test is known; no earlier test may be left in it.

    A hop that passes one test passes those of tokens further back.

    >>> under(split(hop(-1), "a", "b"), hop(0), True)
    'a'
    """
    if passes and test.kind == HOP:
        while is_split(tree) and tree.test.kind == HOP and tree.test >= test:
            tree = tree.yes
        return tree
    if is_split(tree) and tree.test == test:
        return tree.yes if passes else tree.no
    return tree


def first_test(*trees: Tree) -> Condition | None:
    """The test that is asked first by some trees together."""
    tests = [tree.test for tree in trees if isinstance(tree, Split)]
    return min(tests) if tests else None


def combine(function: Callable[..., Any], *trees: Tree) -> Tree:
    """The tree of what a function makes of the leaves.

    >>> combine(max, split(Condition(HERE, 0, "A"), 1, 5), 3)
    Split(test=Condition(kind=0, rank=0, place='A'), yes=3, no=5)
    """
    test = first_test(*trees)
    if test is None:
        return function(*trees)
    yes = combine(function, *(under(tree, test, True) for tree in trees))
    no = combine(function, *(under(tree, test, False) for tree in trees))
    return split(test, yes, no)


def leaves(tree: Tree) -> list[Any]:
    """The distinct leaves of a tree.

    >>> leaves(split(hop(0), "a", split(hop(-1), "b", "a")))
    ['a', 'b']
    """
    stack, found = [tree], []
    while stack:
        top = stack.pop()
        if isinstance(top, Split):
            stack += (top.no, top.yes)
        elif top not in found:
            found.append(top)
    return found
