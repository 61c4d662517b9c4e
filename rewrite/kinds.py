"""Annotations as tests of values, and in words: what an argument must be.

Only what can be told at a glance is tested: an annotation that says more than that, such as the
shape of a tensor or what a function returns, is left to the function itself.
"""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

Test = Callable[[Any], bool]

LARGEST = 2**63  # what torch and numpy take for a whole number is below
NUMBERS: Mapping[type, tuple[str, type]] = {int: ("a whole number", Integral),
                                            float: ("a number", Real)}
PLAIN: Mapping[type, str] = {
    str: "a text", bool: "True or False", Path: "a path of a file", type(None): "None",
    torch.Tensor: "a tensor", torch.dtype: "a torch.dtype", types.EllipsisType: "...",
    torch.nn.Module: "a module", torch.fx.Node: "a node"}


@dataclass(frozen=True)
class Kind:
    """What a value must be: in words, as a test, and the classes that would do."""

    words: str
    holds: Test
    classes: tuple[type, ...] = ()
    items: tuple[Kind | None, Kind | None] = (None, None)  # of a dict or list: keys, values
    listens: bool = False  # a function that is told something and returns nothing

    def fault(self, value: Any, place: str) -> tuple[str, Kind, Any]:
        """The innermost value that does not fit, where it is, and what it must be."""
        key, item = self.items
        if isinstance(value, Mapping) and dict in self.classes:
            for k, v in value.items():
                if key is not None and not key.holds(k):
                    return f"a name in {place}", key, k
                if item is not None and not item.holds(v):
                    return item.fault(v, f"{place}[{k!r}]")
        elif isinstance(value, (list, tuple)) and item is not None and dict not in self.classes:
            for i, v in enumerate(value):
                if not item.holds(v):
                    return item.fault(v, f"{place}[{i}]")
        return place, self, value


def kind_of(hint: Any) -> Kind | None:
    """What an annotation asks for; None if that is anything, or too much to test here.

    >>> kind_of(str | None).words, kind_of(Mapping[str, int]).words
    ('a text or None', 'a dict of text: whole number')
    >>> kind_of(int).holds(True), kind_of(Sequence[str]).holds("a0.h1")
    (False, False)
    """
    origin, inside = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return Kind(" or ".join(map(repr, inside)), lambda value: _is_one_of(value, inside))
    if origin in (typing.Union, types.UnionType):
        return _any_of([kind_of(each) for each in inside])
    if origin is Callable:
        return _function(inside[0], inside[1] in (None, type(None)))
    if origin is type:
        of = inside[0] if isinstance(inside[0], type) else object
        return Kind(f"a class of {of.__name__}",
                    lambda value: isinstance(value, type) and issubclass(value, of))
    if origin is tuple:
        return _tuple(inside)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return _mapping(origin, [kind_of(each) for each in inside])
    if isinstance(origin, type) and issubclass(origin, Iterable):
        return _many(origin, kind_of(inside[0]) if inside else None)
    return _class(hint) if origin is None and isinstance(hint, type) else None


def _class(hint: type) -> Kind | None:
    if hint in (Any, object):
        return None
    if hasattr(hint, "array_type"):
        return NUMERIC if hint.array_type is np.ndarray else _class(hint.array_type)
    if hint is np.ndarray:
        return NUMERIC
    if hint in NUMBERS:
        words, number = NUMBERS[hint]
        return Kind(words, lambda value: isinstance(value, number) and not isinstance(value, bool)
                    and not (isinstance(value, Integral) and abs(int(value)) >= LARGEST), (hint,))
    if hint is bool:
        return Kind(PLAIN[bool], lambda value: isinstance(value, (bool, np.bool_)), (bool,))
    if getattr(hint, "_is_protocol", False):
        wanted = [name for name in vars(hint) if name == "__call__" or not name.startswith("_")]
        return Kind(_article(hint.__name__),
                    lambda value: all(hasattr(value, name) for name in wanted), (hint,))
    if issubclass(hint, Mapping) and hint.__module__ in ("builtins", "collections.abc"):
        return Kind("a dict", lambda value: isinstance(value, Mapping), (dict,))
    return Kind(PLAIN.get(hint) or _article(hint.__name__),
                lambda value: isinstance(value, hint), (hint,))


def _is_one_of(value: Any, choices: tuple[Any, ...]) -> bool:
    return any(type(value) is type(choice) and value == choice for choice in choices)


def _any_of(kinds: list[Kind | None]) -> Kind | None:
    known = [kind for kind in kinds if kind is not None]
    if len(known) < len(kinds):
        return None
    classes = tuple(c for kind in known for c in kind.classes)
    if str in classes and Path in classes:
        known = [FILE, *(kind for kind in known if kind.classes not in ((str,), (Path,)))]
    words = " or ".join(dict.fromkeys(kind.words for kind in known))
    tests = [kind.holds for kind in known]
    items = next((kind.items for kind in known if any(kind.items)), (None, None))
    return Kind(words, lambda value: any(test(value) for test in tests), classes, items,
                any(kind.listens for kind in known))


