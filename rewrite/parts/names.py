"""Names of the regions: the field's short ones, and module paths as further spellings.

What a region *is* is read off the dataflow; module paths only supply the layer's number.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, replace
from itertools import takewhile

import torch
from torch import fx

from rewrite.ir.flow import Flow, args, shape
from rewrite.ir.notes import MEMBER, OWN
from rewrite.parts.regions import Cut, Region
from rewrite.parts.stacks import Stacks, source_name
from rewrite.rules.heads import Attention

aten = torch.ops.aten
LETTERS = {"attention": "a", "cross": "x", "mlp": "m", "experts": "m", "inner": "i"}
TOGETHER = {"mlp", "experts"}  # kinds that share their numbers
_HEAD = re.compile(r"(?P<layer>[^@\[]+)\.(?:h|(?P<shared>kv))(?P<number>\d+)"
                   r"(?P<rest>(?:[.@\[].*)?)")


@dataclass(frozen=True)
class Name:
    """Short name, kind, layer number, module path.

    Kinds are embed, attention, cross, projection (behind heads that write side by side), mlp,
    experts, router, norm, inner (made with weights and added to no stream), module and output.
    A `member` is one head or expert by itself, of a
    layer that surgery has taken apart.
    """

    short: str
    kind: str
    layer: int | None
    path: str
    member: bool = False


def head_cell(text: str) -> tuple[str, int] | None:
    """Row and column of a head in a table of layers by heads: what else the text says is the row's.

    None for what is no head, nor the group of a shared key.

    >>> head_cell("a5.h3"), head_cell("enc.a5.h3@END.v"), head_cell("a5.kv1.k[-1]"), head_cell("m5")
    (('a5', 3), ('enc.a5@END.v', 3), ('a5.kv.k[-1]', 1), None)
    """
    found = _HEAD.fullmatch(text)
    if found is None:
        return None
    shared = ".kv" if found["shared"] else ""
    return found["layer"] + shared + found["rest"], int(found["number"])


def name_regions(cut: Cut, output_names: tuple[str, ...]) -> list[Name]:
    """One name for each region, in their order."""
    outputs = dict(zip(cut.outputs, output_names, strict=True))
    stacks = Stacks(cut)
    kinds = [_kind(cut, region, outputs, stacks) for region in cut.regions]
    prefixes = [stacks.prefix(region) for region in cut.regions]
    beside = _beside(cut, kinds)
    numbers = _numbers(cut, list(zip(prefixes, kinds, strict=True)), beside)
    names: dict[int, Name] = {}
    sources = {source_name(node) for node in cut.flow.sources}
    taken: Counter[str] = Counter(outputs.values())
    own: Counter[str] = Counter()  # names that parts of the model wish for
    last: dict[str, str] = {}
    # What surgery has put in yields to the names of the model.
    for i in sorted(range(len(kinds)), key=lambda i: (_newness(cut, cut.regions[i]), i)):
        region, kind, prefix, number = cut.regions[i], kinds[i], prefixes[i], numbers[i]
        path = module_path(cut.flow, region)
        if kind == "output":
            names[i] = Name(outputs[region.output], kind, number, path)
            continue
        known, part = cut.known.get(region.output, ("", ""))
        if known or is_added(region.output):
            short = known or region.output.name
        elif kind == "module":
            short = path if path and path not in taken else region.output.name
        elif kind == "router":
            short = f"m{_mixture_number(cut, region, numbers)}.router"
        elif kind == "inner":
            short = f"{LETTERS[kind]}{number}"
        elif kind in LETTERS:
            short = last[prefix] = f"{LETTERS[kind]}{number}"
            if i in beside:
                short += ".shared"
        elif kind in ("norm", "projection"):
            before, letter = last.get(prefix), "n" if kind == "norm" else "o"
            short = f"{letter}{before[1:]}.{before[0]}" if before else f"{letter}.embed"
        else:
            short = "embed"
        short = f"{prefix}.{short}" if prefix and kind != "module" and not known else short
        short = f"{short}_part" if short in sources else short  # an input keeps its name
        taken[short] += 1
        own[short] += not (_newness(cut, region) or known)
        names[i] = Name(short, kind, number, path, part == MEMBER)
    # No part is called by the beginning of another one's name: it stands for all of these.
    count: Counter[str] = Counter()
    for i, name in names.items():
        if name.kind != "output":
            count[name.short] += 1
            place = count[name.short] - 1
            if place or own[name.short] > 1:
                names[i] = replace(name, short=f"{name.short}.{place}")
    return [names[i] for i in range(len(kinds))]


def _newness(cut: Cut, region: Region) -> int:
    """0 for a part of the model, 1 for what is left of one behind surgery, 2 for what is new."""
    def new(node: fx.Node) -> bool:
        return is_added(node) or cut.known.get(node, ("", ""))[1] == OWN

    if new(region.output):
        return 2
    stream = {term for terms in cut.sums.values() for term in terms}
    return int(any(new(node) and node not in stream for _, node in region.slots))


def is_added(node: fx.Node) -> bool:
    """Whether surgery has put in a value that stands for no other."""
    return "added" in node.meta


def _kind(cut: Cut, region: Region, outputs: dict[fx.Node, str], stacks: Stacks) -> str:
    if region.layer is not None:
        return "cross" if stacks.crosses(region) else "attention"
    name, part = cut.known.get(region.output, ("", ""))
    if region.output in outputs and name in ("", outputs[region.output]):
        return "output"
    if region.output in cut.routers:
        return "router"
    if region.output in cut.apart or part == OWN or (not part and is_added(region.output)):
        return "module"
    if any(node in cut.joined for _, node in region.slots):
        return "projection"
    if any(node in cut.flow.sources for _, node in region.slots):
        return "embed"
    if region.mixture is not None:
        return "experts"
    if region.output in cut.inner:
        return "inner"
    return "mlp" if any(cut.flow.contracts(node) for node in region.nodes) else "norm"


def _beside(cut: Cut, kinds: list[str]) -> dict[int, int]:
    """MLPs that read what the experts of a layer read (shared experts), and those experts."""
    def reads(index: int) -> set[fx.Node]:
        return {node for _, node in cut.regions[index].slots} - cut.routers

    experts = [index for index, kind in enumerate(kinds) if kind == "experts"]
    found = {index: [e for e in experts if reads(e) == reads(index)]
             for index, kind in enumerate(kinds) if kind == "mlp"}
    return {index: same[0] for index, same in found.items() if same}


def _numbers(
    cut: Cut, kinds: list[tuple[str, str]], beside: dict[int, int]
) -> list[int | None]:
    """Layer numbers from module paths if they tell all layers of a kind apart, else counted.

    An MLP beside experts has their number.
    """
    numbers: list[int | None] = [None] * len(kinds)
    groups = {(prefix, "mlp" if kind in TOGETHER else kind): None for prefix, kind in kinds
              if kind in LETTERS}
    for prefix, group in groups:
        alike = TOGETHER if group in TOGETHER else {group}
        members = [i for i, (p, k) in enumerate(kinds)
                   if p == prefix and k in alike and i not in beside]
        found = [_number(module_path(cut.flow, cut.regions[i])) for i in members]
        whole = [number for i, number in zip(members, found, strict=True)
                 if not _newness(cut, cut.regions[i])]
        if None in found or len(set(whole)) < len(whole):
            found = list(range(len(members)))
        for i, number in zip(members, found, strict=True):
            numbers[i] = number
    for index, experts in beside.items():
        numbers[index] = numbers[experts]
    return numbers


def _mixture_number(cut: Cut, router: Region, numbers: list[int | None]) -> int | None:
    """The layer number of the experts that a router chooses from, or of what reads it first."""
    rows = list(zip(cut.regions, numbers, strict=True))
    chosen = [number for region, number in rows
              if region.mixture and region.mixture.router is router.output]
    reading = [number for region, number in rows
               if number is not None and any(node is router.output for _, node in region.slots)]
    return next(iter([*chosen, *reading]), None)


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
    operand = next((args(node)[i] for (node, i), port in layer.ports.items() if port == "k"), None)
    if operand is None:
        return 1
    core, axis = layer.cores[0]
    if axis.axis is not None and len(shape(operand)) == len(shape(core.result)):
        heads = shape(operand)[axis.axis]
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
