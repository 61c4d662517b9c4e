"""The commands, from the outside, on a model in a local folder."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import rewrite as rw
from rewrite.cli import app
from rewrite.errors import FileError
from tests.models.table import TABLE
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
    result = run("trace", str(folder), "--out", str(tmp_path / "m.graph"))
    assert result.exit_code == 0, result.output
    assert "bit for bit" in result.output and "8 heads" in result.output
    assert (tmp_path / "m.graph").stat().st_size > 0
    for words in (("draw", str(folder)), ("draw", str(folder), "--ops"),
                  ("draw", str(study / "hypothesis.toml"), "--number", "4")):
        out = tmp_path / "x.svg"
        result = run(*words, "--out", str(out))
        assert result.exit_code == 0, result.output
        assert "<svg" in out.read_text()


def test_trace_prints_the_report(folder: Path) -> None:
    result = run("trace", str(folder), "--no-parts")
    assert result.exit_code == 0 and "not asked for" in result.output
    result = run("trace", str(folder))
    words = " ".join(result.output.split())
    for text in ("GPT2LMHeadModel", "int64 [batch, seq]", "paths start at tokens", "op nodes",
                 "a0-a1: 4 heads each", "1 embed, 2 attention, 2 mlp, 1 output", "676 paths",
                 "not split nothing", "equals the model bit for bit", "s to trace"):
        assert text in words, text


def test_trace_as_json(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "m.graph"
    result = run("trace", str(folder), "--json", "--out", str(out))
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["origin"] == str(folder) and found["components"]["heads"] == 8
    assert found["parity"]["difference"] == 0 and found["components"]["unsplit"] == []
    assert "wrote" in result.stderr and out.stat().st_size > 0


def test_a_length_that_is_fixed_is_traced_again_on_request(tmp_path: Path) -> None:
    TABLE["mamba"].build(num_hidden_layers=1).save_pretrained(tmp_path)
    result = run("trace", str(tmp_path), "--length", "6", "--no-parts", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["origin"] == str(tmp_path)
    assert found["inputs"][0]["dims"] == [
        {"size": "batch", "symbolic": True, "pinned": False},
        {"size": 6, "symbolic": False, "pinned": True}]
    assert "length fixed" in found["export"]["method"] and found["export"]["tried"]
    assert found["parity"]["bit_for_bit"]


def test_trace_at_other_sizes(folder: Path) -> None:
    result = run("trace", str(folder), "--length", "5", "--batch", "4", "--no-parts", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["inputs"][0]["dims"][1]["symbolic"]
    assert found["parity"]["shapes"][:2] == ["4x5", "5x11"], "and at one row and six tokens more"
    result = run("trace", str(folder), "--length", "0")
    assert result.exit_code == 2, "that is no length"


@pytest.mark.parametrize(("said", "dims"), [
    (["input_ids.0=rows"], ["rows", 11]), (["input_ids.0=batch", "input_ids.1=seq"],
                                           ["batch", "seq"]), (["none"], [3, 11])])
def test_axes_that_vary_are_said(said: list[str], dims: list[Any], folder: Path) -> None:
    options = [word for each in said for word in ("--dynamic", each)]
    result = run("trace", str(folder), *options, "--no-parts", "--json")
    assert result.exit_code == 0, result.output
    assert [dim["size"] for dim in json.loads(result.stdout)["inputs"][0]["dims"]] == dims


def test_axes_that_cannot_be_read(folder: Path) -> None:
    for said, words in (("input_ids=batch", "as in --dynamic input_ids.0=batch (or none)"),
                        ("input_id.0=batch", "did you mean input_ids?")):
        result = run("trace", str(folder), "--dynamic", said)
        assert result.exit_code == 1 and words in " ".join(result.output.split())


def test_axes_that_vary_are_kept_in_a_file(folder: Path, tmp_path: Path) -> None:
    graph = rw.trace(str(folder), dynamic={"input_ids": {0: "rows"}})
    claim = rw.Hypothesis(graph.components(), {"clean": "m0"})
    file = rw.save(claim, tmp_path / "claim.toml")
    assert rw.load(file).parts.graph.inputs == graph.inputs
    picture = tmp_path / "claim.dot"
    assert run("draw", str(file), "--out", str(picture)).exit_code == 0 and picture.exists()
    file.write_text(file.read_text().replace('0 = "rows"', 'first = "rows"'))
    with pytest.raises(FileError, match="axes are numbers"):
        rw.load(file)


def test_a_length_for_what_has_none(tmp_path: Path) -> None:
    TABLE["vit"].build().save_pretrained(tmp_path)
    result = run("trace", str(tmp_path), "--length", "5")
    assert result.exit_code == 1
    words = " ".join(result.output.split())
    assert "ViTForImageClassification reads pixel_values [3, 3, 16, 16]" in words
    assert "rw.trace(model, inputs={...})" in words


def test_a_number_that_the_file_does_not_hold(study: Path) -> None:
    result = run("draw", str(study / "hypothesis.toml"), "--number", "10")
    words = " ".join(result.output.split())  # where a message is wrapped depends on the folder
    assert result.exit_code == 1 and "holds 9 hypotheses" in words


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


def test_rules_are_listed_proved_and_applied(folder: Path, tmp_path: Path) -> None:
    listed = run("rules")
    assert listed.exit_code == 0 and "open_attention" in listed.output
    proved = run("rules", "distribute", "split_norm", "--prove")
    assert proved.output.count("proved") == 2 and "undecided" not in proved.output
    picture = tmp_path / "opened.svg"
    done = run("rules", "open_attention", "--on", str(folder), "--out", str(picture))
    assert done.exit_code == 0, done.output
    assert "1  open_attention" in done.output and "added" in done.output
    assert "<svg" in picture.read_text()


def test_rules_that_are_not_there(folder: Path) -> None:
    assert "did you mean distribute" in run("rules", "distribut").stderr
    assert "say which rules to apply" in run("rules", "--on", str(folder)).stderr
    lost = run("rules", "open_attention", "--on", str(folder), "--at", "nowhere")
    assert lost.exit_code == 1 and "selects 0 nodes" in lost.stderr
