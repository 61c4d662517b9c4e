"""For all tests and for the examples in docstrings.

What was imported is kept out of garbage collection, which the many small graphs call for often.
Tests use one thread per process: the models are tiny, and two processes share two cores.
Examples find `rw`, `parts` (the component graph of a tiny random GPT-2) and `pairs`.
"""

from __future__ import annotations

import gc
from typing import Any

import pytest
import torch

import rewrite as rw

torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of one `family` run in the process that has traced it."""
    for item in items:
        family = item.callspec.params.get("family") if hasattr(item, "callspec") else None
        if isinstance(family, str) and not item.get_closest_marker("xdist_group"):
            item.add_marker(pytest.mark.xdist_group(f"traced {family}"))


def pytest_collection_finish() -> None:
    """Measured: 6 % of the time of the suite."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 20, 100)


@pytest.fixture(scope="session")
def _parts() -> rw.Components:
    from tests.zoo import traced

    return traced("gpt2").parts


@pytest.fixture(autouse=True)
def _examples(request: pytest.FixtureRequest, doctest_namespace: dict[str, Any]) -> None:
    """Names that the examples in docstrings use."""
    if not isinstance(request.node, pytest.DoctestItem):
        return
    doctest_namespace.update(rw=rw, torch=torch)
    source = request.node.dtest.docstring or ""
    if "parts" in source:
        doctest_namespace["parts"] = request.getfixturevalue("_parts")
    if "pairs" in source:
        from tests.zoo import tokens

        doctest_namespace["pairs"] = rw.Pairs.from_tensors(
            {"clean": {"input_ids": tokens(4, 6, 1)}, "corrupt": {"input_ids": tokens(4, 6, 2)}})
