"""One-step refinements: small functions from a hypothesis to sets of paths that are near it.

Each takes a hypothesis and yields what changes, in words, with the important paths after the
change.  `CANDIDATES` holds those that have a name; your own may stand beside them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import pairwise

from rewrite.discover.spots import (
    alternatives,
    either,
    finer,
    other_ports,
    placed,
    spots,
    symbols,
    walks,
    writers,
)
from rewrite.errors import DataError, HypothesisError, UnknownName, near
from rewrite.expand import Hypothesis
from rewrite.ir.dag import Dag, symbols_of
from rewrite.paths import PathSet
from rewrite.paths.pattern import ITEM, Chain, Choice, Dots, Name, Pattern, joined, spell

Candidate = tuple[str, PathSet]  # what changes, and the important paths afterwards
Generator = Callable[[Hypothesis], Iterable[Candidate]]


def important(hypothesis: Hypothesis) -> PathSet:
    """The one set of paths that does not read the default.

    >>> important(rw.Hypothesis(parts, {"clean": "m0 -> logits"}))
    paths('m0 -> logits')

    Raises `HypothesisError` where there are several.
    """
    if len(hypothesis.runs) != 1:
        raise HypothesisError(
            f"a hypothesis is refined between two runs, one with its paths and the default; this "
            f"one has {', '.join(hypothesis.run_names)}: keep one of {', '.join(hypothesis.runs)}")
    return next(iter(hypothesis.path_sets.values()))


def changed(hypothesis: Hypothesis, path_set: PathSet) -> Hypothesis:
    """The same hypothesis with other important paths."""
    return Hypothesis(hypothesis.parts, {next(iter(hypothesis.runs)): path_set},
                      hypothesis.default)


def drop(hypothesis: Hypothesis) -> Iterator[Candidate]:
    """Leave out a member of a union, or one part of those that a name stands for.

    `a1 | m0` loses `m0`, or head 2 of `a1`; `a1.h3 -> logits` loses the query of the head.

    >>> hypothesis = rw.Hypothesis(parts, {"clean": "a1.h3 -> logits | m0"})
    >>> [str(paths) for _, paths in drop(hypothesis)][:3]
    ['m0', 'a1.h3 -> logits', '(a1.h3.k | a1.h3.v) -> logits | m0']
    """
    path_set = important(hypothesis)
    if len(alternatives(path_set)) == 1:
        yield str(path_set), PathSet.none()
    for spot in spots(path_set.pattern):
        members: Sequence[Pattern] = ()
        match spot.pattern:
            case Choice(parts):
                members = parts
            case Name():
                members = finer(spot.pattern, hypothesis.parts.dag)
            case _:
                pass
        if len(members) < 2:
            continue
        inside = "" if spot.pattern == path_set.pattern else f" of {spell(spot.pattern, ITEM)}"
        for i, member in enumerate(members):
            rest = joined(Choice, (*members[:i], *members[i + 1 :]))
            yield f"{spell(member)}{inside}", PathSet(spot.put(rest))


def extend(hypothesis: Hypothesis) -> Iterator[Candidate]:
    """Let in one more edge: from a writer into a node that important paths pass, and on as they do.

    All paths pass an output: `X -> logits` is among them, also where nothing is important yet.

    >>> hypothesis = rw.Hypothesis(parts, {"clean": "m0 -> a1.h3.v -> logits"})
    >>> [what for what, _ in extend(hypothesis)][-3:]
    ['a0.h2 -> a1.h3.v -> logits', 'a0.h3 -> a1.h3.v -> logits', 'm0 -> a1.h3.v -> logits']
    """
    path_set, dag = important(hypothesis), hypothesis.parts.dag
    places: dict[tuple[str, tuple[Pattern, ...]], None] = {}
    for output in dict.fromkeys(dag.outputs):
        places |= dict.fromkeys((symbol, ()) for symbol in symbols_of(dag[output]))
    for parts, _ in walks(path_set.pattern):
        for i, part in enumerate(parts):
            if isinstance(part, Name) and any(before != Dots() for before in parts[:i]):
                places |= dict.fromkeys((symbol, parts[i + 1 :]) for symbol in symbols(part, dag))
    for symbol, rest in places:
        for writer in writers(symbol, dag):
            walk = joined(Chain, (Name(writer), Name(symbol), *rest))
            yield spell(walk), either(path_set, walk)


def restrict(hypothesis: Hypothesis) -> Iterator[Candidate]:
    """Say more about what `...` leaves open: the one writer by which paths come to the next node.

    `m0 -> ... -> logits` becomes `m0 -> logits`, or `m0 -> ... -> a1.h3 -> logits`; a walk
    that does not begin at a source has `...` in front, so `a1.h3 -> logits` becomes
    `m0 -> a1.h3 -> logits`.

    >>> hypothesis = rw.Hypothesis(parts, {"clean": "a1.h3.v -> logits"})
    >>> [what for what, _ in restrict(hypothesis)][:2]
    ['embed -> a1.h3.v -> logits', 'a0.h0 -> a1.h3.v -> logits']
    """
    path_set, dag = important(hypothesis), hypothesis.parts.dag
    for parts, put in walks(path_set.pattern):
        for walk in _restricted(parts, dag):
            yield spell(walk), PathSet(put(walk))


def _restricted(parts: tuple[Pattern, ...], dag: Dag) -> Iterator[Pattern]:
    around = parts if parts[0] == Dots() else (Dots(), *parts)
    added = len(around) - len(parts)
    for i, (dots, after) in enumerate(pairwise(around)):
        if dots != Dots() or not isinstance(after, Name):
            continue
        before = parts[: max(i - added, 0)]
        if before:
            yield joined(Chain, (*before, *around[i + 1 :]))
        named = {writer: None for symbol in symbols(after, dag) for writer in writers(symbol, dag)}
        for writer in named:
            front = (*before, dots) if before else ()
            yield joined(Chain, (*front, Name(writer), *around[i + 1 :]))


def swap(hypothesis: Hypothesis) -> Iterator[Candidate]:
    """Enter a head by another port: `.q`, `.k` or `.v` in place of the one that is named.

    >>> hypothesis = rw.Hypothesis(parts, {"clean": "a1.h3.v -> logits"})
    >>> [str(paths) for _, paths in swap(hypothesis)]
    ['a1.h3.q -> logits', 'a1.h3.k -> logits']
    """
    path_set, dag = important(hypothesis), hypothesis.parts.dag
    for spot in spots(path_set.pattern):
        if not isinstance(spot.pattern, Name):
            continue
        for port in other_ports(spot.pattern, dag):
            yield f"{spell(port)} for {spell(spot.pattern)}", PathSet(spot.put(port))


def at(*places: str) -> Generator:
    """A generator that asks for a position: a name that has none gets `@PLACE`.

    A port may be asked where it reads (`a1.h3.v@END`) or where its head writes (`a1.h3@END.v`).
    Places are the named positions of the pairs, or slices such as `[-1]`.

    >>> hypothesis = rw.Hypothesis(parts, {"clean": "a1.h3.v -> logits"})
    >>> [what for what, _ in rw.discover.at("[-1]")(hypothesis)]
    ['a1.h3.v@[-1]', 'a1.h3@[-1].v', 'logits@[-1]']
    """

    def at_places(hypothesis: Hypothesis) -> Iterator[Candidate]:
        path_set, dag = important(hypothesis), hypothesis.parts.dag
        for spot in spots(path_set.pattern):
            if isinstance(spot.pattern, Name):
                for name in placed(spot.pattern, places, dag):
                    yield spell(name), PathSet(spot.put(name))

    at_places.__name__ = f"at({', '.join(places)})"  # what was asked for, in tables and logs
    return at_places


CANDIDATES: Mapping[str, Generator] = {
    "drop": drop, "extend": extend, "restrict": restrict, "swap": swap}
"""Generators that a call, a file or a command line can name."""

REFINEMENTS = ("extend", "restrict", "swap")


def generators(asked: Sequence[str | Generator]) -> dict[str, Generator]:
    """Generators by name; a function goes by its own name.

    >>> list(generators(["extend", swap]))
    ['extend', 'swap']

    Raises `UnknownName` for a name that there is not, and `DataError` if none is asked for, or
    if two functions have one name.
    """
    found: dict[str, Generator] = {}
    for each in [asked] if isinstance(asked, str) else asked:
        if isinstance(each, str):
            if each not in CANDIDATES:
                raise UnknownName(f"there are no candidates called {each!r}; "
                                  f"{near(each, CANDIDATES)}")
            found[each] = CANDIDATES[each]
        elif callable(each):
            name = getattr(each, "__name__", "custom")
            if found.setdefault(name, each) is not each:
                raise DataError(f"two functions for candidates are called {name!r}: define them "
                                "with names of their own, by which tables and logs tell them apart")
        else:
            raise DataError(f"candidates are names or functions of a hypothesis, found {each!r}")
    if not found:
        raise DataError(f"there are no candidates: name some of {', '.join(CANDIDATES)}")
    return found
