"""Which layer of a model each node of its wiring is on."""

from __future__ import annotations

from dataclasses import dataclass

from rewrite.ir.dag import Part, Source
from rewrite.parts import Component, Components


@dataclass(frozen=True)
class Layers:
    """Position and layer of every node; `block` counts layers from 0, -1 is before them.

    `label[block]` is the number that names use, `owner` the component of a part, and `row`
    the rank that all heads of an attention share.
    """

    position: dict[str, int]
    block: dict[str, int]
    label: dict[int, str]
    owner: dict[str, Component]
    row: dict[str, int]


def layers(parts: Components) -> Layers:
    """Read the layers off the order of the wiring and the names of the components."""
    owner: dict[str, Component] = {}
    for component in parts.components.values():
        owner[component.short] = component
        owner |= dict.fromkeys(component.member_names, component)
    position = {node.name: index for index, node in enumerate(parts.dag.nodes)}
    block: dict[str, int] = {}
    label: dict[int, str] = {}
    row: dict[str, int] = {}
    now, number = -1, None
    for node in parts.dag.nodes:
        component = owner.get(node.name)
        if component and component.name.layer is not None and component.name.layer != number:
            now, number = now + 1, component.name.layer
            label[now] = str(number)
        last = node.name in parts.dag.outputs
        block[node.name] = now + 1 if last else now
        if isinstance(node, (Part, Source)):
            key = component.short if component else node.name
            row[node.name] = min(position[node.name],
                                 row.get(_first(key, component), position[node.name]))
    return Layers(position, block, label, owner, row)


def heads_of(names: list[str], owner: dict[str, Component]) -> list[int]:
    """Numbers of heads or experts of one layer."""
    return [owner[name].member_names.index(name) for name in names if owner[name].members]


def _first(key: str, component: Component | None) -> str:
    return component.member_names[0] if component and component.members else f"{key}.h0"
