"""A sweep that survives interruption: rows go to a file as they are found."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import isnan, nan
from pathlib import Path
from typing import Any

from rewrite import disk
from rewrite.errors import FileError
from rewrite.run.identity import differences
from rewrite.world import LONGEST, check_is_file, reading, table_of

NAMES = ("sender", "receiver", "paths")
NUMBERS = ("effect", "low", "high", "change", "p")
ROW: Mapping[str, type | tuple[type, ...]] = {
    "row": int, **dict.fromkeys(NAMES, str), **dict.fromkeys(NUMBERS, (float, int, type(None)))}
"""What a row holds; JSON has no nan, so that is null."""


@dataclass
class Record:
    """Rows of one sweep by number, and the file to which they are written, if there is one."""

    path: Path | None = None
    rows: dict[int, dict[str, Any]] = field(default_factory=dict)

    def add(self, rows: Mapping[int, Mapping[str, Any]]) -> None:
        """Take rows in, and write them behind those that are there."""
        self.rows |= {number: dict(row) for number, row in rows.items()}
        if self.path is not None:
            disk.append(self.path, "".join(
                json.dumps({"row": number, **{name: _null(row[name]) for name in row}}) + "\n"
                for number, row in rows.items()))


@contextmanager
def record_at(
    path: Path, identity: Mapping[str, Any], names: Sequence[Mapping[str, str]],
    note: Callable[[str], None],
) -> Iterator[Record]:
    """The record in a file, one JSON object a line, below a line that says which sweep.

    A file that exists must be of the same sweep, whose rows are called `names`; a last line
    that was cut off is put aside.  Nobody else writes the file until the block ends.
    Raises `FileError` that says what differs, what else the file is, or which line is no row.
    """
    with disk.lock(path) as unlocked:
        if unlocked:
            note(unlocked)
        yield Record(path, _Reader(path, {"kind": "sweep rows", **identity}, names, note).rows())


@dataclass
class _Reader:
    path: Path
    head: Mapping[str, Any]
    names: Sequence[Mapping[str, str]]
    note: Callable[[str], None]

    def rows(self) -> dict[int, dict[str, Any]]:
        """The rows that are done; the file is made fit to be written on."""
        first = json.dumps(self.head) + "\n"
        data = b""
        with reading(self.path):
            if self.path.exists():
                check_is_file(self.path, LONGEST)
                data = self.path.read_bytes()
            size = data.rfind(b"\n") + 1
            lines, cut = data[:size].decode().splitlines(), data[size:]
        if first.encode().startswith(data):
            disk.write(self.path, first)
            return {}
        self._check_head(_object(lines[0] if lines else cut))
        found: dict[int, dict[str, Any]] = {}
        for line, text in enumerate(lines[1:], start=2):
            self._take(_object(text), text, line, found)
        if cut:
            self._mend(cut, size, len(lines) + 1, found)
        return found

    def _mend(self, cut: bytes, size: int, line: int, found: dict[int, dict[str, Any]]) -> None:
        """A last line without its end: whole, or put aside."""
        row = _object(cut)
        if not _wrong(row):
            self._take(row, cut.decode(), line, found)
            disk.append(self.path, "\n")
            return
        aside = disk.put_aside(self.path, size)
        self.note(f"the last line of {self.path.name} was cut off, and is in {aside.name} now: its "
                  "row is measured again")

    def _check_head(self, found: Mapping[str, Any]) -> None:
        if found.get("kind") != self.head["kind"]:
            raise FileError(f"{self.path} is no file of a sweep: give another name")
        if differ := differences(found, self.head):
            raise FileError(f"{self.path} holds the rows of another sweep: {differ}\n"
                            "give another file, or remove this one")

    def _take(
        self, row: dict[str, Any], text: str, line: int, found: dict[int, dict[str, Any]]
    ) -> None:
        if wrong := _wrong(row):
            what = ", ".join(wrong) if row else f"it is {text[:40]!r}"
            raise self._edited(f"line {line} is no row of a sweep, {what}")
        number = row.pop("row")
        if not 0 <= number < len(self.names):
            raise self._edited(f"line {line} is row {number} of {len(self.names)}")
        for name, value in self.names[number].items():
            if row[name] != value:
                raise self._edited(f"line {line} is row {number}, and its {name} is "
                                   f"{row[name]!r}, not {value!r}")
        read = {name: nan if value is None else value for name, value in row.items()}
        if repr(found.setdefault(number, read)) != repr(read):
            raise self._edited(f"line {line} has other numbers for row {number} than a line "
                               "before it")

    def _edited(self, why: str) -> FileError:
        return FileError(f"{self.path} was written by another version, or edited: {why}\nremove "
                         "the line to have its row measured again, or give another file")


def _object(line: str | bytes) -> dict[str, Any]:
    """The JSON object of a line; empty for anything else."""
    try:
        return table_of(line if isinstance(line, str) else line.decode(), "a line")
    except (FileError, UnicodeDecodeError):
        return {}


def _wrong(row: Mapping[str, Any]) -> list[str]:
    """What keeps an object from being a row."""
    return [f"{name} is {row[name]!r}" if name in row else f"it has no {name}"
            for name, kind in ROW.items() if not isinstance(row.get(name, ()), kind)]


def _null(value: Any) -> Any:
    return None if isinstance(value, float) and isnan(value) else value
