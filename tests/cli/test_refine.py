"""The command `refine`, from the outside, on a model in a local folder."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import rewrite as rw
from rewrite.cli import app
from tests.tinyfolder import save_tiny
from tests.zoo import tokens

pytestmark = pytest.mark.xdist_group("refine")  # one process makes the fixtures


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An experiment about a tiny model."""
    folder = tmp_path_factory.mktemp("experiment")
    parts = rw.trace(str(save_tiny(folder / "model"))).components()
    runs = {run: {"input_ids": tokens(6, 5, seed) % 40} for seed, run in
            enumerate(("clean", "corrupt"), start=1)}
    pairs = rw.Pairs.from_tensors(
        runs, {"correct": torch.arange(6) + 7, "wrong": torch.arange(6) + 8})
    made = [rw.Hypothesis(parts, {"clean": text}) for text in ("m0 -> logits", "~(...)")]
    return rw.save(made, folder / "h.toml", pairs=pairs, metric=rw.logit_diff())


def run(*words: str):
    return CliRunner().invoke(app, ["refine", *words], terminal_width=200)


def test_everything_is_written(file: Path, tmp_path: Path) -> None:
    words = (str(file), "--number", "2", "--by", "gain", "--candidates", "extend", "--goal", "1",
             "--tolerance", "0.001", "--holdout", "0.33", "--out", str(tmp_path))
    done = run(*words, "--steps", "1")
    assert done.exit_code == 0, done.output
    rows = json.loads((tmp_path / "log.json").read_text())["rows"]
    assert {row["step"] for row in rows} == {0, 1} and "all steps are used" in done.output
    table = list(csv.DictReader((tmp_path / "log.csv").read_text().splitlines()))
    assert [row["change"] for row in table] == [row["change"] for row in rows]
    text = (tmp_path / "refined.toml").read_text()
    assert rows[-1]["important"] in text and 'name = "refined"' in text
    assert (tmp_path / "log.md").read_text().startswith("| step | change |")
    assert (tmp_path / "log.png").read_bytes().startswith(b"\x89PNG")
    words = " ".join(done.output.split())
    assert "complement" in words and "2 others" in words and "on all 6 pairs" in words


@pytest.mark.parametrize(("words", "says"), [
    (("--number", "3"), "holds 2 hypotheses, there is no number 3"),
    (("--candidates", "grow"), "no candidates called 'grow'"),
    (("--goal", "7"), "0 < goal <= 1"),
])
def test_errors_are_messages(file: Path, tmp_path: Path, words: tuple[str, ...], says: str) -> None:
    result = run(str(file), *words, "--out", str(tmp_path))
    assert result.exit_code == 1 and says in " ".join(result.output.split())
    assert "Traceback" not in result.output


def test_a_file_without_pairs(file: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare.toml"
    bare.write_text("[hypothesis.1.runs]\nclean = 'm0'\n")
    result = run(str(bare))
    assert result.exit_code == 1
    assert "does not say which model to refine with" in " ".join(result.output.split())
