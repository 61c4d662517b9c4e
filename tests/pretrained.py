"""Models that come as packages, traced once per process for all tests that look at them."""

from __future__ import annotations

from functools import cache

from torch import nn

import rewrite as rw
from rewrite.trace import load, packaged
from tests.zoo import Traced


@cache
def loaded(name: str) -> nn.Module:
    """The model with its weights, which need no gradients.  Leave them as they are."""
    assert packaged.installed(name), f"make setup installs the package of {name}"
    return load(name).requires_grad_(False)


@cache
def pretrained(name: str) -> Traced:
    """The model, its op graph and its component graph."""
    graph = rw.trace(loaded(name))
    return Traced(loaded(name), graph, graph.components())
