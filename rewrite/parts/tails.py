"""Parts on their last rows, from a position on that is given when they run; attention opened.

A copy that equals another one before some position need not be computed there again.  Parts
that treat every position for itself are run on the rows from there on; attention too, where no
query reads ahead, if keys and values are completed by those of the other copy.
"""

from __future__ import annotations

import sympy
from torch import fx

from rewrite.ir.flow import shape
from rewrite.parts.component import Component, Components
from rewrite.rules.opened import Opened, open_attention
from rewrite.rules.picks import TAIL, Every, Indices
from rewrite.rules.slicer import Body, Slicer


def tail(parts: Components, name: str) -> Body | None:
    """What a part writes from a position on, given what it reads from there on.

    None if it mixes positions, or if a slice of them cannot be pushed up to what it reads.

    >>> from rewrite.parts.tails import tail
    >>> tail(parts, "m0") is None, tail(parts, "a0") is None
    (False, True)
    """
    key = (name, "tail")
    if key not in parts.kept:
        parts.kept[key] = _tail(parts, parts.component(name))
    return parts.kept[key]


def opened(
    parts: Components, name: str, heads: tuple[int, ...] | None = None, rows: str = "all"
) -> Opened | None:
    """Some heads of a layer (None: all) as keys, values and a core that reads both.

    The core computes "all" `rows`, the "last" one, or the "tail".  None if it cannot be taken
    apart so.

    >>> from rewrite.parts.tails import opened
    >>> [port for port, _ in opened(parts, "a1", (3,)).core.slots]
    ['k', 'q', 'v']
    """
    key = (name, heads, "opened", rows)
    if key not in parts.kept:
        parts.kept[key] = _opened(parts, parts.component(name), heads, rows)
    return parts.kept[key]


def _tail(parts: Components, component: Component) -> Body | None:
    region, rows = component.region, _rows(component, "tail")
    if region is None or rows is None or component.heads or not parts.rowwise(component.short):
        return None
    slots = tuple(dict.fromkeys(("", node) for _, node in region.slots))
    if any(shape(node)[:2] != shape(region.output)[:2] for _, node in slots):
        return None
    slicer = Slicer(parts.graph.module, parts.cut.flow, _leaves(parts, region.output),
                    rows={1: rows})
    slicer.open_slots(slots)
    result = slicer.emit(region.output, {1: rows})
    return None if slicer.stuck or slicer.reads_whole else slicer.finish(result)


def _opened(
    parts: Components, component: Component, heads: tuple[int, ...] | None, rows: str
) -> Opened | None:
    region, wanted = component.region, _rows(component, rows)
    if region is None or region.layer is None or not component.heads:
        return None
    if wanted is None and rows != "all":
        return None
    return open_attention(parts.graph.module, parts.cut.flow, _leaves(parts, region.output),
                          region.layer, region.slots, heads, wanted)


def _rows(component: Component, rows: str) -> Indices | None:
    """Rows of what a component writes, as indices; None for all, and where there are none."""
    if component.region is None:  # an output that is a value of the stream
        return None
    sizes = shape(component.region.output)
    if rows == "all" or len(sizes) < 3 or not isinstance(sizes[1], sympy.Symbol):
        return None
    return (-1,) if rows == "last" else Every(sizes[1], TAIL)


def _leaves(parts: Components, output: fx.Node) -> frozenset[fx.Node]:
    return parts.cut.written - {output}
