"""Parity: how far a captured graph is from the model, at sizes that it was not traced with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, fx
from torch._subclasses.fake_tensor import DataDependentOutputException

from rewrite.errors import TraceError
from rewrite.trace.capture import Capture
from rewrite.trace.examples import resized
from rewrite.trace.flat import Flat

STEPS, LARGEST = 84, 0.03


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
    """What was compared: sizes, largest difference and largest output.

    `difference` is None where there are no weights, so that only shapes could be compared, and
    `shapes` is empty if not even these, because the graph asks for a value.
    """

    difference: float | None
    scale: float | None
    shapes: tuple[str, ...]

    def within(self, limit: float) -> bool:
        """Whether the difference is at most this share of the largest output."""
        if self.difference is None or self.scale is None:
            return True
        return self.difference <= limit * max(self.scale, 1e-30)

    def __or__(self, other: Parity) -> Parity:
        return Parity(_larger(self.difference, other.difference),
                      _larger(self.scale, other.scale), (*self.shapes, *other.shapes))


def compare(captured: Capture, flat: Flat, inputs: Mapping[str, Tensor]) -> Parity:
    """The trace against the model at two other sizes.

    Raises `TraceError` if the trace returns other shapes or types than the model, or if it
    claims to hold at the sizes of the example inputs only.
    """
    found = None
    batch = next((v.shape[0] for v in inputs.values() if v.ndim), 1)
    for rows, length in ((batch + 1, lambda n: n + 6), (2, lambda n: max(2, n - 4))):
        others = resized(inputs, captured.axes, rows, length)
        if captured.holds(others):
            one = _differ(captured, flat, others)
            found = one if found is None else found | one
    if not any(captured.axes.values()):  # numbers without axes: there is one size only
        return _differ(captured, flat, inputs)
    if found is None:
        raise TraceError(f"it holds for the sizes of the example inputs only: "
                         f"{', '.join(captured.guards)}")
    return found


def probe_ones(
    captured: Capture, flat: Flat, inputs: Mapping[str, Tensor]
) -> tuple[Capture, tuple[str, ...]]:
    """Sizes of 1 are never seen by export: allow them where the trace is right, else refuse."""
    batch = next((v.shape[0] for v in inputs.values() if v.ndim), 1)
    limit = tolerance(captured.module)
    shapes: list[str] = []
    for axis, rows, length in ((0, 1, lambda n: n), (1, batch, lambda n: 1)):
        names = [name for name, axes in captured.axes.items() if axis in axes]
        others = resized(inputs, captured.axes, rows, length)
        if not names or not captured.holds(others):
            continue
        try:
            parity = _differ(captured, flat, others)
        except Exception:  # whatever it is, the trace is not to be used at this size
            parity = None
        if parity is not None and parity.within(limit):
            shapes += parity.shapes
        else:
            guards = tuple(f"{name}.shape[{axis}] > 1" for name in names)
            captured = replace(captured, guards=captured.guards + guards)
    return captured, tuple(shapes)


def describe(inputs: Mapping[str, Tensor]) -> str:
    """Batch and length of the first input.

    >>> describe({"input_ids": torch.ones(3, 11)})
    '3x11'
    """
    first = next(iter(inputs.values()))
    return "x".join(str(size) for size in first.shape[:2]) or "scalar"


def _differ(captured: Capture, flat: Flat, inputs: Mapping[str, Tensor]) -> Parity:
    assert flat.outputs is not None
    order = [spec.name for spec in captured.inputs]
    with torch.no_grad():
        given = flat.given(inputs)
        with flat.eagerly():
            expected = flat(*(given[name] for name in flat.names))
        with flat.inside():
            try:
                found = captured.module(*(given[name] for name in order))
            except DataDependentOutputException:  # the graph reads a number from a tensor
                return Parity(None, None, ())
    parity = Parity(None if flat.fake else 0.0, None if flat.fake else 0.0, (describe(inputs),))
    for name, want, have in zip(flat.outputs.names, expected, found, strict=True):
        if want.shape != have.shape or want.dtype != have.dtype:
            raise TraceError(f"the trace of {type(flat.model).__name__} returns {name} as "
                             f"{_kind(have)}, the model as {_kind(want)}")
        if not flat.fake:
            parity |= Parity(_difference(want, have), _largest(want), ())
    return parity


def _difference(want: Tensor, have: Tensor) -> float:
    """Largest difference; equal infinities, and NaN where the model has NaN, are no difference."""
    if torch.equal(want, have) or not want.numel():
        return 0.0
    apart = (want != have) & ~(want.isnan() & have.isnan())
    off = (want.double() - have.double()).abs().nan_to_num(float("inf"))
    return float(torch.where(apart, off, 0.0).max())


def _largest(values: Tensor) -> float:
    """Largest finite entry: an infinite one would allow for any difference."""
    finite = values.detach().double().abs()
    finite = finite[finite.isfinite()]
    return float(finite.max()) if finite.numel() else 0.0


def _larger(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else max(one, other)


def _kind(value: Tensor) -> str:
    return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
