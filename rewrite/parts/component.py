"""`Components`: a model as named parts joined by a residual stream."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain, count
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import fx

from rewrite.errors import UnknownName, near
from rewrite.ir.certificate import Certificate
from rewrite.ir.dag import Constant, Dag, Join, Part, Port, Source
from rewrite.ir.fields import Fields
from rewrite.ir.flow import Flow, shape
from rewrite.ir.graph import Graph, in_order, told
from rewrite.ir.layout import CONTEXT_INPUTS, Layout, layout_of
from rewrite.ir.pack import Spot, mapped
from rewrite.parts.kept import Kept
from rewrite.parts.motion import PartsMotion
from rewrite.parts.names import Name, heads_per_key, name_regions
from rewrite.parts.operators import written_out
from rewrite.parts.regions import Cut, Region, cut
from rewrite.parts.rowwise import is_batchwise, is_rowwise
from rewrite.parts.stacks import source_name
from rewrite.rules import split_experts
from rewrite.rules.addends import factors
from rewrite.rules.heads import bias_body, last_row
from rewrite.rules.heads import body as heads_body
from rewrite.rules.layout import one_layout
from rewrite.rules.slicer import Body, Slicer
from rewrite.rules.spelling import spelled
from rewrite.turn import alone, once


@dataclass(frozen=True)
class Component:
    """One region with its name."""

    name: Name
    region: Region | None  # None: an output that is the residual stream itself
    members: int = 0  # heads or experts that can be told apart; 0: none

    @property
    def heads(self) -> int:
        """How many heads can be told apart."""
        return self.members if self.region and self.region.layer else 0

    @property
    def member_names(self) -> tuple[str, ...]:
        """Names of its heads (`a5.h3`) or experts (`m5.e3`)."""
        if self.name.member:
            return (self.short,) * bool(self.members)
        letter = "h" if self.heads else "e"
        return tuple(f"{self.short}.{letter}{i}" for i in range(self.members))

    @property
    def short(self) -> str:
        """The name that path patterns use."""
        return self.name.short


class FlowFrom(NamedTuple):
    """What flows from these inputs."""

    sources: tuple[str, ...]


OF_NODES = ("cut", "components", "values", "kept")  # fields that hold nodes of the graph


@dataclass(frozen=True)
class Components(Fields):
    """The component graph of a model.

    `names` are sources and parts (`tokens`, `embed`, `a0.h3`, `m0`, `logits`), `edges` the
    direct edges between them (writer, reader with port), `notes` what could not be split and
    why.  Calling it runs `module`, in which every head is a call of its own.

    >>> parts.names[:3], parts.edges[:2]
    (('tokens', 'embed', 'a0.h0'), (('tokens', 'embed'), ('embed', 'a0.h0.q')))
    """

    graph: Graph
    cut: Cut
    dag: Dag
    components: Mapping[str, Component]
    notes: tuple[str, ...]
    values: Mapping[fx.Node, str] = field(repr=False)
    granularity: str | None = None  # as it was asked for
    kept: Kept = field(default_factory=Kept, repr=False, compare=False)

    def __getstate__(self) -> dict[str, Any]:
        """Nodes are told by their numbers, and stay those of the graph."""
        numbers = {node: number for number, node in enumerate(self.cut.flow.graph.nodes)}

        def data(leaf: Any) -> Any:
            if isinstance(leaf, Flow):
                return FlowFrom(tuple(str(node.target) for node in leaf.sources))
            return Spot(numbers[leaf]) if isinstance(leaf, fx.Node) else leaf

        state = super().__getstate__()
        return state | mapped({name: state[name] for name in OF_NODES}, data)

    def __setstate__(self, state: dict[str, Any]) -> None:
        graph = state["graph"].module.graph
        nodes = list(graph.nodes)
        flow = Flow(graph, state["cut"].flow.sources)

        def thing(leaf: Any) -> Any:
            if isinstance(leaf, FlowFrom):
                return flow
            return nodes[leaf.number] if isinstance(leaf, Spot) else leaf

        found = mapped({name: state[name] for name in OF_NODES}, thing)
        vars(self).update(state | found | {"kept": Kept()})
        for question, answer in found["kept"].items():
            self.kept[question] = answer

    @property
    def names(self) -> tuple[str, ...]:
        """Sources and parts, in the order of the model."""
        return tuple(n.name for n in self.dag.nodes if isinstance(n, (Source, Part)))

    @property
    def edges(self) -> tuple[tuple[str, str], ...]:
        """Direct edges (writer, reader with port), across the residual stream."""
        return self.dag.edges

    @property
    def heads(self) -> tuple[str, ...]:
        """Names of all attention heads."""
        return tuple(n for c in self.components.values() if c.heads for n in c.member_names)

    @property
    def experts(self) -> tuple[str, ...]:
        """Names of all experts."""
        return tuple(name for c in self.components.values() if c.region and c.region.mixture
                     for name in c.member_names)

    def owner(self, name: str) -> tuple[str, int | None]:
        """The component that a part belongs to, and which of its heads or experts it is.

        >>> parts.owner("a1.h3"), parts.owner("m0")
        (('a1', 3), ('m0', None))
        """
        return self._members.get(name, (name, None))

    @cached_property
    def _members(self) -> dict[str, tuple[str, int]]:
        return {name: (component.short, index) for component in self.components.values()
                for index, name in enumerate(component.member_names)}

    def component(self, name: str) -> Component:
        """The component called `name` (`a5` for a whole layer of attention)."""
        if name not in self.components:
            raise UnknownName(f"{self.graph.name} has no component {name!r}; "
                              f"{near(name, self.components)}")
        return self.components[name]

    @alone
    def body(
        self, name: str, heads: tuple[int, ...] | None = None,
        alike: Mapping[str, str] | None = None,
    ) -> Body:
        """The component as a graph of its own; some heads (readings apart) or experts of it.

        `alike` maps each port to the name under which it reads: {"q": "q", "k": "kv",
        "v": "kv"} reads the stream twice; by default q, k and v read it as one.
        """
        component = self.component(name)
        ports: dict[str, str] = dict.fromkeys("qkv", "x") if alike is None else dict(alike)
        key = (name, heads, tuple(sorted(ports.items())))
        if key not in self.kept:
            self.kept[key] = self._make_body(component, heads, ports)
        return self.kept[key]

    def _make_body(
        self, component: Component, heads: tuple[int, ...] | None, alike: dict[str, str]
    ) -> Body:
        region, owner, flow = component.region, self.graph.module, self.cut.flow
        if region is None:
            raise UnknownName(f"{component.short} is the residual stream itself, it has no body")
        leaves = self.cut.written - {region.output}
        if region.layer is not None and component.heads:
            return heads_body(
                owner, flow, leaves, region.layer, region.slots, heads, alike)[0]
        if region.mixture is not None and heads is not None:
            return split_experts.body(
                owner, flow, leaves, region.mixture, region.output, region.slots, heads)
        slicer = Slicer(owner, flow, leaves)
        slicer.open_slots(tuple(dict.fromkeys(("", node) for _, node in region.slots)))
        return slicer.finish(slicer.emit(region.output))

    @alone
    def bias(self, name: str) -> Body | None:
        """What an attention layer adds beside its heads."""
        region, key = self.component(name).region, (name, "bias")
        if region is None or region.layer is None:
            return None
        if key not in self.kept:
            self.kept[key] = bias_body(self.graph.module, self.cut.flow, region.layer)
        return self.kept[key]

    @alone
    def last_row(
        self, name: str, heads: tuple[int, ...] | None = None,
        alike: Mapping[str, str] | None = None, columns: tuple[int, ...] | None = None,
    ) -> Body | None:
        """What a component writes at the last position, given last rows of what it reads.

        Attention still reads all rows by k and v.  `columns` restricts the last axis (of
        logits, to some tokens).  None if some step looks at more than one position.
        """
        key = (name, "last row", heads, tuple(sorted((alike or {}).items())),
               columns and (-1, *columns))
        if key not in self.kept:
            self.kept[key] = self._make_last_row(
                self.component(name), heads, dict(alike or {}), columns)
        return self.kept[key]

    def _make_last_row(
        self, component: Component, heads: tuple[int, ...] | None, alike: dict[str, str],
        columns: tuple[int, ...] | None,
    ) -> Body | None:
        region, owner, flow = component.region, self.graph.module, self.cut.flow
        if region is None or len(shape(region.output)) < 3 or any(
                len(shape(v)) < 3 for _, v in region.slots):
            return None
        leaves = self.cut.written - {region.output}
        if region.layer is not None and component.heads:
            return last_row(
                owner, flow, leaves, region.layer, region.slots, heads,
                {port: "q" if port == "q" else alike.get(port, "kv") for port in "qkv"})
        if region.mixture is not None and heads is not None:
            return None
        slicer = Slicer(owner, flow, leaves, rows={1: (-1,)})
        slicer.open_slots(region.slots)
        pick: dict[int, tuple[int, ...]] = {1: (-1,)}
        if columns is not None:
            pick[len(shape(region.output)) - 1] = columns
        result = slicer.emit(region.output, pick)
        return None if slicer.stuck or slicer.reads_whole else slicer.finish(result)

    @alone
    def rowwise(self, name: str) -> bool:
        """Whether a part treats every position for itself (see `rewrite.parts.rowwise`).

        It does if row i of what it writes depends on row i of what it reads and on no other
        row, beside context.  Yes is proved from the operators; no may mean not known.

        >>> parts.rowwise("m0"), parts.rowwise("a0.h1")
        (True, False)
        """
        component = self.component(self.owner(name)[0])
        key = (component.short, "rowwise")
        if key not in self.kept:
            region = component.region
            self.kept[key] = region is None or is_rowwise(
                self.cut.flow, region.output, self.cut.written)
        return self.kept[key]

    @alone
    def mixes_examples(self, region: Region) -> str | None:
        """What surgery has put into a region, unless it is proved to keep examples apart."""
        own = {node.meta["own"] for node in region.nodes if "own" in node.meta}
        key = (region.output, "examples")
        if own and key not in self.kept:
            self.kept[key] = is_batchwise(self.cut.flow, region.output, self.cut.written)
        return None if not own or self.kept[key] else min(own)

    @cached_property
    def layout(self) -> Layout:
        """Which axes of the outputs are the batch and the tokens."""
        return layout_of(self.graph)

    @once
    def module(self) -> fx.GraphModule:
        """The whole model with every head, q, k and v reading visible."""
        from rewrite.parts.assemble import split_module

        return split_module(self)

    def __call__(self, *args: Any, **inputs: Any) -> Any:
        given = self.graph.given(in_order(self.graph, args) | inputs)
        with told(self.graph, given):
            values = self.module(*(given[spec.name] for spec in self.graph.inputs))
        return self.graph.outputs(values)

    def verify(self, inputs: Mapping[str, Any] | None = None) -> Certificate:
        """Compare with the model that was traced, as it is now; see `Graph.verify`."""
        return self.graph.verify(inputs)

    def as_graph(self) -> Graph:
        """The split model as a `Graph`, for surgery by name."""
        return self.graph.with_module(self.module)

    def formula(self, latex: bool = False) -> str:
        """The model as equations, equal layers folded; as LaTeX if asked for."""
        from rewrite.expand.formula import formula

        return formula(self, latex)

    def draw(self, path: str | Path | None = None, **options: Any) -> Any:
        """Draw to SVG, PNG, PDF or DOT by suffix (see `rewrite.draw`)."""
        from rewrite.draw import draw

        return draw(self, path, **options)

    def _repr_svg_(self) -> str:
        from rewrite.draw import svg

        return svg(self)


GRANULARITIES = ("stream", "module", "op")


@alone
def components(
    graph: Graph, sources: Sequence[str] | None = None, granularity: str | None = None
) -> Components:
    """Cut an op graph into named components (see `Graph.components`)."""
    if granularity not in (None, *GRANULARITIES):
        raise UnknownName(f"granularity is one of {', '.join(GRANULARITIES)}, found "
                          f"{granularity!r}")
    names = [spec.name for spec in graph.inputs]
    if sources is None:
        sources = [name for name in names if name not in CONTEXT_INPUTS]
    sources = [sources] if isinstance(sources, str) else sources
    if not isinstance(sources, Sequence):
        raise UnknownName(f"sources are names of inputs, found {type(sources).__name__}: "
                          f"graph.components(sources=({names[0]!r},))")
    if unknown := [name for name in sources if name not in names]:
        raise UnknownName(f"{graph.name} has no input {unknown[0]!r}; {near(unknown[0], names)}")
    graph = one_layout(spelled(written_out(graph)), sources)
    pieces = cut(Flow(graph.module.graph, sources), granularity)
    found, notes = [], list(pieces.notes)
    for region, name in zip(pieces.regions, name_regions(pieces, graph.outputs.names), strict=True):
        heads, reason = _splits(graph.module, pieces, region)
        if reason:
            notes.append(f"{name.short}: {reason}")
        found.append(Component(name, region, heads))
    written = {component.short for component in found}
    found += [Component(Name(name, "output", None, ""), None)
              for name in graph.outputs.names if name not in written]
    motion = PartsMotion()
    notes.extend(_constants(pieces))
    dag, values = _wire(pieces, found, graph.outputs.names, motion)
    motion.parts = Components(graph, pieces, dag, {c.short: c for c in found}, tuple(notes),
                              values, granularity)
    return motion.parts


def _constants(pieces: Cut) -> list[str]:
    """Parts that surgery has made constants."""
    nodes = pieces.flow.graph.nodes
    parts = {node.meta.get("component") for node in nodes if "part" in node.meta}
    names = dict.fromkeys(node.meta["component"] for node in nodes
                          if "component" in node.meta and not pieces.flow.flows(node))
    return [f"{name} is a constant: no path runs through it" for name in names if name not in parts]


def _splits(owner: torch.nn.Module, pieces: Cut, region: Region) -> tuple[int, str]:
    """How many heads or experts can be told apart (0: none), and what stands in the way."""
    if region.mixture is not None:
        reason = split_experts.splits(pieces.flow, region.mixture, region.output, region.nodes)
        return (0 if reason else region.mixture.experts), reason
    if region.layer is None:
        return 0, ""
    alike = {port: port for port in "qkv"}
    leaves = pieces.written - {region.output}
    body, reason = heads_body(
        owner, pieces.flow, leaves, region.layer, region.slots, (0,), alike)
    if reason:
        return 0, f"heads not split: {reason}"
    slower = f"slices stay below {', '.join(body.stuck)}: exact, but slower" if body.stuck else ""
    return region.layer.heads, slower


def _wire(
    pieces: Cut, found: list[Component], output_names: tuple[str, ...], motion: PartsMotion
) -> tuple[Dag, dict[fx.Node, str]]:
    """The wiring as a `Dag`, and the name of every value that is written or read."""
    values = {node: source_name(node) for node in pieces.flow.sources}
    by_output = {c.region.output: c for c in found if c.region}
    values |= {node: f"{c.short}.out" if c.members else c.short for node, c in by_output.items()}
    taken = {*values.values(), *output_names, *(m for c in found for m in c.member_names)}
    numbers = chain(["pos"], map("const{}".format, count(1))), map("resid{}".format, count())
    for unnamed, names in zip((pieces.constants, pieces.sums), numbers, strict=True):
        known = {node.meta.get("component"): node for node in unnamed}  # from a graph of parts
        for node, name in zip(unnamed, names, strict=False):
            own: Any = node.meta.get("component")
            fits = own is not None and own not in taken and known[own] is node
            values[node] = str(own) if fits else next(
                spelt for spelt in (name + "_" * more for more in count())
                if spelt not in taken and spelt not in known)  # parts and inputs keep their names
            taken.add(values[node])
    nodes: list[Any] = []
    spellings: dict[str, tuple[str, ...]] = {}
    for value in sorted(values, key=pieces.flow.order.__getitem__):
        if value in by_output:
            component = by_output[value]
            nodes.extend(_parts(component, values, spellings, pieces.flow))
        elif value in pieces.sums:
            terms = pieces.sums[value]
            nodes.append(Join(values[value], tuple(values[o] for o in terms),
                              *factors(value, terms)))
        elif value in pieces.constants:
            nodes.append(Constant(values[value]))
        else:
            nodes.append(Source(values[value]))
    for component in found:
        if component.region is None:
            value = pieces.outputs[output_names.index(component.short)]
            nodes.append(Part(component.short, (Port(component.short, values[value]),)))
    return Dag(tuple(nodes), output_names, spellings, motion), values


def _parts(
    component: Component, values: dict[fx.Node, str], spellings: dict[str, tuple[str, ...]],
    flow: Flow,
) -> list[Any]:
    region, short, path = component.region, component.short, component.name.path
    assert region is not None
    if not component.members:
        reads = dict.fromkeys(node for _, node in region.slots)
        spellings[short] = (path,) if path else ()
        return [Part(short, tuple(Port(short, values[node]) for node in reads))]
    if region.layer is None:
        values_read = dict.fromkeys(values[node] for _, node in region.slots)
        experts = [Part(name, tuple(Port(name, value) for value in values_read))
                   for name in component.member_names]
        spellings |= {part.name: (f"{path}.e{i}",) for i, part in enumerate(experts) if path}
        return [*experts, Join(f"{short}.out", component.member_names)]
    shared = heads_per_key(flow, region.layer)
    nodes: list[Any] = []
    for head in range(component.heads):
        ports = []
        for port, node in region.slots:
            suffix = f".{port}" if port else ".gate"
            symbol = f"{component.member_names[head]}{suffix}"
            further = [f"{path}.h{head}{suffix}"] if path and not component.name.member else []
            if shared > 1:
                further.append(f"{short}.kv{head // shared}{suffix}")
            spellings[symbol] = tuple(further)
            ports.append(Port(symbol, values[node], hops=port in ("k", "v")))
        nodes.append(Part(component.member_names[head], tuple(ports)))
    terms = [node.name for node in nodes]
    if region.layer.has_offset(flow):
        nodes.append(Constant(f"{short}.bias"))
        terms.append(f"{short}.bias")
    return [*nodes, Join(f"{short}.out", tuple(terms))]
