"""The direct edges of a head and of an MLP to the outputs, as questions to the package.

`tests/models/direct.py` gives the answers by hooks on the original model.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

import rewrite as rw
from rewrite.parts import Component
from tests.models.direct import Frozen, one_of
from tests.models.partition import CONTEXT, holders


@dataclass(frozen=True)
class Sender:
    """Parts whose direct edges are asked for together, and what hooks say that these do.

    `wanted` is None if there is no oracle, for a `reason`.
    """

    parts: tuple[str, ...]
    wanted: list[Tensor] | None
    reason: str = ""


def senders(parts: rw.Components, frozen: Frozen) -> Iterator[Sender]:
    """A head of the first and of the last layer, and the first and the last MLP or mixer."""
    layers = [c for c in parts.components.values() if c.heads]
    for layer in (*layers[:1], *layers[1:][-1:]):
        yield _head(layer, layers, frozen)
    groups = list(blocks(parts).values())
    for group in (*groups[:1], *groups[1:][-1:]):
        yield _block(parts, group, groups, frozen)


def blocks(parts: rw.Components) -> dict[str, list[Component]]:
    """What is no attention and writes to the stream, shared experts with those of their layer."""
    found: dict[str, list[Component]] = {}
    for component in parts.components.values():
        if component.name.kind in ("mlp", "experts"):
            found.setdefault(_number(component), []).append(component)
    return found


def edges(parts: rw.Components, sender: Sender, frozen: Frozen) -> str | None:
    """The paths from a sender to the outputs through what is not frozen; None if there are none.

    Those are norms of the stream, what reads masks made of tokens, other outputs, and what
    several outputs read.
    """
    outputs = parts.dag.outputs
    held = {home for homes in holders(parts).values() for home in homes}
    open_ = {c.short for c in parts.components.values() if c.name.kind == "norm" or (
        c.name.kind == "embed" and c.short not in held) or (
        c.name.kind == "inner" and not frozen.leaves(c.name.path))}
    onward = {(writer, reader) for writer, reader in parts.edges if writer in outputs}
    passed = sorted(open_ | {writer for writer, _ in onward})
    live = [part for part in sender.parts if _reaches(parts, part, {*passed}, {*outputs})]
    if not live:
        return None
    through = f" -> ({' | '.join(passed)})*" if passed else ""
    paths = " | ".join(f"{part}{through} -> ({' | '.join(outputs)})" for part in live)
    closed = sorted({(w, _layer(r)) for w, r in onward if r not in {*passed, *outputs}})
    return f"({paths})" + "".join(
        f" - ({part}{through} -> {writer} -> {reader})" for writer, reader in closed
        for part in live)


def _head(layer: Component, layers: list[Component], frozen: Frozen) -> Sender:
    head = layer.heads // 2
    name, path = f"{layer.short}.h{head}", layer.name.path
    assert layer.region is not None and layer.region.layer is not None
    if layer.region.layer.side_by_side is not None:
        return Sender((name,), None, f"the heads of {layer.short} enter no matrix side by side")
    module = one_of(frozen.attentions, path)
    if module is None:
        return Sender((name,), None, f"no module of its own is the attention {layer.short}")
    alike = [other.short for other in layers if other.name.path == path]
    wanted = frozen.of_head(module, head, layer.heads, alike.index(layer.short))
    return Sender((name,), wanted, f"the heads of {layer.short} enter no matrix side by side")


def _number(component: Component) -> str:
    return component.short.removesuffix(".shared")


def _layer(symbol: str) -> str:
    """The reader of a port, or of a head's port: `dec.x0.h1.k` is read by `dec.x0`."""
    return re.sub(r"\.h\d+\.\w+$", "", symbol)


def _block(
    parts: rw.Components, group: list[Component], groups: list[list[Component]], frozen: Frozen
) -> Sender:
    first = group[0]
    names = tuple(name for c in group for name in c.member_names or (c.short,))
    held = holders(parts)
    matrices = {id(p) for p in frozen.model.parameters() if p.ndim > 1}

    def shorts(several: list[Component]) -> set[str]:
        router = parts.components.get(f"{_number(several[0])}.router")
        return {c.short for c in [*several, *filter(None, [router])]}

    def weights(several: list[Component]) -> set[int]:
        return {key for key, homes in held.items() if key in matrices and homes & shorts(several)}

    own = weights(group)
    alike = [other for other in groups if weights(other) == own]
    others = {home for key in own for home in held[key]}.difference({CONTEXT}, *map(shorts, alike))
    if others:
        return Sender(names, None, f"matrices of {first.short} are in {sorted(others)[0]} too")
    time = [other is group for other in alike].index(True)
    calls = [call for call in frozen.holding(own) if call[1] == time]
    wanted = frozen.of_modules(calls) if calls else None
    return Sender(names, wanted, f"no module of its own is {first.short}")


def _reaches(parts: rw.Components, start: str, through: set[str], ends: set[str]) -> bool:
    seen, stack = {start}, [start]
    while stack:
        name = stack.pop()
        onward = {reader for writer, reader in parts.edges if writer == name}
        if onward & ends:
            return True
        stack += (onward & through) - seen
        seen |= onward & through
    return False
