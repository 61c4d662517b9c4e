"""Every law of the design on every family of the core table (all of them: docs/make_models.py)."""

from __future__ import annotations

import pytest

from tests.models.examine import LAWS, examine
from tests.models.table import CORE, TABLE


@pytest.mark.parametrize("name", CORE)
def test_every_law(name: str) -> None:
    family = TABLE[name]
    row = examine(family)
    assert row.failed == {}
    assert len(row.passed) == len(LAWS)
    assert row.fixed == family.fixed


def test_the_table_is_wide() -> None:
    assert len(CORE) >= 85 and set(CORE) <= set(TABLE)
