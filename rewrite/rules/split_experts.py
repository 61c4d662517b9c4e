"""split_experts: a mixture of experts adds up what single experts say.

    sum_k w_k f[id_k](x)  =  sum_e sum_k [id_k = e] w_k f[id_k](x)

A mixture is recognised by weights that the input chooses: gathered by expert number for each
token, multiplied in groups of rows, or multiplied for all experts at once.  Behind the last
such product every row belongs to one expert, and all that follows is linear in the rows.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from rewrite.ir.flow import CHOICES, MOVES, PAIRED, Flow, args, shape
from rewrite.ir.ops import expert_of_row, rows_of
from rewrite.rules.slicer import Body, Slicer

aten = torch.ops.aten
# Linear in the rows if all other operands are free of them.
SCALES = {aten.mul.Tensor, aten.div.Tensor, aten.mul.Scalar, aten.div.Scalar}
LINEAR = {
    aten.view.default, aten.reshape.default, aten._unsafe_view.default, aten.sum.dim_IntList,
    aten.transpose.int, aten.permute.default, aten.unsqueeze.default, aten.squeeze.dim,
    aten.squeeze.dims, aten.contiguous.default, aten.clone.default, aten.to.dtype,
    aten.to.dtype_layout, aten._to_copy.default, aten.index.Tensor, aten.index_select.default,
    aten.slice.Tensor, aten.expand.default, aten.mean.dim, aten.linear.default,
}


@dataclass(frozen=True)
class Mixture:
    """Experts of one layer: which rows of `rows` are whose.

    `numbers` is the expert of every row (`kind` "ids"), or where the rows of each expert end
    ("ends"); without numbers, row e is that of expert e ("all").  `router` is the value from
    which the choice is made.
    """

    rows: fx.Node
    numbers: fx.Node | None
    kind: str
    experts: int
    router: fx.Node | None
    products: tuple[fx.Node, ...]


def find_mixtures(flow: Flow) -> list[Mixture]:
    """Every mixture of experts of a graph, in order."""
    groups: dict[tuple[fx.Node | str, int, str], list[fx.Node]] = {}
    for node in flow.graph.nodes:
        found = _chosen(flow, node) if flow.flows(node) else None
        if found is not None:
            numbers, size, kind = found
            place = numbers or str(node.meta.get("module", ""))
            groups.setdefault((place, size, kind), []).append(node)
    mixtures = []
    for (place, size, kind), products in groups.items():
        numbers = place if isinstance(place, fx.Node) else None
        products += _biases(flow, products, size)
        rows = _last_rows(flow, products)
        if rows is not None:
            router = _router(flow, numbers or rows, size)
            mixtures.append(Mixture(rows, numbers, kind, size, router, tuple(products)))
    return mixtures


def _biases(flow: Flow, products: list[fx.Node], experts: int) -> list[fx.Node]:
    """Biases of the experts, chosen like their weights and added between the products."""
    first, last = min(map(flow.order.__getitem__, products)), max(
        map(flow.order.__getitem__, products))
    return [
        node for node in flow.graph.nodes
        if node.target in CHOICES and flow.flows(node)
        and first - 16 <= flow.order[node] <= last + 16
        and flow.from_weights(args(node)[0]) and len(shape(args(node)[0])) == 2
        and shape(args(node)[0])[0] == experts
    ]


def splits(flow: Flow, mixture: Mixture, output: fx.Node, nodes: Iterable[fx.Node]) -> str:
    """Why what follows the rows is not linear in them, or ""."""
    inside = set(nodes)
    reached = {mixture.rows}
    for node in flow.graph.nodes:
        if node not in inside or node is mixture.rows:
            continue
        operands = [o for o in node.all_input_nodes if o in reached]
        if not operands:
            continue
        others = [o for o in node.all_input_nodes if o not in reached and _is_float(o)]
        adds = node.target is aten.add.Tensor and not others
        scales = node.target in SCALES and len(operands) == 1 and node.args[0] is not None
        divides = node.target is aten.div.Tensor and args(node)[1] in reached
        joins = node.target in LINEAR and operands == [args(node)[0]] and (
            node.target is not aten.linear.default or len(args(node)) < 3 or args(node)[2] is None)
        mixes = node.target in {aten.matmul.default, aten.bmm.default} and len(operands) == 1
        if divides or not (adds or scales or joins or mixes or _scatters(node, reached)):
            return f"experts not split: {node.name} ({node.target}) is not linear in their rows"
        reached.add(node)
    return "" if output in reached else f"experts not split: {output.name} does not read them"


def _scatters(node: fx.Node, reached: set[fx.Node]) -> bool:
    """index_add(zeros, d, ids, rows): rows are added up where they belong."""
    adds = {aten.index_add.default, aten.scatter_add.default}
    if node.target not in adds:
        return False
    source = args(node)[3]
    start = args(node)[0]
    empty = "zeros" in str(start.target)
    return source in reached and (start in reached or empty)


def body(
    owner: torch.nn.Module, flow: Flow, leaves: Iterable[fx.Node], mixture: Mixture,
    output: fx.Node, slots: Iterable[tuple[str, fx.Node]], experts: tuple[int, ...],
) -> Body:
    """What some experts write: the layer with the rows of all others set to zero."""
    slicer = Slicer(owner, flow, leaves)
    slicer.open_slots(dict.fromkeys(("", node) for _, node in slots))

    def kept(pick: Any) -> fx.Node:
        assert not pick
        rows = slicer.compute(mixture.rows)
        numbers = slicer.emit(mixture.numbers) if mixture.numbers is not None else None
        if mixture.kind == "ends":
            numbers = slicer.graph.call_function(expert_of_row, (rows, numbers))
        return slicer.graph.call_function(rows_of, (rows, numbers, experts))

    slicer.special[mixture.rows] = kept
    return slicer.finish(slicer.emit(output))


def _chosen(flow: Flow, node: fx.Node) -> tuple[fx.Node | None, int, str] | None:
    """The numbers of the experts, how many there are, and what the numbers mean."""
    if node.target is aten.bmm.default and flow.from_weights(args(node)[1]):
        experts = shape(args(node)[1])[0]
        return (None, experts, "all") if isinstance(experts, int) and experts > 1 else None
    if "grouped_mm" in str(node.target) and len(node.all_input_nodes) > 2:
        weight, ends = node.all_input_nodes[1:3]
        if flow.from_weights(weight):
            return ends, int(shape(weight)[0]), "ends"
    if node.target in PAIRED and flow.contracts(node):
        for position in _pair(node):
            found = args(node)[position]
            while found.target in MOVES:
                found = found.all_input_nodes[0]
            if found.target in CHOICES and flow.from_weights(args(found)[0]):
                numbers = _only(args(found)[1 if found.target is aten.index.Tensor else 2])
                if numbers is not None:
                    return numbers, int(shape(args(found)[0])[0]), "ids"
    return None


def _pair(node: fx.Node) -> tuple[int, int]:
    target: Any = node.target
    return PAIRED[target]


def _only(entries: Any) -> fx.Node | None:
    if isinstance(entries, fx.Node):
        return entries
    first, *rest = entries
    return first if isinstance(first, fx.Node) and not any(rest) else None


def _last_rows(flow: Flow, products: list[fx.Node]) -> fx.Node | None:
    """The first node through which all that the products compute must pass."""
    last = max(flow.order[node] for node in products)
    behind, end = set(products), max(products, key=flow.order.__getitem__)
    for node in flow.graph.nodes:
        if node in behind or any(operand in behind for operand in node.all_input_nodes):
            behind.add(node)
            open_ends = [n for n in behind if n is not node
                         and any(flow.order[u] > flow.order[node] for u in n.users)]
            if flow.order[node] >= last and not open_ends and _is_float(node):
                return node if shape(node)[0] == _rows(end) or node is end else None
            if flow.order[node] > last + 64:
                return None
    return None


def _rows(node: fx.Node) -> Any:
    return shape(node)[0]


def _router(flow: Flow, numbers: fx.Node, experts: int) -> fx.Node | None:
    """The product with a feature for each expert that every way to the numbers passes.

    In front of a choice it may have more, as where shared experts are weighed too.
    """
    near = flow.cone(numbers, set()) if flow.flows(numbers) else set()
    sizes = {node: shape(node)[-1] for node in near if flow.contracts(node)}
    chosen = not _is_float(numbers)
    candidates = {node: size == experts for node, size in sizes.items() if size == experts or (
        chosen and isinstance(size, int) and size > experts)}
    for node in sorted(candidates, key=lambda n: (candidates[n], flow.order[n]), reverse=True):
        around = flow.cone(numbers, {node})
        if around.isdisjoint(flow.sources):
            return node
    return None


def _is_float(node: fx.Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, Tensor) and value.is_floating_point()
