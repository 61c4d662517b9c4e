"""The picture of a difference: both graphs in one, what is far from a change folded."""

from __future__ import annotations

from dataclasses import dataclass, field

import graphviz
import torch
from torch import fx

from rewrite.draw.palette import NEUTRAL, SPINE, mix
from rewrite.draw.text import FAINT, FONT, INK, NORMAL, SMALL, html, plural, shorten, wrap
from rewrite.ir.diff import Diff, Row

WIDTH, ROWS = 44, 3  # characters in a line of a box, and lines of one call
GREY = "#8A8A8A"
# Of the palette of Okabe and Ito; signs and dashes say the same without colour.
LOOKS = {
    "added": ("+", "#009E73", "bold"), "removed": ("−", "#D55E00", "dashed"),
    "changed": ("±", "#0072B2", "solid"), "rewired": ("", GREY, "solid"),
    "same": ("", GREY, "solid"),
}
EDGES = {
    "added": {"color": "#009E73", "penwidth": "2.4"},
    "removed": {"color": "#D55E00", "penwidth": "1.6", "style": "dashed"},
    "same": {"color": GREY, "penwidth": "1.0"},
}
LEGEND = (("added", "green, bold"), ("removed", "red, dashed"), ("changed", "blue"))


@dataclass
class _Box:
    """A node of either graph, or a run of nodes that are the same in both."""

    rows: list[Row] = field(default_factory=list)
    fold: bool = False


def dot_of_diff(diff: Diff, *, around: int = 1, caption: bool = True) -> str:
    """Both graphs in one; nodes up to `around` edges away from a change are drawn, others folded.

    Weights are drawn where they are new or changed, sizes where anything happened to them.
    """
    nodes = _Nodes(diff)
    boxes = _boxes(nodes, _shown(nodes, around))
    home = {row: index for index, box in enumerate(boxes) for row in box.rows}
    graph = graphviz.Digraph(
        "rewrite",
        graph_attr={"rankdir": "BT", "fontname": FONT, "fontsize": str(NORMAL), "labelloc": "b",
                    "labeljust": "l", "nodesep": "0.3", "ranksep": "0.35", "pad": "0.2",
                    "bgcolor": "white"},
        node_attr={"shape": "box", "fontname": FONT, "margin": "0.1,0.06"},
        edge_attr={"arrowsize": "0.6"},
    )
    if caption:
        graph.attr(label=_caption(diff, len(diff.removed) - sum(
            row.state == "removed" for row in nodes.rows)))
    for index, box in enumerate(boxes):
        if box.fold:
            graph.node(f"box{index}", _folded(box), style="filled", fillcolor="#F1F1F1",
                       color=GREY)
            continue
        (row,) = box.rows
        sign, color, style = LOOKS[row.state]
        plain = row.state in ("same", "rewired")
        graph.node(f"box{index}", nodes.label(row, sign, color), style=f"{style},filled",
                   color=color, fillcolor=NEUTRAL if plain else mix(color, 0.12),
                   penwidth="2" if not plain else "1")
    drawn: dict[tuple[int, int, str], None] = {}
    for (writer, reader), state in nodes.edges.items():
        ends = (home.get(writer), home.get(reader))
        if ends[0] is not None and ends[1] is not None and ends[0] != ends[1]:
            drawn[ends[0], ends[1], state] = None
    for writer, reader, state in drawn:
        graph.edge(f"box{writer}", f"box{reader}", **EDGES[state])
    return graph.source


