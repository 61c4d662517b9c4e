"""Where a pattern can be changed: its parts, each with a way to put another in its place.

Only parts that add paths are visited: what `&` meets, what `-` takes from, and not what it
takes away or what `~` leaves out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

from rewrite.ir.dag import Dag, Part, symbols_of
from rewrite.paths import PathSet
from rewrite.paths.bind import Wiring
from rewrite.paths.pattern import (
    Both,
    Chain,
    Choice,
    Maybe,
    Minus,
    Name,
    Pattern,
    Repeat,
    Within,
    is_walk,
    joined,
)

Put = Callable[[Pattern], Pattern]


@dataclass(frozen=True)
class Spot:
    """A part of a pattern; `put` gives the whole pattern with something else in its place.

    `whole` says that the part stands for whole paths, and not for a stretch of them.
    """

    pattern: Pattern
    put: Put
    whole: bool


def spots(pattern: Pattern) -> Iterator[Spot]:
    """The pattern itself, then its parts from the outside in.

    >>> [str(PathSet(spot.pattern)) for spot in spots(rw.paths("m0 | (a0 | m1) -> logits").pattern)]
    ['m0 | (a0 | m1) -> logits', 'm0', '(a0 | m1) -> logits', 'a0 | m1', 'a0', 'm1', 'logits']
    """
    return _spots(pattern, lambda new: new, True)


def _spots(pattern: Pattern, put: Put, whole: bool) -> Iterator[Spot]:
    yield Spot(pattern, put, whole)
    match pattern:
        case Chain(parts):
            for i, part in enumerate(parts):
                yield from _spots(part, _member(Chain, parts, i, put), False)
        case Choice(parts) | Both(parts):
            for i, part in enumerate(parts):
                yield from _spots(part, _member(type(pattern), parts, i, put), whole)
        case Minus(left, right):
            yield from _spots(left, lambda new: put(Minus(new, right)), whole)
        case Within(body, low, high):
            yield from _spots(body, lambda new: put(Within(new, low, high)), False)
        case Repeat(body) | Maybe(body):
            kind = type(pattern)
            yield from _spots(body, lambda new: put(kind(new)), False)
        case _:
            return


def _member(
    kind: type[Chain | Choice | Both], parts: tuple[Pattern, ...], i: int, put: Put
) -> Put:
    return lambda new: put(joined(kind, (*parts[:i], new, *parts[i + 1 :])))


def walks(pattern: Pattern) -> Iterator[tuple[tuple[Pattern, ...], Put]]:
    """The stretches that stand for whole paths: their parts, and how to put another there.

    >>> [len(parts) for parts, _ in walks(rw.paths("m0 | a0 -> ... -> logits - m1").pattern)]
    [1, 3]
    """
    for spot in spots(pattern):
        if not spot.whole or isinstance(spot.pattern, Choice) or not is_walk(spot.pattern):
            continue
        parts = spot.pattern.parts if isinstance(spot.pattern, Chain) else (spot.pattern,)
        yield parts, spot.put


def symbols(name: Name, dag: Dag) -> list[str]:
    """The symbols that a name stands for on a graph, in the order of the graph."""
    return Wiring.of(dag).symbols(name.atom)


def finer(name: Name, dag: Dag) -> list[Name]:
    """What a name is made of: the parts that it stands for, or the ports of its one part.

    >>> [each.text for each in finer(rw.paths("a1.h3").pattern, parts.dag)]
    ['a1.h3.q', 'a1.h3.k', 'a1.h3.v']
    >>> [each.text for each in finer(rw.paths("a1.h[2-3]").pattern, parts.dag)]
    ['a1.h2', 'a1.h3']
    """
    wiring, meant = Wiring.of(dag), set(symbols(name, dag))
    owners = [node for node in dag.nodes if meant.intersection(symbols_of(node))]
    found: list[Name | None] = []
    for node in owners:
        inside = [symbol for symbol in symbols_of(node) if symbol in meant]
        whole = {wiring.narrowed(name, symbol, node.name, node.name) for symbol in inside}
        complete = len(owners) > 1 and len(inside) == len(symbols_of(node))
        if complete and None not in whole and len(whole) == 1:
            found += whole
        else:
            found += [wiring.narrowed(name, symbol, node.name, symbol) for symbol in inside]
    return [] if None in found else [each for each in found if each]


def writers(symbol: str, dag: Dag) -> list[str]:
    """The sources and parts that write what a symbol reads, in the order of the graph."""
    reads = {port.reads for node in dag.nodes if isinstance(node, Part)
             for port in node.ports if port.symbol == symbol}
    found = {writer for name in reads for writer in dag.writers(name)}
    return [node.name for node in dag.nodes if node.name in found]


def other_ports(name: Name, dag: Dag) -> list[Name]:
    """Where a name is one port of a part: the other ports, at the same positions.

    >>> [each.text for each in other_ports(rw.paths("a1.h3.k").pattern, parts.dag)]
    ['a1.h3.q', 'a1.h3.v']
    """
    meant = symbols(name, dag)
    owner = next((node for node in dag.nodes if isinstance(node, Part)
                  and meant[0] in symbols_of(node)), None)
    if len(meant) > 1 or owner is None:
        return []
    found = (Wiring.of(dag).narrowed(name, meant[0], owner.name, port)
             for port in symbols_of(owner) if port != meant[0])
    return [each for each in found if each]


def placed(name: Name, places: Iterable[str], dag: Dag) -> Iterator[Name]:
    """A name without a position at each of some places."""
    owners = [node.name for node in dag.nodes if name.text in symbols_of(node)]
    for place in () if name.at or name.port_at else places:
        yield replace(name, at=place)
        if owners and owners[0] != name.text:
            yield Name(owners[0], place, name.text.removeprefix(f"{owners[0]}."))


def alternatives(path_set: PathSet) -> tuple[Pattern, ...]:
    """The members of a union; of a set that is written as empty, none.

    >>> [str(PathSet(each)) for each in alternatives(rw.paths("m0 | a1 -> logits"))]
    ['m0', 'a1 -> logits']
    """
    if path_set == PathSet.none():
        return ()
    pattern = path_set.pattern
    return pattern.parts if isinstance(pattern, Choice) else (pattern,)


def either(first: PathSet, second: Pattern) -> PathSet:
    """The union, where a set that is written as empty is left out."""
    return PathSet(joined(Choice, (*alternatives(first), second)))
