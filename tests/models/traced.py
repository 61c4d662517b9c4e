"""Families of the table, traced once per process."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from functools import cache
from typing import Any

import pytest

from tests.models.table import TABLE
from tests.zoo import Traced, trace


@cache
def traced(name: str) -> Traced:
    """The tiny model of a family, its graphs.  Leave its parameters as they are."""
    model = TABLE[name].build()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what models do
        graph = trace(model, dict(TABLE[name].inputs) or None)
    return Traced(model, graph, graph.components())


def grouped(names: Iterable[str]) -> list[Any]:
    """Parameters of a test, each run by the process that has traced that family."""
    return [pytest.param(name, marks=pytest.mark.xdist_group(f"traced {name}")) for name in names]
