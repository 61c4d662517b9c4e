"""Commands of one module that name the same folder share its trace."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest

import rewrite as rw
import rewrite.cli
import rewrite.demo
from tests.zoo import trace


@pytest.fixture(autouse=True, scope="module")
def _traced_once() -> Iterator[None]:
    """A graph is never changed; what no graph can be made of is an error each time."""
    kept = cache(trace)

    def once(model: str, *, dynamic: Any = None) -> rw.Graph:
        return kept(model) if dynamic is None else trace(model, dynamic=dynamic)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys.modules["rewrite.cli.app"], "trace_model", once)
        patch.setattr(sys.modules["rewrite.cli.refine"], "trace", once)
        patch.setattr(rewrite.demo, "trace", once)
        yield
