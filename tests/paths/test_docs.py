"""The examples of the guide are true."""

from __future__ import annotations

import doctest
from pathlib import Path

GUIDE = Path(__file__).parents[2] / "docs" / "path_language.md"


def test_the_guide() -> None:
    failed, attempted = doctest.testfile(str(GUIDE), module_relative=False)
    assert attempted > 10 and not failed
