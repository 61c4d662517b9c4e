"""What is damaged is refused by an error of this package, or says what it says.

`python -m benchmarks.mutants` does the same with thousands of mutants of each format.
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import transformers

from tests.fuzz.formats import FORMATS, Bench
from tests.fuzz.mutants import ELSEWHERE

SLOW = {"GGUF": 10, "result": 40, "log": 50, "sweep": 50, "safetensors": 20,
        "index of safetensors": 20, "generation config": 10,
        "config of a folder": 15, "config": 30, "graph": 15, "graph, graph.txt": 5,
        "graph, notes.json": 15, "graph, tensors.safetensors": 15, "text form": 3}
"""Of formats that are slow to read, how many mutants; of others, 80."""


@pytest.fixture(autouse=True, scope="module")
def _quiet() -> None:
    transformers.utils.logging.disable_progress_bar()


@pytest.mark.parametrize("name", FORMATS)
def test_mutants(name: str, tmp_path: Path) -> None:
    bench = Bench(FORMATS[name], tmp_path)
    good = bench.good()
    assert good.kind == "read", good
    refused = 0
    for number in range(SLOW.get(name, 80)):
        found = bench.mutant(random.Random(f"{name} {number}"))
        assert found.kind in ("read", "refused"), (number, found)
        refused += found.kind == "refused"
    assert refused or name == "generation config", "no mutant was damaged enough"


@pytest.mark.parametrize("name", [name for name in FORMATS if "," not in name])
def test_what_is_no_file(name: str, tmp_path: Path) -> None:
    bench = Bench(FORMATS[name], tmp_path)
    for lead in ELSEWHERE:
        found = bench.elsewhere(lead)
        assert found.kind in ("read", "refused"), (lead.__name__, found)
