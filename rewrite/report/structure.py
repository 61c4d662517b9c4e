"""`structure`: one value that tells what tracing and splitting made of a model."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import torch

from rewrite.errors import RewriteError
from rewrite.ir.certificate import Certificate
from rewrite.ir.graph import Graph, InputSpec
from rewrite.parts import Component, Components
from rewrite.parts.names import heads_per_key
from rewrite.parts.stacks import SOURCE_NAMES
from rewrite.paths import count_paths
from rewrite.report.tally import Size, count_edges, peak_memory, size_of, versions
from rewrite.report.text import lines, rows
from rewrite.report.unsplit import Unsplit, unsplit
from rewrite.trace.examples import dynamic_axes

TRIED = "tried before: "
PORTS = ("q", "k", "v", "gate")  # a gate is what enters a layer of heads beside q, k and v


@dataclass(frozen=True)
class Dim:
    """One dimension of an input: a name if it is `symbolic` (any size), else a fixed number.

    `pinned` means that tracing would have left it free and could not: for another size the
    model has to be traced again.
    """

    size: int | str
    symbolic: bool
    pinned: bool


@dataclass(frozen=True)
class Input:
    """One input.  `source` is the name by which paths begin at it, None if they do not."""

    name: str
    dtype: str
    dims: tuple[Dim, ...]
    source: str | None


@dataclass(frozen=True)
class Tried:
    """A way to export that did not work, and why."""

    method: str
    reason: str


@dataclass(frozen=True)
class Export:
    """How the graph was exported, what was tried before, and what else there is to know.

    `varying` says which sizes vary, and whether that was guessed.
    """

    method: str
    tried: tuple[Tried, ...]
    notes: tuple[str, ...]
    varying: str = ""


@dataclass(frozen=True)
class Parity:
    """Agreement with the eager model: largest difference over the outputs, at `shapes`.

    `relative` is the difference as a share of `scale`, the largest output.  All of them and
    `bit_for_bit` are None if there were no weights to measure with.  `gradients` is the largest
    difference of a gradient as a share of the largest one, None if it was not compared, and
    `unequal` says where the graph is not the model, one sentence each.
    """

    difference: float | None
    scale: float | None
    relative: float | None
    bit_for_bit: bool | None
    shapes: tuple[str, ...]
    gradients: float | None = None
    unequal: tuple[str, ...] = ()


@dataclass(frozen=True)
class Layer:
    """An attention layer that is split: heads, the key heads they share, ports, module path."""

    name: str
    kind: str
    heads: int
    key_heads: int
    ports: tuple[str, ...]
    module: str


@dataclass(frozen=True)
class Split:
    """The component graph: components by kind, layers of heads, wiring, what is left whole.

    `names` are sources and components, a layer of heads as one; `parts` counts its heads
    one by one.  `edges` are direct edges (writer, reading port), `paths` those from a source
    to an output.  `seconds` is None if the components were there before the report.
    """

    names: tuple[str, ...]
    parts: int
    kinds: Mapping[str, int]
    layers: tuple[Layer, ...]
    heads: int
    edges: int
    paths: int
    unsplit: tuple[Unsplit, ...]
    seconds: float | None


@dataclass(frozen=True)
class Structure:
    """What a traced model consists of: printed by `str`, machine-readable by `to_json`.

    `components` is None where they were not asked for, `export`, `parity` and `seconds` (of
    tracing) for a graph without certificate (one that was edited).  `memory` is the most that
    this process has held so far, in MB.  `weights` is False for a graph traced without them.

    >>> report = rw.structure(parts)
    >>> report.components.heads, report.components.kinds["mlp"], report.components.unsplit
    (8, 2, ())
    >>> report.inputs[0].source, [dim.size for dim in report.inputs[0].dims]
    ('tokens', ['batch', 'seq'])
    """

    name: str
    origin: str | None
    inputs: tuple[Input, ...]
    guards: tuple[str, ...]
    outputs: tuple[str, ...]
    nodes: int
    weights: bool
    parameters: Size
    buffers: Size
    components: Split | None
    export: Export | None
    parity: Parity | None
    seconds: float | None
    memory: float | None
    versions: Mapping[str, str]

    def to_dict(self) -> dict[str, Any]:
        """Everything as dictionaries, lists, strings and numbers."""
        return _plain(self)

    def to_json(self, indent: int | None = 2) -> str:
        """`to_dict` as JSON; numbers of paths are exact integers of any length."""
        return json.dumps(self.to_dict(), indent=indent)

    def rows(self) -> tuple[tuple[str, str], ...]:
        """The printed report as (label, text), repeats folded; a label may have several rows."""
        return rows(self)

    def __str__(self) -> str:
        return "\n".join(lines(self))


def structure(model: Graph | Components, *, parts: bool = True) -> Structure:
    """The structure report of a traced model.

    A `Graph` is cut into components for it, which `parts=False` leaves out; `Components`
    are taken as they are (their graph has some ops spelt out, so it may have more nodes).
    The model is not run, and its weights are not needed.

    Raises `RewriteError` for anything else.

    >>> graph = rw.trace(torch.nn.Linear(2, 3).eval(), inputs={"input": torch.ones(3, 2)})
    >>> report = rw.structure(graph)
    >>> report.parameters, report.parity.bit_for_bit
    (Size(count=9, bytes=36), True)
    """
    if not isinstance(model, (Graph, Components)):
        raise RewriteError(f"there is no structure report for a {type(model).__name__}: write "
                           "rw.structure(rw.trace(model)), or give it graph.components()")
    start = time.perf_counter()
    made = isinstance(model, Graph)
    graph = model if isinstance(model, Graph) else model.graph
    found: Components | None = None
    if parts:
        found = model.components() if isinstance(model, Graph) else model
    seconds = time.perf_counter() - start if made else None
    certificate = graph.certificate
    return Structure(
        graph.name, graph.origin, _inputs(graph, found), graph.guards, graph.outputs.names,
        len(graph.nodes), not graph.weightless, size_of(graph.module.parameters()),
        size_of(graph.module.buffers()), None if found is None else _split(found, seconds),
        None if certificate is None else _export(certificate),
        None if certificate is None else _parity(certificate),
        None if certificate is None else certificate.seconds, peak_memory(), versions())


def _inputs(graph: Graph, parts: Components | None) -> tuple[Input, ...]:
    sources = set() if parts is None else {str(node.target) for node in parts.cut.flow.sources}
    return tuple(
        Input(spec.name, str(spec.dtype).removeprefix("torch."), _dims(spec),
              SOURCE_NAMES.get(spec.name, spec.name) if spec.name in sources else None)
        for spec in graph.inputs)


def _dims(spec: InputSpec) -> tuple[Dim, ...]:
    sizes = [dim if isinstance(dim, int) else 2 for dim in spec.shape]
    free = dynamic_axes(spec.name, torch.empty(sizes, dtype=spec.dtype, device="meta"))
    return tuple(Dim(dim, not isinstance(dim, int), isinstance(dim, int) and axis in free)
                 for axis, dim in enumerate(spec.shape))


def _split(parts: Components, seconds: float | None) -> Split:
    layers = tuple(_layer(c, parts) for c in parts.components.values() if c.heads)
    return Split(
        (*parts.dag.sources, *parts.components), len(parts.names),
        dict(Counter(c.name.kind for c in parts.components.values())), layers,
        sum(layer.heads for layer in layers), count_edges(parts.dag),
        count_paths("...", parts.dag), unsplit(parts), seconds)


def _layer(component: Component, parts: Components) -> Layer:
    region = component.region
    assert region is not None and region.layer is not None
    shared = heads_per_key(parts.cut.flow, region.layer)
    ports = sorted({port or "gate" for port, _ in region.slots}, key=PORTS.index)
    return Layer(component.short, component.name.kind, component.heads,
                 component.heads // shared, tuple(ports), component.name.path)


def _export(certificate: Certificate) -> Export:
    tried, notes = [], []
    for note in certificate.notes:
        if note.startswith(TRIED):
            method, _, reason = note.removeprefix(TRIED).partition(": ")
            tried.append(Tried(method, reason))
        else:
            notes.append(note)
    return Export(certificate.method, tuple(tried), tuple(notes), certificate.varying)


def _parity(certificate: Certificate) -> Parity:
    difference, scale, relative = certificate.difference, certificate.scale, None
    if difference is not None and scale is not None:
        relative = 0.0 if difference == 0 else difference / scale if scale else None
    return Parity(difference, scale, relative, None if difference is None else difference == 0,
                  certificate.shapes, certificate.gradients, certificate.unequal)


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    return value
