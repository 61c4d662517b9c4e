"""Every law of the design on every family of the core of tests/models/table.py.

The core holds one family of each kind of architecture.  `docs/make_models.py` examines all of
them, by the same laws, and writes what it found into `docs/supported_models.md`.
"""

from __future__ import annotations

import pytest

from tests.models.examine import LAWS, examine
from tests.models.table import CORE, TABLE
from tests.models.traced import grouped, traced


@pytest.mark.parametrize("name", grouped(CORE))
def test_every_law(name: str) -> None:
    family = TABLE[name]
    row = examine(family, traced(name))
    assert row.failed == {}
    assert len(row.passed) + len(row.known) == len(LAWS)
    assert row.known.keys() == family.known.keys()
    assert row.fixed == family.fixed


def test_the_table_is_wide() -> None:
    assert len(CORE) >= 45 and set(CORE) <= set(TABLE) and len(TABLE) >= 230
