"""Context for stacks of copies, and whether the values of a model can be stacked at all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import sympy
import torch
from torch import Tensor, fx

from rewrite.errors import RewriteError
from rewrite.ir.flow import shape
from rewrite.ir.ops import for_copies
from rewrite.parts import Components
from rewrite.parts.assemble import Assembler
from rewrite.parts.layout import misplaced

aten = torch.ops.aten
COUNTS = {aten.arange.default, aten.arange.start, aten.arange.start_step, aten.cumsum.default}


class Unstackable(RewriteError):
    """Copies cannot be stacked along the batch: says at which value, and why."""


class StackAssembler(Assembler):
    """An assembler whose context is spread over `count` copies."""

    def __init__(self, parts: Components, runs: Sequence[str]) -> None:
        super().__init__(parts, runs)
        self.count = 1
        self._spread: dict[tuple[fx.Node, int], fx.Node] = {}
        self._batch = batch_of(parts)

    @contextmanager
    def spread_over(self, count: int) -> Iterator[None]:
        """Context is that of so many copies."""
        before, self.count = self.count, count
        try:
            yield
        finally:
            self.count = before

    def given(self, node: fx.Node) -> fx.Node:
        """A context value, once for each copy if it has a batch."""
        value = super().given(node)
        if self.count == 1 or not has_batch(node, self._batch, True):
            return value
        key = (node, self.count)
        if key not in self._spread:
            self._spread[key] = self.graph.call_function(for_copies, (value, self.count))
        return self._spread[key]

    def part(self, *args: Any, **kwargs: Any) -> fx.Node:
        """A component on `count` copies; the batch is no longer that of the model."""
        made = super().part(*args, **kwargs)
        if self.count > 1 and made.op == "call_module":
            made.meta.pop("val", None)
        return made


def batch_of(parts: Components) -> frozenset[sympy.Symbol]:
    """The symbol of the batch; raises `Unstackable` if it is fixed or does not come first."""
    if why := misplaced(parts, "batch"):
        raise Unstackable(f"copies cannot be stacked: {why}")
    found: set[Any] = set()
    for source in parts.cut.flow.sources:
        size = sympy.sympify(shape(source)[0])
        if not isinstance(size, sympy.Symbol):
            raise Unstackable(f"the batch of {source.target} is fixed at {size}, so that copies "
                              "cannot be stacked along it: trace with a batch that varies")
        found.add(size)
    for node in parts.cut.written:
        if not has_batch(node, frozenset(found)):
            raise Unstackable(f"{node.name} has no batch, so that its copies cannot be stacked")
    for region in parts.cut.regions:
        if (mixes := parts.mixes_examples(region)) is not None:
            raise Unstackable(f"{mixes}, which surgery has put in, may mix the examples of a batch")
    return frozenset(found)


def has_batch(node: fx.Node, batch: frozenset[sympy.Symbol], context: bool = False) -> bool:
    """Whether the first axis of a value is (made of) the batch; no other one may be."""
    value = node.meta["val"]
    if not isinstance(value, Tensor):
        if sympy.sympify(getattr(getattr(value, "node", None), "expr", 0)).free_symbols & batch:
            raise Unstackable(f"{node.name} is a size that depends on the batch")
        return False
    sizes = [sympy.sympify(size).free_symbols & batch for size in shape(node)]
    if any(sizes[1:]):
        raise Unstackable(f"the batch is not the first axis of {node.name}")
    if context and sizes and sizes[0] and _counts_rows(node, batch):
        raise Unstackable(f"{node.name} counts along the batch, so that it differs by copy")
    return bool(sizes and sizes[0])


def _counts_rows(node: fx.Node, batch: frozenset[sympy.Symbol]) -> bool:
    """Whether indices are made of numbers that count the rows of the batch."""
    if node.meta["val"].is_floating_point() or node.meta["val"].dtype == torch.bool:
        return False
    seen, stack = set(), [node]
    while stack:
        at = stack.pop()
        if at in seen:
            continue
        seen.add(at)
        along = at.target is not aten.cumsum.default or at.args[1] == 0
        if at.target in COUNTS and along and sympy.sympify(shape(at)[0]).free_symbols & batch:
            return True
        stack.extend(at.all_input_nodes)
    return False
