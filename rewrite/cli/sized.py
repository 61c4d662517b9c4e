"""`rewrite trace --length --batch`: a model traced with example inputs of the sizes asked for."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import Tensor

from rewrite.errors import InputError
from rewrite.ir.graph import Graph
from rewrite.trace import load, trace
from rewrite.trace.axes import Dynamic
from rewrite.trace.examples import WAVES, default_inputs, dynamic_axes, resized
from rewrite.trace.fake import faked, has_no_weights

_AXIS = re.compile(r"(.+)\.(-?\d{1,3})=(.+)")
SEQUENCES = {*WAVES, "inputs_embeds"} - {"input_features"}  # of numbers, along their second axis


def trace_sized(
    model: str, length: int | None, batch: int | None, dynamic: Dynamic | None = None
) -> Graph:
    """The graph of a model by name, traced with its default inputs at another size.

    Every sequence gets the same `length`.  Where a model keeps the length that it was traced
    with, this is how to have another one.  Raises `InputError` for a model without sequences.
    """
    module = load(model)
    inputs = default_inputs(faked(module) if has_no_weights(module) else module)
    axes = {name: _axes(name, value) for name, value in inputs.items()}
    if length is not None and not any(1 in dims for dims in axes.values()):
        found = ", ".join(f"{name} {list(value.shape)}" for name, value in inputs.items())
        raise InputError(f"--length {length} is for models that read sequences, and "
                         f"{type(module).__name__} reads {found}: give example inputs in Python, "
                         "rw.trace(model, inputs={...})")
    rows = batch if batch is not None else _rows(inputs)
    examples = resized(inputs, axes, rows, lambda old: old if length is None else length)
    return replace(trace(module, examples, dynamic=dynamic), origin=model)


def axes_said(said: Sequence[str] | None) -> dict[str, dict[int, str]] | None:
    """What `--dynamic` says, as `rw.trace` takes it; None if it is not given.

    >>> axes_said(["x.0=nodes", "pair.1.0=nodes"]), axes_said(["none"]), axes_said(None)
    ({'x': {0: 'nodes'}, 'pair.1': {0: 'nodes'}}, {}, None)

    Raises `InputError` for what cannot be read.
    """
    if not said:
        return None
    found: dict[str, dict[int, str]] = {}
    for text in said if list(said) != ["none"] else ():
        if (read := _AXIS.fullmatch(text)) is None:
            raise InputError(f"--dynamic names an input, one of its axes, and the name of its "
                             f"size, as in --dynamic input_ids.0=batch (or none), found {text!r}")
        found.setdefault(read[1], {})[int(read[2])] = read[3]
    return found


def _axes(name: str, value: Tensor) -> tuple[int, ...]:
    """Axes to resize: the batch, and the length of what is surely a sequence."""
    sequence = not value.is_floating_point() or name in SEQUENCES
    return tuple(axis for axis in dynamic_axes(name, value) if axis == 0 or sequence)


def _rows(inputs: Mapping[str, Tensor]) -> int:
    return next(value.shape[0] for value in inputs.values() if value.ndim)
