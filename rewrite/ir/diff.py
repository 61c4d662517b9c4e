"""What changed from one graph to another: nodes, and the edges between those that stayed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx

from rewrite.ir.graph import Graph
from rewrite.ir.spec import bodies
from rewrite.ir.surgery import copy_module
from rewrite.ir.text import argument, node_lines, to_text
from rewrite.ir.text_names import name_of
from rewrite.ir.values import attribute

CONTEXT = 1  # unchanged lines around a change
SIGNS = {"same": " ", "added": "+", "removed": "-"}


@dataclass(frozen=True)
class Edge:
    """A reading that changed: `reader` reads `after` where it read `before` (None: nothing)."""

    reader: str
    before: str | None
    after: str | None


@dataclass(frozen=True)
class Row:
    """One node of both graphs: its name before and after, and what became of it."""

    before: str | None
    after: str | None
    state: str  # same, changed, rewired, added or removed

    @property
    def name(self) -> str:
        """Its name now, or the one that it had."""
        return self.after or self.before or ""


@dataclass(frozen=True)
class Diff:
    """The difference of two graphs: `print` it, or `draw` it.

    `rows` holds the nodes of both, in order.  `added` and `removed` are nodes of one graph
    only, `changed` nodes that stayed and compute something else, `rewired` the readings of
    nodes that stayed and read another value.  Nodes belong together if they have one name, if
    one was made from the other, or if they compute the same from the same.
    """

    before: Graph
    after: Graph
    rows: tuple[Row, ...]
    rewired: tuple[Edge, ...]

    @property
    def added(self) -> tuple[str, ...]:
        """Names of new nodes."""
        return tuple(row.name for row in self.rows if row.state == "added")

    @property
    def removed(self) -> tuple[str, ...]:
        """Names of nodes that are gone."""
        return tuple(row.name for row in self.rows if row.state == "removed")

    @property
    def changed(self) -> tuple[str, ...]:
        """Names of nodes that call something else, or with other arguments, or other weights."""
        return tuple(row.name for row in self.rows if row.state == "changed")

    @property
    def summary(self) -> str:
        """Counts, on one line."""
        counts = {"added": len(self.added), "removed": len(self.removed),
                  "changed": len(self.changed)}
        said = [f"{count} {word}" for word, count in counts.items() if count]
        if self.rewired:
            said.append(f"{len(self.rewired)} edge{'s' * (len(self.rewired) > 1)} rewired")
        return ", ".join(said) or "no node differs"

    @cached_property
    def names(self) -> Mapping[str, str]:
        """The name now of each node that stayed, by its former name."""
        return {row.before: row.after for row in self.rows if row.before and row.after}

    def __bool__(self) -> bool:
        return bool(self.rewired) or any(row.state != "same" for row in self.rows)

    def __str__(self) -> str:
        head = f"{self.before.name}: {self.summary}"
        return "\n".join([head, *_hunks(self._marked()), *_of_bodies(self.before, self.after)])

    def lines(self) -> tuple[dict[str, str], dict[str, str]]:
        """The lines of the text of both graphs, with the names that nodes have now."""
        module = copy_module(self.before.module)
        former = [node.name for node in self.before.module.graph.nodes]
        for old, node in zip(former, module.graph.nodes, strict=True):
            node.name = self.names.get(old, old)
        renamed = node_lines(self.before.with_module(module))
        return dict(zip(former, renamed.values(), strict=True)), node_lines(self.after)

    def _marked(self) -> list[str]:
        before, after = self.lines()
        marked = [f"-guard {g}" for g in self.before.guards if g not in self.after.guards]
        marked += [f"+guard {g}" for g in self.after.guards if g not in self.before.guards]
        for row in self.rows:
            old, new = before.get(row.before or ""), after.get(row.after or "")
            if row.state in SIGNS:
                marked += _signed(SIGNS[row.state], new or old or "")
                continue
            note = "  (other values)" if old == new else ""
            marked += [*_signed("-", old or ""), *_signed("+", f"{new}{note}")]
        return marked

    def draw(self, path: str | Path | None = None, **options: Any) -> Any:
        """Draw both graphs in one picture to SVG, PNG, PDF or DOT by suffix."""
        from rewrite.draw import draw

        return draw(self, path, **options)

    def _repr_svg_(self) -> str:
        from rewrite.draw import svg

        return svg(self)


def diff(before: Graph, after: Graph) -> Diff:
    """What changed from `before` to `after`.

    >>> graph = rw.trace(torch.nn.Linear(2, 3).eval(), inputs={"input": torch.ones(3, 2)})
    >>> print(diff(graph, graph.insert("linear", torch.relu)))
    Linear: 1 added, 1 edge rewired
       %linear = linear(%input_1, @weight, @bias) : float32[batch, 3]
    +  %relu = `torch.relu`(%linear) : float32[batch, 3]
    -  output output = %linear
    +  output output = %relu
    """
    old, new = (list(graph.module.graph.nodes) for graph in (before, after))
    partner = _matched(old, new)
    rewired: list[Edge] = []
    state: dict[fx.Node, str] = {}
    for a, b in partner.items():
        edges = [Edge(b.name, x and x.name, y and y.name)
                 for x, y in zip_longest(_reads(a), _reads(b))
                 if x is None or y is None or partner.get(x) is not y]
        rewired += edges
        same = _form(a) == _form(b) and _same_weight(before, after, a, b)
        state[b] = "same" if same and not edges else "rewired" if same else "changed"
    return Diff(before, after, tuple(_rows(old, new, partner, state)), tuple(rewired))


def _matched(old: list[fx.Node], new: list[fx.Node]) -> dict[fx.Node, fx.Node]:
    """Which node after belongs to which node before: by name, by origin, by what it computes."""
    by_name = {node.name: node for node in new}
    found = {node: by_name[node.name] for node in old
             if node.name in by_name and node.op == by_name[node.name].op}
    taken = set(found.values())

    def pair(key_of_old: Callable[[fx.Node], Any], key_of_new: Callable[[fx.Node], Any]) -> None:
        free: dict[Any, list[fx.Node]] = {}
        for node in new:
            if node not in taken:
                free.setdefault(key_of_new(node), []).append(node)
        for node in old:
            if node not in found and (fitting := free.get(key_of_old(node))):
                found[node] = fitting.pop(0)
                taken.add(found[node])

    pair(lambda node: (node.name, _form(node)), lambda node: (node.meta.get("from"), _form(node)))
    pair(lambda node: (_form(node), tuple(found.get(o) for o in _reads(node))),
         lambda node: (_form(node), tuple(_reads(node))))
    return found


def _rows(
    old: list[fx.Node], new: list[fx.Node], partner: dict[fx.Node, fx.Node],
    state: dict[fx.Node, str],
) -> list[Row]:
    """Nodes in the order of the new graph; those that are gone stand where they stood."""
    former = {b: a for a, b in partner.items()}
    behind: dict[fx.Node | None, list[fx.Node]] = {}
    last: fx.Node | None = None
    for node in old:
        last = partner.get(node, last)
        if node not in partner:
            behind.setdefault(last, []).append(node)
    rows = [Row(node.name, None, "removed") for node in behind.get(None, ())]
    for node in new:
        before = former.get(node)
        rows.append(Row(before.name if before else None, node.name, state.get(node, "added")))
        rows += [Row(gone.name, None, "removed") for gone in behind.get(node, ())]
    return rows


def _form(node: fx.Node) -> str:
    """What a node computes, whatever it reads."""
    target = name_of(node.target) if callable(node.target) else str(node.target)
    args, kwargs = fx.map_arg((node.args, dict(node.kwargs)), lambda operand: None)
    return f"{node.op} {target} {argument(args)} {argument(kwargs)}"


def _reads(node: fx.Node) -> list[fx.Node]:
    """Operands in order, repetitions included."""
    found: list[fx.Node] = []
    fx.map_arg((node.args, dict(node.kwargs)), found.append)
    return found


def _same_weight(before: Graph, after: Graph, a: fx.Node, b: fx.Node) -> bool:
    if a.op != "get_attr":
        return True
    one, two = attribute(before.module, str(a.target)), attribute(after.module, str(b.target))
    if one is two or not isinstance(one, Tensor) or one.is_meta or two.is_meta:
        return True
    return one.shape == two.shape and torch.equal(one, two)


def _signed(sign: str, line: str) -> list[str]:
    return [f"{sign}  {part}" for part in line.split("\n")]


def _hunks(marked: list[str]) -> list[str]:
    """Lines with a sign, and a few around them; what is left out is `...`."""
    near = {i + step for i, line in enumerate(marked) if not line.startswith(" ")
            for step in range(-CONTEXT, CONTEXT + 1)}
    shown: list[str] = []
    for index, line in enumerate(marked):
        if index in near:
            shown.append(line)
        elif shown and shown[-1] != "   ...":
            shown.append("   ...")
    return shown[:-1] if shown and shown[-1] == "   ..." else shown


def _of_bodies(before: Graph, after: Graph) -> list[str]:
    """Bodies that one graph alone calls, or that differ."""
    old, new = bodies(before.module), bodies(after.module)
    said = []
    for name in dict.fromkeys((*old, *new)):
        if name not in old or name not in new:
            said.append(f"{'+' if name in new else '-'}  body {name}")
        elif old[name] is not new[name] and to_text(old[name]) != to_text(new[name]):
            said.append(f"-  body {name}\n+  body {name}")
    return said
