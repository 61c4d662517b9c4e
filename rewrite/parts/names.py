"""Names of the regions: the field's short ones, and module paths as further spellings.

What a region *is* is read off the dataflow; module paths only supply the layer's number.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import takewhile

import torch
from torch import fx

from rewrite.ir.flow import Flow, args, shape
from rewrite.parts.regions import Cut, Region
from rewrite.rules.split_heads import Attention

aten = torch.ops.aten
SOURCE_NAMES = {"input_ids": "tokens"}


@dataclass(frozen=True)
class Name:
    """Short name, kind (embed, attention, mlp, norm, output), layer number, module path."""

    short: str
    kind: str
    layer: int | None
    path: str


def source_name(node: fx.Node) -> str:
    """`tokens` for `input_ids`, else the input's own name."""
    return SOURCE_NAMES.get(str(node.target), str(node.target))


def name_regions(cut: Cut, output_names: tuple[str, ...]) -> list[Name]:
    """One name for each region, in their order."""
    outputs = dict(zip(cut.outputs, output_names, strict=True))
    kinds = [_kind(cut, region, outputs) for region in cut.regions]
    numbers = _numbers(cut, kinds)
    names: list[Name] = []
    taken: Counter[str] = Counter()
    last = "embed"
    for region, kind, number in zip(cut.regions, kinds, numbers, strict=True):
        path = module_path(cut.flow, region)
        letter = {"attention": "a", "mlp": "m"}.get(kind)
        if kind == "output":
            short = outputs[region.output]
        elif letter:
            short = last = f"{letter}{number}"
        elif kind == "norm":
            short = f"n{last[1:]}.{last[0]}" if last != "embed" else "n.embed"
        else:
            short = "embed"
        taken[short] += 1
        if taken[short] > 1:
            short = f"{short}.{taken[short] - 1}"
        names.append(Name(short, kind, number, path))
    return names


def _kind(cut: Cut, region: Region, outputs: dict[fx.Node, str]) -> str:
    if region.output in outputs:
        return "output"
    if region.layer is not None:
        return "attention"
    if any(node in cut.flow.sources for _, node in region.slots):
        return "embed"
    return "mlp" if any(cut.flow.contracts(node) for node in region.nodes) else "norm"


def _numbers(cut: Cut, kinds: list[str]) -> list[int | None]:
    """Layer numbers from module paths if they tell all layers of a kind apart, else counted."""
    numbers: list[int | None] = [None] * len(kinds)
    for kind in ("attention", "mlp"):
        members = [i for i, k in enumerate(kinds) if k == kind]
        found = [_number(module_path(cut.flow, cut.regions[i])) for i in members]
        if None in found or len(set(found)) < len(found):
            found = list(range(len(members)))
        for i, number in zip(members, found, strict=True):
            numbers[i] = number
    return numbers


def _number(path: str) -> int | None:
    return next((int(part) for part in path.split(".") if part.isdigit()), None)


def module_path(flow: Flow, region: Region) -> str:
    """The innermost module around all of the region's products with weights."""
    inside = [node for node in region.nodes if flow.contracts(node)] or [
        node for node in region.nodes if node.target is aten.embedding.default
    ] or [region.output]
    paths = sorted({node.meta.get("module", "") for node in inside})
    if len(paths) == 1:
        return paths[0]
    columns = zip(*(path.split(".") for path in paths), strict=False)
    shared = takewhile(lambda column: len(set(column)) == 1, columns)
    return ".".join(column[0] for column in shared)


def heads_per_key(flow: Flow, layer: Attention) -> int:
    """How many query heads share one key head (1 unless the model groups them)."""
    operand = next(args(node)[i] for (node, i), port in layer.ports.items() if port == "k")
    heads = shape(operand)[1]
    if isinstance(heads, int) and heads < layer.heads:
        return layer.heads // heads
    for node in flow.cone(operand, set()) & _upto_product(flow, operand):
        if node.target is aten.repeat_interleave.self_int:
            return int(args(node)[1])
        if node.target is aten.expand.default:
            before, after = shape(args(node)[0]), shape(node)
            if len(before) == len(after) == 5 and before[2] == 1 and isinstance(after[2], int):
                return after[2]
    return 1


def _upto_product(flow: Flow, node: fx.Node) -> set[fx.Node]:
    found: set[fx.Node] = set()
    stack = [node]
    while stack:
        node = stack.pop()
        if node in found:
            continue
        found.add(node)
        if not flow.contracts(node):
            stack.extend(flow.operands(node))
    return found
