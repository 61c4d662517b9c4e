"""The page of supported models: rows that outlive an interruption, time limits, differences."""

from __future__ import annotations

import importlib.util
import json
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.models.examine import LAWS


@pytest.fixture(scope="module")
def script() -> ModuleType:
    path = Path(__file__).parents[2] / "docs" / "make_models.py"
    spec = importlib.util.spec_from_file_location("make_models", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def row(name: str, **changes: Any) -> dict[str, Any]:
    made = {"name": name, "seconds": 1.25, "cost": 2.5, "nodes": 119, "heads": 8, "expected": 8,
            "trace_error": 0.0, "parts_error": 5e-7, "method": "torch.export", "fixed": False,
            "notes": [], "passed": list(LAWS), "failed": {}, "known": {}, "blocks": 2,
            "blocks_expected": 2, "direct_error": 3e-7, "no_oracle": []}
    return made | changes


def test_rows_of_the_same_versions_are_kept(script: ModuleType, tmp_path: Path) -> None:
    now, before = script.versions(), script.versions() | {"transformers": "0.0"}
    lines = [row("gpt2") | before, row("gpt2", nodes=1) | now, row("gpt2", nodes=2) | now,
             row("bert") | before]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert {name: kept["nodes"] for name, kept in script.kept(file).items()} == {"gpt2": 2}
    assert script.kept(tmp_path / "none.jsonl") == script.kept(None) == {}


def test_a_family_that_hangs_is_stopped(script: ModuleType) -> None:
    start = time.monotonic()
    with pytest.raises(script.Late), script.limit(0.05):
        try:
            time.sleep(60)
        except Exception:  # as a stage would that tries something else after a failure
            time.sleep(60)
    assert time.monotonic() - start < 30
    with script.limit(30):
        pass


def test_the_page_says_what_failed(script: ModuleType) -> None:
    crash = {"name": "dbrx", "crash": "TraceError: a loop over experts"}
    failed = row("bitnet", passed=list(LAWS)[1:], failed={"heads": "0 of 8 | rsqrt"}, heads=0)
    page = script.page([row("gpt2"), failed, row("nanochat", fixed=True), crash], 3)
    assert "4 families: 3 traced, 3 of them bit for bit; 2 pass all 11 laws; 0 more" in page
    assert "16 of 24 attention heads" in page and "3 more families" in page
    assert "| gpt2 | 1.2 | 119 | 8 / 8 | 2 / 2 | 0.0e+00 | 5.0e-07 | 3.0e-07 | 11 / 11 |" in page
    assert "| *nanochat* |" in page and "11 / 11, fixed |" in page
    assert "| dbrx | trace | TraceError: a loop over experts |" in page
    assert "| bitnet | heads | 0 of 8 / rsqrt |" in page


def test_a_note_of_each_kind_is_on_the_page(script: ModuleType) -> None:
    notes = [f"{layer}: experts not split: add_{i} is not linear | in their rows"
             for i, layer in enumerate(("m0", "m1"))]
    page = script.page([row("zaya", notes=["a0: slices stay below conv1d_1", *notes])])
    assert ("| zaya | a0: slices stay below conv1d_1; m0: experts not split: add_0 is not linear "
            "/ in their rows |") in page


def test_an_error_is_brief(script: ModuleType) -> None:
    place = "/usr/lib/python3/site-packages/transformers/led.py:33"
    error = ValueError(f"s85 | 2\n  at {place} {400 * 'x'}")
    found = script.brief(error)
    assert found.startswith("ValueError: s85 / 2 at transformers/led.py:33 xx")
    assert len(found) < 320


def test_what_is_known_not_to_hold_is_counted_apart(script: ModuleType) -> None:
    laws = [law for law in LAWS if law != "direct"]
    known = row("xlnet", passed=laws, known={"direct": "one | matrix (differs by 0.23)"},
                direct_error=0.23, parts_error=9e-7)
    failed = row("bart", passed=laws, failed={"direct": "differs by 0.9"}, direct_error=0.9)
    silent = row("vit", direct_error=0.0, no_oracle=["no module of its own is m0"])
    page = script.page([row("gpt2"), known, failed, silent])
    assert "2 pass all 11 laws; 1 more pass all but what is stated below" in page
    assert "largest output: 9.0e-07; of a direct edge" in page and "model: 3.0e-07" in page
    assert "| vit | 1.2 | 119 | 8 / 8 | 2 / 2 | 0.0e+00 | 5.0e-07 | none | 11 / 11 |" in page
    failing, _, holding = page.partition("## What is known not to hold")
    assert "| bart | direct | differs by 0.9 |" in failing.partition("## What does not pass")[2]
    assert "| xlnet | direct | one / matrix (differs by 0.23) |" in holding
    assert "| xlnet | direct" not in failing and "| bart | direct" not in holding
    only = script.page([known])
    assert "0 pass all 11 laws; 1 more" in only and "original model: 0.0e+00" in only


def test_differences_from_the_written_page(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = tmp_path / "page.md"
    written.write_text(script.page([row("gpt2"), row("bert"), {"name": "led", "crash": "u1"}]))
    monkeypatch.setattr(script, "PAGE", written)
    assert script.differences([row("gpt2"), {"name": "led", "crash": "another"}]) == []
    lost = row("bert", heads=4, failed={"heads": "4 of 8"})
    assert script.differences([lost, {"name": "gpt2", "crash": "gone"}]) == [
        "bert: heads 4 / 8, laws 11 / 11 (page: 8 / 8, 11 / 11) heads: 4 of 8",
        "gpt2: heads not traced, laws gone (page: 8 / 8, 11 / 11)"]
