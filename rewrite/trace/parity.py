"""Parity: how far a captured graph is from the model, at the example inputs and at other sizes."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx
from torch._subclasses.fake_tensor import DataDependentOutputException

from rewrite.errors import TraceError
from rewrite.ir.certificate import Certificate
from rewrite.trace.capture import Capture
from rewrite.trace.context import longest
from rewrite.trace.flat import Flat
from rewrite.trace.gradients import compare_gradients
from rewrite.trace.probes import Sizes, masked, others, resized, rows_of, sizes_of, usual
from rewrite.trace.state import State
from rewrite.trace.support import first_line, quiet

STEPS, LARGEST = 84, 0.03
FARTHER = 6  # sizes that are tried to find the greatest one that a model takes


def tolerance(module: fx.GraphModule) -> float:
    """The largest difference, as a share of the largest output, with which a trace is accepted.

    A trace runs the ops of the model, so that nearly every one agrees bit for bit.  What may
    differ is the order of some sums (experts computed in batches), and that costs rounding
    steps of the coarsest floating type in which the graph computes: 84 of them are allowed
    (1e-5 in float32), but never more than 3 % (bfloat16 and float16, where 84 steps would
    be no limit at all).
    """
    values = (node.meta.get("val") for node in module.graph.nodes)
    types = {v.dtype for v in values if isinstance(v, Tensor) and v.is_floating_point()}
    eps = max((torch.finfo(dtype).eps for dtype in types), default=0.0)
    return min(STEPS * eps, LARGEST)


@dataclass(frozen=True)
class Parity:
    """What was compared: sizes, largest difference and largest output, gradients.

    `difference` is None where there are no weights, so that only shapes could be compared, and
    `shapes` is empty if not even these, because the graph asks for a value.
    """

    difference: float | None
    scale: float | None
    shapes: tuple[str, ...]
    gradients: float | None = None
    unequal: tuple[str, ...] = ()
    longest: tuple[tuple[str, int], ...] = ()
    notes: tuple[str, ...] = ()


def certificate_of(
    parity: Parity, method: str, seconds: float, notes: tuple[str, ...], varying: str = ""
) -> Certificate:
    """The certificate of a graph that was compared with its model."""
    return Certificate(parity.difference, parity.scale, parity.shapes, method, seconds,
                       (*parity.notes, *notes), parity.gradients, parity.unequal, parity.longest,
                       varying)


class Refused(Exception):
    """The model itself does not run on some inputs: they say nothing about its graph."""


def compare(
    captured: Capture, flat: Flat, given: Mapping[str, Tensor], examples: Mapping[str, Tensor],
    state: State,
) -> tuple[Capture, Parity]:
    """The trace against the model: at the given inputs, at the examples, at other sizes.

    The model is called as it was found: its `state` is put back before every call.  The capture
    that is returned refuses sizes at which it is not the model.  Raises
    `TraceError` if the trace differs from the model, or claims to hold for sizes at which it
    cannot be compared.
    """
    examples, given = ({name: torch.zeros_like(value, device="cpu") if value.is_meta else value
                        for name, value in inputs.items()} for inputs in (examples, given))
    comparison = _Comparison(captured, flat, examples, state)
    comparison.at_examples(given)
    comparison.at_other_sizes()
    comparison.at_ones()
    comparison.with_masks()
    comparison.of_gradients(given)
    return comparison.captured, comparison.parity()


class _Comparison:
    """Collects what is found at one size after the other."""

    def __init__(
        self, captured: Capture, flat: Flat, examples: Mapping[str, Tensor], state: State
    ) -> None:
        self.captured, self.flat, self.examples, self.state = captured, flat, examples, state
        self.shapes = {spec.name: spec.shape for spec in captured.inputs}
        self.sizes = sizes_of(examples, self.shapes)
        self.rows = rows_of(self.shapes)
        self.limit = tolerance(captured.module)
        self.difference, self.scale = 0.0, 0.0
        self.compared: list[str] = []
        self.unequal: dict[str, tuple[float, str]] = {}
        self.longest: dict[str, int] = {}
        self.notes: list[str] = []
        self.gradients: tuple[float | None, tuple[str, ...]] = (None, ())

    def parity(self) -> Parity:
        fake = self.flat.fake
        apart = tuple(text for _, text in self.unequal.values())
        return Parity(None if fake else self.difference, None if fake else self.scale,
                      tuple(dict.fromkeys(self.compared)), self.gradients[0],
                      (*apart, *self.gradients[1]), tuple(self.longest.items()),
                      tuple(self.notes))

    def at_examples(self, given: Mapping[str, Tensor]) -> None:
        """The inputs that were given, and the examples that were traced, if these are others."""
        if not self.captured.holds(given):
            self.notes.append(f"not compared on the given inputs ({self._described(given)}), "
                              f"which it refuses, but on {self._described(self.examples)}")
        else:
            self._compare(given)
        if any(given[name].shape != value.shape for name, value in self.examples.items()):
            self._compare(self.examples)

    def at_other_sizes(self) -> None:
        """Every size that varies must have been another one in some comparison."""
        for dim, most in longest(self.captured.module, self.shapes, self.sizes).items():
            self.longest[dim] = most
            self._refuse(dim, f"<= {most}")
        seen: dict[str, int] = {}  # the greatest size at which each was compared
        reasons: dict[str, str] = {}
        for wanted in usual(self.sizes, self.rows):
            new = {dim: min(n, self.longest.get(dim, n)) for dim, n in wanted.items()}
            if reason := self._try(new, seen):
                reasons |= dict.fromkeys(self.sizes, reason)
        if reasons:
            self._find_longest(seen)
        for dim in self.sizes:
            for new in others(self.sizes, dim) if dim not in seen else ():
                reason = self._try(new, seen)
                if dim in seen:
                    break
                reasons[dim] = reasons.get(dim) or reason or ""
        if missing := [dim for dim in self.sizes if dim not in seen]:
            guards = ", ".join(self.captured.guards)
            why = (f"the model itself refuses others: {reasons[missing[0]]}"
                   if reasons.get(missing[0]) else f"it demands {guards}")
            raise TraceError(f"it holds for the sizes of the example inputs only, "
                             f"{missing[0]}={self.sizes[missing[0]]}: {why}")

    def at_ones(self) -> None:
        """Sizes of 1 are never seen by export: allow them where the trace is right."""
        fields = [dim for dim in self.sizes if dim not in self.rows]
        for dims in ([dim for dim in self.sizes if dim in self.rows], fields):
            if not self._right_at_one(dims) and len(dims) > 1:
                for dim in dims:
                    self._right_at_one([dim])

    def with_masks(self) -> None:
        """The examples again, with padding in masks that have none."""
        other = None if self.flat.fake else masked(self.examples)
        if other is not None and self.captured.holds(other):
            try:
                self._compare(other, "padded ")
            except Refused:
                return

    def of_gradients(self, given: Mapping[str, Tensor]) -> None:
        inputs = given if self.captured.holds(given) else self.examples
        if self.flat.fake:
            return
        self._with_gradients(inputs)
        order = [spec.name for spec in self.captured.inputs]
        ordered = {name: inputs[name] for name in self.flat.names}
        self.state.put_back()
        self.gradients = compare_gradients(
            self.captured.module, self.flat, self.flat.model, ordered, order, self.limit, silent)

    def _with_gradients(self, inputs: Mapping[str, Tensor]) -> None:
        """Whether the model computes the same where gradients are recorded."""
        try:
            expected, found = self._eager(inputs, torch.enable_grad), self._graph(inputs)
        except Refused:
            return
        off = largest_difference(expected, found) if found is not None else 0.0
        if off > self.limit * max(self.scale, 1e-30):
            self.difference = max(self.difference, off)
            self.unequal["gradients"] = off, (
                "where gradients are recorded the model computes something else: it differs from "
                f"the graph by {off:.1e} on {self._described(inputs)}; the graph is the model "
                "under torch.no_grad()")

    def _right_at_one(self, dims: Sequence[str]) -> bool:
        """Compare at sizes of 1; where the trace is not right, the capture refuses them."""
        new = self.sizes | dict.fromkeys(dims, 1)
        if not dims or new == self.sizes or not self.captured.holds(next(self._inputs(new))):
            return True
        before = self.captured
        try:
            self._compare_sizes(new)
        except (Refused, TraceError):  # whatever it is, the trace is not to be used at this size
            if len(dims) == 1:
                self._refuse(dims[0], "> 1")
            return self.captured is not before
        return True

    def _refuse(self, dim: str, condition: str) -> None:
        guards = tuple(f"{name}.shape[{axis}] {condition}" for name, shape in self.shapes.items()
                       for axis, size in enumerate(shape) if size == dim)
        self.captured = replace(self.captured, guards=self.captured.guards + guards)

    def _find_longest(self, seen: dict[str, int]) -> None:
        """Sizes that the model takes up to some number close to the examples', and not beyond."""
        for dim, n in self.sizes.items():
            if dim in self.rows or dim in self.longest or seen.get(dim, 0) > n:
                continue
            taken = [self._accepted(self.sizes | {dim: n + more})
                     for more in range(1, FARTHER + 1)]
            more = taken.index(False) if False in taken else FARTHER
            if more == FARTHER or any(taken[more:]):
                continue
            self.longest[dim] = n + more
            self._try(self.sizes | {dim: n + more}, seen)
            self._refuse(dim, f"<= {n + more}")

    def _accepted(self, new: Sizes) -> bool:
        """Whether the model itself runs at these sizes."""
        for inputs in self._inputs(new):
            try:
                self._eager(inputs, torch.no_grad)
            except Refused:
                continue
            return True
        return False

    def _try(self, new: Sizes, seen: dict[str, int]) -> str:
        """Compare at some sizes; returns why the model refuses them, or nothing."""
        if not self.captured.holds(next(self._inputs(new))):
            return ""
        try:
            self._compare_sizes(new)
        except Refused as refusal:
            return str(refusal)
        seen |= {dim: max(n, seen.get(dim, 0)) for dim, n in new.items() if n != self.sizes[dim]}
        return ""

    def _inputs(self, new: Sizes) -> Iterator[dict[str, Tensor]]:
        return resized(self.examples, self.shapes, new)

    def _compare_sizes(self, new: Sizes) -> None:
        refusal = Refused("")
        for inputs in self._inputs(new):
            try:
                return self._compare(inputs)
            except Refused as error:
                refusal = error
        raise refusal

    def _compare(self, inputs: Mapping[str, Tensor], label: str = "") -> None:
        """Raise `Refused` if the model does not run, `TraceError` if the graph is not the model."""
        expected = self._eager(inputs, torch.no_grad)
        found = self._graph(inputs)
        if found is None:
            return
        at = label + self._described(inputs)
        self._check_kinds(expected, found)
        if self.flat.fake:
            self.compared.append(at)
            return
        off = largest_difference(expected, found)
        scale = max(self.scale, 1e-30, *map(largest, expected))
        if off > self.limit * scale:
            self._explain(inputs, expected, found, at, off, scale)
        self.difference = max(self.difference, off)
        self.scale = max(self.scale, 0.0, *map(largest, expected))
        self.compared.append(at)

    def _explain(
        self, inputs: Mapping[str, Tensor], expected: Sequence[Tensor], found: Sequence[Tensor],
        at: str, off: float, scale: float,
    ) -> None:
        """Note it if the graph is the model in another way to call it, else raise `TraceError`."""
        for name, way in WAYS.items():
            try:
                again = self._eager(inputs, way)
            except Refused:
                continue
            if all(a.shape == b.shape for a, b in zip(again, found, strict=True)) and (
                    largest_difference(again, found) <= self.limit * scale):
                assert self.flat.outputs is not None
                text = name.format(off=off, at=at, where=_where(
                    self.flat.outputs.names, expected, found, self.limit * scale))
                if off > self.unequal.get(name, (0.0, ""))[0]:
                    self.unequal[name] = off, text
                return
        every = ", ".join(dict.fromkeys((*self.compared, at)))
        raise TraceError(f"it runs on {every} but differs from the model by {off:.2e} "
                         f"(largest output {scale:.2e})")

    def _eager(self, inputs: Mapping[str, Tensor], way: Any) -> Sequence[Tensor]:
        """What the model returns; anything that it raises means that it refuses the inputs."""
        self.state.put_back()
        with way(), silent():
            given = self.flat.given({name: value.clone() for name, value in inputs.items()})
            try:
                with self.flat.eagerly():
                    return [value.detach() for value in
                            self.flat(*(given[name] for name in self.flat.names))]
            except Exception as error:
                raise Refused(first_line(error)) from error

    def _graph(self, inputs: Mapping[str, Tensor]) -> Sequence[Tensor] | None:
        """What the trace returns; None if it asks for a value that there is not."""
        with torch.no_grad(), silent():
            given = self.flat.given({name: value.clone() for name, value in inputs.items()})
            try:
                with self.flat.inside():
                    return self.captured.module(*(given[s.name] for s in self.captured.inputs))
            except DataDependentOutputException:  # the graph reads a number from a tensor
                return None
            except Exception as error:
                raise TraceError(f"the model runs on {self._described(inputs)}, its trace does "
                                 f"not: {first_line(error)}") from error

    def _check_kinds(self, expected: Sequence[Tensor], found: Sequence[Tensor]) -> None:
        assert self.flat.outputs is not None
        for name, want, have in zip(self.flat.outputs.names, expected, found, strict=True):
            if want.shape != have.shape or want.dtype != have.dtype:
                raise TraceError(f"the trace of {type(self.flat.model).__name__} returns {name} "
                                 f"as {_kind(have)}, the model as {_kind(want)}")

    def _described(self, inputs: Mapping[str, Tensor]) -> str:
        if self.captured.said and self.sizes:
            sizes = sizes_of(inputs, self.shapes).items()
            return " ".join(f"{name}={size}" for name, size in sizes)
        return describe(inputs)


