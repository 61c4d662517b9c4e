"""Reading and writing with errors that say what to do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import tomli_w

from rewrite.disk import write
from rewrite.world import table_of, text_of


def write_json(path: Path, data: Any) -> Path:
    """Write indented JSON."""
    return write(path, json.dumps(data, indent=1, ensure_ascii=False) + "\n")


def write_toml(path: Path, data: dict[str, Any], comment: str = "") -> Path:
    """Write TOML with a comment at its head."""
    head = "".join(f"# {line}\n" for line in comment.splitlines())
    return write(path, head + tomli_w.dumps(data, multiline_strings=True))


def read(path: Path) -> dict[str, Any]:
    """Read a .toml or .json file that holds a table."""
    return table_of(text_of(path), path, path.suffix.lstrip(".").upper())
