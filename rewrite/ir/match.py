"""Selections of nodes, as immutable values with set algebra.

A selection holds for a graph: `select` gives the nodes.  It looks at every node but the
output, weights (`weights`) and inputs (`inputs`) included.  Wherever a selection is expected,
a text means the name of a node, or a glob of names; dots and underscores are the same
(`a5.h*` is `a5_h*`).

>>> from rewrite.ir import match as m
>>> graph = rw.trace(torch.nn.GELU().eval(), inputs={"input": torch.ones(3, 2)})
>>> graph.find(m.op("gelu") & m.shape("batch", 2))
('gelu',)
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from types import EllipsisType
from typing import Any

import torch
from torch import Tensor, fx

from rewrite.errors import MatchError, near
from rewrite.ir.selection import (
    INPUT,
    OUTPUT,
    PARAMETER,
    Match,
    Named,
    Nodes,
    Scope,
    as_match,
    first_hint,
    name,
    names_of,
)
from rewrite.ir.sizes import named, size
from rewrite.world import calling, turned

__all__ = [
    "Match", "ancestors_of", "as_match", "between", "descendants_of", "dtype", "everything",
    "inputs", "kind", "module", "name", "nothing", "op", "read_by", "reads", "regex", "shape",
    "weights", "where",
]


def regex(pattern: str) -> Match:
    """Nodes whose whole name fits a regular expression.

    Raises `MatchError` if the expression cannot be read.
    """
    with (turned(MatchError, lambda why: f"regex({pattern[:80]!r}) cannot be read: {why}"),
          warnings.catch_warnings()):
        warnings.simplefilter("error")  # of what another version reads otherwise
        re.compile(pattern)
    return Named("regex", pattern, names_of, _fits)


def module(path: str) -> Match:
    """Nodes that belong to a module, or to one inside it; `*` stands for one part of the path.

    >>> module("model.layers.*.mlp")
    module('model.layers.*.mlp')
    """
    return Named("module", path, _paths, _same_parts)


def kind(what: str) -> Match:
    """Nodes of a component graph: attention, cross, mlp, head, expert, router, norm, inner, embed,
    output, sum, constant or module, as their names say.

    Raises `MatchError` for another word.
    """
    if what not in KINDS:
        raise MatchError(f"kind({what!r}): {near(what, KINDS)}")
    return Named("kind", what, _kinds, str.__eq__)


def _fits(pattern: str, text: str) -> bool:
    return re.fullmatch(pattern, text) is not None


def _paths(node: fx.Node, scope: Scope) -> Iterable[str]:
    """The module of a node, and those that it is inside."""
    parts = scope.module(node).split(".")
    return (".".join(parts[:end]) for end in range(1, len(parts) + 1))


def _same_parts(pattern: str, path: str) -> bool:
    wanted, parts = pattern.split("."), path.split(".")
    return len(parts) == len(wanted) and all(map(fnmatchcase, parts, wanted))


KINDS = ("attention", "cross", "mlp", "head", "expert", "router", "norm", "inner", "embed",
         "output", "sum", "constant", "module")
# The names of components, as docs/path_language.md defines them.
_SPELT: tuple[tuple[str, tuple[str, ...]], ...] = (
    (r"a\d+(\.\d+)?", ("attention",)), (r"a\d+\.h\d+", ("attention", "head")),
    (r"x\d+(\.\d+)?", ("cross",)), (r"x\d+\.h\d+", ("cross", "head")),
    (r"m\d+(\.shared)?(\.\d+)?", ("mlp",)), (r"m\d+\.e\d+", ("mlp", "expert")),
    (r"m\d+\.router", ("router",)), (r"n\d+\.[axm](\.\d+)?|n\.embed(\.\d+)?", ("norm",)),
    (r"i\d+(\.\d+)?", ("inner",)),
    (r"embed(\.\d+)?", ("embed",)), (r"resid\d+|[axm]\d+\.out", ("sum",)),
    (r"pos|const\d+|[ax]\d+\.bias|context", ("constant",)),
)


def _kinds(node: fx.Node, scope: Scope) -> tuple[str, ...]:
    component = node.meta.get("component")
    if not isinstance(component, str):
        return ()
    if component in scope.graph.outputs.names:
        return ("output",)
    for pattern, kinds in _SPELT:
        if re.fullmatch(rf"(.+\.)?({pattern})", component):
            return kinds
    return ("module",)


@dataclass(frozen=True, repr=False)
class Calls(Match):
    """Nodes that call a function, or a module of a class."""

    target: Any

    def within(self, scope: Scope) -> Nodes:
        return frozenset(node for node in scope.nodes if self._calls(node, scope))

    def _calls(self, node: fx.Node, scope: Scope) -> bool:
        if node.op == "call_module":
            called = scope.graph.module.get_submodule(str(node.target))
            return isinstance(self.target, type) and isinstance(called, self.target)
        if node.op != "call_function":
            return False
        return node.target is self.target or self.target in _spellings(node.target)

    def hint(self, scope: Scope) -> str:
        known = dict.fromkeys(_spellings(n.target)[-1] for n in scope.nodes
                              if n.op == "call_function")
        return near(str(self.target), known)

    def __repr__(self) -> str:
        shown = getattr(self.target, "__name__", None) or repr(self.target)
        return f"op({shown})"


def op(target: str | Callable[..., Any]) -> Match:
    """Nodes that call an operator: by short name, by overload, or by the function itself.

    `op("linear")`, `op("add.Tensor")`, `op("aten.add")`, `op(torch.ops.aten.add.Tensor)`,
    `op("getitem")`; of a component graph also the class of a module that is called.

    >>> op(torch.ops.aten.add.Tensor) == op("aten.add.Tensor")
    True
    """
    overload = isinstance(target, (torch._ops.OpOverload, torch._ops.OpOverloadPacket))
    return Calls(str(target) if overload else target)


def _spellings(target: Any) -> tuple[str, ...]:
    """`aten.add.Tensor`, `aten.add`, `add.Tensor`, `add`: the last one is the shortest."""
    if not isinstance(target, torch._ops.OpOverload):
        return (getattr(target, "__name__", str(target)),)
    space, short, overload = str(target).split(".")
    return (str(target), f"{space}.{short}", f"{short}.{overload}", short)


@dataclass(frozen=True, repr=False)
class Shaped(Match):
    sizes: tuple[int | str | EllipsisType | None, ...]

    def within(self, scope: Scope) -> Nodes:
        wanted = tuple(size(s, scope.sizes) if isinstance(s, str) and scope.sizes else s
                       for s in self.sizes)
        return frozenset(node for node in scope.nodes
                         if (found := named(node.meta.get("val"), scope.sizes)) is not None
                         and _has_sizes(found, wanted))

    def __repr__(self) -> str:
        return f"shape({', '.join('...' if s is ... else repr(s) for s in self.sizes)})"


def shape(*sizes: int | str | EllipsisType | None) -> Match:
    """Nodes by the shape of their value: `shape("batch", ..., 768)`; None is any one size.

    A name is one that the inputs have for a size that varies; `"batch*seq"` works too.
    Nodes whose value is not known are left out.  Raises `MatchError` for an unknown name.
    """
    if sizes.count(...) > 1:
        raise MatchError(f"{Shaped(sizes)!r}: ... may stand once in a shape")
    return Shaped(sizes)


def _has_sizes(found: tuple[Any, ...], wanted: tuple[Any, ...]) -> bool:
    if ... in wanted:
        at, gap = wanted.index(...), len(found) - len(wanted) + 1
        if gap < 0:
            return False
        wanted = (*wanted[:at], *(None,) * gap, *wanted[at + 1:])
    return len(found) == len(wanted) and all(
        want is None or want == have for want, have in zip(wanted, found, strict=True))


@dataclass(frozen=True, repr=False)
class Typed(Match):
    dtype: torch.dtype

    def within(self, scope: Scope) -> Nodes:
        return frozenset(node for node in scope.nodes
                         if isinstance(value := node.meta.get("val"), Tensor)
                         and value.dtype == self.dtype)

    def __repr__(self) -> str:
        return f"dtype({self.dtype!r})"


def dtype(kind: torch.dtype) -> Match:
    """Nodes by the type of their value: `dtype(torch.float32)`."""
    return Typed(kind)


@dataclass(frozen=True, repr=False)
class Where(Match):
    predicate: Callable[[fx.Node], Any]
    label: str = ""

    def within(self, scope: Scope) -> Nodes:
        with calling(f"the function of {self!r}", MatchError):
            return frozenset(node for node in scope.nodes if self.predicate(node))

    def __repr__(self) -> str:
        return self.label or f"where({getattr(self.predicate, '__name__', self.predicate)})"


def where(predicate: Callable[[fx.Node], Any]) -> Match:
    """Nodes for which a function of `fx.Node` is true."""
    return Where(predicate)


everything = Where(lambda node: True, "everything")
nothing = Where(lambda node: False, "nothing")
inputs = Where(lambda node: node.op == INPUT, "inputs")
weights = Where(lambda node: node.op == PARAMETER, "weights")


def operands(node: fx.Node) -> Iterable[fx.Node]:
    """The nodes that a node reads."""
    return node.all_input_nodes


def readers(node: fx.Node) -> Iterable[fx.Node]:
    """The nodes that read a node, but for the output."""
    return (user for user in node.users if user.op != OUTPUT)


@dataclass(frozen=True, repr=False)
class Related(Match):
    """What is one step, or any number of steps, away from other nodes."""

    term: str
    inner: Match
    step: Callable[[fx.Node], Iterable[fx.Node]]
    far: bool

    def within(self, scope: Scope) -> Nodes:
        start = self.inner.within(scope)
        return reached(start, self.step) if self.far else frozenset(
            other for node in start for other in self.step(node))

    def hint(self, scope: Scope) -> str:
        return first_hint((self.inner,), scope)

    def __repr__(self) -> str:
        return f"{self.term}({self.inner!r})"


def reached(
    start: Iterable[fx.Node], step: Callable[[fx.Node], Iterable[fx.Node]]
) -> Nodes:
    """All that one or more steps lead to."""
    found: set[fx.Node] = set()
    stack = list(start)
    while stack:
        for node in step(stack.pop()):
            if node not in found:
                found.add(node)
                stack.append(node)
    return frozenset(found)


def reads(what: Match | str) -> Match:
    """Nodes that have one of these as an operand."""
    return Related("reads", as_match(what), readers, False)


def read_by(what: Match | str) -> Match:
    """Operands of these nodes."""
    return Related("read_by", as_match(what), operands, False)


def ancestors_of(what: Match | str) -> Match:
    """Nodes that one of these depends on."""
    return Related("ancestors_of", as_match(what), operands, True)


def descendants_of(what: Match | str) -> Match:
    """Nodes that depend on one of these."""
    return Related("descendants_of", as_match(what), readers, True)


@dataclass(frozen=True, repr=False)
class Between(Match):
    start: Match
    end: Match

    def within(self, scope: Scope) -> Nodes:
        first, last = self.start.within(scope), self.end.within(scope)
        return (first | reached(first, readers)) & (last | reached(last, operands))

    def hint(self, scope: Scope) -> str:
        return first_hint((self.start, self.end), scope)

    def __repr__(self) -> str:
        return f"between({self.start!r}, {self.end!r})"


def between(start: Match | str, end: Match | str) -> Match:
    """Nodes on paths from one of the first to one of the second, both ends included."""
    return Between(as_match(start), as_match(end))
