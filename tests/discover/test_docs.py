"""The examples of the chapter are true."""

from __future__ import annotations

import doctest
from pathlib import Path

CHAPTER = Path(__file__).parents[2] / "docs" / "refine.md"


def test_the_chapter() -> None:
    failed, attempted = doctest.testfile(str(CHAPTER), module_relative=False)
    assert attempted > 15 and not failed
