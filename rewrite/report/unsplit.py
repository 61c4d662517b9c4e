"""What could not be split, as entries: which component, at which op, for what reason.

The stages that find out say it in a sentence (`Components.notes`).  Here a sentence is read:
what is not understood keeps its whole text, so that nothing is lost on the way.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import fx

from rewrite.parts import Components
from rewrite.parts.rowwise import mixer

aten = torch.ops.aten
NOT_SPLIT, SLOWER, OTHER, WHOLE = "not split", "slower", "other", "whole"
# Operators that let tokens read each other, if they act along positions.
MIXERS = {
    aten.cumsum.default, aten.conv1d.default, aten.conv2d.default, aten.matmul.default,
    aten.bmm.default, aten.mm.default, aten.einsum.default, aten.sum.dim_IntList,
    aten.mean.dim, aten.linear.default, aten.softmax.int, aten.cumprod.default, aten.roll.default,
    aten.flip.default, aten.fft_fft.default, aten.fft_fftn.default, aten.im2col.default,
    aten.unsqueeze.default, aten.expand.default, aten.mul.Tensor,
}
# Where the sentences name ops.  Elsewhere a word is an op only if it looks like nothing else.
_PLACES = tuple(re.compile(pattern) for pattern in (
    r"stops at ([\w, ]+)", r"stay below ([\w, ]+):", r"features of (\w+) belong to",
    r"one head of ([\w, ]+)", r"(\w+) should lead to", r"it leads to ([\w, ]+)",
    r"(\w+) attends", r"(\w+) also contains", r"also contains ([\w, ]+)",
))
KINDS = {"mlp", "experts", "norm", "projection", "inner"}
_WORD = re.compile(r"[A-Za-z_]\w*")


@dataclass(frozen=True)
class Op:
    """A node of the op graph: its name, what it computes, the module that it comes from."""

    name: str
    target: str
    module: str


@dataclass(frozen=True)
class Unsplit:
    """Something that is coarser, or slower, than was asked for.

    `effect` is "not split" (heads are not visible), "slower" (heads are visible and exact,
    but computing one costs more than its share of the layer), "whole" (tokens read each other in
    it, by something else than attention with heads) or "other".  `component` is
    None, and `ops` empty, where the note does not tell them.  `note` is the note itself.
    """

    component: str | None
    effect: str
    ops: tuple[Op, ...]
    reason: str
    note: str


def unsplit(parts: Components) -> tuple[Unsplit, ...]:
    """The notes of a component graph as entries, in their order.

    >>> unsplit(parts)
    ()
    """
    nodes = {node.name: node for node in parts.cut.flow.graph.nodes}
    told = tuple(read(note, parts, nodes) for note in parts.notes)
    known = {entry.component for entry in told}
    return told + tuple(entry for entry in _mixing(parts) if entry.component not in known)


def _mixing(parts: Components) -> list[Unsplit]:
    """Parts on the stream in which tokens read each other, other than by heads."""
    found = []
    for component in parts.components.values():
        region = component.region
        if region is None or component.heads or component.name.kind not in KINDS:
            continue
        op = mixer(parts.cut.flow, region.output, parts.cut.written)
        if op is None or op.target not in MIXERS:
            continue
        note = (f"tokens read each other at {op.name} ({op.target}), which is no attention with "
                "heads that could be read: the part stays whole")
        found.append(Unsplit(component.short, WHOLE, (_op(op),), note, note))
    return found


def read(note: str, parts: Components, nodes: Mapping[str, fx.Node]) -> Unsplit:
    """One note as an entry; `nodes` are those of the op graph by name."""
    named, colon, rest = note.partition(": ")
    component = named if colon and named in parts.components else None
    text = rest if component else note
    effect = SLOWER if "stay below" in text else NOT_SPLIT if "not split" in text else OTHER
    reason = text.removeprefix("heads not split: ")
    ops = [nodes[name] for name in mentioned(text, nodes)]
    if component is None:
        component = next((found for op in ops if (found := _around(op, parts))), None)
    return Unsplit(component, effect, tuple(_op(op) for op in ops), reason, note)


def mentioned(text: str, nodes: Mapping[str, object]) -> tuple[str, ...]:
    """Names of nodes that a sentence mentions, in its order.

    >>> mentioned("it leads to to, add", {"to": 0, "add": 1, "it": 2})
    ('to', 'add')
    """
    places: dict[int, str] = {}
    for pattern in _PLACES:
        for found in pattern.finditer(text):
            places.update((found.start(1) + word.start(), word[0])
                          for word in _WORD.finditer(found[1]))
    for word in _WORD.finditer(text):
        if "_" in word[0] or any(letter.isdigit() for letter in word[0]):
            places[word.start()] = word[0]
    return tuple(dict.fromkeys(name for _, name in sorted(places.items()) if name in nodes))


def _around(op: fx.Node, parts: Components) -> str | None:
    return next((component.short for component in parts.components.values()
                 if component.region is not None and op in component.region.nodes), None)


def _op(node: fx.Node) -> Op:
    return Op(node.name, str(node.target), node.meta.get("module", ""))
