"""Positions that meet nothing and runs that are equal are told, or refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner

import rewrite as rw
from rewrite.cli import app
from rewrite.errors import DataError
from rewrite.measure.check import as_positions
from tests.tinyfolder import save_tiny
from tests.zoo import tokens, traced

LENGTHS = (5, 8, 8, 6)


def pairs_of(**positions: Any) -> rw.Pairs:
    """Four texts of several lengths."""
    runs = {run: [{"input_ids": tokens(1, length, seed + 10 * i)[0]}
                  for i, length in enumerate(LENGTHS)]
            for seed, run in enumerate(("clean", "corrupt"))}
    return rw.Pairs(runs, positions=as_positions(positions))


PAIRS = pairs_of(S=[[1], [], [2, 3], []], NEVER=[[], [], [], []], M=[
    [False] * length for length in LENGTHS])
EMPTY = [("a1.h3@[50] -> logits", "@[50] of a1.h3@[50] -> logits is empty in all 4 examples: "
          "input_ids has 5 to 8 positions\nwrite a slice of them: [0] to [7]"),
         ("tokens@[8:]", "@[8:] of tokens@[8:] is empty"), ("m0 | a0.h1.k@[-9]", "@[-9] of"),
         ("m0@NEVER", "positions={'NEVER': [...]}"), ("a1.h0.v@M", "@M of a1.h0.v@M is empty"),
         ("m0 - tokens@[20:]", "@[20:] of"),
         ("a1.h0.k[-8]", "[-8] of a1.h0.k[-8] is empty in all 4 examples: the inputs have 5 to 8"),
         ("tokens -> ...[-20:-10] -> a1.h0.v", "[-7] is the furthest back")]


@pytest.mark.parametrize(("text", "says"), EMPTY)
def test_what_is_empty_in_every_example(text: str, says: str) -> None:
    hypothesis = rw.Hypothesis(traced("gpt2").parts, {"clean": text})
    with pytest.raises(DataError) as found:
        rw.evaluate(hypothesis, PAIRS, "kl_divergence")
    assert says in str(found.value)


def test_every_measure_says_it(tmp_path: Path) -> None:
    parts = traced("gpt2").parts
    hypothesis = rw.Hypothesis(parts, {"clean": "m0@[50]"})
    for measure in (rw.completeness, rw.minimality, rw.refinements, rw.refine):
        with pytest.raises(DataError, match="is empty in all"):
            measure(hypothesis, PAIRS, "kl_divergence")
    with pytest.raises(DataError, match="is empty in all"):
        rw.sweep(parts, "a*.h*@[50]", pairs=PAIRS, metric="kl_divergence")
    with pytest.raises(DataError, match=r"\[-8\] of a1.h0.k\[-8\] -> logits is empty"):
        rw.sweep(parts, "a1.h0.k[-8]", pairs=PAIRS, metric="kl_divergence")
    with pytest.raises(DataError, match="is empty in all"):
        rw.token_effects(hypothesis, PAIRS, Spelling())


class Spelling:
    """What `token_effects` needs of a tokenizer."""

    def decode(self, token_ids: list[int], **options: Any) -> str:
        return " ".join(map(str, token_ids))

    def convert_ids_to_tokens(self, ids: list[int]) -> list[str]:
        return list(map(str, ids))


def test_what_is_empty_in_some_examples() -> None:
    parts = traced("gpt2").parts
    told: list[str] = []
    hypothesis = rw.Hypothesis(parts, {"clean": "tokens@[6] | m0@S | a0.h1.k[-7]"})
    result = rw.evaluate(hypothesis, PAIRS, "kl_divergence", say=told.append)
    wanted = ["@[6] is empty in 2 of 4 examples", "@S is empty in 2 of 4 examples",
              "[-7] is empty in 2 of 4 examples"]
    assert [note.partition(":")[0] for note in result.notes] == wanted
    assert list(result.notes) == told and wanted[0] in str(result)
    swept = rw.sweep(parts, "m*@S | m*@[0]", None, pairs=PAIRS, metric="kl_divergence")
    assert [note.partition(":")[0] for note in swept.notes] == wanted[1:2]
    drawn = rw.token_effects(rw.Hypothesis(parts, {"clean": "m0@[6]"}), PAIRS, Spelling())
    assert [note.partition(":")[0] for note in drawn.notes] == wanted[:1]
    full = rw.Hypothesis(parts, {"clean": "m0@[-5:]"})
    assert not rw.evaluate(full, PAIRS, "kl_divergence").notes


@pytest.mark.parametrize(("equal", "says"), [
    ([0, 2], "the runs clean and corrupt are equal in 2 of 4 examples: their effects are 0"),
    ([0, 1, 2, 3], "the runs clean and corrupt are equal in all 4 examples: every effect is 0"),
    ([], None)])
def test_runs_that_are_equal(equal: list[int], says: str | None) -> None:
    parts = traced("gpt2").parts
    runs = {run: list(examples) for run, examples in PAIRS.runs.items()}
    for i in equal:
        runs["corrupt"][i] = {name: value.clone() for name, value in runs["clean"][i].items()}
    pairs = rw.Pairs(runs)
    notes = () if says is None else (says,)
    assert rw.sweep(parts, "m*", None, pairs=pairs, metric="kl_divergence").notes == notes
    hypothesis = rw.Hypothesis(parts, {"clean": "m0"})
    assert rw.evaluate(hypothesis, pairs, "kl_divergence").notes == notes


def test_the_command_ends_in_an_error(tmp_path: Path) -> None:
    runs = {run: {"input_ids": tokens(3, 5, seed) % 20}
            for seed, run in enumerate(("clean", "corrupt"))}
    folder = save_tiny(tmp_path / "model")
    parts = rw.trace(str(folder)).components()
    file = rw.save(rw.Hypothesis(parts, {"clean": "a0.h1@[50] -> logits"}), tmp_path / "h.toml",
                   pairs=rw.Pairs.from_tensors(runs), metric=rw.kl_divergence())
    found = CliRunner().invoke(app, ["test", str(file)], terminal_width=200)
    assert found.exit_code == 1 and "is empty in all 3 examples" in found.output


class Marked(nn.Module):
    """Finds padding by itself, by the token 0."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.mlp, self.out = nn.Embedding(9, 4), nn.Linear(4, 4), nn.Linear(4, 9)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        x = x + self.mlp(x).relu()
        real = (ids != 0)[..., None]
        return self.out(x + (x * real).cumsum(1))


def test_tokens_that_the_model_tells_apart() -> None:
    ids = torch.randint(1, 9, (4, 5))
    parts = rw.trace(Marked().eval(), {"ids": ids}).components()
    padded = ids.clone()
    padded[1, 3:] = padded[2, :1] = 0

    def notes(clean: Tensor) -> tuple[str, ...]:
        pairs = rw.Pairs.from_tensors({"clean": {"ids": clean}, "corrupt": {"ids": ids.flip(0)}})
        hypothesis = rw.Hypothesis(parts, {"clean": "m0"})
        return rw.evaluate(hypothesis, pairs, rw.kl_divergence(position=-1)).notes

    (note,) = notes(padded)
    assert note.startswith("the model compares ids with 0, which begins or ends 2 of 4 examples")
    inside = ids.clone()
    inside[:, 2] = 0
    assert not notes(ids) and not notes(inside)
