"""Heads of a layer that are treated alike, and names of copies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import fx

from rewrite.expand.product import Copy, Mixed, Product
from rewrite.parts import Component
from rewrite.paths.tree import Tree, combine, is_split, leaves

Place = tuple[str, int]  # a node and which copy of it
Reads = tuple[int, ...]  # the copies that a head reads, one for each slot of its layer
PORTS = ("q", "k", "v")


@dataclass(frozen=True)
class Group:
    """Heads of a layer that are treated alike in every copy; `alike` merges equal readings."""

    heads: tuple[int, ...]
    alike: dict[str, str]


def places_of(product: Product, layer: Component, reads: Reads) -> list[Place]:
    """What any head of a layer reads, slot by slot."""
    return list(zip(product.dag[layer.member_names[0]].reads, reads, strict=True))


def readings_of(product: Product, name: str, index: int) -> Tree:
    """What a value of a head reads, as a tree if it is mixed of copies."""
    copies = product.copies[name]
    return combine(lambda i: copies[i].reads, product.tree(name, index))


def keys_apart(alike: dict[str, str]) -> dict[str, str]:
    """The same readings with q by itself, since it alone can be restricted to a position."""
    together = alike["k"] == alike["v"]
    return {"q": "q", "k": "kv" if together else "k", "v": "kv" if together else "v"}


def grouped(layer: Component, reads: Sequence[Sequence[Tree]]) -> list[Group]:
    """Heads that read the same copies in every copy of the layer, with equal ports merged.

    `reads[copy][head]` are the copies that a head reads, one for each slot of the layer, or a
    tree of such readings.
    """
    classes: dict[tuple[Tree, ...], list[int]] = {}
    for head in range(layer.members):
        classes.setdefault(tuple(copy[head] for copy in reads), []).append(head)
    return [Group(tuple(heads), _alike(layer, tuple(
        read for tree in key for read in (leaves(tree) if is_split(tree) else (tree,)))))
        for key, heads in classes.items()]


def _alike(layer: Component, reads: tuple[tuple[int, ...], ...]) -> dict[str, str]:
    """Ports that always read the same copies, under one name."""
    assert layer.region is not None
    read: dict[str, dict[fx.Node, tuple[int, ...]]] = {port: {} for port in PORTS}
    for slot, (port, node) in enumerate(layer.region.slots):
        if port:
            read[port][node] = tuple(copy[slot] for copy in reads)
    merged: list[tuple[list[str], dict[fx.Node, tuple[int, ...]]]] = []
    for port in PORTS:
        for names, known in merged:
            if all(known.get(node, copies) == copies for node, copies in read[port].items()):
                names.append(port)
                known.update(read[port])
                break
        else:
            merged.append(([port], dict(read[port])))
    if len(merged) == 1:
        return dict.fromkeys(PORTS, "x")
    return {port: "".join(names) for names, _ in merged for port in names}


def labelled(name: str, copy: Copy | Mixed, total: int) -> str:
    """Node name of a copy: with its run if it reads one, with its number if it mixes several."""
    if total == 1:
        return name
    (run, *others) = sorted(copy.runs) or [""]
    return f"{name}__{run}" if run and not others else f"{name}__mix{copy.index}"


def group_label(layer: Component, group: Group) -> str:
    """Node name of some heads of a layer."""
    if len(group.heads) == layer.members:
        return layer.short
    return layer.member_names[group.heads[0]] + "".join(f"_{head}" for head in group.heads[1:])
