"""The op graph cut into regions: what is written to the residual stream, and from what."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import fx

from rewrite.ir.flow import CHOICES, PAIRED, Flow, args, is_float, shape
from rewrite.ir.notes import MEMBER, OWN, SUM
from rewrite.parts.attention import find_cores, unread
from rewrite.rules.find_heads import find_layers
from rewrite.rules.flatten_sums import Terms, residual_sums
from rewrite.rules.head_uses import with_uses
from rewrite.rules.heads import Attention
from rewrite.rules.split_experts import Mixture, find_mixtures

Slot = tuple[str, fx.Node]
aten = torch.ops.aten
PRODUCTS = {aten.mul.Tensor, aten.mul_.Tensor, aten.div.Tensor, aten.matmul.default,
            aten.bmm.default}
LOOKUPS = {aten.embedding.default, *CHOICES}


@dataclass(frozen=True)
class Region:
    """A value that is written, and the nodes that compute it from values written before.

    `slots` are its readings: (port, value).  An attention layer has ports q, k and v (and
    "" for what enters beside them); everything else has the one port "".
    """

    output: fx.Node
    nodes: frozenset[fx.Node]
    slots: tuple[Slot, ...]
    layer: Attention | None = None
    mixture: Mixture | None = None


@dataclass(frozen=True)
class Cut:
    """An op graph cut at its residual sums."""

    flow: Flow
    sums: Terms
    regions: tuple[Region, ...]
    constants: tuple[fx.Node, ...]
    routers: frozenset[fx.Node]
    apart: frozenset[fx.Node]  # cut at a module or an operator, not at the stream
    outputs: tuple[fx.Node, ...]
    notes: tuple[str, ...] = field(default=())
    known: Mapping[fx.Node, tuple[str, str]] = field(default_factory=dict)  # parts by their notes

    @cached_property
    def joined(self) -> frozenset[fx.Node]:
        """Values in which the heads of a layer stand side by side."""
        return frozenset(r.output for r in self.regions if r.layer and r.layer.joined is not None)

    @cached_property
    def inner(self) -> frozenset[fx.Node]:
        """Values that are computed with weights, read by parts, and added to no stream.

        Keys and values that several layers share, for example, and what scales the stream.
        """
        ends = {term for terms in self.sums.values() for term in terms}
        ends |= {*self.outputs, *self.routers, *self.apart, *self.known, *self.joined}
        found: set[fx.Node] = set()
        for region in self.regions:
            made = any(map(self.flow.contracts, region.nodes)) or any(
                node in found for _, node in region.slots)
            if made and region.layer is None and region.output not in ends:
                found.add(region.output)
        return frozenset(found)

    @property
    def written(self) -> frozenset[fx.Node]:
        """Values at which readings stop: sources, sums, outputs of regions."""
        return frozenset([*self.flow.sources, *self.sums, *(r.output for r in self.regions)])


def cut(flow: Flow, granularity: str | None = None) -> Cut:
    """Cut at residual sums, at outputs, and behind the heads where a norm follows them.

    `granularity` "module" cuts where values leave a module too, "op" at every operator; by
    default a graph without residual sums is cut at modules.
    """
    known = {node: (node.meta["component"], node.meta["part"]) for node in flow.graph.nodes
             if node.meta.get("part", SUM) != SUM and flow.flows(node)}
    sums = residual_sums(flow)
    layers, notes = _layers(flow, sums)
    heads = {node for layer in layers for node in _within(flow, layer) if not _owns(known, layer)}
    notes += [f"{known[node][0]} stands inside the heads of a layer, and is no part by itself"
              for node in known if node in heads]
    known = {node: part for node, part in known.items() if node not in heads}
    layers = [layer for layer in layers if not _owns(known, layer)]
    # Branches of one projection add up in its section, scores and biases in front of a pattern,
    # keys and their convolution in front of a port; what surgery has put in is one whole.
    inside = {node for layer in layers for node in layer.section}
    inside |= {node for node in sums if any(_weighs(flow, layer, node) for layer in layers)}
    inside |= {node for layer in layers for node in _projected(flow, layer, sums)}
    sums = {node: terms for node, terms in sums.items()
            if node not in inside and node not in known and not _inside(known, node)}
    apart = _apart(flow, granularity or ("stream" if sums else "module"))
    terms = [term for each in sums.values() for term in each]
    outputs = tuple(args(next(iter(reversed(flow.graph.nodes))))[0])
    constants = [node for node in dict.fromkeys([*terms, *outputs]) if not flow.flows(node)]
    apart -= {*heads, *(node for node in apart if _inside(known, node))}
    ends = {layer.output: layer for layer in layers}
    mixtures = [m for m in find_mixtures(flow) if not _inside(known, m.rows)]
    routers = {mixture.router for mixture in mixtures if mixture.router is not None}
    writers = {n for n in (*terms, *outputs, *ends, *routers, *apart, *known)
               if flow.flows(n)}
    writers -= {*sums, *flow.sources}
    stream = {*sums, *terms} - routers
    writers |= _scales(flow, writers - {*ends, *apart, *known}, stream, writers | {*flow.sources})
    while more := _shared(flow, writers, {*sums, *flow.sources}) - writers:
        writers |= more
    writers |= _rows(flow, writers, {*sums, *flow.sources})
    stops = {*writers, *sums, *flow.sources}
    ordered = sorted(writers, key=flow.order.__getitem__)
    regions = []
    for node in ordered:
        region, note = _region(flow, node, stops, ends.get(node), layers)
        mixed = [m for m in mixtures if m.rows in region.nodes]
        _, part = known.get(node, ("", ""))
        if region.layer is None and len(mixed) == 1 and part != MEMBER:
            region = replace(region, mixture=mixed[0])
        regions.append(region)
        notes.extend(note)
    if granularity is None and not sums:
        notes.append("no residual stream was found: the model is cut at its modules")
    return Cut(flow, sums, tuple(regions), tuple(constants), frozenset(routers),
               frozenset(apart), outputs, tuple(notes), known)


def _inside(known: Mapping[fx.Node, tuple[str, str]], node: fx.Node) -> bool:
    """Whether a node is inside a part that surgery has put in, which is one whole."""
    return "own" in node.meta and any(
        part == OWN and end.meta.get("own") == node.meta["own"]
        for end, (_, part) in known.items())


def _owns(known: Mapping[fx.Node, tuple[str, str]], layer: Attention) -> bool:
    return any(_inside(known, node) for node in layer.results)


def _apart(flow: Flow, granularity: str) -> set[fx.Node]:
    """Values at which the graph is cut although they are not on a residual stream."""
    if granularity == "stream":
        return set()
    values = {node for node in flow.flowing if is_float(node) and node.op == "call_function"}
    if granularity == "op":
        return values
    return {node for node in values
            if any(user.meta.get("module") != node.meta.get("module") for user in node.users)}


def _within(flow: Flow, layer: Attention) -> set[fx.Node]:
    """What belongs to the heads of a layer: from the projections to q, k and v to its output."""
    found: set[fx.Node] = set()
    stack = [layer.output]
    own = {layer.output, *layer.section, *layer.results}
    while stack:
        node = stack.pop()
        if node in found:
            continue
        found.add(node)
        if node in own or not flow.contracts(node):
            stack.extend(flow.operands(node))
    return found - {layer.output}


def _weighs(flow: Flow, layer: Attention, node: fx.Node) -> bool:
    """Whether a node stands between a product of queries and keys and what it leads to."""
    return any(flow.is_before(node, core.result) and any(
        node is product or flow.is_before(product, node) for product, _ in core.ports)
        for core, _ in layer.cores)


def _projected(flow: Flow, layer: Attention, sums: Collection[fx.Node]) -> set[fx.Node]:
    """Sums between the projections to q, k and v and the core that alone reads them."""
    found: set[fx.Node] = set()
    near = _near(flow, [args(node)[index] for node, index in layer.ports])
    for node in sorted(near & set(sums), key=flow.order.__getitem__):
        others = (_near(flow, [node]) - found - {node}) & {*sums, *flow.sources}
        if not others and _leads_to(flow, node, layer.results):
            found.add(node)
    return found


def _near(flow: Flow, ends: list[fx.Node]) -> set[fx.Node]:
    """Flowing values from which no product with a weight leads to `ends`, and those products."""
    found: set[fx.Node] = set()
    stack = [node for node in ends if flow.flows(node)]
    while stack:
        node = stack.pop()
        if node not in found:
            found.add(node)
            stack.extend([] if flow.contracts(node) else flow.operands(node))
    return found


def _leads_to(flow: Flow, node: fx.Node, ends: Collection[fx.Node]) -> bool:
    """Whether every way from a value leads through one of `ends`."""
    seen, stack = set(ends), [node]
    while stack:
        users = [user for user in stack.pop().users if user not in seen]
        if any(user.op == "output" for user in users):
            return False
        seen.update(users)
        stack.extend(user for user in users if flow.flows(user))
    return True


def _layers(flow: Flow, sums: Collection[fx.Node]) -> tuple[list[Attention], list[str]]:
    cores = find_cores(flow)
    layers, notes = find_layers(flow, cores, sums)
    return layers, notes + unread(flow, cores)


def _scales(
    flow: Flow, writers: set[fx.Node], stream: set[fx.Node], written: set[fx.Node]
) -> set[fx.Node]:
    """What multiplies a value on its way from the stream and back, and is made with weights.

    Written apart, it leaves a part without weights that the stream passes, as it passes a norm.
    """
    found: set[fx.Node] = set()
    stops = written | stream
    for writer in writers:
        cone = sorted(flow.cone(writer, stops - {writer}), key=flow.order.__getitem__)
        passed: set[fx.Node] = set()
        for node in cone:
            reads = (o in passed or (o in stream and o is not writer)
                     for o in flow.operands(node))
            weighed = flow.contracts(node) or (node.target in PAIRED and any(
                flow.from_weights(o) for o in node.all_input_nodes))
            if not weighed and any(reads):
                passed.add(node)
        if writer not in passed:
            continue
        found |= {
            operand for node in passed if node.target in PRODUCTS
            for operand in flow.operands(node) if operand not in stops | passed}
    return found


def _shared(flow: Flow, writers: set[fx.Node], fixed: set[fx.Node]) -> set[fx.Node]:
    """Values behind a product that several regions would compute again: written once instead."""
    stops = writers | fixed
    counts = Counter(node for writer in writers for node in flow.cone(writer, stops))
    shared = {node for node, count in counts.items() if count > 1}
    costly = {
        node for node in shared
        if is_float(node) and any(flow.contracts(n) for n in flow.cone(node, stops))
    }
    return {
        node for node in costly
        if any(user not in shared and user in counts for user in node.users)
    }


def _rows(flow: Flow, writers: set[fx.Node], fixed: set[fx.Node]) -> set[fx.Node]:
    """Rows of a table of weights that several regions would look up again: written once instead.

    An embedding that is kept beside the stream, for example, and added to nothing: some region
    reads it and the stream.  What reads sources alone is an embedding itself.
    """
    stops = writers | fixed
    cones = [flow.cone(writer, stops) for writer in writers]
    counts = Counter(node for cone in cones for node in cone)
    ends = stops.difference(flow.sources)
    beside = set[fx.Node]().union(*(cone for cone in cones if any(
        operand in ends for node in cone for operand in flow.operands(node))))
    return {node for node in beside if counts[node] > 1 and node.target in LOOKUPS
            and is_float(node) and flow.from_weights(node.all_input_nodes[0])
            and len(shape(node.all_input_nodes[0])) == 2}


def _region(
    flow: Flow, output: fx.Node, stops: set[fx.Node], layer: Attention | None,
    layers: list[Attention],
) -> tuple[Region, list[str]]:
    behind = stops - {output}
    nodes = flow.cone(output, behind)
    inside = [other for other in layers if not nodes.isdisjoint(other.results)]
    notes = []
    if layer is not None and inside != [layer]:
        others = ", ".join(other.results[0].name for other in inside if other is not layer)
        notes.append(f"heads not split: {output.name} also contains {others}")
        layer = None
    if layer is not None:
        layer, note = with_uses(flow, layer, behind)
        notes += [note] if note else []
    if layer is None:
        read = _reads(flow, nodes, stops, output)
        return Region(output, frozenset(nodes), tuple(("", node) for node in read)), notes
    slots: list[Slot] = []
    for (node, index), port in layer.ports.items():
        start = args(node)[index]
        cone = {start} if start in behind else flow.cone(start, behind)
        reads = [start] if start in behind else _reads(flow, cone, stops, output)
        slots.extend((port, value) for value in reads)
    entries = {(n, args(n)[i]) for n, i in layer.ports}
    beside = _beside(flow, output, behind, entries)
    slots.extend(("", value) for value in _reads(flow, beside, stops, output, entries))
    return Region(output, frozenset(nodes), tuple(dict.fromkeys(slots)), layer), notes


def _reads(
    flow: Flow, nodes: set[fx.Node], stops: set[fx.Node], output: fx.Node,
    skip: Collection[tuple[fx.Node, fx.Node]] = (),
) -> list[fx.Node]:
    found = {operand for node in nodes for operand in flow.operands(node)
             if operand in stops and operand is not output and (node, operand) not in skip}
    return sorted(found, key=flow.order.__getitem__)


def _beside(
    flow: Flow, output: fx.Node, stops: set[fx.Node], entries: set[tuple[fx.Node, fx.Node]]
) -> set[fx.Node]:
    """Nodes that `output` needs without passing through q, k or v (a gate, for example)."""
    found: set[fx.Node] = set()
    stack = [output]
    while stack:
        node = stack.pop()
        if node in found or node in stops:
            continue
        found.add(node)
        stack.extend(o for o in flow.operands(node) if (node, o) not in entries)
    return found
