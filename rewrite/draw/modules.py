"""The picture of an op graph, folded by the modules that its ops come from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass, field, replace

from torch import fx

from rewrite.draw.dot import dot
from rewrite.draw.fold import fold
from rewrite.draw.sketch import Item, Read, Sketch
from rewrite.draw.text import parity, plural, ranges, wrap
from rewrite.errors import RewriteError
from rewrite.ir.flow import Flow
from rewrite.ir.graph import Graph

BOXES = 40
WIDTH = 92  # characters in a line of the caption
MAIN = 3  # ops that are named in a box
PLAIN = {"view", "reshape", "transpose", "getitem", "unsqueeze", "expand", "contiguous", "clone",
         "permute", "slice", "to", "split"}  # they move data and say little


@dataclass
class _Box:
    """Consecutive ops of one folded module."""

    path: str
    nodes: list[fx.Node] = field(default_factory=list)


def dot_of_graph(
    graph: Graph, *, depth: int | None = None, context: bool = False, full: bool = False,
    caption: bool = True,
) -> str:
    """Ops by module; see `rewrite.draw.draw` for the options."""
    if depth is not None and depth < 1:
        raise RewriteError(f"depth counts the words of module paths from 1, found {depth}")
    flow = Flow(graph.module.graph, _sources(graph))
    ops = [node for node in flow.graph.nodes if node.op not in ("get_attr", "output")]
    drawn = ops if context else [node for node in ops if flow.flows(node)]
    deepest = max((len(path(node)) for node in drawn), default=1)
    sketch = Sketch(())
    for level in [depth] if depth else range(max(deepest, 1), 0, -1):
        sketch = _sketch(graph, drawn, level)
        if not full:
            sketch = fold(sketch, _words, least=2, ends=1)
        if depth or len(sketch.items) <= BOXES:
            break
    if caption:
        said = [f"{graph.name}: {plural(sum(n.op == 'call_function' for n in ops), 'op')}"]
        if hidden := len(ops) - len(drawn):
            said[0] += f", {hidden} of them context (masks, positions, sizes), not drawn"
        said += wrap(parity(graph.certificate), WIDTH)
        sketch = replace(sketch, caption=tuple(said))
    return dot(sketch)


def _sources(graph: Graph) -> list[str]:
    from rewrite.ir.layout import CONTEXT_INPUTS

    names = [spec.name for spec in graph.inputs]
    return [name for name in names if name not in CONTEXT_INPUTS] or names


def path(node: fx.Node) -> tuple[str, ...]:
    """The words of the module path of an op; () for what belongs to no module."""
    words = node.meta.get("module") or ""
    return tuple(words.split(".")) if words and not words.startswith("_") else ()


def _sketch(graph: Graph, drawn: list[fx.Node], level: int) -> Sketch:
    boxes: list[_Box] = []
    for node in drawn:
        name = f"input {node.name}" if node.op == "placeholder" else ".".join(path(node)[:level])
        if not boxes or boxes[-1].path != name:
            boxes.append(_Box(name))
        boxes[-1].nodes.append(node)
    boxes = _joined(boxes)
    home = {node: index for index, box in enumerate(boxes) for node in box.nodes}
    returned = next(iter(reversed(graph.module.graph.nodes))).all_input_nodes
    blocks = _blocks(boxes)
    items = [_item(box, index, blocks[index], home, returned) for index, box in enumerate(boxes)]
    outputs = tuple(f"box{home[node]}" for node in returned if node in home)
    return Sketch(tuple(items), outputs=tuple(dict.fromkeys(outputs)))


def _item(
    box: _Box, index: int, block: int, home: dict[fx.Node, int], returned: list[fx.Node]
) -> Item:
    reads = dict.fromkeys(
        Read("", f"box{home[operand]}") for node in box.nodes for operand in node.all_input_nodes
        if operand in home and home[operand] != index)
    words = box.path.split(".")
    position = next((i for i, word in enumerate(words) if word.isdigit()), None)
    parent = ".".join(words[: position + 1]) if position is not None else ""
    own = ".".join(words[position + 1 :]) if position is not None else box.path
    if box.nodes[0].op == "placeholder":
        return Item(f"box{index}", "source", box.nodes[0].name, index, block, content="input",
                    count=0, lines=("input",))
    names = [op(node) for node in box.nodes]
    if names == ["add"] and len(reads) > 1:
        return Item(f"box{index}", "sum", "+", index, block, tuple(reads), ("sum",), count=1,
                    cluster=parent)
    lines = [f"{plural(len(names), 'op')}: {_main(names)}"]
    if any(node in returned for node in box.nodes):
        lines.append("output")
    return Item(
        f"box{index}", "modules", own or ".".join(words[-2:]) or "model", index, block,
        tuple(reads), (own, tuple(names), _inside(box)), count=len(names), lines=tuple(lines),
        cluster=parent)


def _joined(boxes: list[_Box]) -> list[_Box]:
    """Boxes whose only reader comes from the same module are part of it."""
    home = {node: box for box in boxes for node in box.nodes}
    for box in boxes:
        readers = {id(home[user]): home[user] for node in box.nodes for user in node.users
                   if user in home and home[user] is not box}
        only = next(iter(readers.values())) if len(readers) == 1 else None
        returned = any(user.op == "output" for node in box.nodes for user in node.users)
        if only and only.path == box.path and not returned:
            only.nodes[:0] = box.nodes
            home |= dict.fromkeys(box.nodes, only)
            box.nodes = []
    return [box for box in boxes if box.nodes]


def _inside(box: _Box) -> Hashable:
    """How the ops of a box are wired among each other."""
    order = {node: i for i, node in enumerate(box.nodes)}
    return tuple(tuple(order.get(operand, -1) for operand in node.all_input_nodes)
                 for node in box.nodes)


def op(node: fx.Node) -> str:
    """`linear` for `aten.linear.default`."""
    name = getattr(node.target, "__name__", str(node.target))
    return str(name).split(".")[0].strip("_")


def _main(names: list[str]) -> str:
    telling = Counter(name for name in names if name not in PLAIN) or Counter(names)
    shown = [name if n == 1 else f"{n} {name}" for name, n in telling.most_common(MAIN)]
    return ", ".join(shown) + (", …" if len(telling) > MAIN else "")


def _blocks(boxes: list[_Box]) -> list[int]:
    """A layer number that grows by one whenever the numbered module changes."""
    found, now, last = [], -1, None
    for box in boxes:
        words = box.path.split(".")
        at = next((i for i, word in enumerate(words) if word.isdigit()), None)
        numbered = words[: at + 1] if at is not None else None
        if numbered != last:
            now, last = now + 1, numbered
        found.append(now)
    return found


def _words(chain: list[list[Item]]) -> tuple[str, tuple[str, ...]]:
    paths = [items[0].cluster or items[0].title for items in chain]
    stem, _, _ = paths[0].rpartition(".")
    last = [path.rpartition(".")[2] for path in paths]
    span = ranges(map(int, last)) if all(word.isdigit() for word in last) else "…"
    ops = sum(item.count for item in chain[0])
    return (f"{stem}.{span}" if stem else span,
            (f"{plural(len(chain), 'layer')} like the one below, {ops} ops each",))


