"""What a graph returns, as data: the nesting of its outputs, with classes by name.

Reading makes values without calling code of their classes: a NamedTuple and a dataclass are
filled entry by entry, as pickle fills them.  Classes are looked for among the modules that are
loaded; of transformers, whose models define their own, those with models are loaded.
"""

from __future__ import annotations

import importlib
import re
import sys
from collections import OrderedDict, defaultdict
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from rewrite.errors import FileError
from rewrite.ir.graph import OutputSpec

PLAIN = {"dict": dict, "list": list, "tuple": tuple, "OrderedDict": OrderedDict,
         "defaultdict": defaultdict}
# Modules that define nothing but models and what they return.
MODELS = re.compile(r"transformers\.(modeling_outputs|models\.\w+\.modeling_\w+)", re.ASCII)
DEEPEST = 50


def described(outputs: OutputSpec) -> Any:
    """The nesting of what a graph returns; raises `FileError` for classes that are no records."""
    # None of these tensors has entries; the model's own class is filled with them.
    markers = {name: torch.empty(0) for name in outputs.names}
    names = {id(tensor): name for name, tensor in markers.items()}
    return _described(outputs(tuple(markers.values())), names)


def _described(value: Any, names: Mapping[int, str]) -> Any:
    if value is None:
        return None
    if isinstance(value, Tensor):
        return names[id(value)]
    kind = type(value)
    label = kind.__name__ if PLAIN.get(kind.__name__) is kind else (
        f"{kind.__module__}:{kind.__qualname__}")
    if "<locals>" in label or kind.__module__ == "__main__":
        raise FileError(f"the graph returns a {kind.__qualname__}, which is defined in "
                        f"{kind.__module__} and cannot be found by name when the file is read: "
                        "define it in a module")
    if ":" in label and not _is_record(kind):
        raise FileError(f"the graph returns a {kind.__qualname__}, which a file cannot hold: "
                        "return a tuple, a dict, a NamedTuple or a dataclass of tensors")
    if isinstance(value, Mapping):
        odd = next((key for key in value if not isinstance(key, str)), None)
        if odd is not None:
            raise FileError(f"the graph returns a {kind.__qualname__} with the key {odd!r}, which "
                            "a file cannot hold: keys are texts")
        inside = {key: _described(item, names) for key, item in value.items()}
    elif is_dataclass(value):
        inside = {f.name: _described(getattr(value, f.name), names) for f in fields(value)}
    else:
        inside = [_described(item, names) for item in value]
    return {"class": label, "holds": inside}


def outputs_of(names: tuple[str, ...], said: Any) -> OutputSpec:
    """The outputs that `described` has described; raises `FileError` or `ValueError`."""
    return OutputSpec(names, partial(_build, _form(said, set(names), DEEPEST)))


def _form(said: Any, names: set[str], depth: int) -> Any:
    """The same with the classes themselves, so that what is missing is told on loading."""
    if not depth:
        raise ValueError(f"what the graph returns is nested more than {DEEPEST} times")
    match said:
        case None:
            return None
        case str() if said in names:
            return said
        case {"class": str(label), "holds": dict() | list() as inside}:
            kind = PLAIN.get(label) or _class(label)
            items = inside.values() if isinstance(inside, dict) else inside
            forms = [_form(item, names, depth - 1) for item in items]
            keys = list(inside) if isinstance(inside, dict) else None
            if not _fits(kind, keys, len(forms)):
                raise ValueError(f"a {label} does not hold {keys or f'{len(forms)} values'}")
            return kind, keys, forms
    raise ValueError(f"{str(said)[:60]!r} is no output of the graph")


def _class(label: str) -> Any:
    place, _, name = label.partition(":")
    module = sys.modules.get(place)
    if module is None and MODELS.fullmatch(place):
        try:
            module = importlib.import_module(place)
        except ImportError as error:
            raise FileError(f"the graph returns a {name} of {place}, which this version of "
                            "transformers does not have") from error
    if module is None:
        raise FileError(f"the graph returns a {name} of {place}: import {place} before it is "
                        "loaded")
    kind: Any = module
    for part in name.split("."):  # as it stands there: nothing is called to find it
        kind = getattr(kind, "__dict__", {}).get(part)
    if not isinstance(kind, type):
        raise FileError(f"the graph returns a {name} of {place}, which cannot be found there")
    if not _is_record(kind):
        raise FileError(f"the graph returns a {name} of {place}, which is no container of "
                        "outputs: a NamedTuple or a dataclass is one")
    return kind


def _is_record(kind: Any) -> bool:
    """Whether a value of this class is its entries, and can be made of them without its code."""
    if is_dataclass(kind):
        return _is_output(kind) or kind.__new__ is object.__new__
    named = issubclass(kind, tuple) and isinstance(getattr(kind, "_fields", None), tuple)
    return named or (kind.__module__ == "torch.return_types" and issubclass(kind, tuple))


def _is_output(kind: Any) -> bool:
    """Whether it is what models of transformers return: dataclass and dict in one."""
    from transformers.utils import ModelOutput

    return issubclass(kind, ModelOutput)


def _fits(kind: Any, keys: list[str] | None, count: int) -> bool:
    if is_dataclass(kind):
        known = {field.name for field in fields(kind)}
        return keys is not None and set(keys) <= known and (_is_output(kind) or set(keys) == known)
    if keys is not None or issubclass(kind, Mapping):
        return keys is not None and issubclass(kind, Mapping)
    wanted = getattr(kind, "_fields", None)
    size = len(wanted) if wanted is not None else getattr(kind, "n_sequence_fields", count)
    return size == count


def _build(form: Any, found: Mapping[str, Tensor]) -> Any:
    if form is None:
        return None
    if isinstance(form, str):
        return found[form]
    kind, keys, forms = form
    items = [_build(item, found) for item in forms]
    if keys is None:
        named = hasattr(kind, "_fields")
        return tuple.__new__(kind, items) if named else kind(items)
    held = dict(zip(keys, items, strict=True))
    if kind in PLAIN.values():
        return defaultdict(None, held) if kind is defaultdict else kind(held)
    if _is_output(kind):
        return kind(**held)  # its own code: what transformers writes to be called so
    made = object.__new__(kind)
    for key, item in held.items():
        object.__setattr__(made, key, item)
    return made
