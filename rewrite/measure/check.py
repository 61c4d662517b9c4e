"""What must hold of runs and selections before anything is measured on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rewrite.errors import DataError, FileError, near


def check_runs(runs: Mapping[str, Sequence[object]], reference: str) -> None:
    """At least two runs, the reference among them, equally many examples, at least one."""
    if reference not in runs:
        raise DataError(
            f"the reference run {reference!r} is not in the data: {near(reference, runs)}"
        )
    if len(runs) < 2:
        raise DataError(
            f"only the run {reference!r} is given; comparing needs a second one, "
            "say {'clean': ..., 'corrupt': ...}"
        )
    counts = {run: len(examples) for run, examples in runs.items()}
    if len(set(counts.values())) > 1:
        raise DataError(f"every run needs one input per example; found numbers of inputs {counts}")
    if counts[reference] == 0:
        raise DataError("there are no examples; give at least one per run")


def check_same(
    i: int,
    reference: str,
    expected: Mapping[str, Tensor],
    run: str,
    found: Mapping[str, Tensor],
) -> None:
    """Example `i` has the same inputs, shapes and dtypes in both runs."""
    if set(expected) != set(found):
        raise DataError(
            f"example {i}: run {run!r} has inputs {sorted(found)}, "
            f"run {reference!r} has {sorted(expected)}; give both the same ones"
        )
    for name, value in found.items():
        wanted = expected[name]
        if value.shape == wanted.shape and value.dtype == wanted.dtype:
            continue
        raise DataError(
            f"example {i}: input {name!r} of run {run!r} is {_kind(value)}, "
            f"of run {reference!r} {_kind(wanted)}; activations of one run are used in the "
            "other, so shapes and dtypes must agree"
        )


def as_labels(name: str, values: Any) -> list[Tensor]:
    """One tensor for each example; lists may hold unequal numbers of tokens.

    >>> as_labels("correct", [[3], [1, 2]])
    [tensor([3]), tensor([1, 2])]
    """
    if isinstance(values, Tensor):
        if values.ndim == 0:
            raise DataError(f"label {name!r} is one number; give one for each example")
        return list(values.unbind(0))
    try:
        return [torch.as_tensor(value) for value in values]
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"label {name!r} must be numbers, for each example one or a list of them: "
                        f"{error}") from error


def as_tensor(values: Any, dtype: str) -> Tensor:
    """What a file says of a tensor: nested lists, of numbers of the kind of its type.

    >>> as_tensor([1, 2.5], "int64")
    Traceback (most recent call last):
    ...
    rewrite.errors.FileError: 2.5 is no number of type int64
    """
    kind = getattr(torch, dtype, None)
    if not isinstance(kind, torch.dtype):
        raise FileError(f"there is no type of numbers {dtype!r}")
    fits = (bool,) if kind == torch.bool else (
        (int, float) if kind.is_floating_point or kind.is_complex else (int,))
    inside = [values]
    while inside:
        value = inside.pop()
        if isinstance(value, list):
            inside.extend(value)
        elif type(value) not in fits:
            raise FileError(f"{str(value)[:40]} is no number of type {dtype}")
    return torch.tensor(values, dtype=kind, device="cpu")


def as_positions(given: Mapping[str, Any] | None) -> dict[str, list[Tensor]]:
    """Where named positions are in each example: an integer, several or none, or a mask.

    >>> as_positions({"END": [3, 5]})
    {'END': [tensor(3), tensor(5)]}
    """
    found: dict[str, list[Tensor]] = {}
    for name, values in (given or {}).items():
        if not name.isidentifier():
            raise DataError(f"a position is named like a Python variable, as in @END; "
                            f"found {name!r}")
        try:
            found[name] = [torch.as_tensor(value) for value in values]
        except (TypeError, ValueError, RuntimeError) as error:
            raise DataError(f"@{name} must be given for each example: a position, a list of them "
                            f"or a mask of its tokens: {error}") from error
        found[name] = [value if value.numel() else value.long() for value in found[name]]
        for i, value in enumerate(found[name]):
            if value.is_floating_point() or value.ndim > 1:
                raise DataError(f"example {i}: @{name} is a position, a list of positions or a "
                                f"mask of tokens, found {_kind(value)}")
    return found


def positions(where: object, n: int) -> list[int]:
    """Positions that `where` selects of `n`: a boolean mask, integers, or a slice."""
    if isinstance(where, slice):
        where = np.arange(n)[where]
    chosen = np.atleast_1d(np.asarray(where))
    if chosen.dtype == bool:
        if chosen.shape != (n,):
            raise DataError(f"a mask over {n} examples is needed, found shape {chosen.shape}")
        chosen = np.flatnonzero(chosen)
    if chosen.size == 0:
        raise DataError(f"the subset selects none of {n} examples")
    if not np.issubdtype(chosen.dtype, np.integer) or chosen.ndim != 1:
        raise DataError(f"select by a boolean mask or by integers, found {chosen.dtype}")
    outside = chosen[(chosen < -n) | (chosen >= n)]
    if outside.size:
        raise DataError(f"there is no example {outside[0]}: positions go from 0 to {n - 1}")
    return [int(i) for i in chosen % n]


def _kind(value: Tensor) -> str:
    return f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)}"
