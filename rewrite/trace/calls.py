"""The model called as it is, before anything is traced: whether it runs, and is a function."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from rewrite.errors import TraceError
from rewrite.ir.nested import unnested
from rewrite.trace.cause import place_of
from rewrite.trace.flat import Flat
from rewrite.trace.parity import largest, largest_difference, silent
from rewrite.trace.process import drawn
from rewrite.trace.state import State
from rewrite.trace.support import first_line, quiet, remedy

REPEATABLE = 1e-3  # of the largest output: kernels that add in any order differ by less


def first_call(flat: Flat, inputs: Mapping[str, Tensor], state: State) -> Any:
    """What the model returns.  `state` learns of weights that it writes into.

    Raises `TraceError` if it fails on these inputs, or if a second call returns something else.
    """
    again = None if flat.fake else _after_another(flat, inputs, state)
    moved = drawn()
    value = _checked_call(flat, inputs)
    if again is not None:
        _check_same(flat, _tensors(value), again, moved(), state)
    return value


def _after_another(
    flat: Flat, inputs: Mapping[str, Tensor], state: State
) -> Sequence[Tensor] | None:
    """What the model returns when it was called before, with rows in another order if it can be.

    None if it does not run at all.
    """
    turned = {n: value.flip(0) if value.ndim else value for n, value in inputs.items()}
    with silent():
        for before in (turned, inputs):
            try:
                with state.watched():
                    _call(flat, before)
                break
            except Exception:
                state.put_back()
        try:
            return _tensors(_call(flat, inputs))
        except Exception:
            return None
        finally:
            state.put_back()


def _call(flat: Flat, inputs: Mapping[str, Tensor]) -> Any:
    with torch.no_grad(), flat.eagerly():
        given = flat.given({name: value.clone() for name, value in inputs.items()})
        return flat.call(*(given[name] for name in flat.names))


def _checked_call(flat: Flat, inputs: Mapping[str, Tensor]) -> Any:
    name = type(flat.model).__name__
    try:
        with quiet():
            return _call(flat, inputs)
    except Exception as error:  # whatever the model raises on these inputs
        shapes = ", ".join(f"{n} {list(value.shape)}" for n, value in inputs.items())
        place = str(place_of(error, flat.model))
        where = f" ({place})" if place else ""
        advice = flat.arguments.advice if flat.arguments else ""
        when = ("without weights, when values may not be asked for" if flat.fake
                else "before anything is traced")
        raise TraceError(f"{name} itself fails on {shapes}, {when}: {first_line(error)}"
                         f"{where}{advice}{remedy(flat.model, error)}") from error


def _check_same(
    flat: Flat, first: Sequence[Tensor], second: Sequence[Tensor], random: bool, state: State
) -> None:
    name = type(flat.model).__name__
    alike = [tuple(v.shape) for v in first] == [tuple(v.shape) for v in second]
    off = largest_difference(first, second) if alike else float("inf")
    if off <= REPEATABLE * max(map(largest, first), default=0.0):
        return
    found = f"two calls of {name} with the same inputs differ by {off:.2e}"
    if random:
        training = [path for path, module in flat.model.named_modules() if module.training]
        by = (f": {training[0]!r} is in training mode, so call model.eval() first" if training
              else ", so no graph of it can be checked: pass what is drawn as an input, or wrap "
              "the model in a module that does not draw")
        raise TraceError(f"{found}, it draws random numbers in forward{by}")
    changed = state.changed()
    state.put_back()
    kept = f" ({', '.join(changed[:3])})" if changed else ""
    raise TraceError(f"{found}: it keeps something from call to call{kept}, which no graph can "
                     "promise to repeat; pass what is kept as an input, or switch the cache off")


def _tensors(value: Any) -> list[Tensor]:
    return [item for item in unnested(value)[1].values() if isinstance(item, Tensor)]
