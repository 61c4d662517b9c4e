"""A sketch as DOT text."""

from __future__ import annotations

from itertools import pairwise

import graphviz

from rewrite.draw.labels import caption, label, port
from rewrite.draw.palette import SPINE, Palette
from rewrite.draw.sketch import Item, Read, Sketch
from rewrite.draw.text import FAINT, FONT, NORMAL, SMALL

STREAM = {"sum", "fold", "lane"}  # what the residual stream runs through


def dot(sketch: Sketch, axis: dict[int, str] | None = None) -> str:
    """DOT of a sketch; `axis` names layers at the left, by block."""
    palette = Palette(sketch.runs) if sketch.runs else None
    graph = graphviz.Digraph(
        "rewrite",
        graph_attr={
            "rankdir": "BT", "fontname": FONT, "fontsize": str(NORMAL), "labelloc": "b",
            "labeljust": "l", "nodesep": "0.25", "ranksep": "0.3", "pad": "0.2",
            "bgcolor": "white", "splines": "true", "newrank": "true",
        },
        node_attr={"shape": "plain", "fontname": FONT, "fontsize": str(NORMAL)},
        edge_attr={"fontname": FONT, "fontsize": str(SMALL), "arrowsize": "0.6",
                   "color": SPINE, "penwidth": "1.3"},
    )
    if sketch.caption or sketch.legend:
        graph.attr(label=caption(sketch, palette))
    _rows(graph, sketch, axis or {})
    clusters: dict[str, list[Item]] = {}
    for item in sketch.items:
        clusters.setdefault(item.cluster, []).append(item)
    for name, items in clusters.items():
        if not name or len(items) < 2:
            for item in items:
                _node(graph, item, palette)
            continue
        inside = graphviz.Digraph(f"cluster_{name}")
        inside.attr(label=name, color="#BBBBBB", fontcolor=FAINT, fontsize=str(SMALL),
                    style="rounded", labeljust="l", labelloc="t")
        for item in items:
            _node(inside, item, palette)
        graph.subgraph(inside)
    items = sketch.by_id
    for item in sketch.items:
        for read in item.reads:
            assert isinstance(read.of, str)
            _edge(graph, items[read.of], item, read, palette)
    return graph.source


def _node(graph: graphviz.Digraph, item: Item, palette: Palette | None) -> None:
    if item.kind != "sum":
        graph.node(item.id, label(item, palette), **({"tooltip": item.hover} if item.hover else {}))
        return
    look = {"shape": "circle", "width": "0.26", "height": "0.26", "fixedsize": "true",
            "fontsize": str(NORMAL), "margin": "0", "color": SPINE, "group": "stream"}
    if palette and len(item.runs) > 1:
        look |= {"style": "wedged", "fillcolor": palette.stripes(item.runs)}
    else:
        look |= {"style": "filled", "fillcolor": "white"}
    graph.node(item.id, "+", tooltip=item.id, **look)


def _edge(
    graph: graphviz.Digraph, writer: Item, reader: Item, read: Read, palette: Palette | None
) -> None:
    look: dict[str, str] = {}
    if palette and len(writer.runs) == 1:
        look["color"] = palette.color(writer.runs[0])
    if writer.kind in STREAM and reader.kind in STREAM:
        look |= {"penwidth": "3.2", "weight": "8"}
    head = graphviz.quoting.quote(reader.id)
    if read.port and any(name == read.port for name, _ in reader.cells):
        head = f"{head}:{port(read.port)}:s"
        graph.body.append(_line(writer.id, head, look))
        return
    if read.port:
        look |= {"label": f" {read.port} ", "fontcolor": look.get("color", SPINE)}
    graph.body.append(_line(writer.id, head, look))


def _line(writer: str, head: str, look: dict[str, str]) -> str:
    tail = graphviz.quoting.quote(writer)
    attributes = " ".join(f'{name}="{value}"' for name, value in look.items())
    return f"\t{tail} -> {head}{f' [{attributes}]' if attributes else ''}\n"


def _rows(graph: graphviz.Digraph, sketch: Sketch, axis: dict[int, str]) -> None:
    """Parts of one row on one rank, rows in order, names of layers at the left."""
    rows: dict[int, list[Item]] = {}
    for item in sketch.items:
        if item.row >= 0:
            rows.setdefault(item.row, []).append(item)
    if not axis:
        return
    named: set[int] = set()
    for row, items in sorted(rows.items()):
        block = items[0].block
        text = axis.get(block, "") if block not in named else ""
        text = "" if all(item.kind == "fold" for item in items) else text
        named.add(block)
        rank = graphviz.Digraph()
        rank.attr(rank="same")
        rank.node(f"axis{row}", text, shape="plaintext", fontcolor=FAINT, fontsize=str(SMALL),
                  group="axis")
        for item in items:
            rank.node(item.id)
        graph.subgraph(rank)
    for before, after in pairwise(sorted(rows)):
        graph.edge(f"axis{before}", f"axis{after}", style="invis", weight="20")
