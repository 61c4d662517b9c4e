"""Commands on what is damaged leave with a sentence and a status, never with a traceback."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from rewrite.cli import app
from tests.fuzz.mutants import ELSEWHERE, NESTED

DEEP = "[" * NESTED + "]" * NESTED
FILES = {
    "h.toml": (b"", b"\0", b"\xff\xfe", b"a = " + DEEP.encode(), b"a = " + b"9" * 5_000,
               b"[hypothesis.1]\nruns = 3",
               b"[hypothesis.1.runs]\nclean = 'm0'\n[test]\npairs = 'x'",
               b"[hypothesis.1.runs]\nclean = '" + b"(" * 900 + b"'"),
    "config.json": (b"", b"{}", b"[1]", DEEP.encode(), b'{"model_type": "gpt2", "n_layer": 1e9}',
                    b'{"model_type": "gpt2", "n_head": 7}', b'{"model_type": 3}',
                    b'{"model_type": "gpt2", "n_layer": 1000000000}'),
    "model.gguf": (b"", b"GGUF", b"GGUF\x03\0\0\0" + b"\xff" * 16),
}
COMMANDS = {"h.toml": (("test",), ("draw",), ("sweep",), ("refine",)),
            "config.json": (("trace",),), "model.gguf": (("trace",), ("draw",))}


def left(*words: str) -> None:
    """The command ends by itself, with a status that says that something is wrong."""
    found = CliRunner().invoke(app, list(words))
    assert isinstance(found.exception, SystemExit), (words, found.exception)
    assert found.exit_code in (1, 2) and "Traceback" not in found.output, words
    assert "rror" in found.output, (words, found.output)


@pytest.mark.parametrize("name", FILES)
def test_files(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for command in COMMANDS[name]:
        for data in FILES[name]:
            Path(name).write_bytes(data)
            left(*command, name)
            Path(name).unlink()
        for lead in ELSEWHERE:
            lead(Path(name))
            left(*command, name)
            Path(name).rmdir() if Path(name).is_dir() else Path(name).unlink(missing_ok=True)


@pytest.mark.parametrize("words", [
    ("sweep", "x", "--chunk", "9" * 5_000), ("sweep", "x", "--batch-size", "two"),
    ("trace", ""), ("trace", "\0"), ("trace", "x" * 5_000), ("trace", "a/b/c d"), ("rules", "none"),
    ("rules", "--on", "\0", "open_attention"), ("draw", "\ud800.toml"),
    ("trace", "x", "--length", "0"),
    ("refine", "h.toml", "--goal", "high"), ("none",), ("test", "/dev/zero")])
def test_options(words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    left(*words)
