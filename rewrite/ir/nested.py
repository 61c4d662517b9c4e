"""Nested values by flat names: `{"pair": (a, b)}` is `pair.0` and `pair.1`, and back again."""

from __future__ import annotations

import keyword
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any, NamedTuple


class Place(str):
    """The name of an input, which generated code writes as an identifier: `pair.0` as `pair_0`."""

    __slots__ = ()

    def __format__(self, spec: str) -> str:
        return plain(str.__str__(self))

    def replace(self, *args: Any) -> str:
        return format(self).replace(*args)


class Leaf(NamedTuple):
    """Where the value called `name` stands."""

    name: str


class Nest(NamedTuple):
    """A container without what it holds, so that nothing is kept alive."""

    kind: type
    keys: tuple[Any, ...]
    items: tuple[Leaf | Nest, ...]


def unnested(
    value: Any, name: str = "", taken: Collection[str] = (), item: str = "output"
) -> tuple[Leaf | Nest, dict[str, Any]]:
    """The form of a value, and what is no container in it, by dotted names.

    Characters that are no letters, digits or `_` become `_`.  A name that is `taken` gets `_out`,
    one that comes twice a number.  What has no name is called `item`, its entries `item0`, `item1`.

    >>> form, found = unnested({"logits": 1, "states": (2, 3)})
    >>> found
    {'logits': 1, 'states.0': 2, 'states.1': 3}
    >>> nested(form, found)
    {'logits': 1, 'states': (2, 3)}
    """
    found: dict[str, Any] = {}

    def walk(inner: Any, label: str) -> Leaf | Nest:
        keys = _keys(inner)
        if keys is None:
            text = label or item
            free = _free(f"{text}_out" if text in taken else text, {*taken, *found})
            found[free] = inner
            return Leaf(free)
        labels = [_label(label, key, "" if isinstance(inner, Mapping) else item)
                  for key, _ in keys]
        items = tuple(walk(entry, text) for (_, entry), text in zip(keys, labels, strict=True))
        return Nest(type(inner), tuple(key for key, _ in keys), items)

    return walk(value, name), found


def nested(form: Leaf | Nest, found: Mapping[str, Any]) -> Any:
    """The value of a form that holds what is found under its names."""
    if isinstance(form, Leaf):
        return found[form.name]
    kind, keys, inner = form
    make: Any = kind
    items = [nested(item, found) for item in inner]
    if issubclass(kind, defaultdict):
        return defaultdict(None, zip(keys, items, strict=True))
    if is_dataclass(kind):
        return make(**dict(zip(keys, items, strict=True)))
    if issubclass(kind, Mapping):
        return make(dict(zip(keys, items, strict=True)))
    return make(*items) if hasattr(kind, "_fields") else make(items)


def _label(name: str, key: Any, item: str) -> str:
    """The name of an entry: that of its container, and its key."""
    if not name and not isinstance(key, str):
        return f"{item}{key}"
    own = re.sub(r"\W", "_", str(key), flags=re.ASCII) or "_"
    return f"{name}.{own}" if name else own


def _keys(value: Any) -> list[tuple[Any, Any]] | None:
    """The entries of a container with their keys; None for what is none."""
    if isinstance(value, Mapping):
        return list(value.items())
    if isinstance(value, (tuple, list)):
        return list(zip(getattr(value, "_fields", range(len(value))), value, strict=True))
    if is_dataclass(value) and not isinstance(value, type):
        return [(entry.name, getattr(value, entry.name)) for entry in fields(value)]
    return None


def plain(name: str) -> str:
    """A name that paths, texts and code can write.

    >>> plain("say 'hi'"), plain("class"), plain("a__b"), plain("é")
    ('say_hi', 'class_', 'a_b', 'unnamed')
    """
    made = re.sub(r"[^A-Za-z0-9_]+|__+", "_", name)
    if made != name:
        made = re.sub("__+", "_", made).strip("_") or "unnamed"
    return f"{made}_" if keyword.iskeyword(made) else made


def _free(name: str, taken: Collection[str]) -> str:
    """The name, or with the first number that makes it new."""
    made, count = name, 1
    while made in taken:
        count += 1
        made = f"{name}_{count}"
    return made


def plain_names(names: Iterable[str]) -> dict[str, str]:
    """Each name in plain letters, different ones for different names.

    >>> plain_names(["a-b", "a_b", "in"])
    {'a-b': 'a_b_2', 'a_b': 'a_b', 'in': 'in_'}
    """
    names = list(dict.fromkeys(names))
    taken = {name for name in names if plain(name) == name}
    made = {}
    for name in names:
        made[name] = name if name in taken and plain(name) == name else _free(plain(name), taken)
        taken.add(made[name])
    return made


def plain_path(owner: Any, path: str) -> str:
    """The dotted name of what a module holds, in plain names.

    >>> import torch
    >>> plain_path(torch.nn.ModuleDict({"in": torch.nn.Linear(1, 1)}), "in.weight")
    'in_.weight'
    """
    made = []
    for part in path.split(".") if path else ():
        fine = plain(part) == part  # and so kept
        made.append(part if fine else children(owner).get(part, plain(part)))
        owner = getattr(owner, part, None)
    return ".".join(made)


def children(owner: Any) -> dict[str, str]:
    """The plain names of the modules and tensors that a module holds."""
    tables = ("_parameters", "_buffers", "_modules")
    return plain_names(name for table in tables for name in getattr(owner, table, None) or {})


def plain_paths(paths: Iterable[str]) -> dict[str, str]:
    """The dotted names of a state dict, by the same ones in plain names.

    >>> plain_paths(["a-b.weight", "a_b.weight", "in.bias"])
    {'a_b_2.weight': 'a-b.weight', 'a_b.weight': 'a_b.weight', 'in_.bias': 'in.bias'}
    """
    paths = list(paths)
    inside: dict[str, dict[str, None]] = {}
    for path in paths:
        before = ""
        for part in path.split("."):
            inside.setdefault(before, {})[part] = None
            before = f"{before}.{part}"
    names = {before: plain_names(held) for before, held in inside.items()}
    made = {}
    for path in paths:
        before, parts = "", []
        for part in path.split("."):
            parts.append(names[before][part])
            before = f"{before}.{part}"
        made[".".join(parts)] = path
    return made
