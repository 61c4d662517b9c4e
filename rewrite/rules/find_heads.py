"""Attention layers around cores: where their heads meet, and which axis holds them.

Nothing is assumed of the layout: an axis holds the heads if shares of the features that a
product sums over each come from one index of it (or from two, where a head is the difference
of two patterns).  Each head may also have a core of its own, as where heads are a list of
modules.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from itertools import combinations

import torch
from torch import Tensor, fx

from rewrite.ir.flow import PAIRED, Flow, args, shape
from rewrite.rules.heads import Attention, Core, Entry, HeadAxis
from rewrite.rules.picks import Pick
from rewrite.rules.products import contraction
from rewrite.rules.section import section_of
from rewrite.rules.slicer import Slicer

aten = torch.ops.aten
Features = tuple[tuple[int, ...], ...]
Found = tuple[tuple[tuple[Core, HeadAxis], ...], Features]


def find_layers(
    flow: Flow, cores: Sequence[Core], sums: Collection[fx.Node]
) -> tuple[list[Attention], list[str]]:
    """The layers around attention cores, and why some have no heads to split."""
    layers, notes = [], []
    groups: dict[frozenset[fx.Node], list[Core]] = {}
    for core in cores:
        groups.setdefault(frozenset(_meetings(flow, core, sums)), []).append(core)
    for met, members in groups.items():
        entries = sorted(met, key=flow.order.__getitem__)
        layer = _meeting(flow, members, entries, sums) or _side_by_side(flow, members, sums)
        if layer is not None:
            layers.append(layer)
        else:
            notes.append(_unsplit(flow, members, entries))
    return _together(flow, layers, sums), notes


def _meeting(
    flow: Flow, cores: Sequence[Core], entries: Sequence[fx.Node], sums: Collection[fx.Node]
) -> Attention | None:
    """A layer whose heads meet in some products, each by features of its own."""
    found: list[Found] = []
    own = {node.meta.get("own") for node in (*entries, *(core.result for core in cores))}
    if len(own) > 1:
        return None  # surgery has put in what the heads enter
    for node in entries:
        product = contraction(flow, node)
        known = None if product is None else _shares(
            flow, cores, args(node)[product.data], product.axis)
        if known is None or (found and known[0] != found[0][0]):
            return None
        found.append(known)
    section = section_of(flow, entries, sums) if found else ()
    if not section:
        return None
    made = tuple(Entry(node, features) for node, (_, features) in zip(entries, found, strict=True))
    return Attention(found[0][0], made, section)


def _side_by_side(
    flow: Flow, cores: Sequence[Core], sums: Collection[fx.Node]
) -> Attention | None:
    """A layer whose heads stand side by side in the last value that all their ways pass."""
    values = _narrows(flow, [core.result for core in cores], sums)
    for node in reversed(values):
        for axis in range(len(shape(node)) - 1, 0, -1):
            if (found := _shares(flow, cores, node, axis)) is not None:
                return Attention(found[0], joined=node, side_by_side=axis, features=found[1])
    return None


def _together(
    flow: Flow, layers: Sequence[Attention], sums: Collection[fx.Node]
) -> list[Attention]:
    """Layers of one head each whose sections add up to one value, as one layer."""
    alone = [layer for layer in layers if layer.heads == 1 and layer.section]
    groups: list[list[Attention]] = []
    for layer in alone:
        near = [group for group in groups if _joined(flow, [*group, layer], sums)]
        if near:
            near[0].append(layer)
        else:
            groups.append([layer])
    merged: dict[int, Attention] = {}
    gone: set[int] = set()
    for group in groups:
        if len(group) > 1 and (whole := _joined(flow, group, sums)) is not None:
            merged[id(group[0])] = whole
            gone |= {id(layer) for layer in group[1:]}
    return [merged.get(id(layer), layer) for layer in layers if id(layer) not in gone]


def _joined(
    flow: Flow, layers: Sequence[Attention], sums: Collection[fx.Node]
) -> Attention | None:
    """Layers of one head each as one layer, if their sections add up."""
    entries = [entry.node for layer in layers for entry in layer.entries]
    section = section_of(flow, entries, sums)
    if not section:
        return None
    heads = len(layers)

    def one_of(own: int, what: tuple[int, ...]) -> Features:
        return tuple(what if head == own else () for head in range(heads))

    cores = tuple((core, HeadAxis(axis.axis, one_of(i, axis.groups[0]), axis.folded))
                  for i, layer in enumerate(layers) for core, axis in layer.cores)
    made = tuple(Entry(entry.node, one_of(i, entry.features[0]))
                 for i, layer in enumerate(layers) for entry in layer.entries)
    return Attention(cores, made, section)


def _unsplit(flow: Flow, cores: Sequence[Core], entries: Sequence[fx.Node]) -> str:
    names = ", ".join(core.result.name for core in cores)
    if len(entries) != 1 or contraction(flow, entries[0]) is None:
        found = ", ".join(node.name for node in entries) or "none"
        return (f"heads not split: {names} should lead to one output projection, "
                f"it leads to {found}")
    stops = _stops(flow, cores, entries[0])
    return (f"heads not split: no features of {entries[0].name} belong to one head "
            f"of {names}{f'; a slice stops at {stops}' if stops else ''}")


def _narrows(
    flow: Flow, start: Sequence[fx.Node], sums: Collection[fx.Node]
) -> list[fx.Node]:
    """Values that every way from `start` passes, up to the first product with a weight."""
    behind, furthest, found = set(start), 0, []
    for node in list(flow.graph.nodes)[min(map(flow.order.__getitem__, start)):]:
        if node not in behind and behind.isdisjoint(node.all_input_nodes):
            continue
        if node in sums or _multiplies(flow, node) or not _is_tensor(node) or not node.users:
            break
        behind.add(node)
        last = flow.order[node]
        if last >= furthest and last >= max(map(flow.order.__getitem__, start)):
            found.append(node)
        furthest = max(furthest, *map(flow.order.__getitem__, node.users))
    return found


def _shares(flow: Flow, cores: Sequence[Core], joined: fx.Node, along: int) -> Found | None:
    """For each core the axis that holds its heads, and the features of each head on `joined`."""
    along %= len(shape(joined))
    width = shape(joined)[along]
    if not isinstance(width, int):
        return None
    counts = {axis.heads // each for core in cores for axis in core.axes for each in (1, 2)
              if axis.heads % each == 0}
    counts |= {axis.heads * len(cores) for axis in cores[0].axes}
    for heads in sorted(counts, reverse=True):
        if not heads or width % heads:
            continue
        for features in _layouts(width, heads):
            found = [axis for core in cores
                     if (axis := _head_axis(flow, core, joined, along, features))]
            if len(found) == len(cores) and _all_told_apart(found, heads) and (
                    _all_attend(flow, cores, joined, along, features)) and not (
                    _is_grouped(flow, found, cores, joined, along, features)):
                return tuple(zip(cores, found, strict=True)), features
    return None


def _layouts(width: int, heads: int) -> Iterator[Features]:
    """Equal shares of an axis: side by side, or every so many."""
    size = width // heads
    yield tuple(tuple(range(h * size, (h + 1) * size)) for h in range(heads))
    if 1 < heads < width:
        yield tuple(tuple(range(h, width, heads)) for h in range(heads))


def _all_told_apart(axes: Sequence[HeadAxis], heads: int) -> bool:
    """Whether each head has something of its own of some core, and each whole core a head."""
    whole = sum(axis.axis is None for axis in axes)
    return whole <= heads and all(any(axis.groups[head] for axis in axes) for head in range(heads))


def _all_attend(
    flow: Flow, cores: Sequence[Core], joined: fx.Node, along: int, features: Features
) -> bool:
    """Whether no share begins or ends with features of something else beside the heads."""
    edges = {own[end] for own in (features[0], features[-1]) for end in (0, -1)}
    return all(any(_asked(flow, core, joined, {along: (i,)}) for core in cores) for i in edges)


def _is_grouped(
    flow: Flow, axes: Sequence[HeadAxis], cores: Sequence[Core], joined: fx.Node, along: int,
    features: Features,
) -> bool:
    """Whether a share that reads two patterns is of two heads, and not of their difference.

    It is where nothing adds them up, and where another axis tells them apart.
    """
    others = [i for i, size in enumerate(shape(joined))
              if i != along and isinstance(size, int) and size > 1]
    for core, axis in zip(cores, axes, strict=True):
        pairs = [(own, group) for own, group in zip(features, axis.groups, strict=True)
                 if len(group) > 1]
        if pairs and not _adds_up(flow, core, joined):
            return True
        for own, group in pairs:
            for other in others:
                asked = _asked(flow, core, joined, {along: own, other: (0,)})
                covered = axis.covered([{i: pick[i] for i in pick if i == axis.axis}
                                        for pick in asked])
                if covered is not None and len(covered) < len(group):
                    return True
    return False


def _adds_up(flow: Flow, core: Core, joined: fx.Node) -> bool:
    """Whether something between a core and `joined` reads several values made of its result."""
    known = {node for node in flow.cone(joined, {core.result})
             if flow.is_before(core.result, node)} | {core.result}
    return any(len([o for o in flow.operands(node) if o in known]) > 1
               for node in known - {core.result})


def _head_axis(
    flow: Flow, core: Core, joined: fx.Node, along: int, features: Features
) -> HeadAxis | None:
    """The axis of a core's result of which each head's features have indices of their own."""
    heads = len(features)
    for axis in core.axes:
        if axis.heads == heads and all(
                axis.covered(_asked(flow, core, joined, {along: features[h]})) == (h,)
                for h in {0, heads - 1}):
            return axis
    asked = [_asked(flow, core, joined, {along: own}) for own in features]
    for axis in core.axes:
        groups = [axis.covered(picks) for picks in asked]
        known = tuple(group for group in groups if group is not None)
        if len(known) == heads and not any(
                set(a) & set(b) for a, b in combinations(known, 2)) and (
                sum(map(len, known)) == axis.heads and max(map(len, known)) <= min(heads, 2)):
            return HeadAxis(axis.axis, known, axis.folded)
    return None


def _asked(flow: Flow, core: Core, joined: fx.Node, pick: Pick) -> list[Pick]:
    """What a slice of `joined` reads from a core."""
    slicer = Slicer(None, flow, (core.result,))
    slicer.emit(joined, pick)
    return slicer.read.get(core.result, [])


def _stops(flow: Flow, cores: Sequence[Core], projection: fx.Node) -> str:
    """The operators between cores and projection that no slice of features passes."""
    product = contraction(flow, projection)
    assert product is not None
    data = args(projection)[product.data]
    slicer = Slicer(None, flow, [core.result for core in cores])
    if isinstance(shape(data)[product.axis], int):
        slicer.emit(data, {product.axis: (0,)})
    whole = [f"{node.name} ({node.target})" for node, picks in slicer.passed.items()
             if {} in picks and shape(node)[-1:] == (1,)]  # it sums over all features
    return ", ".join(dict.fromkeys(slicer.stuck + whole[:1]))


def _meetings(flow: Flow, core: Core, sums: Collection[fx.Node]) -> list[fx.Node]:
    """The products that a core reaches first, behind those of each head for itself."""
    found, seen, stack = [], set(), list(core.result.users)
    while stack:
        user = stack.pop()
        if user in seen or user in sums or not flow.flows(user):
            continue
        seen.add(user)
        if _sums_heads(flow, core, user) or (
                _multiplies(flow, user) and not _stands_apart(flow, core, user)):
            found.append(user)
        else:
            stack.extend(user.users)
    return found


def _stands_apart(flow: Flow, core: Core, node: fx.Node) -> bool:
    """Whether a product with a weight keeps heads on an axis, each multiplied for itself."""
    return len(shape(node)) > 3 and any(
        (found := _shares(flow, [core], node, axis)) is not None and len(found[1]) > 1
        for axis in range(len(shape(node)) - 1))


def _sums_heads(flow: Flow, core: Core, node: fx.Node) -> bool:
    """Whether what a node sums over are features of one head after the other."""
    product = contraction(flow, node)
    return product is not None and (
        found := _shares(flow, [core], args(node)[product.data], product.axis)) is not None and (
        len(found[1]) > 1)


def _multiplies(flow: Flow, node: fx.Node) -> bool:
    """Whether a node multiplies with a weight, be it one for each group of heads."""
    return flow.contracts(node) or (node.target in PAIRED and any(
        flow.from_weights(args(node)[i]) for i in PAIRED[node.target]))


def _is_tensor(node: fx.Node) -> bool:
    return isinstance(node.meta.get("val"), Tensor)
