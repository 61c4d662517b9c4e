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

from rewrite.errors import FileError
from rewrite.measure import Pairs
from rewrite.parts import Components


class Record:
    """Rows of one sweep in a file, one JSON object a line, below a line that says which sweep.

    A file that exists is read, and must be of the same sweep: `rows` are those that are done,
    by number, in the order in which they were found.
    Raises `FileError` that says what differs, or what else the file is.
    """

    def __init__(self, path: Path, identity: Mapping[str, Any]) -> None:
        self.path: Path = path
        self.rows: dict[int, dict[str, Any]] = {}
        head = {"kind": "sweep rows", **identity}
        try:
            text = path.read_text(encoding="utf-8") if path.exists() else ""
            whole = text[: text.rfind("\n") + 1]  # a line that was cut off is not done
            if whole:
                self._check(whole, head)
            else:
                path.parent.mkdir(parents=True, exist_ok=True)
                whole = json.dumps(head) + "\n"
            if whole != text:
                path.write_text(whole, encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise FileError(f"{path} cannot hold the rows of a sweep ({error}): choose a file "
                            "in a folder that you may write to") from error

    def _check(self, text: str, head: Mapping[str, Any]) -> None:
        try:
            found, *rows = map(json.loads, text.splitlines())
        except json.JSONDecodeError:
            found, rows = None, []
        if not isinstance(found, dict) or found.get("kind") != head["kind"]:
            raise FileError(f"{self.path} is no file of a sweep: give another name")
        if other := [name for name in head if found.get(name) != head[name]]:
            differ = "; ".join(f"{name} was {found.get(name)}, now {head[name]}" for name in other)
            raise FileError(f"{self.path} holds the rows of another sweep: {differ}\n"
                            "give another file, or remove this one")
        for row in rows:
            number = row.pop("row")
            self.rows[number] = {k: nan if v is None else v for k, v in row.items()}

    def add(self, rows: Mapping[int, Mapping[str, Any]]) -> None:
        """Write rows behind those that are there."""
        lines = [json.dumps({"row": number, **{
            k: None if isinstance(v, float) and isnan(v) else v for k, v in row.items()}})
            for number, row in rows.items()]
        with self.path.open("a", encoding="utf-8") as file:
            file.write("".join(f"{line}\n" for line in lines))


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
