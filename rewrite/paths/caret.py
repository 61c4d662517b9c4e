"""Pointing at a place of a pattern, so that an error shows where it is."""

from __future__ import annotations

import re


def point(text: str, column: int, width: int = 1) -> str:
    """Two lines: `text`, and carets below the `width` characters that begin at `column`.

    >>> print(point("a5 -> @", 6))
        a5 -> @
              ^
    """
    line = re.sub(r"\s", " ", text)
    return f"    {line}\n    {' ' * column}{'^' * max(width, 1)}"
