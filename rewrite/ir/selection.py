"""What a selection of nodes is: the graph that it looks at, set algebra, and names."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from typing import TYPE_CHECKING, Any

from torch import fx

from rewrite.errors import MatchError, near
from rewrite.ir.sizes import labels

if TYPE_CHECKING:
    from rewrite.ir.graph import Graph

Nodes = frozenset[fx.Node]
PARAMETER, INPUT, OUTPUT = "get_attr", "placeholder", "output"


class Scope:
    """The graph that a selection is about, with what is worked out once for all its terms."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.nodes: tuple[fx.Node, ...] = tuple(
            node for node in graph.module.graph.nodes if node.op != OUTPUT)

    @cached_property
    def all(self) -> Nodes:
        """Every node but the output."""
        return frozenset(self.nodes)

    @cached_property
    def sizes(self) -> dict[Any, Any]:
        """Names of the sizes that vary."""
        return labels(self.graph)

    def module(self, node: fx.Node) -> str:
        """The path of the module that a node belongs to; of a weight, of the one that owns it."""
        if node.op == PARAMETER:
            return str(node.target).rpartition(".")[0]
        return node.meta.get("module") or (str(node.target) if node.op == "call_module" else "")


class Match:
    """A selection of nodes: `& | - ~` combine it with others, `select` gives the nodes."""

    def select(self, graph: Graph) -> Nodes:
        """The nodes of `graph` that are selected."""
        return self.within(Scope(graph))

    def within(self, scope: Scope) -> Nodes:
        """The nodes that are selected, in a scope that several selections share."""
        raise NotImplementedError

    def hint(self, scope: Scope) -> str:
        """What to write instead of a term that selects nothing."""
        return ""

    def __and__(self, other: Match | str) -> Match:
        return Both(self, as_match(other))

    def __or__(self, other: Match | str) -> Match:
        return Either(self, as_match(other))

    def __sub__(self, other: Match | str) -> Match:
        return Both(self, Not(as_match(other)))

    def __invert__(self) -> Match:
        return Not(self)

    __rand__, __ror__ = __and__, __or__  # of sets, so that the order does not matter


def as_match(what: Match | str) -> Match:
    """A selection as it is; a text as a name or a glob of names.

    >>> as_match("a5.h*") | "m5"
    name('a5.h*') | name('m5')
    """
    if isinstance(what, Match):
        return what
    if isinstance(what, str):
        return name(what)
    raise MatchError(f"nodes are selected by a name or a matcher, found {type(what).__name__} "
                     f"{what!r}: write \"a5.h*\" or match.op(\"linear\")")


@dataclass(frozen=True, repr=False)
class Both(Match):
    left: Match
    right: Match

    def within(self, scope: Scope) -> Nodes:
        return self.left.within(scope) & self.right.within(scope)

    def hint(self, scope: Scope) -> str:
        return first_hint((self.left, self.right), scope)

    def __repr__(self) -> str:
        return f"{_inside(self.left, Either)} & {_inside(self.right, Either, Both)}"


@dataclass(frozen=True, repr=False)
class Either(Match):
    left: Match
    right: Match

    def within(self, scope: Scope) -> Nodes:
        return self.left.within(scope) | self.right.within(scope)

    def hint(self, scope: Scope) -> str:
        return first_hint((self.left, self.right), scope)

    def __repr__(self) -> str:
        return f"{self.left!r} | {_inside(self.right, Either)}"


@dataclass(frozen=True, repr=False)
class Not(Match):
    inner: Match

    def within(self, scope: Scope) -> Nodes:
        return scope.all - self.inner.within(scope)

    def __repr__(self) -> str:
        return f"~{_inside(self.inner, Either, Both)}"


def _inside(term: Match, *looser: type[Match]) -> str:
    return f"({term!r})" if isinstance(term, looser) else repr(term)


def first_hint(terms: Iterable[Match], scope: Scope) -> str:
    return next((h for t in terms if not t.within(scope) and (h := t.hint(scope))), "")


@dataclass(frozen=True, repr=False)
class Named(Match):
    """Terms about text: names, module paths, operators, kinds."""

    term: str  # the function that made it, for `repr`
    asked: Any
    texts: Callable[[fx.Node, Scope], Iterable[str]]
    holds: Callable[[Any, str], bool]

    def within(self, scope: Scope) -> Nodes:
        return frozenset(node for node in scope.nodes
                         if any(self.holds(self.asked, t) for t in self.texts(node, scope)))

    def hint(self, scope: Scope) -> str:
        known = dict.fromkeys(t for node in scope.nodes for t in self.texts(node, scope) if t)
        return near(str(self.asked), known)

    def __repr__(self) -> str:
        return f"{self.term}({self.asked!r})"


def name(glob: str) -> Match:
    """Nodes by name: `name("layers_3*")`, `name("a5.h[0-3]")`.

    Of a component graph, the component's name counts as well as the node's.
    """
    return Named("name", glob, names_of, _globs)


def names_of(node: fx.Node, scope: Scope) -> tuple[str, ...]:
    component = node.meta.get("component")
    return (node.name, component) if isinstance(component, str) else (node.name,)


def _globs(glob: str, text: str) -> bool:
    return fnmatchcase(text, glob) or fnmatchcase(text, glob.replace(".", "_"))
