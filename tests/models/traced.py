"""Families of the table, traced once per process."""

from __future__ import annotations

from functools import cache

import rewrite as rw
from tests.models.table import TABLE
from tests.zoo import Traced


@cache
def traced(name: str) -> Traced:
    """The tiny model of a family, its graphs.  Leave its parameters as they are."""
    model = TABLE[name].build()
    graph = rw.trace(model, inputs=dict(TABLE[name].inputs) or None)
    return Traced(model, graph, graph.components())
