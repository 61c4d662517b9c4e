"""Stage one: any PyTorch model becomes an executable graph that is checked against it."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from rewrite.errors import InputError, TraceError
from rewrite.ir.graph import Certificate, Graph
from rewrite.ir.spec import check
from rewrite.trace.capture import Capture, capture
from rewrite.trace.examples import default_inputs, fresh
from rewrite.trace.fake import emptied, faked, forgotten, has_no_weights
from rewrite.trace.flat import Flat, output_spec
from rewrite.trace.ladder import Failure
from rewrite.trace.load import load
from rewrite.trace.parity import compare, probe_ones, tolerance
from rewrite.trace.support import check_supported, first_line, quiet, remedy
from rewrite.trace.weights import with_weights

__all__ = ["load", "trace"]


def trace(
    model: Any,
    inputs: Mapping[str, Tensor] | None = None,
    *,
    dtype: torch.dtype | None = None,
) -> Graph:
    """The graph of a model, exact for other batch sizes and lengths than those of `inputs`.

    `model` is a `torch.nn.Module` in eval mode, a folder or hub name in Hugging Face format, or a
    `.gguf` file (loaded as `dtype`, float32 if not given).  `inputs` are example tensors by
    the names of the forward's parameters; a model that takes `input_ids` needs none.  The
    graph shares the model's parameters, and is specific to their floating type.  Its
    `certificate` tells how far it is from eager PyTorch, measured on shapes that it was not
    traced with.

    Weights are not needed: for a configuration of transformers, the path of a `config.json`,
    or a model on the meta device, the graph can be cut into components, expanded, drawn and
    planned, but not called, until `graph.with_weights(model)` gives it weights.

    Raises `TraceError` if the model is in training mode, cannot be exported, returns
    something else than tensors, keeps its weights elsewhere or packed, or if its trace
    disagrees with it.

    >>> graph = trace(torch.nn.Linear(2, 3).eval(), inputs={"input": torch.ones(3, 2)})
    >>> graph.certificate.difference
    0.0
    """
    module = load(model, dtype)
    check_supported(module)
    weightless = has_no_weights(module)
    if weightless:
        module = faked(module)
    with forgotten(module):
        examples = fresh(default_inputs(module) if inputs is None else inputs)
        start = time.perf_counter()
        flat = Flat(module, tuple(examples))
        flat.outputs, left_out = output_spec(_eager(flat, examples))
        captured, certificate = _first_right(flat, examples, start, left_out)
    origin = str(model) if isinstance(model, (str, os.PathLike)) else None
    found = emptied(captured.module) if weightless else captured.module
    graph = Graph(found, captured.inputs, flat.outputs, type(module).__name__,
                  certificate, origin, captured.guards, weightless, with_weights)
    check(graph, "traced")
    return graph


def _first_right(
    flat: Flat, examples: Mapping[str, Tensor], start: float, notes: tuple[str, ...]
) -> tuple[Capture, Certificate]:
    """The first capture that agrees with the model at sizes that it was not traced with."""
    failures: list[Failure] = []
    for captured in capture(flat, examples, failures):
        try:
            parity = compare(captured, flat, examples)
        except (TraceError, RuntimeError) as error:  # a trace that does not run is no trace
            failures.append(captured.failure(first_line(error)))
            continue
        if parity.within(tolerance(captured.module)):
            captured, ones = probe_ones(captured, flat, examples)
            before = (f"tried before: {failure}" for failure in failures)
            return captured, Certificate(parity.difference, parity.scale,
                                         (*parity.shapes, *ones), captured.method,
                                         time.perf_counter() - start,
                                         (*notes, *captured.notes, *before))
        failures.append(captured.failure(
            f"it runs on {', '.join(parity.shapes)} but differs from the model by "
            f"{parity.difference:.2e} (largest output {parity.scale:.2e})"))
    raise AssertionError("the ladder ends with an error")


def _eager(flat: Flat, inputs: Mapping[str, Tensor]) -> Any:
    name = type(flat.model).__name__
    try:
        with flat.eagerly(), torch.no_grad(), quiet():
            given = flat.given(inputs)
            return flat.call(*(given[name] for name in flat.names))
    except TypeError as error:
        raise InputError(f"{name} does not accept the inputs {', '.join(flat.names)}: "
                         f"{error}") from error
    except (RuntimeError, ValueError, IndexError, NotImplementedError) as error:
        shapes = ", ".join(f"{n} {list(value.shape)}" for n, value in inputs.items())
        when = ("without weights, when values may not be asked for" if flat.fake
                else "before anything is traced")
        raise TraceError(f"{name} itself fails on {shapes}, {when}: {first_line(error)}"
                         f"{remedy(flat.model, error)}") from error
