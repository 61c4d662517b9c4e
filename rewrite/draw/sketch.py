"""What is to be drawn, before it is DOT: items on layers, and what each of them reads."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Lane:
    """The plain forward of a run, of which the node at a position of the model is read.

    `by` is the mixed sum that reads only those of its terms that nothing takes the place of.
    """

    run: str
    position: int
    by: str = ""


@dataclass(frozen=True)
class Read:
    """One reading: by which port (or ""), of which item or run."""

    port: str
    of: str | Lane


@dataclass(frozen=True)
class Item:
    """One box of a picture.

    `kind` is part, heads, pure, rest, lane, sum, mixture, constant, source, output, modules
    or fold.
    Items with equal `content` look alike whatever their layer.  `position` orders them from
    input to output, `block` is the layer they are on, `count` how many copies, parts or ops
    they stand for, and `lines` is written below the title.
    """

    id: str
    kind: str
    title: str
    position: int
    block: int
    reads: tuple[Read, ...] = ()
    content: Hashable = None
    runs: tuple[str, ...] = ()
    count: int = 1
    lines: tuple[str, ...] = ()
    cells: tuple[tuple[str, tuple[str, ...]], ...] = ()  # ports, heads or sides, with their runs
    row: int = -1  # items of one row share a rank; -1: free
    cluster: str = ""
    members: tuple[str, ...] = ()  # the copies and mixtures that it stands for
    hover: str = ""  # shown when the mouse is over it

    def reading(self, change: dict[str, str]) -> Item:
        """The same item after some of the items that it reads got another id."""
        reads = (replace(r, of=change.get(r.of, r.of)) if isinstance(r.of, str) else r
                 for r in self.reads)
        return replace(self, reads=tuple(dict.fromkeys(reads)))


@dataclass(frozen=True)
class Sketch:
    """Items in the order of their positions, and what is written below them."""

    items: tuple[Item, ...]
    runs: tuple[str, ...] = ()
    caption: tuple[str, ...] = ()
    legend: tuple[tuple[str, str], ...] = ()  # (run, what is said about it)
    outputs: tuple[str, ...] = ()

    @property
    def by_id(self) -> dict[str, Item]:
        """Items by id."""
        return {item.id: item for item in self.items}

    @property
    def readers(self) -> dict[str, list[str]]:
        """Who reads each item."""
        found: dict[str, list[str]] = {item.id: [] for item in self.items}
        for item in self.items:
            for read in item.reads:
                if isinstance(read.of, str):
                    found[read.of].append(item.id)
        return found

    def with_items(self, items: Iterable[Item]) -> Sketch:
        """The same sketch of other items, in order."""
        return replace(self, items=tuple(sorted(items, key=lambda i: (i.position, i.id))))