def _is_file_name(value: Any) -> bool:
    return isinstance(value, (str, Path)) and str(value) != "" and "\0" not in str(value)


def _function(taken: Any, listens: bool = False) -> Kind:
    """Told by how many arguments it takes, where Python knows that."""
    if not isinstance(taken, list):
        return Kind("a function", callable)

    def holds(value: Any) -> bool:
        if not callable(value):
            return False
        try:
            signature = inspect.signature(value)
        except (TypeError, ValueError):
            return True  # of C
        try:
            signature.bind(*taken)
        except TypeError:
            return False
        return True

    number = f"{len(taken)} argument{'s' * (len(taken) != 1)}"
    return Kind(f"a function of {number}", holds, listens=listens)


def _tuple(inside: tuple[Any, ...]) -> Kind:
    if len(inside) == 2 and inside[1] is Ellipsis:
        return _many(tuple, kind_of(inside[0]))
    each = [kind_of(item) for item in inside]
    words = ", ".join(kind.words if kind else "anything" for kind in each)

    def holds(value: Any) -> bool:
        return isinstance(value, tuple) and len(value) == len(each) and all(
            kind is None or kind.holds(item) for kind, item in zip(each, value, strict=True))

    return Kind(f"({words})", holds, (tuple,))


def _mapping(origin: type, inside: list[Kind | None]) -> Kind:
    key, item = inside if len(inside) == 2 else (None, None)

    def holds(value: Any) -> bool:
        return isinstance(value, Mapping) and all(
            (key is None or key.holds(k)) and (item is None or item.holds(v))
            for k, v in value.items())

    of = "" if key is None or item is None else f" of {_bare(key.words)}: {_bare(item.words)}"
    return Kind(f"a dict{of}", holds, (dict,), (key, item))


def _many(origin: type, each: Kind | None) -> Kind:
    """Several of a kind.  A text is not taken for its letters; streams are not read."""
    wanted = origin if origin not in (Sequence, Collection) else Collection

    def holds(value: Any) -> bool:
        if isinstance(value, (str, bytes, Mapping)) or not isinstance(value, wanted):
            return False
        if isinstance(value, torch.Tensor) and not (value.ndim and value.numel()):
            return False
        if origin is Sequence and not hasattr(value, "__getitem__"):
            return False
        return each is None or not isinstance(value, Collection) or all(map(each.holds, value))

    name = f"a {origin.__name__}" if origin in (tuple, set, frozenset) else "a list"
    of = f" of {_plural(each.words)}" if each else ""
    return Kind(f"{name}{of}", holds, (origin,), (None, each))


def _is_numeric(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(_is_numeric(item) or isinstance(item, Real) for item in value)
    return isinstance(value, (np.ndarray, torch.Tensor)) or hasattr(value, "to_numpy")


NUMERIC = Kind("an array or list of numbers", _is_numeric, (np.ndarray,))
FILE = Kind("a path of a file", _is_file_name, (str, Path))


def _article(name: str) -> str:
    return f"{'an' if name[0] in 'AEIOU' else 'a'} {name}"


def _bare(words: str) -> str:
    """Without the article in front."""
    first, _, rest = words.partition(" ")
    return rest if first in ("a", "an") and rest else words


def _plural(words: str) -> str:
    """Several of what the words name."""
    if " or " in words or words.startswith("("):
        return f"({words})"
    bare = _bare(words)
    head, of, rest = bare.partition(" of ")
    return f"{head}s{of}{rest}" if not head.endswith("s") else bare


def short(value: Any) -> str:
    """What was found, on half a line.

    >>> short("a0.h1"), short([3])
    ("the text 'a0.h1'", 'the list [3]')
    """
    name = {"str": "text"}.get(type(value).__name__, type(value).__name__)
    if value is None:
        return "None"
    if isinstance(value, torch.Tensor):
        return f"a tensor {str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if isinstance(value, types.FunctionType):
        return f"the function {value.__name__}"
    if isinstance(value, (str, bytes, int, float, complex)):
        if isinstance(value, int) and abs(value) >= LARGEST:
            return "a whole number of more than 64 bits"
        text = repr(value)
        return f"the {name} {text if len(text) < 60 else text[:56] + '...'}"
    if isinstance(value, (list, tuple, dict, set)):
        if all(isinstance(item, (str, int, float, type(None))) for item in islice(value, 20)) and \
                not isinstance(value, dict) and len(str(value)) < 60:
            return f"the {name} {value!r}"
        inside = ", ".join(sorted({type(item).__name__ for item in islice(
            value.values() if isinstance(value, dict) else value, 20)}))
        return f"a {name} of {inside}" if inside else f"an empty {name}"
    return _article(name)
