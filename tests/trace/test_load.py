"""Models from folders and files, and errors for what is no model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import rewrite as rw
from rewrite.errors import TraceError
from rewrite.trace import load
from tests.tinyfolder import save_tiny
from tests.zoo import logits, tiny, tokens


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_folder(family: str, tmp_path: Path) -> None:
    model = tiny(family)
    model.save_pretrained(tmp_path)
    for name in (tmp_path, str(tmp_path)):
        loaded = load(name)
        assert type(loaded) is type(model) and not loaded.training
    graph = rw.trace(tmp_path)
    assert graph.origin == str(tmp_path)
    ids = tokens(2, 9)
    assert torch.equal(graph(input_ids=ids).logits, logits(model, input_ids=ids))
    assert load(tmp_path, torch.float64).dtype == torch.float64


def test_a_module_is_itself() -> None:
    model = tiny("gpt2")
    assert load(model) is model


def test_a_folder_without_config(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match=r"folder without config.json(.|\n)*save_pretrained"):
        rw.trace(tmp_path)


def test_a_folder_without_weights(tmp_path: Path) -> None:
    tiny("gpt2").config.save_pretrained(tmp_path)
    with pytest.raises(TraceError, match="could not be loaded as a model"):
        rw.trace(tmp_path)


def test_a_file_of_another_kind(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"nothing")
    with pytest.raises(TraceError, match=r"the only model files that can be read are \.gguf"):
        rw.trace(file)


def test_a_file_that_is_no_gguf(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(b"not a gguf file at all, but long enough to be read as a header")
    with pytest.raises(TraceError, match="could not be read as GGUF"):
        rw.trace(file)


@pytest.mark.parametrize("name", ["nobody/nothing-of-this-name", "no-such-folder", "a b/c d/e"])
def test_a_name_that_does_not_exist(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(TraceError, match=f"'{name}' could not be loaded as a model"):
        rw.trace(name)


@pytest.mark.parametrize("name", ["h.0.mlp.c_fc.weight", "wte.weight"])
def test_floats_that_a_header_calls_integers(name: str, tmp_path: Path) -> None:
    file = save_tiny(tmp_path / "tiny") / "model.safetensors"
    data = file.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    header[f"transformer.{name}"]["dtype"] = "I32"
    text = json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + size :])
    with pytest.raises(TraceError, match=rf"holds transformer\.{name} as integers \(I32\)"):
        rw.trace(tmp_path / "tiny")
