"""`rewrite sweep`: from an experiment file and from a model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import rewrite as rw
from rewrite.cli import app
from tests.tinyfolder import save_tiny
from tests.zoo import tokens

pytestmark = pytest.mark.xdist_group("sweeps by command")  # one process makes the fixtures


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = {run: {"input_ids": tokens(3, 5, seed) % 20}
            for seed, run in enumerate(("clean", "corrupt"))}
    labels = {"correct": torch.tensor([3, 4, 5]), "wrong": torch.tensor([6, 7, 8])}
    made = rw.Pairs.from_tensors(runs, labels)
    return rw.save(made, tmp_path_factory.mktemp("pairs") / "pairs.json")


def run(*words: str):
    return CliRunner().invoke(app, ["sweep", *words], terminal_width=200)


def test_every_edge_of_a_model(folder: Path, pairs: Path, tmp_path: Path) -> None:
    out, file = tmp_path / "s.json", tmp_path / "s.jsonl"
    words = (str(folder), "--pairs", str(pairs), "--metric", "logit_diff", "--each",
             "--senders", "a0.h*", "--receivers", "a1.h*.q | logits", "--budget", "1GB",
             "--file", str(file))
    result = run(*words, "--out", str(out))
    assert result.exit_code == 0, result.output
    assert "largest of 20" in result.output and "left" in result.output
    found = rw.load(out)
    assert found.grid().shape == (4, 5) and len(file.read_text().splitlines()) == 21
    result = run(*words, "--out", str(tmp_path / "s.png"))
    assert result.exit_code == 0, result.output
    assert (tmp_path / "s.png").read_bytes().startswith(b"\x89PNG")


def test_nodes(folder: Path, pairs: Path, tmp_path: Path) -> None:
    result = run(str(folder), "--pairs", str(pairs), "--metric", "kl_divergence", "--senders", "*",
                 "--receivers", "", "--out", str(tmp_path / "n.svg"))
    assert result.exit_code == 0, result.output
    assert "<svg" in (tmp_path / "n.svg").read_text()


@pytest.mark.parametrize(("words", "says"), [
    ((), "--pairs FILE.json"),
    (("--budget", "much"), "a budget is"),
    (("--senders", "a7"), "no sender is called"),
    (("--workers", "2"), "write backend='ray' with it"),
    (("--backend", "rai"), "did you mean ray?"),
])
def test_errors_are_messages(
    folder: Path, pairs: Path, words: tuple[str, ...], says: str
) -> None:
    given = ("--pairs", str(pairs), "--metric", "logit_diff", "--each") if words else ()
    result = run(str(folder), *given, *words)
    assert result.exit_code == 1
    assert says in " ".join(result.output.split()) and "Traceback" not in result.output
