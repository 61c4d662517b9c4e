"""The picture of a component graph: sources at the bottom, outputs on top, layer by layer."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from dataclasses import replace

from rewrite.draw.dot import dot
from rewrite.draw.fold import fold
from rewrite.draw.layers import Layers, layers
from rewrite.draw.sketch import Item, Read, Sketch
from rewrite.draw.text import number, parity, plural, ranges, wrap
from rewrite.ir.dag import Constant, Join, Node, Part
from rewrite.parts import Components
from rewrite.report.tally import count_edges

SHOWN = 4  # layers drawn in full, half of them at either end
CELLS = 48  # more heads than this are not drawn one by one
WIDTH = 92  # characters in a line of the caption
NOTES = 3


def dot_of_components(
    parts: Components, *, layers: int | Collection[int] = SHOWN, full: bool = False,
    caption: bool = True,
) -> str:
    """Every part of a model; see `rewrite.draw.draw` for the options."""
    sketch, where = sketch_components(parts)
    if not full:
        chosen = not isinstance(layers, int)
        numbers = {str(number) for number in layers} if chosen else set()
        shown = frozenset(b for b, text in where.label.items() if text in numbers)
        sketch = fold(
            sketch, lambda chain: _words(chain, where), least=2 if chosen else 3,
            ends=0 if isinstance(layers, Collection) else max(layers, 0) // 2, shown=shown)
    if caption:
        sketch = replace(sketch, caption=tuple(_caption(parts)))
    return dot(sketch, {block: f"layer {text}" for block, text in where.label.items()})


def sketch_components(parts: Components) -> tuple[Sketch, Layers]:
    """Parts with all heads of a layer in one box, and the sums that carry the stream."""
    where = layers(parts)
    stands_for = _stands_for(parts, where)
    items: dict[str, Item] = {}
    for node in parts.dag.nodes:
        name = stands_for[node.name]
        if name == node.name and name not in items:
            items[name] = _item(parts, node, where, stands_for)
    read = {r.of for item in items.values() for r in item.reads} | set(parts.dag.outputs)
    kept = [item for item in items.values() if item.id in read or item.kind != "constant"]
    return Sketch((), outputs=parts.dag.outputs).with_items(kept), where


def _stands_for(parts: Components, where: Layers) -> dict[str, str]:
    """The node that is drawn for each node: a layer's first head for all its heads and sum."""
    readers: dict[str, list[Node]] = defaultdict(list)
    for node in parts.dag.nodes:
        for name in node.reads:
            readers[name].append(node)
    found: dict[str, str] = {}
    for node in reversed(parts.dag.nodes):
        owner = where.owner.get(node.name)
        layer = where.owner.get(node.name.removesuffix(".out"))
        by = readers[node.name]
        found[node.name] = node.name
        if owner and owner.members:
            found[node.name] = owner.member_names[0]
        elif isinstance(node, Join) and layer and layer.members and layer.short != node.name:
            found[node.name] = layer.member_names[0]
        elif isinstance(node, Join) and len(by) == 1 and isinstance(by[0], Join):
            found[node.name] = found[by[0].name]  # a sum that only leads to another
    return found


def _item(parts: Components, node: Node, where: Layers, stands_for: dict[str, str]) -> Item:
    owner = where.owner.get(node.name)
    place = where.position[node.name], where.block[node.name]
    row = where.row.get(node.name, -1)
    reads = _reads(parts, node, stands_for)
    if isinstance(node, Constant):
        return Item(node.name, "constant", node.name, *place, content=node.name,
                    lines=("constant",), count=0)
    if isinstance(node, Join):
        return Item(node.name, "sum", "+", *place, reads, ("sum",), count=0)
    if owner and owner.members:
        letter, word = ("h", "head") if owner.heads else ("e", "expert")
        names = [f"{letter}{i}" for i in range(owner.members)]
        shown = names if len(names) <= CELLS else [f"{letter}0–{len(names) - 1}"]
        return Item(node.name, "heads", f"{owner.short} · {plural(len(names), word)}", *place,
                    reads, ("heads", len(names)), count=len(names),
                    cells=tuple((name, ()) for name in shown), row=row)
    kind = owner.name.kind if owner else "source"
    said = {"mlp": "MLP", "embed": "embedding", "norm": "norm", "inner": "inner value",
            "output": "output", "source": "input", "experts": "experts, not split"}.get(kind, kind)
    if owner and kind in ("attention", "cross"):
        said = "attention, heads not split"
    look = "output" if node.name in parts.dag.outputs else "part" if owner else "source"
    return Item(node.name, look, node.name, *place, reads, (kind,), lines=(said,), row=row)


def _reads(parts: Components, node: Node, stands_for: dict[str, str]) -> tuple[Read, ...]:
    if isinstance(node, Join):
        terms: list[str] = []
        stack = list(reversed(node.terms))
        while stack:
            term = stack.pop()
            inner = parts.dag[term]
            if isinstance(inner, Join) and stands_for[term] == node.name:
                stack.extend(reversed(inner.terms))
            else:
                terms.append(stands_for[term])
        return tuple(Read("", term) for term in dict.fromkeys(terms))
    if not isinstance(node, Part):
        return ()
    by: dict[str, list[str]] = defaultdict(list)
    for port in node.ports:
        by[stands_for[port.reads]].append(port.symbol.removeprefix(node.name).lstrip("."))
    whole = len(by) == 1
    return tuple(Read("" if whole else " ".join(filter(None, ports)), name)
                 for name, ports in by.items())


def _words(chain: list[list[Item]], where: Layers) -> tuple[str, tuple[str, ...]]:
    blocks = ranges(int(where.label[items[0].block]) for items in chain)
    said = [item.title.partition(" · ")[2] if item.kind == "heads" else item.lines[0]
            for item in chain[0] if item.kind != "sum"]
    return f"{len(chain)} layers alike: {blocks}", (f"each: {', '.join(said)}",)


def _caption(parts: Components) -> list[str]:
    lines = [f"{parts.graph.name}: {plural(len(parts.names), 'node')}, "
             f"{plural(len(parts.heads), 'head')}, {number(count_edges(parts.dag))} direct edges"]
    lines += wrap(parity(parts.graph.certificate), WIDTH)
    for note in parts.notes[:NOTES]:
        lines += wrap(note, WIDTH)
    if len(parts.notes) > NOTES:
        lines.append(f"+{len(parts.notes) - NOTES} more notes")
    return lines
