"""What a sweep patches: senders, edges or nodes, each with its set of paths."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

from rewrite.errors import PathError, UnknownName, near
from rewrite.ir.dag import symbols_of
from rewrite.parts import Components
from rewrite.paths import PathSet, check_reachable, paths
from rewrite.paths.bind import Wiring
from rewrite.paths.names import ATOM, tidy
from rewrite.paths.pattern import Chain, Name


@dataclass(frozen=True, slots=True)
class Asked:
    """One row: the names that it is called by, and the paths that are patched."""

    sender: str
    receiver: str
    paths: PathSet


def nodes_asked(parts: Components, senders: str) -> list[Asked]:
    """All paths through each sender."""
    return [Asked(str(PathSet(name)), "", PathSet(name)) for name in _senders(parts, senders)]


def paths_asked(parts: Components, senders: str, receivers: str) -> list[Asked]:
    """The paths from each sender straight into the receivers, where there are any."""
    _ = paths(receivers)  # what cannot be read is an error, and not an empty sweep
    found: list[Asked] = []
    for sender in _senders(parts, senders):
        name = str(PathSet(sender))
        with suppress(PathError):  # no edge leads from this sender to a receiver
            asked = paths(f"{name} -> ({receivers})")
            check_reachable(asked, parts.dag)
            found.append(Asked(name, receivers, asked))
    if not found:
        raise PathError(f"no sender that matches {senders!r} has an edge to {receivers!r}")
    return found


def edges_asked(parts: Components, senders: str, receivers: str) -> list[Asked]:
    """Every edge from a sender to a receiver, in the order of the receivers in the model."""
    wiring = Wiring.of(parts.dag)
    readers: dict[str, list[Name]] = {}
    for name, place in _names(receivers):
        if not re.fullmatch(ATOM, tidy(name)):
            raise PathError(f"each edge by itself ends at a receiver: name them, as in "
                            f"'a*.h*.q | logits'; found {name!r}")
        named = wiring.named(tidy(name))
        if not named:
            raise UnknownName(f"no receiver is called {name!r}; {near(name, parts.dag.symbols)}")
        for symbol, bit in wiring.bits.items():
            if bit & named:
                readers.setdefault(symbol, []).append(Name(symbol, place))
    writers: dict[str, list[Name]] = {}
    for sender in _senders(parts, senders):
        writers.setdefault(sender.text, []).append(sender)
    found = [(sender, reader) for a, b in dict.fromkeys(parts.edges)
             for sender in writers.get(a, ()) for reader in dict.fromkeys(readers.get(b, ()))]
    if not found:
        raise PathError(f"no edge goes from {senders!r} straight to {receivers!r}")
    return [Asked(str(PathSet(a)), str(PathSet(b)), _edge(parts, wiring, a, b)) for a, b in found]


def _edge(parts: Components, wiring: Wiring, writer: Name, reader: Name) -> PathSet:
    """The paths along one edge; names also mean what their own name begins with."""
    sender, receiver = writer.text, reader.text
    own = sum(wiring.bits[symbol] for symbol in symbols_of(parts.dag[sender]))
    if (wiring.named(sender), wiring.named(receiver)) != (own, wiring.bits[receiver]):
        meant = {(a, b) for a, b in parts.edges if wiring.bits[b] & wiring.named(receiver) and any(
            wiring.bits[symbol] & wiring.named(sender) for symbol in symbols_of(parts.dag[a]))}
        if len(meant) > 1:
            others = ", ".join(f"{a} -> {b}" for a, b in sorted(meant - {(sender, receiver)})[:3])
            raise PathError(f"{sender} -> {receiver} cannot be told from {others}, whose names "
                            "begin alike: leave it out of the senders or receivers")
    return PathSet(Chain((writer, reader)))


def _senders(parts: Components, pattern: str) -> Iterator[Name]:
    """The sources and parts that a pattern such as `a*.h*@END | m*` matches, at its positions."""
    wiring = Wiring.of(parts.dag)
    wanted: dict[str, int] = {}
    for name, place in _names(pattern):
        if not re.fullmatch(ATOM, tidy(name)) or not wiring.named(tidy(name)):
            raise UnknownName(f"no sender is called {name!r}; {near(name, parts.names)}")
        wanted[place] = wanted.get(place, 0) | wiring.named(tidy(name))
    return (Name(node.name, place) for node in parts.dag.nodes for place, bits in wanted.items()
            if any(wiring.bits[symbol] & bits for symbol in symbols_of(node)))


def _names(pattern: str) -> list[tuple[str, str]]:
    """Names and their positions, "" for any; raises `PathError` for what is no position."""
    found: list[tuple[str, str]] = []
    for item in pattern.split("|"):
        name, at, place = item.strip().partition("@")
        if at:
            _ = paths(f"any@{place}")
        found.append((name, tidy(place)))
    return found
