"""Stage one: any PyTorch model becomes an executable graph that is checked against it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from rewrite.errors import InputError, TraceError
from rewrite.ir.graph import Certificate, Graph
from rewrite.trace.capture import Capture, Flat, capture, output_spec
from rewrite.trace.examples import default_inputs, fresh, resized
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
    flat = Flat(module, tuple(examples), None)
    outputs = flat.outputs = output_spec(_eager(flat, examples))
    captured = capture(flat, examples)
    certificate = _certify(captured, flat, outputs.names, examples, start)
    origin = None if isinstance(model, nn.Module) else str(model)
    return Graph(captured.module, captured.inputs, outputs, type(module).__name__,
                 certificate, origin)


def _eager(flat: Flat, inputs: Mapping[str, Tensor]) -> Any:
    try:
        with torch.no_grad():
            return flat.call(*(inputs[name] for name in flat.names))
    except TypeError as error:
        raise InputError(f"{type(flat.model).__name__} does not accept the inputs "
                         f"{', '.join(flat.names)}: {error}") from error


def _certify(
    captured: Capture, flat: Flat, names: tuple[str, ...], inputs: Mapping[str, Tensor],
    start: float,
) -> Certificate:
    batch, length = next(
        ((v.shape[0], v.shape[1]) for n, v in inputs.items() if 1 in captured.axes[n]),
        (next((v.shape[0] for v in inputs.values() if v.ndim), 1), 1),
    )
    shapes, worst, scale = [], 0.0, 0.0
    for other in ((batch + 1, length + 6), (2, max(2, length - 4))):
        fresh_inputs = resized(inputs, captured.axes, *other)
        with torch.no_grad():
            expected = flat(*(fresh_inputs[name] for name in flat.names))
            found = captured.module(*(fresh_inputs[spec.name] for spec in captured.inputs))
        for name, want, have in zip(names, expected, found, strict=True):
            worst = max(worst, _difference(flat, name, want, have))
            scale = max(scale, float(want.detach().double().abs().max()))
        shapes.append(_describe(fresh_inputs))
    if worst > TOLERANCE * max(scale, 1e-30):
        raise TraceError(f"the trace of {type(flat.model).__name__} runs on {shapes} but differs "
                         f"from the model by {worst:.2e} (largest output {scale:.2e}): it holds "
                         "for the shapes of the example inputs only; trace with inputs of the "
                         "shape that you need")
    return Certificate(worst, scale, tuple(shapes), captured.method,
                       time.perf_counter() - start, captured.notes)


def _difference(flat: Flat, name: str, want: Tensor, have: Tensor) -> float:
    if want.shape != have.shape:
        raise TraceError(f"the trace of {type(flat.model).__name__} returns {name} of shape "
                         f"{list(have.shape)}, the model {list(want.shape)}")
    if torch.equal(want, have):
        return 0.0
    return float((want.double() - have.double()).abs().nan_to_num(float("inf")).max())


def _describe(inputs: Mapping[str, Tensor]) -> str:
    first = next(iter(inputs.values()))
    return "x".join(str(size) for size in first.shape[:2]) or "scalar"
