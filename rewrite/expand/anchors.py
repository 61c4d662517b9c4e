"""Anchors: copies that read equal values are equal bits, as half precision needs it.

Kernels round, and another number of rows or of heads is another kernel.  So a copy that is not
called together with the others is another copy, its *anchor*, and what changes:

    copy = anchor + (call(what the copy reads) - call(what the anchor reads))

both in one call, or in calls of one shape.  Where the two read equal values, the difference is
zero.  A layer whose heads do not read alike is the whole layer on what most of them read, its
*base*, and the change of the heads that read something else:

    copy = layer(base) + sum over these heads of (head(reading) - head(base))
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import torch

from rewrite.expand.groups import Reads
from rewrite.expand.product import Mixed, Product
from rewrite.parts import Component, Components
from rewrite.paths.tree import Tree, is_split

HALF = (torch.bfloat16, torch.float16)


def is_half(parts: Components) -> bool:
    """Whether a part writes half precision."""
    return any(getattr(node.meta.get("val"), "dtype", None) in HALF for node in parts.cut.written)


def base_of(product: Product, layer: Component, reads: Sequence[Tree]) -> Reads:
    """What most heads of a copy read, elsewhere than at the positions and hops it asks for."""
    names = product.dag[layer.member_names[0]].reads
    plain = [tuple(_plain(product, name, index) for name, index in zip(
        names, _elsewhere(tree), strict=True)) for tree in reads]
    return Counter(plain).most_common(1)[0][0]


def _elsewhere(tree: Tree) -> Reads:
    while is_split(tree):
        tree = tree.no
    return tree


def _plain(product: Product, name: str, index: int) -> int:
    copies = product.copies[name]
    while copies and isinstance(copy := copies[index], Mixed) and copy.by_hop:
        index = copy.no
    return index
