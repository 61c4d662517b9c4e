"""The wiring of a component graph, as a value that knows nothing of tensors.

A path runs from a source to an output. It is spelt as the *symbols* that it passes:
a part is passed through one of its ports, and every port has its own symbol
(`a5.h3.q`); joins (residual sums) and constants have none, so a path through the
residual stream goes straight from the part that writes to the part that reads.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from rewrite.ir.fields import Fields


@dataclass(frozen=True)
class Source:
    """A value input of the model: where paths begin.  Its symbol is its name."""

    name: str

    @property
    def reads(self) -> tuple[str, ...]:
        return ()


@dataclass(frozen=True)
class Constant:
    """A value that no source reaches (learned positions, a bias): no path runs through it."""

    name: str

    @property
    def reads(self) -> tuple[str, ...]:
        return ()


@dataclass(frozen=True)
class Port:
    """One reading of a part: a path that enters by it is spelt `symbol`.

    A port that `hops` reads other positions than the one which the part writes, each by
    itself: the keys and values of attention.
    """

    symbol: str
    reads: str
    hops: bool = False


@dataclass(frozen=True)
class Part:
    """A computation that paths pass through: embedding, head, MLP, norm, output."""

    name: str
    ports: tuple[Port, ...]

    @property
    def reads(self) -> tuple[str, ...]:
        return tuple(port.reads for port in self.ports)


SOME = "some"
Number = float | Literal["some"]


@dataclass(frozen=True)
class Join:
    """A sum.  Paths cross it without being spelt, so that it needs no symbol.

    Each term is multiplied by its factor (by 1 if there are none) before `shift` is added.
    `SOME` stands for a number, or one for each feature, that weights or sizes make.
    """

    name: str
    terms: tuple[str, ...]
    factors: tuple[Number, ...] = ()
    shift: Number = 0.0

    def __post_init__(self) -> None:
        if self.factors and len(self.factors) != len(self.terms):
            raise ValueError(f"{self.name} has {len(self.terms)} terms, {self.factors} factors")

    @property
    def reads(self) -> tuple[str, ...]:
        return self.terms


Node = Source | Constant | Part | Join


class Motion:
    """What a model does to positions, asked by patterns with windows, and to examples.

    This one is that of a decoder: attention looks back, all else keeps positions apart.
    """

    def mixes_examples(self) -> bool:
        """Whether values of one example depend on others, so that they are no examples."""
        return False

    def looks_ahead(self) -> bool:
        """Whether some attention reads tokens that come later."""
        return False

    def keeps_positions(self, part: str) -> bool:
        """Whether a part reads, but for ports that hop, only the position that it writes."""
        return bool(part)


@dataclass(frozen=True)
class Dag(Fields):
    """Nodes in an order where each comes after what it reads.

    `outputs` are the parts at which paths end.  `spellings` gives further names of a
    symbol (`a5.kv1.k`, a module path): they are understood in patterns.  `motion` tells how
    positions move.  `kept` holds what later stages work out once for a wiring.

    >>> dag = Dag((Source("tokens"), Part("logits", (Port("logits", "tokens"),))), ("logits",))
    >>> dag.edges
    (('tokens', 'logits'),)
    """

    nodes: tuple[Node, ...]
    outputs: tuple[str, ...]
    spellings: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    motion: Motion = field(default_factory=Motion, repr=False, compare=False)
    kept: dict[Any, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        seen: set[str] = set()
        for node in self.nodes:
            if late := [name for name in node.reads if name not in seen]:
                raise ValueError(f"{node.name} reads {late}, which do not come before it")
            if node.name in seen:
                raise ValueError(f"two nodes are called {node.name}")
            seen.add(node.name)
        if missing := [name for name in self.outputs if name not in seen]:
            raise ValueError(f"outputs {missing} are not nodes")

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"kept": {}}

    def __getitem__(self, name: str) -> Node:
        return self.by_name[name]

    @cached_property
    def by_name(self) -> dict[str, Node]:
        """Nodes by name."""
        return {node.name: node for node in self.nodes}

    @cached_property
    def symbols(self) -> tuple[str, ...]:
        """Every symbol that a path can be spelt with, in the order of the nodes."""
        return tuple(dict.fromkeys(s for node in self.nodes for s in symbols_of(node)))

    @cached_property
    def hops(self) -> frozenset[str]:
        """The symbols of ports that read other positions."""
        parts = (node for node in self.nodes if isinstance(node, Part))
        return frozenset(port.symbol for node in parts for port in node.ports if port.hops)

    @cached_property
    def sources(self) -> tuple[str, ...]:
        """Names of the sources."""
        return tuple(node.name for node in self.nodes if isinstance(node, Source))

    @cached_property
    def edges(self) -> tuple[tuple[str, str], ...]:
        """Direct edges (writer, symbol of the reading port), sums crossed."""
        return tuple(
            (writer, port.symbol)
            for node in self.nodes
            if isinstance(node, Part)
            for port in node.ports
            for writer in self.writers(port.reads)
        )

    def writers(self, name: str) -> Iterator[str]:
        """The sources and parts whose values a reading of `name` adds up."""
        stack, seen = [name], set()
        while stack:
            node = self[stack.pop()]
            if node.name in seen:
                continue
            seen.add(node.name)
            if isinstance(node, Join):
                stack.extend(reversed(node.terms))
            elif not isinstance(node, Constant):
                yield node.name


def symbols_of(node: Node) -> tuple[str, ...]:
    """The symbols by which paths pass this node.

    >>> symbols_of(Source("tokens"))
    ('tokens',)
    """
    match node:
        case Source():
            return (node.name,)
        case Part():
            return tuple(dict.fromkeys(port.symbol for port in node.ports))
        case _:
            return ()
