"""Attention layers around cores: the projection that joins their heads, and which axis holds them.

Nothing is assumed of the layout: an axis holds the heads if equal shares of the features of
the projection's input each come from one index of it (or from two, where a head is the
difference of two patterns).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, fx

from rewrite.ir.flow import CONTRACTIONS, PAIRED, Flow, args, shape
from rewrite.rules.heads import VIEWS, Attention, Core, HeadAxis, data_of
from rewrite.rules.picks import Pick
from rewrite.rules.slicer import Slicer

aten = torch.ops.aten
SCALINGS = {aten.mul.Tensor, aten.div.Tensor, aten.neg.default, aten.mul.Scalar, aten.div.Scalar,
            aten.to.dtype, aten.to.dtype_layout, aten.to.device}


def find_layers(flow: Flow, cores: Sequence[Core]) -> tuple[list[Attention], list[str]]:
    """The layers around attention cores, and why some have no heads to split."""
    layers, notes = [], []
    joined: dict[fx.Node, list[Core]] = {}
    for core in cores:
        reached = _first_products(flow, core.result)
        if len(reached) == 1 and reached[0].target in CONTRACTIONS:
            joined.setdefault(reached[0], []).append(core)
            continue
        if (layer := _side_by_side(flow, [core])) is not None:
            layers.append(layer)
            continue
        found = ", ".join(node.name for node in reached) or "none"
        notes.append(f"heads not split: {core.result.name} should lead to one output "
                     f"projection, it leads to {found}")
    for projection, members in joined.items():
        data = data_of(projection)
        axes = next(filter(None, (_head_axes(flow, members, data, -1, n) for n in (1, 2))), None)
        if axes is not None:
            layers.append(Attention(axes, projection, _linear_tail(flow, projection)))
        elif (layer := _side_by_side(flow, members)) is not None:
            layers.append(layer)
        else:
            names = ", ".join(core.result.name for core in members)
            stops = _stops(flow, members, projection)
            notes.append(f"heads not split: no features of {projection.name} belong to one head "
                         f"of {names}{f'; a slice stops at {stops}' if stops else ''}")
    return layers, notes


def _side_by_side(flow: Flow, cores: Sequence[Core]) -> Attention | None:
    """A layer whose heads stand side by side in the last value that all their ways pass."""
    values = _narrows(flow, [core.result for core in cores])
    for each in (1, 2):
        for node in reversed(values):
            for axis in range(len(shape(node)) - 1, 0, -1):
                if (axes := _head_axes(flow, cores, node, axis, each)) is not None:
                    return Attention(axes, node, side_by_side=axis)
    return None


def _narrows(flow: Flow, start: Sequence[fx.Node]) -> list[fx.Node]:
    """Values that every way from `start` passes, up to the first product with a weight."""
    behind, furthest, found = set(start), 0, []
    for node in list(flow.graph.nodes)[min(map(flow.order.__getitem__, start)):]:
        if node not in behind and behind.isdisjoint(node.all_input_nodes):
            continue
        if _multiplies(flow, node) or not _is_tensor(node) or not node.users:
            break
        behind.add(node)
        last = flow.order[node]
        if last >= furthest and last >= max(map(flow.order.__getitem__, start)):
            found.append(node)
        furthest = max(furthest, *map(flow.order.__getitem__, node.users))
    return found


def _head_axes(
    flow: Flow, cores: Sequence[Core], joined: fx.Node, along: int, each: int
) -> tuple[tuple[Core, HeadAxis], ...] | None:
    """For each core the axis from whose heads equal shares of an axis of `joined` come.

    `each` is how many indices of the core's axis make up a head.
    """
    along %= len(shape(joined))
    found = [(core, axis) for core in cores
             if (axis := _head_axis(flow, core, joined, along, each))]
    heads = {axis.heads for _, axis in found}
    return tuple(found) if len(found) == len(cores) and len(heads) == 1 else None


def _head_axis(
    flow: Flow, core: Core, joined: fx.Node, along: int, each: int
) -> HeadAxis | None:
    width = shape(joined)[along]
    for axis in core.axes:
        heads = axis.heads // each
        if not isinstance(width, int) or axis.heads % each or not heads or width % heads:
            continue
        tried = (0, heads - 1) if each == 1 else range(heads)
        groups = {h: axis.covered(_asked(flow, core, joined, along, h, heads)) for h in tried}
        if each == 1 and all(group == (h,) for h, group in groups.items()):
            return axis
        apart = {i for group in groups.values() for i in group or ()}
        if each > 1 < heads and len(apart) == axis.heads and all(
                len(group or ()) == each for group in groups.values()):
            return HeadAxis(axis.axis, tuple(g for g in groups.values() if g), axis.folded)
    return None


def _asked(
    flow: Flow, core: Core, joined: fx.Node, along: int, head: int, heads: int
) -> list[Pick]:
    """What one head's share of an axis of `joined` reads from a core."""
    size = shape(joined)[along] // heads
    slicer = Slicer(None, flow, (core.result,))
    slicer.emit(joined, {along: tuple(range(head * size, (head + 1) * size))})
    return slicer.read.get(core.result, [])


def _stops(flow: Flow, cores: Sequence[Core], projection: fx.Node) -> str:
    """The operators between cores and projection that no slice of features passes."""
    data = data_of(projection)
    slicer = Slicer(None, flow, [core.result for core in cores])
    if isinstance(shape(data)[-1], int):
        slicer.emit(data, {len(shape(data)) - 1: (0,)})
    whole = [f"{node.name} ({node.target})" for node, picks in slicer.passed.items()
             if {} in picks and shape(node)[-1:] == (1,)]  # it sums over all features
    return ", ".join(dict.fromkeys(slicer.stuck + whole[:1]))


def _first_products(flow: Flow, node: fx.Node) -> list[fx.Node]:
    """The products with a weight that `node` reaches first."""
    found, seen, stack = [], set(), list(node.users)
    while stack:
        user = stack.pop()
        if user in seen or not flow.flows(user):
            continue
        seen.add(user)
        if _multiplies(flow, user):
            found.append(user)
        else:
            stack.extend(user.users)
    return found


def _multiplies(flow: Flow, node: fx.Node) -> bool:
    """Whether a node multiplies with a weight, be it one for each group of heads."""
    return flow.contracts(node) or (node.target in PAIRED and any(
        flow.from_weights(args(node)[i]) for i in PAIRED[node.target]))


def _linear_tail(flow: Flow, projection: fx.Node) -> tuple[fx.Node, ...]:
    """Views and scalings behind the projection: they act on each head's term alone."""
    tail, node = [], projection
    while len(node.users) == 1:
        user = next(iter(node.users))
        others = [o for o in user.all_input_nodes if o is not node and _is_tensor(o)]
        keeps_features = _is_tensor(user) and shape(user)[-1:] == shape(projection)[-1:]
        scales = user.target in SCALINGS and all(
            flow.from_weights(other) and len(shape(other)) <= 1 for other in others)
        if not keeps_features or not (scales or (user.target in VIEWS and not others)):
            break
        tail.append(user)
        node = user
    return tuple(tail)


def _is_tensor(node: fx.Node) -> bool:
    return isinstance(node.meta.get("val"), Tensor)
