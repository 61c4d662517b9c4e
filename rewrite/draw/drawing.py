"""`draw` and `svg`: one entrance for every picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def draw(thing: Any, path: str | Path | None = None, **options: Any) -> Path | str:
    """Draw."""
    raise NotImplementedError


def svg(thing: Any, **options: Any) -> str:
    """Draw."""
    raise NotImplementedError
