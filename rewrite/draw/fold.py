"""Layers that are alike become one box.

A *track* is what is connected inside one layer.  Track follows track where both look alike
and read alike from the layer before; such a chain is hidden behind one box, if nothing
outside reads what is hidden but its last layer.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass

from rewrite.draw.sketch import Item, Lane, Read, Sketch

Words = Callable[[list[list[Item]]], tuple[str, tuple[str, ...]]]


@dataclass(frozen=True)
class Track:
    """Connected items of one layer, in order, and what they look like from outside."""

    block: int
    items: tuple[Item, ...]
    before: frozenset[str]  # items of the layer before that are read
    signature: Hashable


def fold(
    sketch: Sketch, words: Words, *, least: int, ends: int = 0, shown: frozenset[int] = frozenset(),
    fixed: frozenset[str] = frozenset(),
) -> Sketch:
    """Hide chains of at least `least` alike layers, but `ends` on either side of each chain.

    `words` gives title and lines for the hidden layers, layers in `shown` and items in
    `fixed` stay as they are.
    """
    readers = sketch.readers
    hidden: list[list[Track]] = []
    for chain in _chains(_tracks(sketch, fixed | set(sketch.outputs), shown), readers):
        inner = chain[ends : len(chain) - ends]
        if len(inner) >= least:
            hidden.append(inner)
    if not hidden:
        return sketch
    change: dict[str, str] = {}
    folds: list[Item] = []
    for number, chain in enumerate(hidden):
        folds.append(_box(f"fold{number}", chain, words))
        change |= {item.id: folds[-1].id for track in chain for item in track.items}
    kept = [item for item in sketch.items if item.id not in change]
    return sketch.with_items(item.reading(change) for item in [*kept, *folds])


def _box(name: str, chain: list[Track], words: Words) -> Item:
    first, last = chain[0], chain[-1]
    inside = {item.id for item in first.items}
    reads = dict.fromkeys(
        [Read("", r.of) for item in first.items for r in item.reads
         if isinstance(r.of, str) and r.of not in inside]
        + [Read("", r.of) for item in last.items for r in item.reads if isinstance(r.of, Lane)])
    lanes = {r.of.run: r for r in reads if isinstance(r.of, Lane)}  # the last of each run
    reads = [r for r in reads if isinstance(r.of, str) or lanes[r.of.run] is r]
    title, lines = words([list(track.items) for track in chain])
    members = [item for track in chain for item in track.items]
    return Item(
        name, "fold", title, first.items[0].position, first.block, tuple(reads),
        ("fold", first.signature, len(chain)),
        tuple(dict.fromkeys(run for item in members for run in item.runs)),
        sum(item.count for item in members), lines, row=min(
            (item.row for item in first.items if item.row >= 0), default=-1),
        cluster=first.items[0].cluster,
        members=tuple(member for item in members for member in item.members))


def _tracks(sketch: Sketch, fixed: set[str] | frozenset[str], shown: frozenset[int]) -> list[Track]:
    layers: dict[int, list[Item]] = {}
    for item in sketch.items:
        if item.id not in fixed and item.block not in shown:
            layers.setdefault(item.block, []).append(item)
    pieces = {block: _connected(items) for block, items in layers.items()}
    place = {item.id: (block, index - len(items))
             for block, tracks in pieces.items() for items in tracks
             for index, item in enumerate(items)}
    return [_track(block, tuple(items), place)
            for block in sorted(pieces) for items in pieces[block]]


def _connected(items: list[Item]) -> list[list[Item]]:
    group = {item.id: item.id for item in items}

    def root(name: str) -> str:
        while group[name] != name:
            name = group[name]
        return name

    for item in items:
        for read in item.reads:
            if isinstance(read.of, str) and read.of in group:
                group[root(read.of)] = root(item.id)
    found: dict[str, list[Item]] = {}
    for item in items:
        found.setdefault(root(item.id), []).append(item)
    return list(found.values())


def _track(block: int, items: tuple[Item, ...], place: dict[str, tuple[int, int]]) -> Track:
    here = {item.id for item in items}
    before: set[str] = set()

    def relative(of: str | Lane) -> Hashable:
        if isinstance(of, Lane):
            return ("lane", of.run)
        at = place.get(of)
        if of in here and at is not None:
            return ("here", at[1])
        if at is not None and at[0] == block - 1:
            before.add(of)
            return ("before", at[1])
        return ("fixed", of)

    looks = tuple((item.kind, item.content, tuple((r.port, relative(r.of)) for r in item.reads))
                  for item in items)
    return Track(block, items, frozenset(before), looks)


def _chains(tracks: list[Track], readers: dict[str, list[str]]) -> list[list[Track]]:
    chains: list[list[Track]] = []
    for track in tracks:
        for chain in chains:
            last = chain[-1]
            if last.block == track.block - 1 and _follows(track, last, readers):
                chain.append(track)
                break
        else:
            chains.append([track])
    return chains


def _follows(track: Track, last: Track, readers: dict[str, list[str]]) -> bool:
    if track.signature != last.signature or not track.before:
        return False
    inside = {item.id for item in (*last.items, *track.items)}
    return track.before <= inside and all(
        reader in inside for item in last.items for reader in readers[item.id])
