"""The border of the package: each call from outside is compared with the signature it has.

`rewrite/__init__.py` sets it up once, round the public functions and the methods of public
classes.  The functions themselves stay as they are, and within the package they are called
directly.  What a function raises is what the caller sees, but for the one error that has no place
of its own: something is nested so deeply that Python gives up.  A default device without values
is no device to measure on.  Functions that are told something
(`progress`, `say`) are called behind the border too: what they raise is an error of ours.
"""

from __future__ import annotations

import builtins
import functools
import inspect
import re
import sys
import types
import typing
from collections import ChainMap
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from typing import Any

import torch

from rewrite.errors import ArgumentError, near
from rewrite.kinds import Kind, kind_of, short
from rewrite.world import safe

HINTS: Mapping[tuple[str, str], str] = {
    ("Components", "Graph"): "pass graph.components()",
    ("Components", "Module"): "pass rw.trace(model).components()",
    ("Components", "Hypothesis"): "pass hypothesis.parts",
    ("Graph", "Components"): "pass parts.as_graph(), or parts.graph for the operators",
    ("Graph", "Module"): "pass rw.trace(model)",
    ("Hypothesis", "str"): 'pass rw.Hypothesis(parts, {"clean": "a0.h1 -> logits"})',
    ("Hypothesis", "PathSet"): 'pass rw.Hypothesis(parts, {"clean": paths})',
    ("Hypothesis", "Components"): 'pass rw.Hypothesis(parts, {"clean": "a0.h1 -> logits"})',
    ("Hypothesis", "Graph"):
        'pass rw.Hypothesis(graph.components(), {"clean": "a0.h1 -> logits"})',
    ("Expansion", "Hypothesis"): "pass rw.expand(hypothesis)",
    ("Pairs", "dict"): 'pass rw.Pairs.from_tensors({"clean": {...}, "corrupt": {...}})',
    ("Metric", "type"): "call it: rw.logit_diff()",
    ("PathSet", "Hypothesis"): 'pass hypothesis.runs["clean"]',
    ("str", "Node"): "pass node.name",
    ("Sequence", "str"): "put it in a list: [...]",
    ("str", "list"): "pass one text",
}
"""What to write where one thing is taken for another: (wanted, found)."""

NAMES = {"Components": "parts"}


