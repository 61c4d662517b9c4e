"""Stage one: any PyTorch model becomes an executable graph that is checked against it."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from rewrite.errors import TraceError
from rewrite.ir.certificate import Certificate
from rewrite.ir.graph import Graph
from rewrite.ir.spec import violations
from rewrite.trace.arguments import Arguments
from rewrite.trace.axes import Named, asked, described, equal
from rewrite.trace.calls import first_call
from rewrite.trace.capture import Capture, capture
from rewrite.trace.cause import ELSE
from rewrite.trace.examples import default_inputs, fresh
from rewrite.trace.fake import emptied, faked, forgotten, has_no_weights
from rewrite.trace.flat import Flat
from rewrite.trace.hooks import hook_notes
from rewrite.trace.ladder import Failure
from rewrite.trace.live import Live, bind, not_finite
from rewrite.trace.load import load, loaded
from rewrite.trace.parity import certificate_of, compare
from rewrite.trace.state import State, kept
from rewrite.trace.support import check_supported
from rewrite.turn import alone

__all__ = ["load", "trace"]


@alone
def trace(
    model: Any,
    inputs: Any = None,
    *,
    dtype: torch.dtype | None = None,
    dynamic: Mapping[str, Mapping[int, str]] | None = None,
    allow_missing: bool = False,
    trust_remote_code: bool = False,
) -> Graph:
    """The graph of a model, exact for other batch sizes and lengths than those of `inputs`.

    `model` is a `torch.nn.Module` in eval mode, a folder or hub name in Hugging Face format, or a
    `.gguf` file (loaded as `dtype`, float32 if not given).  `inputs` are example tensors by
    the names of the forward's parameters; a model that takes `input_ids` needs none.  Tensors
    in lists, tuples, dicts and dataclasses are inputs called `pair.0`, `features.input_ids`;
    what is no tensor (None, a number, a string) is a constant of the graph.  The
    graph shares the model's parameters, and is specific to their floating type.  Its
    `certificate` tells how far it is from eager PyTorch, measured on shapes that it was not
    traced with.

    `dynamic` says which axes of the inputs vary from call to call, and what their sizes are
    called; sizes of one name are equal.  All others are fixed, and enforced: `dynamic={}` fixes
    every size.  If it is left out the first axis (the batch) varies, and the second where it
    looks like a length (of whole numbers `[batch, length]`, of vectors); the certificate says
    what was guessed.  Stacking examples and positions (`m0@[2]`) need the batch on axis 0 and
    the length on axis 1: call them "batch" and "seq" to have that checked.

    Files that lack weights of the model, or hold others, are a `TraceError` that names them:
    with `allow_missing=True` random numbers take their place, and the certificate names them, as
    it does weights that are nan or infinite.

    Files are data.  A folder or a model on the hub that brings Python code of its own is refused;
    `trust_remote_code=True` runs that code, as you run a program.

    Weights are not needed: for a configuration of transformers, the path of a `config.json`,
    or a model on the meta device, the graph can be cut into components, expanded, drawn and
    planned, but not called, until `graph.with_weights(model)` gives it weights.

    The model and the process are as before afterwards: parameters, buffers, modes, hooks,
    random numbers, settings.  Raises `InputError` if `dynamic` does not fit the inputs, and
    `TraceError` if the model is in training mode, cannot be exported, returns
    something else than tensors, keeps its weights elsewhere or packed, draws random numbers, or
    if its trace disagrees with it.

    >>> graph = trace(torch.nn.Linear(2, 3).eval(), inputs={"input": torch.ones(3, 2)})
    >>> graph.certificate.difference
    0.0
    >>> pool = torch.nn.AdaptiveAvgPool2d(1).eval()
    >>> graph = trace(pool, {"input": torch.ones(2, 3, 8, 9)},
    ...               dynamic={"input": {0: "batch", 2: "height", 3: "width"}})
    >>> graph.inputs[0].describe()
    'input: float32 [batch, 3, height, width]'
    """
    module, lacking = loaded(model, dtype, allow_missing, trust_remote_code)
    check_supported(module)
    weightless = has_no_weights(module)
    if weightless:
        module = faked(module)
    with forgotten(module), kept(module) as state:
        inputs = default_inputs(module) if inputs is None else inputs
        arguments = Arguments.of(module, inputs)
        given = dict(arguments.tensors)
        named = asked(dynamic, given)
        start = time.perf_counter()
        flat = Flat(module, tuple(given), arguments)
        flat.outputs, left_out = flat.spec(first_call(flat, given, state))
        bad = () if weightless else not_finite(module)
        notes = (*lacking, *bad, *arguments.notes, *left_out, *hook_notes(module))
        captured, certificate = _first_right(flat, given, start, notes, state, named)
    origin = str(model) if isinstance(model, (str, os.PathLike)) else None
    found = emptied(captured.module) if weightless else captured.module
    graph = Graph(found, captured.inputs, flat.outputs, type(module).__name__,
                  certificate, origin, captured.guards, weightless, bind,
                  constants=arguments.constants)
    if found := violations(graph, "traced"):
        raise TraceError(f"{graph.name} was followed into something that is no graph of operators: "
                         f"{found[0].found} (%{found[0].node}); {ELSE}")
    return graph if weightless else replace(graph, live=Live.of(module, graph, inputs))


def _first_right(
    flat: Flat, given: Mapping[str, torch.Tensor], start: float, notes: tuple[str, ...],
    state: State, named: Named | None,
) -> tuple[Capture, Certificate]:
    """The first capture that agrees with the model on the given inputs and at other sizes."""
    failures: list[Failure] = []
    examples = fresh(given, tile=named is None)
    flat.equal = equal(named)
    for captured in capture(flat, examples, failures, named):
        try:
            right, parity = compare(captured, flat, given, examples, state)
        except TraceError as error:
            failures.append(captured.failure(str(error)))
            continue
        before = (f"tried before: {failure}" for failure in failures)
        return right, certificate_of(parity, right.method, time.perf_counter() - start,
                                     (*notes, *right.notes, *before),
                                     described(right.inputs, named is not None))
    raise AssertionError("the ladder ends with an error")
