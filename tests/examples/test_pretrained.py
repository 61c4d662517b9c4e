"""The scripts about SmolLM2: positions point at the tokens that they name, and paths are read."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import rewrite as rw
from rewrite.trace.packaged import folder, installed
from tests.zoo import tiny

SCRIPTS = Path(__file__).parents[2] / "examples" / "pretrained"
HEADS = ["a1.h0", "a1.h2", "a1.h1", "a1.h3"]


@pytest.fixture
def script(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A script by its name, imported as it imports its neighbours."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    return importlib.import_module(request.param)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    if not installed("smollm2-135m"):
        pytest.skip("the package of the model is not installed")
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder("smollm2-135m"))


@pytest.fixture(scope="module")
def model_parts() -> rw.Components:
    return rw.trace(tiny("llama")).components()


def words(pairs: rw.Pairs, tokenizer: Any, run: str, place: str, i: int) -> str:
    at = pairs.positions[place][i]
    return tokenizer.decode(pairs.runs[run][i]["input_ids"][at]).strip()


@pytest.mark.parametrize("script", ["next_number"], indirect=True)
def test_numbers_are_at_num(script: ModuleType, tokenizer: Any) -> None:
    pairs = script.number_pairs(tokenizer)
    assert len(pairs) == 36 and pairs.run_names == ("clean", "other", "corrupt")
    for i, text in enumerate(pairs.texts["clean"]):
        number = words(pairs, tokenizer, "clean", "NUM", i)
        assert number in ("3", "8") and f" {number} " in text
        assert words(pairs, tokenizer, "other", "NUM", i) not in ("", number)
        assert words(pairs, tokenizer, "corrupt", "NUM", i) == script.WORDS
        assert text.split(f" {number} ")[1].startswith(words(pairs, tokenizer, "clean", "UNIT", i))
        assert text.endswith(words(pairs, tokenizer, "clean", "END", i))


@pytest.mark.parametrize("script", ["next_number"], indirect=True)
def test_tokens_of_numbers(script: ModuleType, tokenizer: Any) -> None:
    found = tokenizer.convert_ids_to_tokens(script.number_tokens(tokenizer))
    assert found[:3] == ["Ġ", "Ġone", "Ġtwo"] and len(found) == len(set(found)) == 18


@pytest.mark.parametrize("script", ["next_number"], indirect=True)
def test_log_mass(script: ModuleType) -> None:
    ids = {"input_ids": torch.ones(1, 2).long()}
    batch = next(rw.Pairs.from_tensors({"clean": ids, "corrupt": ids}).batches())
    logits = torch.tensor([[[9.0, 9.0, 9.0, 9.0], [0.0, 0.0, 0.0, 0.0]]])
    metric = script.log_mass([1, 3])
    assert metric.score(logits, batch).exp().item() == pytest.approx(0.5)
    assert metric.positions == "last"
    shifted = logits + torch.tensor([0.0, 50.0, 0.0, 50.0])
    assert metric.effect(logits, shifted, batch).item() == pytest.approx(0.6931, abs=1e-4)


@pytest.mark.parametrize("script", ["ioi"], indirect=True)
def test_names_are_at_their_places(script: ModuleType, tokenizer: Any) -> None:
    pairs = script.ioi_pairs(tokenizer)
    for i in range(len(pairs)):
        io, s = pairs.answers["correct"][i].strip(), pairs.answers["wrong"][i].strip()
        at = [words(pairs, tokenizer, "clean", place, i) for place in ("IO", "S1", "S2", "END")]
        assert at[:3] == [io, s, s] and pairs.texts["clean"][i].endswith(f" {at[3]}")
        assert pairs.positions["S1"][i] < pairs.positions["S2"][i]
        assert words(pairs, tokenizer, "flip", "S2", i) == io
        assert not {io, s} & {words(pairs, tokenizer, "corrupt", p, i) for p in ("IO", "S1", "S2")}


@pytest.mark.parametrize("script", ["induction"], indirect=True)
def test_random_tokens_repeat(script: ModuleType) -> None:
    pairs = script.random_pairs(5)
    for i in range(5):
        ids = pairs.runs["clean"][i]["input_ids"]
        first, after, end = (int(pairs.positions[name][i]) for name in ("FIRST", "NEXT", "END"))
        assert after == first + 1 and end == len(ids) - 1 and ids[first] == ids[end]
        assert ids[after] == pairs.labels["correct"][i]
        aligned = pairs.runs["aligned"][i]["input_ids"]
        assert aligned[first] == aligned[end] and aligned[after] != ids[after]


class Guesses:
    """Says that everything is equally likely: the first word of a repeat is then taken."""

    def __call__(self, input_ids: torch.Tensor) -> Any:
        class Output:
            logits = torch.zeros(*input_ids.shape, 50_000)

        return Output


@pytest.mark.parametrize("script", ["induction"], indirect=True)
def test_sentences_repeat(script: ModuleType, tokenizer: Any) -> None:
    pairs = script.natural_pairs(tokenizer, Guesses(), 4)
    for i in range(4):
        ids = pairs.runs["clean"][i]["input_ids"]
        after = int(pairs.positions["NEXT"][i])
        assert after == int(pairs.positions["FIRST"][i]) + 1
        assert ids[after] == pairs.labels["correct"][i]
        assert int(pairs.positions["END"][i]) == len(ids) - 1
        assert len(pairs.runs["corrupt"][i]["input_ids"]) == len(ids)


@pytest.mark.parametrize("script", ["induction", "ioi", "next_number"], indirect=True)
def test_every_hypothesis_holds_paths(script: ModuleType, model_parts: rw.Components) -> None:
    early = ["a0.h0", "a0.h1"]
    if script.__name__ == "induction":
        found = script.hypotheses(script.Found(HEADS[:2], early, HEADS[2:]))
    elif script.__name__ == "ioi":
        with pytest.raises(rw.errors.PathError, match="no path"):  # two layers are too few
            rw.Hypothesis(model_parts, {"clean": "a1.h0 -> ... -> a0.h1.v"})
        found = {name: paths for name, paths in
                 script.hypotheses(script.Heads(HEADS, early, early)).items()
                 if "notice" not in name}
    else:
        found = script.hypotheses(HEADS, early)
    for name, paths in found.items():
        assert name == "nothing" or rw.Hypothesis(model_parts, {"clean": paths}).count()["clean"]
