"""What a sweep patches: senders, edges or nodes, each with its set of paths.

Senders and receivers are read as patterns, so that they mean what they mean in any other.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from rewrite.errors import PathError, UnknownName, near
from rewrite.ir.dag import Dag, symbols_of
from rewrite.parts import Components
from rewrite.paths import PathSet, check_reachable, has_paths, paths
from rewrite.paths.pattern import Chain, Choice, Name, Within
from rewrite.paths.wiring import Wiring

Edge = tuple[str, str]  # a node, and the symbol of the port that reads it


@dataclass(frozen=True, slots=True)
class Asked:
    """One row: the names that it is called by, and the paths that are patched."""

    sender: str
    receiver: str
    paths: PathSet

    @property
    def names(self) -> dict[str, str]:
        """What a table and a file call the row."""
        return {"sender": self.sender, "receiver": self.receiver, "paths": str(self.paths)}


def nodes_asked(parts: Components, senders: str) -> list[Asked]:
    """All paths through each sender."""
    found = _senders(parts.dag, senders)
    rows = [Asked(each.text, "", PathSet(each.pattern)) for each in found]
    some = [row for row, each in zip(rows, found, strict=True)
            if not each.window or has_paths(row.paths, parts.dag)]
    if not some:
        check_reachable(rows[0].paths, parts.dag)  # says why
    return some


def paths_asked(parts: Components, senders: str, receivers: str) -> list[Asked]:
    """The paths from each sender straight into the receivers, where there are any."""
    _ = paths(receivers)  # what cannot be read is an error, and not an empty sweep
    found = [Asked(each.text, receivers, paths(f"{each.text} -> ({receivers})"))
             for each in _senders(parts.dag, senders)]
    some = [each for each in found if has_paths(each.paths, parts.dag)]
    if not some:
        raise PathError(f"no sender that matches {senders!r} has an edge to {receivers!r}")
    return some


def edges_asked(parts: Components, senders: str, receivers: str) -> list[Asked]:
    """The edges from each sender to each receiver, in the order of the receivers in the model."""
    owners = {symbol: node.name for node in parts.dag.nodes for symbol in symbols_of(node)}
    writers: dict[str, dict[_Named, None]] = {}
    for sender in _senders(parts.dag, senders):
        for symbol in sender.symbols:
            writers.setdefault(owners[symbol], {})[sender] = None
    readers: dict[str, list[_Named]] = {}
    for receiver in _receivers(parts.dag, receivers):
        for symbol in receiver.symbols:
            readers.setdefault(symbol, []).append(receiver)
    rows: dict[tuple[_Named, _Named], set[Edge]] = {}
    for a, b in parts.edges:
        for sender in writers.get(a, ()):
            for receiver in readers.get(b, ()):
                rows.setdefault((sender, receiver), set()).add((a, b))
    found = [_edge(parts, *row, edges) for row, edges in rows.items()]
    some = [each for each, (a, b) in zip(found, rows, strict=True)
            if not (a.window or b.window) or has_paths(each.paths, parts.dag)]
    if not some:
        raise PathError(f"no edge goes from {senders!r} straight to {receivers!r}")
    return some


@dataclass(frozen=True, slots=True)
class _Named:
    """A sender or a receiver: a name, and the symbols that it is asked for."""

    pattern: Name | Within
    symbols: tuple[str, ...]

    @property
    def text(self) -> str:
        """The name as it is written."""
        return str(PathSet(self.pattern))

    @property
    def name(self) -> Name:
        """The name without its window."""
        return _bare(self.pattern)

    @property
    def window(self) -> str:
        """The window of hops on the name, or nothing."""
        return self.pattern.window if isinstance(self.pattern, Within) else ""


def _bare(pattern: Name | Within) -> Name:
    name = pattern.body if isinstance(pattern, Within) else pattern
    assert isinstance(name, Name)
    return name


def _edge(parts: Components, sender: _Named, receiver: _Named, asked: set[Edge]) -> Asked:
    """The paths along some edges; names also mean what their own name begins with."""
    wiring = Wiring.of(parts.dag)
    if any(wiring.named(each.name.atom).bit_count() > len(each.symbols)
           for each in (sender, receiver)):
        a, b = (wiring.symbols(each.name.atom) for each in (sender, receiver))
        others = {edge for edge in parts.edges if edge[1] in b and not {
            *symbols_of(parts.dag[edge[0]])}.isdisjoint(a)} - asked
        if others:
            shown = ", ".join(f"{a} -> {b}" for a, b in sorted(others)[:3])
            raise PathError(f"{sender.text} -> {receiver.text} cannot be told from {shown}, whose "
                            "names begin alike: leave it out of the senders or receivers")
    pattern = Chain((sender.pattern, receiver.pattern))
    return Asked(sender.text, receiver.text, PathSet(pattern))


def _senders(dag: Dag, text: str) -> list[_Named]:
    """Senders in the order of the model: of `*` each node, of other names their members."""
    return _named(dag, text, "sender", "a sender is a name, as in 'a*.h*@END | a5.kv1.v'")


def _receivers(dag: Dag, text: str) -> list[_Named]:
    """Receivers of edges by themselves: of `*` each port, of other names their members."""
    return _named(dag, text, "receiver", "each edge by itself ends at a receiver: name them, as in "
                                         "'a*.h*.q | logits'", ports=True)


def _named(dag: Dag, text: str, what: str, says: str, ports: bool = False) -> list[_Named]:
    wiring, found = Wiring.of(dag), dict[object, _Named]()
    pattern = paths(text).pattern
    for item in pattern.parts if isinstance(pattern, Choice) else (pattern,):
        if not isinstance(item.body if isinstance(item, Within) else item, Name):
            raise PathError(f"{says}; found {str(PathSet(item))!r}")
        assert isinstance(item, (Name, Within))
        name = _bare(item)
        if not wiring.named(name.atom):
            known = (*(node.name for node in dag.nodes), *dag.symbols)
            raise UnknownName(f"no {what} is called {name.atom!r}; {near(name.atom, known)}")
        for each in _alone(dag, name, ports) if name.atom == "*" else _members(wiring, name):
            window = item.window if isinstance(item, Within) else ""
            spelt = replace(item, body=each.name) if isinstance(item, Within) else each.name
            key = frozenset(wiring.placings(each.name)), window  # spelt twice, it is one row
            found.setdefault(key, _Named(spelt, each.symbols))
    order = {symbol: place for place, symbol in enumerate(dag.symbols)}
    return sorted(found.values(), key=lambda each: order[each.symbols[0]])


def _members(wiring: Wiring, name: Name) -> Iterator[_Named]:
    """What a name with `*`, ranges and lists is the union of."""
    for text in wiring.members(name.atom):
        front, _, port = text.rpartition(".")
        spelt = replace(name, text=front, port=port) if name.port else replace(name, text=text)
        yield _Named(spelt, tuple(wiring.symbols(text)))


def _alone(dag: Dag, name: Name, ports: bool) -> Iterator[_Named]:
    """Of a name that means everything: every node, or every port, by itself."""
    for node in dag.nodes:
        symbols = symbols_of(node)
        whole = ((node.name, symbols),) if symbols else ()
        for text, some in ((symbol, (symbol,)) for symbol in symbols) if ports else whole:
            spelt = Wiring.of(dag).narrowed(name, some[0], node.name, text)
            assert spelt is not None  # `*` begins every symbol, and ends none that hops
            yield _Named(spelt, some)
