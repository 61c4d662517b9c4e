"""Reading and writing with errors that say what to do."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import tomli_w

from rewrite.disk import write
from rewrite.errors import FileError


def write_json(path: Path, data: Any) -> Path:
    """Write indented JSON."""
    return write(path, json.dumps(data, indent=1, ensure_ascii=False) + "\n")


def write_toml(path: Path, data: dict[str, Any], comment: str = "") -> Path:
    """Write TOML with a comment at its head."""
    head = "".join(f"# {line}\n" for line in comment.splitlines())
    return write(path, head + tomli_w.dumps(data, multiline_strings=True))


def read(path: Path) -> dict[str, Any]:
    """Read a .toml or .json file that holds a table."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise FileError(f"{path} cannot be read: {error}") from error
    try:
        data = tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
    except (tomllib.TOMLDecodeError, json.JSONDecodeError) as error:
        kind = path.suffix.lstrip(".").upper()
        raise FileError(f"{path} is not valid {kind}: {error}") from error
    if not isinstance(data, dict):
        raise FileError(f"{path} should hold a table, it holds a {type(data).__name__}")
    return data
