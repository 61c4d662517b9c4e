"""Signed changes per reference example against values worked out by hand, and their figure."""

from __future__ import annotations

import re
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.image import imread

import rewrite as rw
from rewrite.errors import DataError, FileError
from rewrite.measure import Pairs, Result
from rewrite.measure.attribution import same_reference
from tests.zoo import logits, tokens, traced


def make(scores=(3.0, 1, 4, 2), given=(1.0, 1, 5, 5), references=(0, 0, 2, 2), **options) -> Result:
    ones = np.ones(len(scores))
    return Result("m0", "logit_diff", ones, ones, scores=scores, reference_scores=given,
                  references=references, **options)


def test_rows_by_hand() -> None:
    table = make(texts={"clean": ["a", "a", "b", "b"], "corrupt": list("wxyz")}).attribution()
    # changes: 2 and 0 for example 0; -1 and -3 for example 2
    assert table.drop(columns=["low", "high"]).to_dict("records") == [
        {"reference": 2, "text": "b", "draws": 2, "mean": -2, "least": -3, "most": -1},
        {"reference": 0, "text": "a", "draws": 2, "mean": 1, "least": 0, "most": 2}]
    half = 12.7062  # of Student's t with one degree of freedom, for draws that are 1 apart
    assert table["low"].tolist() == pytest.approx([-2 - half, 1 - half])
    assert table["high"].tolist() == pytest.approx([-2 + half, 1 + half])


def test_draws_may_differ_in_number_and_one_has_no_interval() -> None:
    table = make(references=(0, 0, 0, 3)).attribution()
    assert table["draws"].tolist() == [1, 3]
    assert np.isnan(table["low"][0]) and not np.isnan(table["low"][1])
    alone = make(references=None).attribution()
    assert alone["reference"].tolist() == [3, 2, 1, 0], "sorted by change, each by itself"


def test_subsets_and_files_keep_which_examples_belong_together() -> None:
    result = make(references=(0, 0, 0, 3))
    assert result.subset([1, 2]).attribution()["draws"].tolist() == [2]
    back = Result.from_dict(result.to_dict())
    assert back.attribution().equals(result.attribution())
    assert "references" not in make(references=None).table
    old = {k: v for k, v in make(references=None).to_dict().items() if k != "reference"}
    with pytest.raises(FileError, match="a file of a result has no 'reference'"):
        Result.from_dict(old)


def test_same_reference_reads_the_reference_alone() -> None:
    clean = torch.tensor([[1, 2], [1, 3], [1, 2], [1, 3]])
    pairs = Pairs.from_tensors({"clean": {"x": clean}, "corrupt": {"x": clean.flip(0)}})
    assert same_reference(pairs).tolist() == [0, 1, 0, 1]
    lengths = [{"x": torch.ones(n, dtype=torch.bool)} for n in (2, 3, 2)]
    assert same_reference(Pairs({"clean": lengths, "corrupt": lengths})).tolist() == [0, 1, 0]
    half = [{"x": torch.tensor(x, dtype=torch.bfloat16)} for x in (1.0, 2.0, 1.0)]
    assert same_reference(Pairs({"clean": half, "corrupt": half})).tolist() == [0, 1, 0]


def test_evaluate_tells_draws_apart() -> None:
    """Nothing important: the change is the model's own, from one prompt to the other."""
    zoo = traced("gpt2")
    clean, corrupt = tokens(2, 5, 1), tokens(3, 5, 2)
    which = list(product(range(2), range(3)))
    ids = {"clean": torch.stack([clean[i] for i, _ in which]),
           "corrupt": torch.stack([corrupt[j] for _, j in which])}
    answers = {"correct": torch.full((6,), 3), "wrong": torch.full((6,), 4)}
    pairs = Pairs.from_tensors({run: {"input_ids": x} for run, x in ids.items()}, answers)
    nothing = rw.Hypothesis(zoo.parts, {"clean": rw.PathSet.none()}, name="nothing")
    table = rw.evaluate(nothing, pairs, rw.logit_diff()).attribution().set_index("reference")

    def score(x: torch.Tensor) -> np.ndarray:
        last = logits(zoo.model, x)[:, -1]
        return (last[:, 3] - last[:, 4]).numpy()

    changes = score(corrupt)[None] - score(clean)[:, None]  # [reference, draw]
    assert table["mean"][[0, 3]].tolist() == pytest.approx(changes.mean(1).tolist(), abs=1e-4)
    assert table["most"][[0, 3]].tolist() == pytest.approx(changes.max(1).tolist(), abs=1e-4)


@pytest.mark.parametrize("result", [
    make(),
    make(texts={"clean": ["a\n$b$ <c> " * 20] * 4}),
    make(references=None),
    make(np.arange(90.0), np.zeros(90), np.arange(90) // 2),
], ids=["plain", "texts", "single", "many"])
def test_the_figure_is_not_blank(result: Result, tmp_path: Path) -> None:
    path = result.draw_attribution(tmp_path / "new" / "x.png")
    pixels = (imread(path)[..., :3] * 255).astype(int) @ [1 << 16, 1 << 8, 1]
    assert len(np.unique(pixels)) > 20


def test_every_draw_is_a_point(tmp_path: Path) -> None:
    text = make().draw_attribution(tmp_path / "x.svg").read_text()
    points = re.findall(r'id="PathCollection_\d+">(.*?)</g>\n   </g>', text, re.S)
    assert sum(each.count("<use") for each in points) == 4


def test_what_cannot_be_attributed_is_refused(tmp_path: Path) -> None:
    distance = Result("m0", "kl_divergence", [1.0], [1.0])
    with pytest.raises(DataError, match="kl_divergence has no score, so its effects have no sign"):
        distance.attribution()
    with pytest.raises(DataError, match="no score"):
        distance.draw_attribution(tmp_path / "x.png")
    with pytest.raises(DataError, match="'references': 2"):
        make(references=(0, 0))
    with pytest.raises(FileError, match=r"\.svg, \.png or \.pdf"):
        make().draw_attribution(tmp_path / "x.gif")