class _Nodes:
    """The rows of a difference with their lines and the edges between them."""

    def __init__(self, diff: Diff) -> None:
        self.diff = diff
        self.old, self.new = ({node.name: node for node in graph.module.graph.nodes}
                              for graph in (diff.before, diff.after))
        self.lines = diff.lines()
        self.rows = [row for row in diff.rows if self._drawn(row)]
        before = self._edges(self.old, {row.before: row for row in self.rows})
        after = self._edges(self.new, {row.after: row for row in self.rows})
        self.edges = {edge: "same" if edge in before else "added" for edge in after}
        self.edges |= {edge: "removed" for edge in before if edge not in after}

    def _drawn(self, row: Row) -> bool:
        node = self.new.get(row.after or "") or self.old[row.before or ""]
        if node.op == "get_attr":
            return row.state in ("added", "changed")
        is_size = isinstance(node.meta.get("val"), (torch.SymInt, int))
        return row.state != "same" or not is_size

    @staticmethod
    def _edges(
        nodes: dict[str, fx.Node], rows: dict[str | None, Row]
    ) -> dict[tuple[Row, Row], None]:
        return {(rows[operand.name], rows[node.name]): None for node in nodes.values()
                for operand in node.all_input_nodes
                if operand.name in rows and node.name in rows}

    def label(self, row: Row, sign: str, color: str) -> str:
        """Name and call of a node; of a changed one, both calls."""
        ink = INK if row.state not in ("same", "rewired") else FAINT
        title = f"{sign} {row.name}" if sign else row.name
        old, new = self.lines[0].get(row.before or ""), self.lines[1].get(row.after or "")
        calls = [("− ", old), ("+ ", new)] if row.state == "changed" else [("", new or old)]
        lines = [html(shorten(title, WIDTH), NORMAL, mix(color, 0.62, "#000000"), bold=True)]
        for mark, line in calls:
            call, kind = _pieces(line or "")
            wrapped = wrap(f"{mark}{call}", WIDTH)
            if len(wrapped) > ROWS:
                wrapped = [*wrapped[: ROWS - 1], shorten(wrapped[ROWS - 1], WIDTH - 2) + " …"]
            lines += [html(text, SMALL, ink) for text in wrapped if text]
            if kind:
                lines.append(html(shorten(kind, WIDTH), SMALL, FAINT))
        return f"<{'<br/>'.join(lines)}>"


def _pieces(line: str) -> tuple[str, str]:
    """The call and the type of a line of text."""
    line = line.partition("  # ")[0].replace("\n", "; ")
    name, equals, call = line.partition(" = ")
    if not equals or not name.startswith("%"):
        call = line
    call, _, kind = call.partition(" : ")
    return call, kind


def _shown(nodes: _Nodes, around: int) -> set[Row]:
    """Rows at most `around` edges away from one that changed."""
    shown = {row for row in nodes.rows if row.state not in ("same", "rewired")}
    shown |= {row for edge, state in nodes.edges.items() if state != "same" for row in edge}
    for _ in range(around):
        ends = [edge for edge in nodes.edges if edge[0] in shown or edge[1] in shown]
        shown |= {row for edge in ends for row in edge}
    return shown


def _boxes(nodes: _Nodes, shown: set[Row]) -> list[_Box]:
    """Boxes in order; what is not shown is drawn together up to the next that is.

    A run of nodes in order can be one box, since nothing leads back from behind it.
    """
    boxes: list[_Box] = []
    for row in nodes.rows:
        if row in shown:
            boxes.append(_Box([row]))
        elif boxes and boxes[-1].fold:
            boxes[-1].rows.append(row)
        else:
            boxes.append(_Box([row], fold=True))
    for box in boxes:
        box.fold = box.fold and len(box.rows) > 1
    return boxes


def _folded(box: _Box) -> str:
    span = f"{box.rows[0].name} … {box.rows[-1].name}"
    lines = (f"{plural(len(box.rows), 'node')} unchanged", shorten(span, WIDTH))
    return f"<{'<br/>'.join(html(line, SMALL, FAINT) for line in lines)}>"


def _caption(diff: Diff, hidden: int) -> str:
    """What differs, and how it is drawn."""
    rest = f"; {plural(hidden, 'removed weight')} not drawn" if hidden else ""
    rows = [html(f"{diff.before.name}: {diff.summary}{rest}", SMALL)]
    words = [html(f"{LOOKS[state][0]} {state} ({look})", SMALL,
                  mix(LOOKS[state][1], 0.62, "#000000"), bold=True) for state, look in LEGEND]
    rows.append(html(" · ", SMALL, SPINE).join(words))
    return "<<br/>" + "".join(f'{row}<br align="left"/>' for row in rows) + ">"
