"""What a `Graph` can be asked about its nodes, and how it is edited: the methods alone.

They are a class of their own so that `Graph` stays readable; the work is done elsewhere.
"""
# pyright: reportGeneralTypeIssues=false
# (only `Graph` inherits from them, so `self` is always a `Graph`)

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torch import Tensor, fx

from rewrite.ir.selection import Match

if TYPE_CHECKING:
    from rewrite.ir.graph import Graph


class Selecting:
    """Questions about nodes.  A text in place of a matcher is a name or a glob of names."""

    def get(self: Graph, name: str) -> fx.Node:
        """The node called `name`; an unknown name is an error with near misses."""
        from rewrite.ir import find

        return find.get(self.module.graph, name)

    def find(self: Graph, what: Match | str) -> tuple[str, ...]:
        """Names of the nodes that a matcher of `rw.match` selects, in the order of the graph.

        >>> parts.graph.find("addmm_[12]")
        ('addmm_1', 'addmm_2')
        """
        from rewrite.ir import find

        return find.find(self, what)

    def count(self: Graph, what: Match | str) -> int:
        """How many nodes are selected.

        >>> parts.as_graph().count("a1.h*")
        4
        """
        return len(self.find(what))

    def expect(self: Graph, what: Match | str, n: int | None = None) -> tuple[str, ...]:
        """The same as `find`, if it finds exactly `n` nodes (by default at least one).

        Raises `MatchError` that lists what was found, or near misses if that is nothing.

        >>> parts.as_graph().expect("a7.h*", 4)
        Traceback (most recent call last):
        ...
        rewrite.errors.MatchError: GPT2LMHeadModel: name('a7.h*') selects 0 nodes, 4 expected; \
did you mean a1.h3, a1.h2, a1.h1, a1.h0, a0.h3?
        """
        from rewrite.ir import find

        return find.expect(self, what, n)

    def get_unique(self: Graph, what: Match | str) -> fx.Node:
        """The only node that is selected.  Raises `MatchError` if there are more or none."""
        return self.get(self.expect(what, 1)[0])

    def ancestors(self: Graph, name: str) -> tuple[str, ...]:
        """Nodes that `name` depends on, inputs and weights included."""
        from rewrite.ir import find

        return find.relatives(self, name, before=True)

    def descendants(self: Graph, name: str) -> tuple[str, ...]:
        """Nodes that depend on `name`."""
        from rewrite.ir import find

        return find.relatives(self, name, before=False)

    def paths_between(
        self: Graph, start: str, end: str, limit: int = 1000
    ) -> list[tuple[str, ...]]:
        """Up to `limit` paths of node names from `start` to `end`."""
        from rewrite.ir import find

        return find.paths_between(self.module.graph, start, end, limit)


class Editing:
    """Edits.  Each returns a new graph over the same parameters; this one stays as it is."""

    def replace(self: Graph, name: str, by: Callable[..., Any] | Tensor) -> Graph:
        """A new graph in which node `name` is computed by `by` from the same inputs."""
        from rewrite.ir import surgery

        return self.with_module(surgery.replace(self.module, name, by))

    def insert(self: Graph, after: str, function: Callable[[Tensor], Tensor]) -> Graph:
        """A new graph in which all readers of `after` read `function(after)` instead."""
        from rewrite.ir import surgery

        return self.with_module(surgery.insert(self.module, after, function))

    def delete(self: Graph, name: str) -> Graph:
        """A new graph without node `name`: its readers read its first operand instead."""
        from rewrite.ir import surgery

        return self.with_module(surgery.delete(self.module, name))