class Border:
    """What one public function takes."""

    def __init__(self, function: Callable[..., Any], call: str, owner: type | None,
                 bound: bool) -> None:
        self.function, self.call, self.owner, self.bound = function, call, owner, bound

    @cached_property
    def signature(self) -> inspect.Signature:
        """Without `self` or `cls`."""
        signature = inspect.signature(self.function)
        known = list(signature.parameters.values())
        return signature.replace(parameters=known[1:] if self.bound else known)

    @cached_property
    def named(self) -> dict[str, Kind | None]:
        """What can be given by name."""
        by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
        return {p.name: self._kind(p.annotation) for p in self.signature.parameters.values()
                if p.kind in by_name} | self._rest(inspect.Parameter.VAR_KEYWORD, True)[0]

    @cached_property
    def in_order(self) -> tuple[str, ...]:
        """What can be given by position."""
        ordered = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.POSITIONAL_ONLY)
        return tuple(p.name for p in self.signature.parameters.values() if p.kind in ordered)

    @cached_property
    def needed(self) -> tuple[str, ...]:
        """What has no default."""
        return tuple(p.name for p in self.signature.parameters.values()
                     if p.default is p.empty and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL))

    @cached_property
    def more(self) -> tuple[bool, Kind | None]:
        """Whether any number of values may be given by position, and what each must be."""
        _, kind, there = self._rest(inspect.Parameter.VAR_POSITIONAL, False)
        return there, kind

    @cached_property
    def others(self) -> tuple[bool, Kind | None]:
        """Whether any other names may be given, and what each must be."""
        known, kind, there = self._rest(inspect.Parameter.VAR_KEYWORD, True)
        return there and not known, kind

    def wrong(self, args: tuple[Any, ...], given: Mapping[str, Any]) -> bool:
        """Whether arguments do not fit; costs about a microsecond for each."""
        order, named = self.in_order, self.named
        if len(args) > len(order) and not self.more[0]:
            return True
        for name, value in zip(order, args, strict=False):
            if ((kind := named[name]) is not None and not kind.holds(value)) or name in given:
                return True
        if (kind := self.more[1]) is not None and not all(map(kind.holds, args[len(order):])):
            return True
        for name, value in given.items():
            kind = named.get(name, self.others[1])
            if (name not in named and not self.others[0]) or (kind and not kind.holds(value)):
                return True
        return any(name not in given and name not in order[: len(args)] for name in self.needed)

    def called(
        self, function: Callable[..., Any], args: tuple[Any, ...], given: dict[str, Any]
    ) -> Any:
        """What the function returns, behind the border."""
        try:
            with real():
                return function(*args, **self.heard(given))
        except RecursionError as error:
            raise ArgumentError(f"{self.call}: what it is given is nested too deeply, or holds "
                                "itself") from error

    @cached_property
    def listeners(self) -> frozenset[str]:
        """What is called with news, and returns nothing."""
        return frozenset(name for name, kind in self.named.items() if kind and kind.listens)

    def heard(self, given: dict[str, Any]) -> dict[str, Any]:
        """The same arguments; what listeners raise is an `ArgumentError` that names them."""
        if not self.listeners or self.listeners.isdisjoint(given):
            return given
        return {name: safe(value, f"{self.call}: the function {name}")
                if name in self.listeners and value is not None else value
                for name, value in given.items()}

    def complaint(self, args: tuple[Any, ...], given: Mapping[str, Any]) -> str:
        """What is wrong with arguments, and the corrected call."""
        order, named = self.in_order, self.named
        if len(args) > len(order) and not self.more[0]:
            few = f"{len(order)} argument{'s' * (len(order) != 1)}" if order else "no arguments"
            return (f"{self.call} takes {few} by position, found {len(args)}: write "
                    f"{self.example()}")
        for name in given:
            if name in order[: len(args)]:
                return f"{self.call}: {name} is given twice: write {self.example(name)}"
            if name not in named and not self.others[0]:
                return (f"{self.call} has no {name!r}; {near(name, named)}: write "
                        f"{self.example()}")
        values = [*zip(order, args, strict=False), *given.items()]
        checks = [(name, value, named.get(name, self.others[1])) for name, value in values]
        checks += [("each argument", value, self.more[1]) for value in args[len(order):]]
        for name, value, kind in checks:
            if kind is not None and not kind.holds(value):
                where, wanted, found = kind.fault(value, name)
                return (f"{self.call}: {where} must be {wanted.words}, found {short(found)}; "
                        f"{_hint(wanted, found)}write {self.example(name)}")
        missing = next(name for name in self.needed
                       if name not in given and name not in order[: len(args)])
        kind = named[missing]
        what = f", {kind.words}" if kind else ""
        return f"{self.call} needs {missing}{what}: write {self.example()}"

    def example(self, name: str = "") -> str:
        """A call with all that is needed, and with `name`."""
        shown = []
        for p in self.signature.parameters.values():
            if p.kind is p.VAR_POSITIONAL and (p.name == name or name == "each argument"):
                shown.append("...")
            elif p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD):
                continue
            elif p.kind is p.KEYWORD_ONLY and p.default is p.empty:
                shown.append(f"{p.name}={p.name}")
            elif p.default is p.empty:
                shown.append(p.name)
            elif p.name == name:
                plain = isinstance(p.default, (str, int, float)) and p.default != ""
                shown.append(f"{p.name}={p.default!r}" if plain else f"{p.name}=...")
        return f"{self.call}({', '.join(shown)})"

    def _rest(self, kind: Any, named: bool) -> tuple[dict[str, Kind | None], Kind | None, bool]:
        """What `*values` or `**values` are: by name, or each."""
        for p in self.signature.parameters.values():
            if p.kind is kind:
                hint = self._hint(p.annotation)
                if named and typing.get_origin(hint) is typing.Unpack:
                    options = typing.get_args(hint)[0]
                    space = vars(sys.modules[options.__module__])
                    return {name: kind_of(each) for name, each in typing.get_type_hints(
                        options, space).items()}, None, True
                return {}, kind_of(hint), True
        return {}, None, False

    def _kind(self, annotation: Any) -> Kind | None:
        return None if annotation is inspect.Parameter.empty else kind_of(self._hint(annotation))

    def _hint(self, annotation: Any) -> Any:
        """An annotation that names what is known only to type checkers is `Any`."""
        if not isinstance(annotation, str):
            return annotation
        owners = self.owner.__mro__ if self.owner else ()
        spaces = [sys.modules[c.__module__].__dict__ for c in owners]
        whole = ChainMap({}, self.function.__globals__, *spaces, builtins.__dict__)
        classes = {name: found for name in re.findall(r"[A-Za-z_]\w*", annotation)
                   if name not in whole and (found := _class_named(name)) is not None}
        try:
            return eval(annotation, {}, whole.new_child(classes))
        except (NameError, AttributeError, TypeError):
            return Any


