"""A handful of the kills of `benchmarks.kills`; the script does many more."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from benchmarks.kills import measured, until


@pytest.mark.parametrize("kind, kills", [("sweep", 2), ("refine", 1)])
def test_nothing_is_lost_where_processes_are_killed(
    kind: str, kills: int, tmp_path: Path
) -> None:
    file = tmp_path / "file"
    done, _ = until(kind, kills, file, random.Random(1))
    assert done == kills
    assert measured(kind, file) == measured(kind, None)
    assert [each.name for each in tmp_path.iterdir()] == ["file"]
