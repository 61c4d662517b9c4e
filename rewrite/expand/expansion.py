"""`expand`: a hypothesis becomes an ordinary module that receives one input per run."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx

from rewrite.errors import HypothesisError, InputError, near
from rewrite.expand.anchors import is_half
from rewrite.expand.build import Built, Reading, build
from rewrite.expand.cost import ExpansionCost
from rewrite.expand.hypothesis import Hypothesis
from rewrite.expand.positions import first_of, groups_of, masks_for
from rewrite.expand.product import Product, expand_dag
from rewrite.expand.stack import build_stacked
from rewrite.expand.stackable import Unstackable
from rewrite.ir.fields import Fields
from rewrite.ir.graph import InputSpec, told
from rewrite.parts import Components
from rewrite.parts.assemble import context_inputs
from rewrite.symbolic.cost import Cost, hints_for, measured, where
from rewrite.turn import alone, once


@dataclass(frozen=True)
class Expansion(Fields):
    """One or more hypotheses as one module; call it with the inputs of each run.

    `exp(clean={"input_ids": ...}, corrupt={"input_ids": ...})` returns what the model would
    return if every path read the run assigned to it (a list for several hypotheses).  Where
    paths name positions, `positions={"END": ...}` says where they are in each example.
    """

    hypotheses: tuple[Hypothesis, ...]
    product: Product
    reading: Reading
    single: bool
    seconds: float

    @property
    def parts(self) -> Components:
        """The component graph that is expanded."""
        return self.hypotheses[0].parts

    @property
    def runs(self) -> tuple[str, ...]:
        """Names of the runs that a call must give."""
        return tuple(dict.fromkeys(r for h in self.hypotheses for r in h.run_names))

    @property
    def copies(self) -> dict[str, int]:
        """How many copies each source and part has."""
        return self.product.counts

    @once
    def _built(self) -> Built:
        return build(self.parts, self.product, self.runs, self.reading, self.single)

    @property
    def module(self) -> fx.GraphModule:
        """The literal expanded module: printable, compilable, differentiable.

        Its arguments are the inputs of the runs in the order of `runs`; context inputs
        (masks) are shared and given once.  Masks of named positions (`places`) come last.
        """
        return self._built.module

    @once
    def _stacks(self) -> Built | Unstackable:
        try:
            return build_stacked(
                self.parts, self.product, self.runs, self.reading, together=True)
        except Unstackable as reason:
            return reason

    @property
    def together(self) -> fx.GraphModule:
        """Each part called once on all of its copies, results stacked: `[hypotheses x batch, ...]`.

        Row i B + j is example j of B under hypothesis i, so that the number of calls grows
        neither with paths nor with hypotheses; results agree with those of `module` up to
        rounding.  Raises `Unstackable`, which says why, for models whose values do not have
        the batch first.

        Behind the arguments of `module` it may be given the first positions at which copies
        differ (`all_arguments`): it then computes them from there on only.
        """
        if isinstance(self._stacks, Unstackable):
            raise self._stacks
        return self._stacks.module

    @once
    def stacked(self) -> fx.GraphModule:
        """The same with the signature of `module`: the results of each hypothesis apart."""
        if isinstance(self._stacks, Unstackable):
            raise self._stacks
        return build_stacked(
            self.parts, self.product, self.runs, self.reading, self.single).module

    @property
    def not_stacked(self) -> str:
        """Why copies cannot be stacked along the batch; empty if they can."""
        return str(self._stacks) if isinstance(self._stacks, Unstackable) else ""

    @property
    def stacked_calls(self) -> int:
        """How many bodies the stacked module calls."""
        return 0 if isinstance(self._stacks, Unstackable) else self._stacks.calls

    @property
    def code(self) -> str:
        """Python source of the expanded module."""
        return self.module.code

    @once
    def cost(self) -> ExpansionCost:
        """Counts and expressions that are known before anything runs."""
        model = sum(self.parts.body(c.short).weights
                    for c in self.parts.components.values() if c.region)
        counts = self.copies
        return ExpansionCost(
            len(counts), sum(counts.values()), self._built.calls,
            self._built.weights / max(model, 1), self.product.states, self.seconds, self._work)

    def _work(self, around: Mapping[str, int]) -> Cost:
        """What `module` does, as expressions in the sizes of its inputs."""
        graph = self.parts.graph
        return measured(self.module, self.inputs, where,
                        hints_for(graph.inputs, graph.guards, around))

    @property
    def inputs(self) -> tuple[InputSpec, ...]:
        """What each argument of `module` must look like."""
        graph, shared = self.parts.graph, context_inputs(self.parts)
        again = [spec for spec in graph.inputs if spec.name not in shared]
        shapes = {spec.name: spec.shape[:2] for spec in graph.inputs}
        masks = [InputSpec(f"at_{place}", shapes[sequence], torch.bool)
                 for place, sequence in self.places.items()]
        return (*graph.inputs, *again * (len(self.runs) - 1), *masks)

    def __call__(
        self, positions: Mapping[str, Any] | None = None, **runs: Any
    ) -> Any:
        with told(self.parts.graph, tensors_of(runs)):
            return self._outputs(self.module(*self.arguments(runs, positions)))

    def run(
        self, positions: Mapping[str, Any] | None = None, **runs: Any
    ) -> Any:
        """The same as a call, by the stacked module where the model allows it: faster."""
        if self.not_stacked:
            return self(positions, **runs)
        with told(self.parts.graph, tensors_of(runs)):
            values = self.together(*self.all_arguments(runs, positions))
        count = len(self.hypotheses)
        apart = list(zip(*(value.chunk(count) for value in values), strict=True))
        return self._outputs(apart[0] if self.single else apart)

    def _outputs(self, values: Any) -> Any:
        build_output = self.parts.graph.outputs
        return build_output(values) if self.single else [build_output(v) for v in values]

    @once
    def places(self) -> Mapping[str, str]:
        """The named positions that a call must give, each with the input that they are of."""
        return groups_of(self.product, self.parts)

    def arguments(
        self, runs: Mapping[str, Any], positions: Mapping[str, Any] | None = None
    ) -> list[Tensor]:
        """The positional arguments of `module`; raises `InputError` for runs that do not fit.

        `positions` has a mask `[batch, positions]` for each named place of the hypothesis, or
        for each example one position or several, as integers.
        """
        graph = self.parts.graph
        if extra := [run for run in runs if run not in self.runs]:
            raise InputError(f"the hypothesis has no run {extra[0]!r}; {near(extra[0], self.runs)}")
        if missing := [run for run in self.runs if run not in runs]:
            call = ", ".join(f"{run}={{...}}" for run in self.runs)
            raise InputError(f"the hypothesis needs the run {missing[0]!r}: call it with ({call})")
        for run in self.runs:
            if not isinstance(runs[run], Mapping):
                raise InputError(f"run {run!r} must be a dict of inputs such as "
                                 f"{{{graph.inputs[0].name!r}: tensor}}, found "
                                 f"{type(runs[run]).__name__}")
        runs = {run: graph.given(runs[run], who=f"run {run!r}") for run in self.runs}
        first, *others = self.runs
        arguments = [runs[first][spec.name] for spec in graph.inputs]
        shared = context_inputs(self.parts)
        for run in others:
            for spec in graph.inputs:
                _check_pair(first, runs[first][spec.name], run, runs[run][spec.name], spec.name,
                            spec.name in shared)
            arguments += [runs[run][s.name] for s in graph.inputs if s.name not in shared]
        return arguments + masks_for(self.places, runs[first], positions or {})

    def all_arguments(
        self, runs: Mapping[str, Any], positions: Mapping[str, Any] | None = None
    ) -> list[Any]:
        """The positional arguments of `together`: those of `module`, and where tails start.

        A copy that equals another one before position i of all examples is computed from i on.
        Raises `InputError` as `arguments` does.

        >>> exp = rw.expand([rw.Hypothesis(parts, {"clean": p}) for p in ("~(...)", "m0@[3:]")])
        >>> a, b = torch.ones(2, 5, dtype=torch.long), torch.zeros(2, 5, dtype=torch.long)
        >>> exp.all_arguments({"clean": {"input_ids": a}, "corrupt": {"input_ids": b}})[2:]
        [3]
        """
        given = self.arguments(runs, positions)
        runs = {run: self.parts.graph.given(runs[run]) for run in self.runs}
        if isinstance(self._stacks, Unstackable):
            return given
        masks = dict(zip(self.places, given[len(given) - len(self.places):], strict=True))
        return given + [first_of(spots, masks, runs[self.runs[0]])
                        for spots in self._stacks.starts]

    def formula(self, latex: bool = False) -> str:
        """What mixes runs, as equations with equal layers folded (see `rewrite.expand.formula`)."""
        from rewrite.expand.formula import formula

        return formula(self.product, latex)

    def draw(self, path: str | Path | None = None, **options: Any) -> Any:
        """Draw to SVG, PNG, PDF or DOT by suffix (see `rewrite.draw`)."""
        from rewrite.draw import draw

        return draw(self, path, **options)

    def _repr_svg_(self) -> str:
        from rewrite.draw import svg

        return svg(self)


@alone
def expand(
    hypothesis: Hypothesis | Sequence[Hypothesis], *, last: bool = False,
    columns: Sequence[int] | None = None,
) -> Expansion:
    """Copy the parts of a model so that each path can read the run assigned to it.

    Several hypotheses about the same component graph share everything that they have in
    common.  `last=True` computes the outputs at the last position only (`[batch, 1, ...]`; those
    without an axis of tokens are as they are), and `columns`, which needs it, only those entries
    of their last axis (tokens of the vocabulary); what nobody reads is not computed.
    The work is linear in nodes times automaton states, never in the number of paths.

    >>> exp = rw.expand(rw.Hypothesis(parts, {"clean": "a1.h3 -> logits"}))
    >>> exp.copies["a1.h3"], exp.copies["a1.h2"], exp.cost.calls
    (2, 1, 11)
    >>> a, b = torch.ones(2, 5, dtype=torch.long), torch.zeros(2, 5, dtype=torch.long)
    >>> exp(clean={"input_ids": a}, corrupt={"input_ids": b}).logits.shape
    torch.Size([2, 5, 97])
    """
    single = isinstance(hypothesis, Hypothesis)
    hypotheses = (hypothesis,) if single else tuple(hypothesis)
    if not hypotheses:
        raise HypothesisError("there is no hypothesis to expand")
    parts = hypotheses[0].parts
    if any(other.parts is not parts for other in hypotheses):
        raise HypothesisError("hypotheses can be expanded together if they are about the same "
                              "component graph; build each with the same `parts`")
    if columns is not None and not last:
        raise HypothesisError("columns are computed at the last position: expand(..., last=True)")
    reading = Reading(last, None if columns is None else tuple(columns), is_half(parts))
    start = time.perf_counter()
    product = expand_dag(parts.dag, [h.automaton for h in hypotheses])
    return Expansion(hypotheses, product, reading, single, time.perf_counter() - start)


def tensors_of(runs: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors of all runs."""
    return {f"{run}.{name}": value for run, inputs in runs.items() if isinstance(inputs, Mapping)
            for name, value in inputs.items() if isinstance(value, Tensor)}


def _check_pair(
    first: str, a: Tensor, second: str, b: Tensor, name: str, context: bool
) -> None:
    if a.shape != b.shape:
        raise InputError(f"runs must have equal shapes: {name} is {list(a.shape)} in {first!r} "
                         f"and {list(b.shape)} in {second!r}; pad both to one length, or "
                         "compare prompts of equal length")
    if context and not torch.equal(a, b):
        raise InputError(f"{name} differs between the runs {first!r} and {second!r}, and a path "
                         "that mixes them would have to read both; give the same to all runs")
