"""Seeded damage: to bytes, to the values of JSON and TOML, to what a path leads to."""

from __future__ import annotations

import copy
import json
import os
import random
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import tomli_w

Damage = Callable[[bytes, random.Random], bytes]


def bits(data: bytes, draw: random.Random) -> bytes:
    """Some bits are flipped, near the front most of the time: there the headers are."""
    found = bytearray(data)
    for _ in range(draw.choice((1, 1, 2, 8))):
        if found:
            end = min(len(found), draw.choice((16, 400, len(found))))
            found[draw.randrange(end)] ^= 1 << draw.randrange(8)
    return bytes(found)


def cut(data: bytes, draw: random.Random) -> bytes:
    """The end is missing, as after an interrupted download."""
    return data[: draw.randrange(min(len(data), draw.choice((12, 500, len(data)))) or 1)]


def doubled(data: bytes, draw: random.Random) -> bytes:
    """A piece stands twice."""
    start = draw.randrange(len(data) or 1)
    end = start + draw.randrange(1, 200)
    return data[:end] + data[start:end] + data[end:]


def dropped(data: bytes, draw: random.Random) -> bytes:
    """A piece is missing."""
    start = draw.randrange(len(data) or 1)
    return data[:start] + data[start + draw.randrange(1, 200):]


def zeroed(data: bytes, draw: random.Random) -> bytes:
    """A piece is zeros, as where a disk has lost a block."""
    start = draw.randrange(len(data) or 1)
    count = min(draw.randrange(1, 64), len(data) - start)
    return data[:start] + bytes(count) + data[start + count:]


def huge(data: bytes, draw: random.Random) -> bytes:
    """Eight bytes are a number that no file has room for."""
    at = draw.choice((0, 4, 8, 16, draw.randrange(len(data) or 1)))
    number = draw.choice((2**60, 2**63 - 1, 2**64 - 1, 2**32, 2**31 - 1))
    return data[:at] + struct.pack("<Q", number) + data[at + 8:]


def coded(data: bytes, draw: random.Random) -> bytes:
    """In another encoding, with other ends of lines, or with bytes that are no text."""
    text = data.decode("latin-1")
    return draw.choice((
        lambda: text.encode("utf-16"), lambda: b"\xef\xbb\xbf" + data, lambda: b"\xff\xfe" + data,
        lambda: data.replace(b"\n", b"\r\n"), lambda: data.replace(b"\n", b"\r"),
        lambda: data + b"\0", lambda: b"\0" + data, lambda: data[:50] + b"\xe9\x80" + data[50:],
        lambda: text.encode("utf-32"), lambda: b"", lambda: b"\n", lambda: b"\0" * len(data),
    ))()


BYTES: tuple[Damage, ...] = (bits, cut, doubled, dropped, zeroed, huge, coded)


def damaged(data: bytes, draw: random.Random) -> bytes:
    """Bytes with one damage of any kind."""
    return draw.choice(BYTES)(data, draw)


class Raw(str):
    """A text that is written into a file as it is, without quotes."""


NESTED = 3_000
ODD: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2, 7, 1.5, -0.0, 2**31, 2**63, -2**63, 2**64, 10**30, 1e308,
    float("nan"), float("inf"), "", " ", "0", "1", "None", "nan", "\0", "a\nb", "é", "\U0001f600",
    "../../etc/passwd", "/dev/zero", "x" * 5_000, "__class__", "float32", "int64", "complex64",
    "nn", "Tensor", [], {}, [[]], [[], [1]], {"a": 1}, [None], ["1"], [1, 2, 3], {"": None},
    Raw("9" * 5_000), Raw("-" + "9" * 5_000), Raw("1e999999"), Raw("[" * NESTED + "]" * NESTED),
    Raw('"\\ud800"'), Raw('{"a":' * NESTED + "1" + "}" * NESTED), Raw("[" * 200 + "]" * 200),
)
"""What stands in place of a value, or as the name of one where it is a text."""


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where the values inside of a value are."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(
        value, list) else ()
    for key, item in items:
        yield (*path, key)
        yield from places(item, (*path, key))


def edited(tree: Any, draw: random.Random) -> Any:
    """A table with another value, without one, with one twice, with another name, or swapped."""
    tree = copy.deepcopy(tree)
    spots = list(places(tree))
    if not spots:
        return draw.choice(ODD)
    # Short paths as often as long ones: data are many, names are few.
    depth = draw.choice(sorted({len(spot) for spot in spots}))
    spot = draw.choice([each for each in spots if len(each) == depth])
    owner = tree
    for key in spot[:-1]:
        owner = owner[key]
    key, value = spot[-1], owner[spot[-1]]
    kind = draw.randrange(8)
    if kind < 4:
        owner[key] = draw.choice(ODD)
    elif kind == 4:
        del owner[key]
    elif kind == 5:
        other = draw.choice(spots)
        found = tree
        for each in other:
            found = found[each]
        owner[key] = copy.deepcopy(found)
    elif isinstance(owner, list):
        owner.insert(draw.randrange(len(owner) + 1), copy.deepcopy(value))
    elif kind == 6:
        del owner[key]
        owner[draw.choice(["", "a.b", "\0", f"{key}x", "__class__", "é", "0"])] = value
    else:
        owner[key] = str(value) if not isinstance(value, str) else [value]
    return tree


def as_json(tree: Any) -> bytes:
    """A tree as JSON, with what is `Raw` as it is."""
    return _written(tree, lambda value: json.dumps(value, indent=1)).encode()


def as_toml(tree: Any) -> bytes:
    """A tree as TOML; what TOML does not have is left out."""
    if not isinstance(tree, dict):
        return str(tree).encode()
    return _written(tree, lambda value: tomli_w.dumps(_bare(value))).encode()


def _written(tree: Any, write: Callable[[Any], str]) -> str:
    raw: list[str] = []

    def kept(value: Any) -> Any:
        if isinstance(value, Raw):
            raw.append(str(value))
            return f"@raw{len(raw) - 1}@"
        if isinstance(value, dict):
            return {key: kept(item) for key, item in value.items()}
        return [kept(item) for item in value] if isinstance(value, list) else value

    text = write(kept(tree))
    for number, each in enumerate(raw):
        text = text.replace(f'"@raw{number}@"', each)
    return text


def _bare(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _bare(item) for key, item in value.items() if item is not None}
    return [_bare(item) for item in value if item is not None] if isinstance(value, list) else value


def twice(text: bytes, draw: random.Random) -> bytes:
    """A line of a text stands twice: of JSON and TOML, a name with two values."""
    lines = text.splitlines(keepends=True)
    at = draw.randrange(len(lines) or 1)
    return b"".join([*lines[:at], *lines[at:at + 1] * 2, *lines[at + 1:]])


def _directory(path: Path) -> None:
    path.mkdir()


def _loop(path: Path) -> None:
    path.symlink_to(path)


def _nowhere(path: Path) -> None:
    path.symlink_to(path.parent / "nowhere")


def _pipe(path: Path) -> None:
    os.mkfifo(path)


def _endless(path: Path) -> None:
    path.symlink_to("/dev/zero")


def _empty(path: Path) -> None:
    path.touch()


def _closed(path: Path) -> None:
    path.write_bytes(b"{}")
    path.chmod(0)


def _holes(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(2**40)  # of holes: no disk is needed for it, and no memory has room


def _missing(path: Path) -> None:
    pass


ELSEWHERE: tuple[Callable[[Path], None], ...] = (
    _directory, _loop, _nowhere, _pipe, _endless, _empty, _closed, _missing, _holes)
"""What a path can lead to instead of a file."""
