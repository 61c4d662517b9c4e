"""A sweep that survives interruption: rows go to a file as they are found."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from math import isnan, nan
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rewrite import disk
from rewrite.errors import FileError
from rewrite.measure import Pairs
from rewrite.parts import Components

ROW: Mapping[str, type | tuple[type, ...]] = {
    "row": int, "sender": str, "receiver": str, "paths": str,
    **dict.fromkeys(("effect", "low", "high", "change", "p"), (float, int, type(None)))}
"""What a row holds; JSON has no nan, so that is null."""


class Record:
    """Rows of one sweep in a file, one JSON object a line, below a line that says which sweep.

    A file that exists is read, and must be of the same sweep: `rows` are those that are done,
    by number, in the order in which they were found.
    Raises `FileError` that says what differs, what else the file is, or which line is no row.
    """

    def __init__(self, path: Path, identity: Mapping[str, Any]) -> None:
        self.path: Path = path
        self.rows: dict[int, dict[str, Any]] = {}
        head = {"kind": "sweep rows", **identity}
        first = json.dumps(head) + "\n"
        try:
            text = path.read_text(encoding="utf-8") if path.exists() else ""
            whole = text[: text.rfind("\n") + 1] or first  # a line that was cut off is not done
            if not first.startswith(text):
                self._check(whole if "\n" in text else text, head)
            if whole != text:
                disk.write(path, whole)
        except (OSError, UnicodeDecodeError) as error:
            raise FileError(f"{path} cannot hold the rows of a sweep ({error}): choose a file "
                            "in a folder that you may write to") from error

    def _check(self, text: str, head: Mapping[str, Any]) -> None:
        first, *lines = text.splitlines()
        found = _object(first)
        if found.get("kind") != head["kind"]:
            raise FileError(f"{self.path} is no file of a sweep: give another name")
        if other := [name for name in head if name not in found or found[name] != head[name]]:
            differ = "; ".join(
                f"{name} was {found[name]}, now {head[name]}" if name in found else
                f"it does not say its {name}, as every sweep does now" for name in other)
            raise FileError(f"{self.path} holds the rows of another sweep: {differ}\n"
                            "give another file, or remove this one")
        for number, line in enumerate(lines, start=2):
            row = _object(line)
            if wrong := [f"{name} is {row[name]!r}" if name in row else f"it has no {name}"
                         for name, kind in ROW.items() if not isinstance(row.get(name, ()), kind)]:
                what = ", ".join(wrong) if row else f"it is {line[:40]!r}"
                raise FileError(
                    f"{self.path} was written by another version, or edited: line {number} is no "
                    f"row of a sweep, {what}\nremove the line to have its row measured again, or "
                    "give another file")
            at = row.pop("row")
            self.rows[at] = {k: nan if v is None else v for k, v in row.items()}

    def add(self, rows: Mapping[int, Mapping[str, Any]]) -> None:
        """Write rows behind those that are there."""
        lines = [json.dumps({"row": number, **{
            k: None if isinstance(v, float) and isnan(v) else v for k, v in row.items()}})
            for number, row in rows.items()]
        disk.append(self.path, "".join(f"{line}\n" for line in lines))


def _object(line: str) -> dict[str, Any]:
    """The JSON object of a line; empty for anything else."""
    try:
        found = json.loads(line)
    except json.JSONDecodeError:
        return {}
    return found if isinstance(found, dict) else {}


def digest_of_model(parts: Components) -> str:
    """Equal for models that compute the same: the graph as code, and all weights."""
    module = parts.graph.module
    made = hashlib.blake2b(module.code.encode(), digest_size=8)
    for name, value in sorted({**dict(module.named_parameters()),
                               **dict(module.named_buffers())}.items()):
        _add(made, name, value)
    return made.hexdigest()


def digest_of_pairs(pairs: Pairs) -> str:
    """Equal for the same examples with the same labels."""
    made = hashlib.blake2b(f"{pairs.reference} {pairs.run_names}".encode(), digest_size=8)
    for examples in pairs.runs.values():
        for example in examples:
            for name, value in example.items():
                _add(made, name, value)
    for name, values in pairs.labels.items():
        for value in values:
            _add(made, name, value)
    return made.hexdigest()


def digest_of(text: str) -> str:
    """Of a text."""
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _add(made: Any, name: str, value: Tensor) -> None:
    made.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
    if not value.is_meta and value.numel():
        flat = value.detach().cpu().contiguous().reshape(-1)
        made.update(flat.view(torch.uint8).numpy())
