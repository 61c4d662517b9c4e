"""The benchmark of torch.compile, on a tiny model and without making kernels."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch

from benchmarks import compiled


def test_a_row_for_each_expansion(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made, real = compiled.make, torch.compile
    monkeypatch.setattr(compiled, "make", lambda *args, **config: made(
        *args, **config, n_head=2, n_embd=16, vocab_size=50))
    monkeypatch.setattr(torch, "compile", lambda module, mode: real(module, backend="aot_eager"))
    words: list[Any] = ["compiled", "--layers", 2, "--edges", 3, "--batch", 2, "--length", 4,
                        "--repetitions", 1, "--threads", 1]
    monkeypatch.setattr(sys, "argv", list(map(str, words)))
    compiled.main()
    shown = capsys.readouterr().out
    assert "direct paths of 4 heads" in shown and "3 edges" in shown and "eager / compiled" in shown
