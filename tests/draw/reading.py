"""Reading a picture back from its DOT text."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable

import pygraphviz


class Picture:
    """Nodes with the words and colours of their labels, edges with their ports."""

    def __init__(self, source: str) -> None:
        graph = pygraphviz.AGraph(string=source)
        self.labels: dict[str, str] = {
            str(n): n.attr["label"] for n in graph.nodes() if not n.startswith("axis")}
        self.axis = [n.attr["label"] for n in graph.nodes() if n.startswith("axis")]
        self.edges = [(str(a), str(b), (e.attr["headport"] or "").removesuffix(":s"),
                       e.attr["color"])
                      for e in graph.edges() for a, b in [e] if not a.startswith("axis")]
        self.same = [set(map(str, sub.nodes())) for sub in graph.subgraphs()
                     if sub.graph_attr.get("rank") == "same"]
        self.raw_caption = graph.graph_attr.get("label", "")
        self.caption = words(self.raw_caption)
        graph.close()

    def text(self, node: str) -> str:
        """What is written in a node, as one line."""
        return words(self.labels[node])

    def find(self, *needles: str) -> str:
        """The one node whose text has all the words."""
        found = [n for n in self.labels if all(x in self.text(n) for x in needles)]
        assert len(found) == 1, (needles, [self.text(n) for n in found])
        return found[0]

    def reach(self, starts: Iterable[str], back: bool = False) -> set[str]:
        """Everything that edges lead to (or from)."""
        seen, stack = set(), list(starts)
        while stack:
            node = stack.pop()
            if node not in seen:
                seen.add(node)
                stack.extend(a if back else b for a, b, *_ in self.edges
                             if (b if back else a) == node)
        return seen

    def check_alive(self, outputs: Iterable[str]) -> None:
        """Every node leads to an output, and whatever starts is an input."""
        assert self.reach(outputs, back=True) == set(self.labels)
        assert all(a != b for a, b, *_ in self.edges)
        order = list(self.labels)
        into: dict[str, set[str]] = {n: {a for a, b, *_ in self.edges if b == n} for n in order}
        while ready := [n for n in into if not into[n]]:
            for n in ready:
                del into[n]
            for rest in into.values():
                rest.difference_update(ready)
        assert not into, f"a cycle through {sorted(into)}"


def words(label: str) -> str:
    """The text of an HTML-like label."""
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", label)).split())