@contextmanager
def _slow_path() -> Iterator[None]:
    """Without gradients, and without the fused kernels that some modules of torch then take."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


# Ways to call the model in which it may be what the graph is, and what is said of the others.
WAYS: dict[str, Any] = {
    "under torch.no_grad() torch takes its fast path (nn.TransformerEncoder fills padded rows "
    "with zeros), which differs from the graph by {off:.1e} {where} on {at}; the graph is the "
    "slow path, which the model takes where gradients are recorded, and after "
    "torch.backends.mha.set_fastpath_enabled(False)": _slow_path,
    "under torch.no_grad() the model computes something else than where gradients are recorded: "
    "it differs from the graph by {off:.1e} {where} on {at}; the graph is the model with "
    "gradients": torch.enable_grad,
}


@contextmanager
def silent() -> Iterator[None]:
    """Without warnings and without what torch prints: for calls that nobody asked for."""
    with warnings.catch_warnings(), quiet():
        warnings.simplefilter("ignore")
        yield


def describe(inputs: Mapping[str, Tensor]) -> str:
    """Batch and length of the first input.

    >>> describe({"input_ids": torch.ones(3, 11)})
    '3x11'
    """
    first = next(iter(inputs.values()))
    return "x".join(str(size) for size in first.shape[:2]) or "scalar"


def _where(
    names: Sequence[str], expected: Sequence[Tensor], found: Sequence[Tensor], limit: float
) -> str:
    """The output that differs, and in which rows."""
    for name, want, have in zip(names, expected, found, strict=True):
        off = (_exact(want) - _exact(have)).abs().nan_to_num(float("inf")) > limit
        if off.any():
            rows = off.any(-1) if off.ndim > 2 else off
            first = ", ".join(map(str, rows.nonzero()[0].tolist()))
            return f"in {int(rows.sum())} of {rows.numel()} places of {name} ([{first}] first)"
    return ""


def largest_difference(expected: Sequence[Tensor], found: Sequence[Tensor]) -> float:
    """Of all tensors of two lists of equal shapes."""
    return max((_difference(a, b) for a, b in zip(expected, found, strict=True)), default=0.0)


def _difference(want: Tensor, have: Tensor) -> float:
    """Largest difference; equal infinities, and NaN where the model has NaN, are no difference."""
    if torch.equal(want, have) or not want.numel():
        return 0.0
    apart = (want != have) & ~(want.isnan() & have.isnan())
    off = (_exact(want) - _exact(have)).abs().nan_to_num(float("inf"), float("inf"))
    return float(torch.where(apart, off, 0.0).max())


def largest(values: Tensor) -> float:
    """Largest finite entry: an infinite one would allow for any difference."""
    finite = _exact(values.detach()).abs()
    finite = finite[finite.isfinite()]
    return float(finite.max()) if finite.numel() else 0.0


def _exact(values: Tensor) -> Tensor:
    return values.to(torch.complex128 if values.is_complex() else torch.float64)


def _kind(value: Tensor) -> str:
    return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
