"""Stage one: any PyTorch model becomes an executable graph that is checked against it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from rewrite.errors import InputError, TraceError
from rewrite.ir.graph import Certificate, Graph
from rewrite.trace.capture import Capture, capture
from rewrite.trace.examples import default_inputs, fresh, resized
from rewrite.trace.flat import Flat, output_spec
from rewrite.trace.load import load

__all__ = ["load", "trace"]

# A trace that differs by more than this times the largest output is refused.
TOLERANCE = 1e-5


def trace(
    model: Any,
    inputs: Mapping[str, Tensor] | None = None,
    *,
    dtype: torch.dtype = torch.float32,
) -> Graph:
    """The graph of a model, exact for other batch sizes and lengths than those of `inputs`.

    `model` is an `nn.Module` in eval mode, a folder or hub name in Hugging Face format, or a
    `.gguf` file (loaded as `dtype`).  `inputs` are example tensors by the names of the
    forward's parameters; a model that takes `input_ids` needs none.  The graph shares the
    model's parameters.  Its `certificate` tells how far it is from eager PyTorch, measured
    on shapes that it was not traced with.

    Raises `TraceError` if the model is in training mode, cannot be exported, returns
    something else than tensors, or if its trace disagrees with it.

    >>> graph = trace(nn.Linear(2, 3).eval(), inputs={"input": torch.ones(3, 2)})
    >>> graph.certificate.difference
    0.0
    """
    module = load(model, dtype)
    if module.training:
        raise TraceError(f"{type(module).__name__} is in training mode, where dropout makes every "
                         "run different: call model.eval() first")
    examples = fresh(default_inputs(module) if inputs is None else inputs)
    start = time.perf_counter()
    flat = Flat(module, tuple(examples))
    flat.outputs, left_out = output_spec(_eager(flat, examples))
    captured, certificate = _first_right(flat, examples, start, left_out)
    origin = None if isinstance(model, nn.Module) else str(model)
    return Graph(captured.module, captured.inputs, flat.outputs, type(module).__name__,
                 certificate, origin, captured.guards)


def _first_right(
    flat: Flat, examples: Mapping[str, Tensor], start: float, notes: tuple[str, ...]
) -> tuple[Capture, Certificate]:
    """The first capture that agrees with the model at sizes that it was not traced with."""
    failures: list[str] = []
    for captured in capture(flat, examples, failures):
        try:
            worst, scale, shapes = _compare(captured, flat, examples)
        except (TraceError, RuntimeError) as error:  # a trace that does not run is no trace
            failures.append(f"{captured.method}: {_first_line(error)}")
            continue
        if worst <= TOLERANCE * max(scale, 1e-30):
            captured, ones = _probe_ones(captured, flat, examples)
            before = (f"tried before: {failure}" for failure in failures)
            return captured, Certificate(worst, scale, (*shapes, *ones), captured.method,
                                         time.perf_counter() - start,
                                         (*notes, *captured.notes, *before))
        failures.append(f"{captured.method}: it runs on {', '.join(shapes)} but differs from the "
                        f"model by {worst:.2e} (largest output {scale:.2e})")
    raise AssertionError("the ladder ends with an error")


def _eager(flat: Flat, inputs: Mapping[str, Tensor]) -> Any:
    try:
        with torch.no_grad():
            return flat.call(*(inputs[name] for name in flat.names))
    except TypeError as error:
        raise InputError(f"{type(flat.model).__name__} does not accept the inputs "
                         f"{', '.join(flat.names)}: {error}") from error


def _compare(
    captured: Capture, flat: Flat, inputs: Mapping[str, Tensor]
) -> tuple[float, float, list[str]]:
    """Largest difference from the model at two other sizes, the largest output, and the sizes."""
    worst, scale, shapes = 0.0, 0.0, []
    batch = next((v.shape[0] for v in inputs.values() if v.ndim), 1)
    for rows, length in ((batch + 1, lambda n: n + 6), (2, lambda n: max(2, n - 4))):
        others = resized(inputs, captured.axes, rows, length)
        if not captured.holds(others):
            continue
        difference, largest = _differ(captured, flat, others)
        worst, scale = max(worst, difference), max(scale, largest)
        shapes.append(_describe(others))
    if not any(captured.axes.values()):  # numbers without axes: there is one size only
        return (*_differ(captured, flat, inputs), [_describe(inputs)])
    if not shapes:
        raise TraceError(f"it holds for the sizes of the example inputs only: "
                         f"{', '.join(captured.guards)}")
    return worst, scale, shapes


def _probe_ones(
    captured: Capture, flat: Flat, inputs: Mapping[str, Tensor]
) -> tuple[Capture, list[str]]:
    """Sizes of 1 are never seen by export: allow them where the trace is right, else refuse."""
    batch = next((v.shape[0] for v in inputs.values() if v.ndim), 1)
    shapes: list[str] = []
    for axis, rows, length in ((0, 1, lambda n: n), (1, batch, lambda n: 1)):
        names = [name for name, axes in captured.axes.items() if axis in axes]
        others = resized(inputs, captured.axes, rows, length)
        if not names or not captured.holds(others):
            continue
        try:
            difference, scale = _differ(captured, flat, others)
            right = difference <= TOLERANCE * max(scale, 1e-30)
        except Exception:  # whatever it is, the trace is not to be used at this size
            right = False
        if right:
            shapes.append(_describe(others))
        else:
            guards = tuple(f"{name}.shape[{axis}] > 1" for name in names)
            captured = replace(captured, guards=captured.guards + guards)
    return captured, shapes


def _differ(
    captured: Capture, flat: Flat, inputs: Mapping[str, Tensor]
) -> tuple[float, float]:
    assert flat.outputs is not None
    with torch.no_grad():
        expected = flat(*(inputs[name] for name in flat.names))
        found = captured.module(*(inputs[spec.name] for spec in captured.inputs))
    worst = scale = 0.0
    for name, want, have in zip(flat.outputs.names, expected, found, strict=True):
        worst = max(worst, _difference(flat, name, want, have))
        scale = max(scale, float(want.detach().double().abs().max()))
    return worst, scale


def _difference(flat: Flat, name: str, want: Tensor, have: Tensor) -> float:
    if want.shape != have.shape:
        raise TraceError(f"the trace of {type(flat.model).__name__} returns {name} of shape "
                         f"{list(have.shape)}, the model {list(want.shape)}")
    if torch.equal(want, have):
        return 0.0
    return float((want.double() - have.double()).abs().nan_to_num(float("inf")).max())


def _first_line(error: Exception) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _describe(inputs: Mapping[str, Tensor]) -> str:
    first = next(iter(inputs.values()))
    return "x".join(str(size) for size in first.shape[:2]) or "scalar"
