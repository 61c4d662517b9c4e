"""The module of an expansion: one call per copy, heads and ports apart only where they differ."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import fx

from rewrite.expand.product import Copy, Product
from rewrite.ir.dag import Constant, Join, Source
from rewrite.parts import Component, Components
from rewrite.parts.assemble import Assembler

PORTS = ("q", "k", "v")
LAST = (1, (-1,))  # axis and index of the last position


@dataclass(frozen=True)
class Group:
    """Heads of a layer that are treated alike in every copy; `alike` merges equal readings."""

    heads: tuple[int, ...]
    alike: dict[str, str]


@dataclass(frozen=True)
class Built:
    """The literal module, with what it costs."""

    module: fx.GraphModule
    calls: int
    weights: int


def build(
    parts: Components, product: Product, runs: Sequence[str], last: bool = False,
    single: bool = True,
) -> Built:
    """Wire the copies; node by node in the order of the model, all copies of a node together."""
    return _Builder(parts, product, runs, last).build(single)


class _Builder:
    def __init__(
        self, parts: Components, product: Product, runs: Sequence[str], last: bool
    ) -> None:
        self.parts, self.product, self.last = parts, product, last
        self.assembler = Assembler(parts, runs)
        self.values: dict[tuple[str, int], fx.Node] = {}
        self.calls = self.weights = 0
        self.layers = {f"{c.short}.h{i}" for c in parts.components.values() for i in range(c.heads)}

    def build(self, single: bool) -> Built:
        for node in self.product.dag.nodes:
            copies = self.product.copies[node.name]
            if isinstance(node, Constant) or node.name in self.layers:
                continue  # made where they are added up
            if isinstance(node, Join) and (layer := self._layer(node.name)):
                self._attention(layer, node, copies)
                continue
            for copy in copies:
                self.values[node.name, copy.index] = self._one(node, copy, len(copies))
        outputs = tuple(
            tuple(self.values[name, index]
                  for name, index in zip(self.product.dag.outputs, root, strict=True))
            for root in self.product.roots
        )
        module = self.assembler.finish(outputs[0] if single else outputs)
        return Built(module, self.calls, self.weights)

    def _one(self, node, copy: Copy, total: int) -> fx.Node:
        if isinstance(node, Source):
            return self.assembler.source(*copy.runs, node.name)
        label = labelled(node.name, copy, total)
        if isinstance(node, Join):
            return self.assembler.join(label, list(self._read(node.terms, copy.reads)))
        body = None
        if self.last and node.name in self.product.dag.outputs:
            body = self.parts.reading(node.name, *LAST)
        return self._call(node.name, list(self._read(node.reads, copy.reads)), label, body=body)

    def _attention(self, layer: Component, join: Join, copies: list[Copy]) -> None:
        heads = [name for name in join.terms if name in self.layers]
        reads = [
            [self.product.copies[name][index].reads
             for name, index in zip(join.terms, copy.reads, strict=True) if name in self.layers]
            for copy in copies
        ]
        groups = grouped(layer, reads)
        done: dict[tuple[int, tuple[int, ...]], fx.Node] = {}
        for copy, by_head in zip(copies, reads, strict=True):
            terms = []
            for which, group in enumerate(groups):
                read = by_head[group.heads[0]]
                if (which, read) not in done:
                    head = self.product.dag[heads[group.heads[0]]]
                    values = list(self._read(head.reads, read))
                    mixed = frozenset(r for v in read for r in self._runs(head.reads, read)) or (
                        copy.runs)
                    label = _group_label(layer, group, len(heads))
                    twin = Copy(label, len(done), read, frozenset(mixed))
                    done[which, read] = self._call(
                        layer.short, values, labelled(label, twin, len(copies)),
                        group.heads if len(groups) > 1 else None, group.alike)
                terms.append(done[which, read])
            value = terms[0]
            if len(groups) > 1:
                terms.extend(self.assembler.constant(t) for t in join.terms if t not in self.layers)
                value = self.assembler.join(labelled(join.name, copy, len(copies)), terms)
            self.values[join.name, copy.index] = value

    def _call(self, name, values, label, heads=None, alike=None, body=None) -> fx.Node:
        component = self.parts.component(name)
        if component.region is not None:
            self.calls += 1
            self.weights += (body or self.parts.body(name, heads, alike)).weights
        return self.assembler.part(name, values, heads, alike, body, label)

    def _read(self, names: Iterable[str], indices: Iterable[int]) -> Iterable[fx.Node]:
        for name, index in zip(names, indices, strict=True):
            if isinstance(self.product.dag[name], Constant):
                yield self.assembler.constant(name)
            else:
                yield self.values[name, index]

    def _runs(self, names: Iterable[str], indices: Iterable[int]) -> Iterable[str]:
        for name, index in zip(names, indices, strict=True):
            yield from self.product.copies[name][index].runs

    def _layer(self, name: str) -> Component | None:
        short, _, end = name.rpartition(".")
        component = self.parts.components.get(short)
        return component if end == "out" and component and component.heads else None


def grouped(layer: Component, reads: Sequence[Sequence[tuple[int, ...]]]) -> list[Group]:
    """Heads that read the same copies in every copy of the layer, with equal ports merged.

    `reads[copy][head]` are the copies that a head reads, one for each slot of the layer.
    """
    classes: dict[tuple[tuple[int, ...], ...], list[int]] = {}
    for head in range(layer.heads):
        classes.setdefault(tuple(copy[head] for copy in reads), []).append(head)
    return [Group(tuple(heads), _alike(layer, key)) for key, heads in classes.items()]


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
        return {port: "x" for port in PORTS}
    return {port: "".join(names) for names, _ in merged for port in names}


def labelled(name: str, copy: Copy, total: int) -> str:
    """Node name of a copy: with its run if it reads one, with its number if it mixes several."""
    if total == 1:
        return name
    (run, *others) = sorted(copy.runs) or [""]
    return f"{name}__{run}" if run and not others else f"{name}__mix{copy.index}"


def _group_label(layer: Component, group: Group, heads: int) -> str:
    if len(group.heads) == heads:
        return layer.short
    if len(group.heads) == 1:
        return f"{layer.short}.h{group.heads[0]}"
    return f"{layer.short}.h" + "_".join(map(str, group.heads))
