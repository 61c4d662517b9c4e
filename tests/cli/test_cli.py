"""The commands, from the outside, on a model in a local folder."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

import rewrite as rw
from rewrite.cli import app
from tests.tinyfolder import save_tiny


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def study(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `rewrite demo` leaves behind."""
    out = tmp_path_factory.mktemp("demo") / "new" / "folder"
    result = run("demo", "--model", str(folder), "--out", str(out), "--heads", "2")
    assert result.exit_code == 0, result.output
    assert "certificate" in result.output and "ATE" in result.output
    return out


def run(*words: str):
    return CliRunner().invoke(app, list(words), terminal_width=200)


def test_demo_writes_everything(study: Path) -> None:
    html = (study / "report.html").read_text()
    assert html.count("<svg") == 4 and not re.search(r'(src|href)="http', html)
    results = json.loads((study / "results.json").read_text())
    assert 0 < results["pairs"]["kept"] <= results["pairs"]["written"] == 128
    shares = [r["explained"]["value"] for r in results["results"]]
    assert shares[0] == 0 and shares[-1] == 1, "nothing and everything"
    assert len(results["heads"]) == 2
    direct = results["sweeps"]["direct"]["rows"]
    largest = sorted(direct, key=lambda row: -abs(row["change"]))[:2]
    assert results["heads"] == [row["sender"] for row in largest], "heads come from the sweep"
    for name in ("expanded", "heads", "ladder"):
        assert (study / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert "<svg" in (study / f"{name}.svg").read_text()


def test_the_file_of_the_demo_gives_its_numbers_again(study: Path, tmp_path: Path) -> None:
    result = run("test", str(study / "hypothesis.toml"), "--out", str(tmp_path))
    assert result.exit_code == 0, result.output
    again = rw.load(tmp_path / "results.json")
    first = json.loads((study / "results.json").read_text())["results"]
    for old, new in zip(first, again, strict=True):
        assert new.hypothesis == old["hypothesis"]
        assert new.explained.value == pytest.approx(old["explained"]["value"], abs=1e-5)
        assert new.aue.value == pytest.approx(old["aue"]["value"], rel=1e-4, abs=1e-6)


def test_sweep(study: Path, tmp_path: Path) -> None:
    out = tmp_path / "s.json"
    result = run("sweep", str(study / "hypothesis.toml"), "--receivers", "a1.h1.v",
                 "--out", str(out))
    assert result.exit_code == 0, result.output
    assert set(rw.load(out).table["sender"]) == {f"a0.h{i}" for i in range(4)}


def test_trace_and_draw(folder: Path, study: Path, tmp_path: Path) -> None:
    result = run("trace", str(folder), "--out", str(tmp_path / "m.pt2"))
    assert result.exit_code == 0, result.output
    assert "bit for bit" in result.output and "8 heads" in result.output
    assert (tmp_path / "m.pt2").stat().st_size > 0
    for words in (("draw", str(folder)), ("draw", str(folder), "--ops"),
                  ("draw", str(study / "hypothesis.toml"), "--number", "4")):
        out = tmp_path / "x.svg"
        result = run(*words, "--out", str(out))
        assert result.exit_code == 0, result.output
        assert "<svg" in out.read_text()


def test_a_number_that_the_file_does_not_hold(study: Path) -> None:
    result = run("draw", str(study / "hypothesis.toml"), "--number", "10")
    assert result.exit_code == 1 and "holds 9 hypotheses" in result.output


@pytest.mark.parametrize(("words", "says"), [
    (("trace", "no/such/model"), "could not be loaded"),
    (("trace", __file__), ".gguf"),
    (("test", "missing.toml"), "cannot be read"),
    (("test", __file__), "cannot be read|not valid"),
    (("sweep", "missing.toml"), "cannot be read"),
    (("draw", "missing.toml"), "cannot be read"),
])
def test_errors_are_messages(words: tuple[str, ...], says: str) -> None:
    result = run(*words)
    assert result.exit_code == 1
    assert re.search(says, result.output) and "Traceback" not in result.output


def test_a_folder_that_cannot_be_written(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = run("demo", "--model", str(folder), "--out", str(tmp_path / "file" / "out"))
    assert result.exit_code == 1 and "choose another folder" in result.output
    assert "tracing" not in result.output, "found out before anything is computed"
