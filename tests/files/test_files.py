"""What is saved loads again, and says when it cannot."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import rewrite as rw
from rewrite.errors import FileError, PathError
from rewrite.files import read_experiment
from tests.zoo import tokens, traced


@pytest.fixture(scope="module")
def parts() -> rw.Components:
    return traced("llama").parts


@pytest.fixture(scope="module")
def pairs() -> rw.Pairs:
    runs = {"clean": {"input_ids": tokens(5, 6, 1)}, "corrupt": {"input_ids": tokens(5, 6, 2)}}
    return rw.Pairs.from_tensors(
        runs, {"correct": torch.tensor([1, 2, 3, 4, 5]), "wrong": torch.tensor([6, 7, 8, 9, 10])})


def test_hypothesis_round_trip(parts: rw.Components, pairs: rw.Pairs, tmp_path: Path) -> None:
    first = rw.Hypothesis(parts, {"clean": "a0.h1 -> ... -> a1.h2.{q,k} - m0"}, name="one")
    second = rw.Hypothesis(parts, {"clean": "m1", "other": "embed -> logits"}, "corrupt", "two")
    file = rw.save([first, second], tmp_path / "h.toml", pairs=pairs, metric=rw.logit_diff())
    text = file.read_text()
    assert "a0.h1 -> ... -> a1.h2.{q,k} - m0" in text and "[hypothesis.2.runs]" in text
    again = rw.load(file, parts)
    assert [h.runs for h in again] == [first.runs, second.runs]
    assert [h.name for h in again] == ["one", "two"]
    found = read_experiment(file)
    assert found.metric == rw.logit_diff() and len(found.pairs) == 5
    for run in ("clean", "corrupt"):
        for a, b in zip(found.pairs.runs[run], pairs.runs[run], strict=True):
            assert torch.equal(a["input_ids"], b["input_ids"])


def test_an_edited_file_is_read_as_written(parts: rw.Components, tmp_path: Path) -> None:
    file = rw.save(rw.Hypothesis(parts, {"clean": "m0"}), tmp_path / "h.toml")
    file.write_text(file.read_text().replace('"m0"', '"a0.h2 -> logits"'))
    assert str(rw.load(file, parts).runs["clean"]) == "a0.h2 -> logits"
    file.write_text(file.read_text().replace("a0.h2", "a0.h2 ->"))
    with pytest.raises(PathError, match="->"):
        rw.load(file, parts)


def test_results_and_sweeps_round_trip(
    parts: rw.Components, pairs: rw.Pairs, tmp_path: Path
) -> None:
    hypotheses = [rw.Hypothesis(parts, {"clean": text}) for text in ("m0", "a1.h0")]
    results = rw.evaluate(hypotheses, pairs, rw.logit_diff())
    again = rw.load(rw.save(results, tmp_path / "rs.json"))
    for a, b in zip(again, results, strict=True):
        np.testing.assert_array_equal(a.effects, b.effects)
        assert a.explained == b.explained
    one = rw.load(rw.save(results[0], tmp_path / "r.json"))
    assert one.aue == results[0].aue
    grid = rw.sweep(parts, pairs=pairs, metric=rw.logit_diff())
    loaded = rw.load(rw.save(grid, tmp_path / "s.json"))
    assert loaded.table.equals(grid.table) and loaded.receiver == "logits"


def test_the_log_of_refining_round_trips(
    parts: rw.Components, pairs: rw.Pairs, tmp_path: Path
) -> None:
    start = rw.Hypothesis(parts, {"clean": "m1"})
    call: dict[str, Any] = {"metric": "kl_divergence", "goal": 1.0, "tolerance": 0.001,
                            "candidates": ["swap", "extend"], "by": "gain"}
    pairs = rw.Pairs.from_tensors({run: {"input_ids": tokens(40, 6, seed)}
                                   for run, seed in (("clean", 1), ("corrupt", 2))})
    log = rw.refine(start, pairs, steps=1, **call)
    file = rw.save(log, tmp_path / "new" / "log.json")
    again = rw.load(file, parts)
    assert isinstance(again, rw.Refined) and len(log.rows) > 1 and str(again) == str(log)
    assert again.table.equals(log.table) and again.markdown() == log.markdown()
    assert again.hypothesis.runs == log.hypothesis.runs
    assert (again.identity, again.notes) == (log.identity, log.notes) and again.rows == log.rows
    more = rw.refine(start, pairs, steps=2, file=file, **call)
    assert more.rows[: len(log.rows)] == log.rows and more.rows[-1].step == 2
    assert rw.load(file, parts).rows == more.rows
    with pytest.raises(FileError, match="does not name its model"):
        rw.load(file)
    with pytest.raises(FileError, match=r"a log of refining is saved as \.json"):
        rw.save(log, tmp_path / "log.toml")
    with pytest.raises(FileError, match="another session: inputs was"):
        rw.refine(start, pairs.subset(slice(0, 4)), steps=2, file=file, **call)


@pytest.mark.parametrize("kind", ["result", "results", "pairs", "sweep", "refined"])
@pytest.mark.parametrize(("more", "says"), [
    ({}, "has no '"), ({"examples": 3, "rows": 3, "results": 3, "hypothesis": ""}, "")])
def test_files_of_another_version(
    kind: str, more: dict[str, Any], says: str, parts: rw.Components, tmp_path: Path
) -> None:
    (tmp_path / "a.json").write_text(json.dumps({"kind": kind, **more}))
    with pytest.raises(FileError, match=rf"a\.json says that its kind is '{kind}', and was written "
                       rf"by another version, or edited: .*{says}.*\nwrite it anew"):
        rw.load(tmp_path / "a.json", parts)


def test_bad_files(parts: rw.Components, tmp_path: Path) -> None:
    hypothesis = rw.Hypothesis(parts, {"clean": "m0"})
    with pytest.raises(FileError, match=r"saved as \.toml"):
        rw.save(hypothesis, tmp_path / "h.json")
    with pytest.raises(FileError, match="cannot save a int"):
        rw.save(3, tmp_path / "h.json")
    with pytest.raises(FileError, match="cannot be read"):
        rw.load(tmp_path / "missing.json")
    (tmp_path / "bad.toml").write_text("a = = 1")
    with pytest.raises(FileError, match="not valid TOML"):
        rw.load(tmp_path / "bad.toml")
    (tmp_path / "other.toml").write_text("a = 1")
    with pytest.raises(FileError, match="holds no hypothesis"):
        rw.load(tmp_path / "other.toml")
    (tmp_path / "other.json").write_text('{"a": 1}')
    with pytest.raises(FileError, match="no result, sweep, pairs or log of refining: its"):
        rw.load(tmp_path / "other.json")
    with pytest.raises(FileError, match="does not name its model"):
        rw.load(rw.save(hypothesis, tmp_path / "h.toml"))
    with pytest.raises(FileError, match=r"none of \.toml"):
        rw.load(tmp_path / "h.xlsx")
    (tmp_path / "blocked").write_text("")
    with pytest.raises(FileError, match="cannot be written"):
        rw.save(hypothesis, tmp_path / "blocked" / "h.toml")
