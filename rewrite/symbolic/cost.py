"""What a graph costs, as expressions in its named sizes, before anything runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import pandas as pd
import torch
from sympy import Expr, Integer
from torch import fx
from torch._subclasses.fake_tensor import FakeTensorMode

from rewrite.errors import InputError, near
from rewrite.ir.graph import InputSpec
from rewrite.ir.sizes import fitting
from rewrite.ir.values import devices
from rewrite.symbolic.cost_meter import Meter, Sizes, Tally, Walk
from rewrite.symbolic.cost_terms import total
from rewrite.turn import alone


@dataclass(frozen=True)
class Figures:
    """Costs at given sizes, as numbers."""

    flops: int
    elementwise: int
    bytes: int
    peak: int
    kernels: int

    def __str__(self) -> str:
        return (f"{_unit(self.flops, 'FLOP')}, {_unit(self.elementwise, 'entries')} elementwise, "
                f"{_unit(self.bytes, 'B')} moved, {_unit(self.peak, 'B')} at the peak, "
                f"{self.kernels:,} kernels")


@dataclass(frozen=True)
class Cost:
    """What running a graph once costs, as sympy expressions in its named sizes.

    * `products`: FLOPs of products of matrices by kind (linear, batched, attention,
      convolution, grouped), a multiplication and an addition counted as two; `flops` is
      their sum.
    * `elementwise`: entries that all other kernels work on, the larger of what each reads
      and writes.
    * `bytes`: what the kernels read and write, each operand once for each kernel.
    * `peak`: the most memory in bytes that tensors take at once beyond weights and inputs:
      values until their last use, outputs, and what kernels on the cpu hold inside.
    * `kernels`: ATen calls that do work; views and empty tensors are none.

    Sizes that are `fixed` (in general none, an axis of length 1 can be) are part of the numbers.

    >>> cost = rw.cost(parts)
    >>> cost.flops
    256*batch*seq**2 + 55360*batch*seq
    >>> str(cost.at(batch=2, seq=16)).split(", ")[0]
    '1.9 MFLOP'
    """

    products: Mapping[str, Expr]
    elementwise: Expr
    bytes: Expr
    peak: Expr
    kernels: Expr
    sizes: tuple[str, ...]
    fixed: Mapping[str, int]
    tallies: Mapping[str, Tally] = field(repr=False)

    @cached_property
    def flops(self) -> Expr:
        """FLOPs of all products of matrices."""
        return sum(self.products.values(), start=Integer(0))

    def at(self, **sizes: int) -> Figures:
        """The costs at these sizes.

        Raises `InputError` for sizes that are missing, unknown, or not positive.
        """
        return Figures(*(self._number(getattr(self, name), sizes) for name in (
            "flops", "elementwise", "bytes", "peak", "kernels")))

    def table(self, **sizes: int) -> pd.DataFrame:
        """One row for each component or module that does work; numbers if sizes are given.

        Memory at the peak belongs to a moment, not to a component, and has no column.
        """
        rows = {}
        for label, tally in self.tallies.items():
            if tally.kernels:
                flops = sum((total(t) for t in tally.products.values()), start=Integer(0))
                row = {"flops": flops, "elementwise": total(tally.elementwise),
                       "bytes": total(tally.bytes), "kernels": Integer(tally.kernels)}
                rows[label] = {name: self._number(value, sizes) if sizes else value
                               for name, value in row.items()}
        return pd.DataFrame.from_dict(
            rows, orient="index", columns=["flops", "elementwise", "bytes", "kernels"])

    def _number(self, expression: Expr, sizes: Mapping[str, int]) -> int:
        call = "at({})".format(", ".join(f"{name}=..." for name in self.sizes))
        for name, size in sizes.items():
            if name not in self.sizes:
                raise InputError(f"the cost does not depend on {name!r}; {near(name, self.sizes)}")
            if not isinstance(size, int) or size < 1:
                raise InputError(f"a size is a positive integer, found {name}={size!r}")
            if size != self.fixed.get(name, size):
                raise InputError(f"the cost was worked out for {name}={self.fixed[name]} only, "
                                 f"found {name}={size}: cost(..., around={{{name!r}: {size}}})")
        if missing := [name for name in self.sizes if name not in sizes]:
            raise InputError(f"the size {missing[0]!r} is missing: {call}")
        return int(expression.subs([(s, Integer(sizes[str(s)])) for s in expression.free_symbols]))

    def __str__(self) -> str:
        return "\n".join((
            f"flops        {self.flops}", f"elementwise  {self.elementwise}",
            f"bytes        {self.bytes}", f"peak         {self.peak}",
            f"kernels      {self.kernels}"))


@alone
def measured(
    module: fx.GraphModule, inputs: Sequence[InputSpec | int], label: Callable[[fx.Node], str],
    hints: Mapping[str, int],
) -> Cost:
    """The cost of a module whose placeholders are `inputs`: tensors, or integers as they are.

    `hints` are sizes at which kernels are chosen as they are at those that matter.
    """
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

    mode = FakeTensorMode(shape_env=ShapeEnv(), allow_non_fake_inputs=True)
    sizes = Sizes(mode, hints)
    meter = Meter(mode, sizes)
    device = next((d for d in devices(module) if d.type != "meta"), torch.device("cpu"))
    with mode:
        given = [torch.empty([d if isinstance(d, int) else sizes.ints[d] for d in spec.shape],
                             dtype=spec.dtype, device=device)
                 if isinstance(spec, InputSpec) else spec for spec in inputs]
    walk = Walk(module, meter, label)
    with torch.no_grad(), meter:
        walk.run(*given)
    every = Tally()
    for tally in walk.tallies.values():
        every.add(tally)
    return Cost({kind: total(flops) for kind, flops in every.products.items()},
                total(every.elementwise), total(every.bytes), meter.top.expression(),
                Integer(every.kernels), tuple(hints), sizes.fixed, walk.tallies)


def hints_for(
    inputs: Sequence[InputSpec], guards: tuple[str, ...], around: Mapping[str, int]
) -> dict[str, int]:
    """Sizes that a graph accepts, all different, so that none is mistaken for another."""
    named = list(dict.fromkeys(d for spec in inputs for d in spec.shape if isinstance(d, str)))
    if unknown := [name for name in around if name not in named]:
        raise InputError(f"the graph has no size {unknown[0]!r}; {near(unknown[0], named)}")
    if (hints := next(fitting(inputs, guards, around), None)) is not None:
        return hints
    raise InputError("no sizes were found that the graph accepts, it demands "
                     f"{' and '.join(guards)}: give some, as in around={{{named[0]!r}: 8}}")


def _unit(value: int, unit: str) -> str:
    for factor, letter in ((10**12, "T"), (10**9, "G"), (10**6, "M"), (10**3, "k")):
        if value >= factor:
            return f"{value / factor:.3g} {letter}{unit}" if unit != "entries" else (
                f"{value / factor:.3g}{letter} entries")
    return f"{value} {unit}"


def where(node: fx.Node) -> str:
    """Component of a node, or the path of the module that it came from, or its name."""
    if component := node.meta.get("component"):
        return component
    stack: Any = node.meta.get("nn_module_stack") or {}
    paths = [path for path, _ in stack.values()]
    return paths[-1] if paths and paths[-1] else node.name
