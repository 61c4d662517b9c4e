"""What a model is called with: tensors by flat names, constants, and how its forward takes them."""

from __future__ import annotations

import enum
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Number
from typing import Any

import torch
from torch import Tensor, nn

from rewrite.errors import InputError
from rewrite.ir.nested import Leaf, Nest, nested, unnested

FIXED = (type(None), bool, Number, str, bytes, enum.Enum, torch.dtype, torch.device)


@dataclass(frozen=True)
class Arguments:
    """The inputs that a model is traced with.

    `forms` says, for each parameter of forward, which tensors and constants it holds.
    """

    forms: Mapping[str, Leaf | Nest]
    tensors: Mapping[str, Tensor]
    constants: Mapping[str, Any]

    @staticmethod
    def of(model: nn.Module, inputs: Any) -> Arguments:
        """Those of a dict by the names of forward's parameters, a tuple by position, or a tensor.

        Raises `InputError` for what is neither a tensor nor a constant.
        """
        forms: dict[str, Leaf | Nest] = {}
        found: dict[str, Any] = {}
        for name, value in _by_name(model, inputs).items():
            forms[name], entries = unnested(value, name, found)
            found |= entries
        tensors = {name: value for name, value in found.items() if isinstance(value, Tensor)}
        constants = {name: value for name, value in found.items() if name not in tensors}
        for name, value in tensors.items():
            _check_plain(name, value)
        for name, value in constants.items():
            _check_fixed(name, value)
        if not tensors:
            raise InputError(f"a graph needs an input that is a tensor, found {_shown(found)}: "
                             f"rw.trace(model, inputs={{{_call(model)}}})")
        made = Arguments(forms, tensors, constants)
        made._check_names(model)
        return made

    def _check_names(self, model: nn.Module) -> None:
        """Raise `InputError` if forward has no such parameters, or needs others."""
        positional, named = self.bound(model, self.tensors)
        try:
            signature = inspect.signature(model.forward)
        except (TypeError, ValueError):
            return
        try:
            signature.bind(*positional, **named)
        except TypeError as error:
            raise InputError(f"{type(model).__name__} does not accept the inputs "
                             f"{', '.join(self.forms)} ({error}), its forward takes {signature}: "
                             f"rw.trace(model, inputs={{{_call(model)}}})") from error

    @property
    def advice(self) -> str:
        """What to give instead of lists of numbers; empty if there are none."""
        lists = [name for name, form in self.forms.items() if isinstance(form, Nest)
                 and issubclass(form.kind, list) and not any(
                     key in self.tensors for key in _leaves(form))]
        return "".join(f" ({name} is a list of numbers: give torch.tensor({name}))"
                       for name in lists)

    def bound(
        self, model: nn.Module, tensors: Mapping[str, Any]
    ) -> tuple[list[Any], dict[str, Any]]:
        """Positional and named arguments of the model's forward."""
        known = {**self.constants, **tensors}
        given = {name: nested(form, known) for name, form in self.forms.items()}
        parameters = _parameters(model)
        kinds = {p.name: p.kind for p in parameters if p.name in given}
        starred = [n for n, kind in kinds.items() if kind is inspect.Parameter.VAR_POSITIONAL]
        positional: list[Any] = []
        for parameter in parameters:
            name = parameter.name
            if parameter.kind is inspect.Parameter.VAR_POSITIONAL or name not in given:
                break
            if parameter.kind is inspect.Parameter.POSITIONAL_ONLY or (
                    starred and parameter.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD):
                positional.append(given.pop(name))
        for name in starred:
            positional += given.pop(name)
        for name, kind in kinds.items():
            if kind is inspect.Parameter.VAR_KEYWORD:
                given |= given.pop(name)
        return positional, given

    @property
    def notes(self) -> tuple[str, ...]:
        """One line for each constant, for the certificate."""
        return tuple(f"input {name}={value!r} is a constant"
                     for name, value in self.constants.items())


def _leaves(form: Leaf | Nest) -> list[str]:
    if isinstance(form, Leaf):
        return [form.name]
    return [name for item in form.items for name in _leaves(item)]


def _parameters(model: nn.Module) -> list[inspect.Parameter]:
    try:
        return list(inspect.signature(model.forward).parameters.values())
    except (TypeError, ValueError):
        return []


def _by_name(model: nn.Module, inputs: Any) -> dict[str, Any]:
    """The inputs by the parameters of forward."""
    if isinstance(inputs, Mapping):
        if odd := [name for name in inputs if not isinstance(name, str)]:
            raise InputError(f"inputs are given by the names of forward's parameters, found the "
                             f"key {odd[0]!r}: rw.trace(model, inputs={{{_call(model)}}})")
        return dict(inputs)
    if not isinstance(inputs, (Tensor, tuple, list)):
        raise InputError(f"inputs are tensors by the names of forward's parameters, found "
                         f"{_kind(inputs)}: rw.trace(model, inputs={{{_call(model)}}})")
    values = (inputs,) if isinstance(inputs, Tensor) else tuple(inputs)
    try:
        return dict(inspect.signature(model.forward).bind_partial(*values).arguments)
    except (TypeError, ValueError) as error:
        raise InputError(f"{type(model).__name__} takes no {len(values)} inputs by position "
                         f"({error}): rw.trace(model, inputs={{{_call(model)}}})") from error


def _call(model: nn.Module) -> str:
    names = [p.name for p in _parameters(model) if p.default is inspect.Parameter.empty and
             p.kind is not inspect.Parameter.VAR_KEYWORD] or ["x"]
    return ", ".join(f"{name!r}: tensor" for name in names)


def _check_plain(name: str, value: Tensor) -> None:
    if value.is_nested or value.layout != torch.strided or value.is_quantized:
        kind = "nested" if value.is_nested else "quantised" if value.is_quantized else (
            str(value.layout).removeprefix("torch."))
        instead = ("pad it: torch.nested.to_padded_tensor(x, 0.0)" if value.is_nested
                   else "x.dequantize()" if value.is_quantized else "x.to_dense()")
        raise InputError(f"the input {name!r} is a {kind} tensor, and the inputs of a graph are "
                         f"dense ones: give {instead}, with the model made for it")


def _check_fixed(name: str, value: Any) -> None:
    if isinstance(value, FIXED):
        return
    found = _kind(value)
    if hasattr(value, "get_seq_length"):
        raise InputError(f"the input {name!r} is a {found}, a cache that the model writes into, "
                         "which no graph can be given: leave it out (and use_cache=False), and "
                         "give whole sequences")
    if type(value).__module__.partition(".")[0] == "numpy":
        raise InputError(f"the input {name!r} is a {found}: give torch.from_numpy({name})")
    raise InputError(f"the input {name!r} is a {found}, which is neither a tensor nor a constant "
                     "(None, bool, number, str) nor a list, tuple, dict or dataclass of them: wrap "
                     "the model in a module whose forward takes tensors and makes it from them")


def _kind(value: Any) -> str:
    return type(value).__qualname__


def _shown(found: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in found.items()) or "none"
