"""What an expansion costs: counts, and expressions in the sizes of its inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
from sympy import Expr

from rewrite.errors import InputError
from rewrite.ir.fields import Fields
from rewrite.ir.graph import Graph
from rewrite.parts import Components
from rewrite.symbolic.cost import Cost, Figures, hints_for, measured, where
from rewrite.turn import once


@dataclass(frozen=True)
class ExpansionCost(Fields):
    """What an expansion costs, beside what the model costs.

    `copies` counts copies of sources and parts, `calls` the bodies called (heads that are
    treated alike are one call), `forwards` the products with weights in units of one
    forward pass of the model.  The expressions of `rewrite.symbolic.cost.Cost` are worked
    out when they are first asked for.
    """

    nodes: int
    copies: int
    calls: int
    forwards: float
    states: int
    seconds: float
    work_out: Callable[[Mapping[str, int]], Cost] = field(repr=False, compare=False)

    @once
    def work(self) -> Cost:
        """All expressions together."""
        return self.work_out({})

    @property
    def flops(self) -> Expr:
        """FLOPs of products of matrices."""
        return self.work.flops

    @property
    def elementwise(self) -> Expr:
        """Entries that other kernels work on."""
        return self.work.elementwise

    @property
    def bytes(self) -> Expr:
        """Bytes read and written by kernels."""
        return self.work.bytes

    @property
    def peak(self) -> Expr:
        """The most memory that is alive at once beyond weights and inputs, in bytes."""
        return self.work.peak

    @property
    def kernels(self) -> Expr:
        """ATen calls that do work."""
        return self.work.kernels

    def at(self, **sizes: int) -> Figures:
        """The expressions at these sizes, as numbers."""
        return self.work.at(**sizes)

    def table(self, **sizes: int) -> pd.DataFrame:
        """One row for each component that does work."""
        return self.work.table(**sizes)

    def __str__(self) -> str:
        return (f"{self.nodes} nodes, {self.copies} copies, {self.calls} calls, "
                f"{self.forwards:.2f} forward passes, expanded in {self.seconds:.2f} s")


def cost(thing: Any, around: Mapping[str, int] | None = None) -> Cost:
    """FLOPs, bytes moved, peak memory and kernels of a graph, before anything runs.

    `thing` is a graph, a component graph or an expansion, with weights or without.  Which
    kernels ATen chooses can depend on sizes: `around={"seq": 2048}` says near which ones
    the expressions are wanted, else small primes that the graph accepts are taken.
    Axes of length 1 are special in this respect.

    Raises `InputError` for anything else, and `TraceError` where sizes depend on values.

    >>> rw.cost(parts).flops
    256*batch*seq**2 + 55360*batch*seq
    """
    sizes = around or {}
    if isinstance(thing, (Graph, Components)):
        graph = thing if isinstance(thing, Graph) else thing.graph
        hints = hints_for(graph.inputs, graph.guards, sizes)
        return measured(thing.module, graph.inputs, where, hints)
    found = getattr(thing, "cost", None)
    if isinstance(found, ExpansionCost):
        return found.work_out(sizes) if sizes else found.work
    raise InputError(f"cost takes a graph, a component graph or an expansion, found "
                     f"{type(thing).__name__}; a hypothesis is expanded first: "
                     "rw.cost(rw.expand(hypothesis))")
