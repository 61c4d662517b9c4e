"""The plain forward of each run as a chain of folded boxes, cut where something reads it."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import replace

from rewrite.draw.layers import Layers
from rewrite.draw.sketch import Item, Lane, Read, Sketch
from rewrite.draw.text import plural, ranges

NAMED = 3  # so few parts are named one by one
Behind = Callable[[Lane], frozenset[str]]  # the copies that a reading of a run adds up


def add_lanes(sketch: Sketch, behind: Behind, where: Layers) -> Sketch:
    """Fold every item of kind `rest` into boxes by run, and let readers read the nearest box."""
    kept = [item for item in sketch.items if item.kind != "rest"]
    taps = {read.of for item in kept for read in item.reads if isinstance(read.of, Lane)}
    boxes: list[Item] = []
    for run in sketch.runs:
        rest = [item for item in sketch.items if item.kind == "rest" and item.runs == (run,)]
        boxes += _cut(run, rest, sorted({t.position for t in taps if t.run == run}), where)
    single = [item for item in kept if item.kind == "pure"]
    nearest = _Nearest(behind, single, boxes)
    boxes = [nearest.read_by(box) for box in boxes]
    return sketch.with_items([*(nearest.read_by(item) for item in kept), *boxes])


class _Nearest:
    """Which boxes stand for a reading: the last folded one, and drawn copies not behind it."""

    def __init__(self, behind: Behind, single: list[Item], boxes: list[Item]) -> None:
        self.behind, self.boxes = behind, boxes
        self.single = {m: item for item in single for m in item.members}
        self.box = {m: box for box in boxes for m in box.members}
        self.passed: dict[str, int] = {}  # drawn copies, and where the first box reads them

    def read_by(self, item: Item) -> Item:
        """The item with boxes in place of lanes."""
        reads: dict[Read, None] = {}
        for read in item.reads:
            if isinstance(read.of, Lane):
                reads |= {Read(read.port, name): None for name in self._resolve(read.of, item)}
            else:
                reads[read] = None
        if item.kind == "lane":  # the box before it carries what earlier boxes hold
            order = {box.id: box.position for box in self.boxes}
            last = max((order.get(str(r.of), -1) for r in reads), default=-1)
            reads = {r: None for r in reads if order.get(str(r.of), last) == last}
        return replace(item, reads=tuple(reads))

    def _resolve(self, lane: Lane, reader: Item) -> list[str]:
        copies = self.behind(lane)
        boxes = [self.box[c] for c in copies if c in self.box and self.box[c].id != reader.id]
        last = max(boxes, key=lambda box: box.position, default=None)
        limit = last.position if last else -1
        drawn = {self.single[c].id: self.single[c] for c in copies if c in self.single}
        fresh = [name for name in sorted(drawn) if self.passed.get(name, limit + 1) > limit
                 and name != reader.id]
        if reader.kind == "lane":
            for name in fresh:
                self.passed.setdefault(name, reader.position)
        return ([last.id] if last else []) + fresh


def _cut(run: str, rest: list[Item], taps: list[int], where: Layers) -> list[Item]:
    pieces: dict[int, list[Item]] = {}
    for item in rest:
        pieces.setdefault(bisect_left(taps, item.position), []).append(item)
    boxes: list[Item] = []
    for at, items in sorted(pieces.items()):
        last = items[-1]
        reads = dict.fromkeys(read for item in items for read in item.reads)
        boxes.append(Item(
            f"run.{run}.{at}", "lane", _span(items, where), last.position, last.block,
            tuple(reads), runs=(run,), count=len(items),
            lines=(f"{plural(len(items), 'part')} folded",) if len(items) > NAMED else (),
            members=tuple(item.members[0] for item in items)))
    return boxes


def _span(items: list[Item], where: Layers) -> str:
    """What is folded: names of single parts, ranges of layers."""
    blocks = [b for b in dict.fromkeys(item.block for item in items) if b in where.label]
    named = [item.title for item in items if item.block not in where.label]
    if len(items) <= NAMED:
        named, blocks = [item.title for item in items], []
    elif blocks:
        numbers = ranges(int(where.label[b]) for b in blocks)
        named.insert(len([i for i in items if i.block < 0]),
                     f"layer{'s' if len(blocks) > 1 else ''} {numbers}")
    return ", ".join(named)
