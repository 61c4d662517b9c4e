"""Which axes of the inputs vary, and what they are called: as the user says, or guessed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from rewrite.errors import InputError, TraceError, near
from rewrite.ir.graph import InputSpec

Named = dict[str, dict[int, str]]  # the axes of each input that vary, with the name of their size
Dynamic = Mapping[str, Mapping[int, str]]


def asked(dynamic: Any, inputs: Mapping[str, Tensor]) -> Named | None:
    """What `dynamic=` says, checked against the example inputs; None if it was left out.

    Raises `InputError` for inputs and axes that do not exist, for one name with two sizes, and
    for a size of 1, which export would take as fixed.
    """
    if dynamic is None:
        return None
    if not isinstance(dynamic, Mapping):
        raise InputError(f"dynamic= maps inputs to their axes that vary, found "
                         f"{type(dynamic).__name__}: write {_example(inputs)}, or dynamic={{}} "
                         "for none")
    found: Named = {name: {} for name in inputs}
    sizes: dict[str, tuple[int, str]] = {}
    for name, axes in dynamic.items():
        if name not in inputs:
            raise InputError(f"dynamic= names the input {name!r}; {near(str(name), inputs)}")
        if not isinstance(axes, Mapping):
            raise InputError(f"dynamic={{{name!r}: ...}} must map axes to names, found {axes!r}: "
                             f"write {_example(inputs)}")
        for axis, label in axes.items():
            place = _place(name, axis, inputs[name])
            size, where = inputs[name].shape[place], f"axis {place} of {name}"
            if not isinstance(label, str) or not label.isidentifier():
                raise InputError(f"{where} is called {label!r} in dynamic=: give it a name such "
                                 "as \"nodes\"")
            if size < 2:
                raise InputError(f"{where} ({label!r}) has size {size} in the example inputs, and "
                                 "export takes sizes of 0 and 1 as fixed: give an example with 2 "
                                 "or more")
            before, there = sizes.setdefault(label, (size, where))
            if before != size:
                raise InputError(f"{label!r} is {before} in {there} and {size} in {where}: sizes "
                                 "of one name are equal, so give them two names")
            found[name][place] = label
    return found


def _place(name: str, axis: Any, value: Tensor) -> int:
    if not isinstance(axis, int) or isinstance(axis, bool) or not -value.ndim <= axis < value.ndim:
        raise InputError(f"dynamic= names axis {axis!r} of {name}, which is {list(value.shape)}: "
                         f"its axes are 0 to {value.ndim - 1}" if value.ndim else
                         f"dynamic= names axis {axis!r} of {name}, which is one number, "
                         "without axes")
    return axis % value.ndim


def _example(inputs: Mapping[str, Tensor]) -> str:
    name = next(iter(inputs), "x")
    return f'dynamic={{{name!r}: {{0: "batch"}}}}'


def equal(named: Named | None) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Pairs of axes, as places of inputs and axes, that have one name.

    >>> equal({"x": {0: "rows", 1: "columns"}, "y": {0: "rows"}})
    [((0, 0), (1, 0))]
    """
    first: dict[str, tuple[int, int]] = {}
    places = ((label, (place, axis)) for place, axes in enumerate((named or {}).values())
              for axis, label in axes.items())
    return [(first[label], place) for label, place in places
            if first.setdefault(label, place) != place]


def check_labels(labels: Mapping[str, str], size: str, label: str) -> None:
    """Raise `TraceError` if a size of the graph has got two names."""
    if (before := labels.get(size, label)) != label:
        raise TraceError(f"the model makes {before!r} and {label!r} equal: give them one name in "
                         "dynamic=")


def fixed_by_model(axes: Named, fixed: Sequence[tuple[int, int]]) -> str:
    """Which of the axes that should vary export takes as fixed, and what to write instead.

    `fixed` are places of inputs and their axes.
    """
    names = list(axes)
    said = [(names[place], axis) for place, axis in dict.fromkeys(fixed)
            if place < len(names) and axis in axes[names[place]]]
    if not said:
        return ""
    which = ", ".join(f"axis {axis} of {name} ({axes[name][axis]!r})" for name, axis in said)
    rest = {name: {axis: label for axis, label in dims.items() if (name, axis) not in said}
            for name, dims in axes.items()}
    return (f"; the model fixes {which}: leave it out, "
            f"dynamic={ {name: dims for name, dims in rest.items() if dims} }")


def described(specs: Sequence[InputSpec], said: bool) -> str:
    """Which sizes vary, for the certificate."""
    inputs = ", ".join(f"{spec.name} [{', '.join(map(str, spec.shape))}]" for spec in specs)
    named = any(isinstance(dim, str) for spec in specs for dim in spec.shape)
    if said:
        return f"sizes as asked: {inputs}" if named else f"every size is fixed, as asked: {inputs}"
    return f"which sizes vary was guessed: {inputs}; say it with dynamic="