def _class_named(name: str) -> type | None:
    """The only class of the package with a name that a module knows to type checkers alone."""
    found = {vars(module)[name] for key, module in list(sys.modules.items())
             if key.startswith("rewrite") and isinstance(vars(module).get(name), type)}
    return found.pop() if len(found) == 1 else None


def _hint(kind: Kind, value: Any) -> str:
    for wanted in kind.classes:
        for found in ("type",) if isinstance(value, type) else map(_name, type(value).__mro__):
            if hint := HINTS.get((wanted.__name__, found)):
                return f"{hint}: "
    return ""


def _name(kind: type) -> str:
    return kind.__name__


def checked(function: Any, call: str, owner: type | None = None, bound: bool = False) -> Any:
    """The same function, which first looks at what it is given; raises `ArgumentError`."""
    border, refused = Border(function, call, owner, bound), ArgumentError

    def guarded(*args: Any, **given: Any) -> Any:
        if border.wrong(args[bound:], given):
            raise refused(border.complaint(args[bound:], given))
        return border.called(function, args, given)

    # With the names of its own module, doctests find it there.
    made = types.FunctionType(guarded.__code__, function.__globals__, function.__name__,
                              None, guarded.__closure__)
    return functools.update_wrapper(made, function)


def real() -> AbstractContextManager[Any]:
    """New tensors have values, also where the default device is the one that has none.

    Models may be made there, without weights; what is measured of them is not.
    """
    return torch.device("cpu") if torch.empty(0).is_meta else nullcontext()


def guard(space: Any, names: Iterable[str], prefix: str) -> None:
    """Set up the border for public names of a module, whose variables `space` is."""
    for name in names:
        thing = space[name]
        if isinstance(thing, types.FunctionType):
            space[name] = made = checked(thing, f"{prefix}{name}")
            made.__module__ = space["__name__"]  # where pickle finds it
        elif isinstance(thing, type) and thing.__module__.startswith("rewrite."):
            _guard_class(thing, f"{prefix}{name}")


def _guard_class(thing: type, name: str) -> None:
    value = NAMES.get(thing.__name__, thing.__name__.lower())
    for base in thing.__mro__:
        if not base.__module__.startswith("rewrite."):
            continue
        for key, member in list(vars(base).items()):
            if key not in ("__init__", "__call__") and key.startswith("_"):
                continue
            inner = getattr(member, "__func__", member)
            if not isinstance(inner, types.FunctionType) or "__guarded__" in vars(inner):
                continue
            static = isinstance(member, staticmethod)
            call = name if key == "__init__" else value if key == "__call__" else (
                f"{value}.{key}" if inner is member else f"{name}.{key}")
            made = checked(inner, call, base, bound=not static)
            made.__guarded__ = True
            setattr(base, key, made if inner is member else type(member)(made))
