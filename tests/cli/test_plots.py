"""`rewrite test --plots` on a tiny model in a folder."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoTokenizer
from typer.testing import CliRunner

import rewrite as rw
from rewrite.cli import app
from rewrite.cli.plots import tokenizer_of, write_plots
from rewrite.errors import FileError
from tests.tinyfolder import save_tiny

pytestmark = pytest.mark.xdist_group("plots")  # one process makes the fixtures


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def parts(folder: Path) -> rw.Components:
    return rw.trace(folder).components()


def test_what_the_metric_allows_is_drawn(
    folder: Path, parts: rw.Components, tmp_path: Path,
) -> None:
    texts = {"clean": ["When Mary and John went to the store"] * 2,
             "corrupt": ["When John and Mary went to the store",
                         "When Mary and Mary went to the store"]}
    words = AutoTokenizer.from_pretrained(folder)
    pairs = rw.Pairs.from_text(words, texts, {"correct": ["John", "John"]})
    paths = rw.Hypothesis(parts, {"clean": "a1.h3"})
    every = rw.loss_diff(position="all")
    file = rw.save(paths, tmp_path / "h.toml", pairs=pairs, metric=every)
    result = CliRunner().invoke(app, ["test", str(file), "--plots", str(tmp_path)],
                                terminal_width=300)
    assert result.exit_code == 0, result.output
    names = ["1_examples.png", "1_attribution.png", "1_text.html", "1_text.png"]
    assert all((tmp_path / name).stat().st_size > 0 for name in names)
    page = (tmp_path / "1_text.html").read_text()
    assert page.count("<section>") == 1, "both pairs have the same reference"
    for metric, drawn in ((rw.loss_diff(), names[:2]), (rw.kl_divergence(), names[:1])):
        results = rw.evaluate([paths], pairs, metric)
        found = write_plots(tmp_path, results, [paths], pairs, metric, str(folder))
        assert [path.name for path in found] == drawn


def test_a_model_without_tokenizer_is_an_error(folder: Path, tmp_path: Path) -> None:
    assert len(tokenizer_of(str(folder))) > 20
    with pytest.raises(FileError, match="has no tokenizer beside the model: save one there"):
        tokenizer_of(str(tmp_path))
