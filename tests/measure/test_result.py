"""Results: estimates, tables, subsets, files and figures."""

import json
import subprocess
import sys
from dataclasses import FrozenInstanceError

import numpy as np
import pytest

from rewrite.errors import DataError, FileError
from rewrite.measure import Result, draw_ladder, ladder_table


def make(hypothesis="a5.h3 -> logits", n=20, share=0.6, **options) -> Result:
    rng = np.random.default_rng(0)
    null = rng.gamma(3, 1, n)
    defaults = {
        "scores": rng.normal(size=n),
        "reference_scores": rng.normal(size=n),
        "texts": {"clean": [f"clean {i}" for i in range(n)], "corrupt": ["other"] * n},
    }
    return Result(hypothesis, "logit_diff", (1 - share) * null, null, **(defaults | options))


def test_estimates_follow_from_the_effects():
    result = Result("m0", "logit_diff", np.array([1.0, 0.0]), np.array([2.0, 2.0]))
    assert (result.n, result.aue.value, result.ate.value, result.explained.value) == (
        2,
        0.5,
        2,
        0.75,
    )
    assert make().explained.low == pytest.approx(0.6)  # proportional effects: no uncertainty
    assert make(level=0.5).aue.level == 0.5


def test_results_are_frozen():
    effects = np.ones(2)
    result = Result("m0", "logit_diff", effects, np.ones(2))
    effects[0] = 7
    assert result.effects.tolist() == [1, 1]
    with pytest.raises(FrozenInstanceError):
        result.metric = "other"
    with pytest.raises(ValueError, match="read-only"):
        result.effects[0] = 1


def test_table_has_a_row_per_example():
    table = make(n=3).table
    assert list(table.columns) == [
        "index",
        "text_clean",
        "text_corrupt",
        "reference_score",
        "hypothesis_score",
        "effect",
        "null_effect",
    ]
    assert table["text_clean"].tolist() == ["clean 0", "clean 1", "clean 2"]
    bare = Result("m0", "logit_diff", np.ones(2), np.ones(2)).table
    assert list(bare.columns) == ["index", "effect", "null_effect"]


def test_subset_computes_anew_and_keeps_positions():
    result = Result("m0", "logit_diff", np.array([1.0, 0.0, 0.0]), np.array([1.0, 2.0, 2.0]))
    assert result.explained.value == 0.8
    half = result.subset(result.null_effects > 1)
    assert half.explained.value == 1
    assert half.index.tolist() == [1, 2]
    assert half.subset([1]).index.tolist() == [2]
    assert half.notes == ("subset: 2 of 3 examples",)
    assert make().subset(slice(0, 4)).table["text_clean"].tolist()[-1] == "clean 3"
    with pytest.raises(DataError, match="selects none of 3"):
        result.subset([False] * 3)


@pytest.mark.parametrize(
    "result",
    [
        make(notes=["small"], null="all heads", seed=3, level=0.9).subset([3, 1]),
        Result("m0", "kl_divergence", np.array([0.1]), np.array([0.3])),
        Result("m0", "kl_divergence", np.zeros(4), np.zeros(4)),
    ],
)
def test_a_file_gives_the_result_back(result):
    data = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    back = Result.from_dict(data)
    assert back.to_dict() == result.to_dict()
    assert str(back) == str(result)
    assert back.table.equals(result.table)


def test_another_file_is_refused():
    with pytest.raises(FileError, match="expected kind 'result', found None"):
        Result.from_dict({})


def test_text_and_html():
    result = Result("a<5>", "logit_diff", np.array([1.0, 1.0]), np.array([2.0, 2.0]), notes=["hm"])
    assert str(result).splitlines() == [
        "a<5>",
        "  explained  0.500 [0.500, 0.500]",
        "  AUE        1.000 [1.000, 1.000]",
        "  ATE        2.000 [2.000, 2.000]",
        "  logit_diff, null: nothing important, n = 2",
        "  note: hm",
        "  note: too few examples for a sure interval: 2, of 20 at least",
    ]
    html = result._repr_html_()
    assert "a&lt;5&gt;" in html and "0.500 [0.500, 0.500]" in html and "note: hm" in html


def test_doubts_are_noted():
    signed = Result("m0", "logit_diff", np.array([1.0, -1.0]), np.array([2.0, 2.0]))
    assert "effects are signed: they cancel" in str(signed)
    assert "note: ATE is zero" in str(Result("m0", "logit_diff", np.ones(2), np.zeros(2)))
    assert "one example gives no interval" in str(Result("m0", "logit_diff", [1.0], [2.0]))


@pytest.mark.parametrize(
    "options, message",
    [
        ({"null_effects": np.ones(3)}, "'effect': 2, 'null_effect': 3"),
        ({"scores": np.ones(1)}, "'hypothesis_score': 1"),
        ({"texts": {"clean": ["a"]}}, "'text_clean': 1"),
        ({"effects": np.array([1.0, np.inf])}, r"effects are not finite in examples \[1\]"),
        ({"scores": np.array([np.nan, 0])}, "scores are not finite"),
        ({"effects": np.array([])}, "effects must be one number per example"),
    ],
)
def test_columns_that_do_not_fit_are_refused(options, message):
    columns = {"effects": np.ones(2), "null_effects": np.ones(2)} | options
    with pytest.raises(DataError, match=message):
        Result("m0", "logit_diff", **columns)


def test_ladder_table():
    table = ladder_table([make("one", share=0.3), make("two", share=0.6)])
    assert table["hypothesis"].tolist() == ["one", "two"]
    assert table["explained"].round(6).tolist() == [0.3, 0.6]
    assert {"low", "high", "aue", "ate", "n", "metric", "null"} < set(table.columns)


ODD = [
    make("hopeless", share=-4),
    Result("nothing to explain", "logit_diff", np.zeros(3), np.zeros(3)),
    Result("one example", "loss_diff", [0.5], [1.0]),
    Result("signed", "logit_diff", np.array([-1.0, 2.0, -3.0]), np.array([-1.0, -2.0, -3.0])),
    make("$x_ costs $ and 変 " * 5),
]


@pytest.mark.parametrize("result", ODD, ids=lambda result: result.hypothesis[:8])
@pytest.mark.parametrize("suffix", [".svg", ".png"])
def test_every_result_can_be_drawn(result, suffix, tmp_path):
    path = result.draw(tmp_path / "new" / f"figure{suffix}")
    start = path.read_bytes()[:5]
    assert start in (b"<?xml", b"\x89PNG\r")


def test_ladder_is_drawn_and_repeats(tmp_path):
    one = draw_ladder([make(), *ODD], tmp_path / "one.svg").read_text()
    two = draw_ladder([make(), *ODD], tmp_path / "two.svg").read_text()
    assert "<svg" in one and one == two
    assert draw_ladder(ODD, tmp_path / "ladder.PDF").read_bytes()[:4] == b"%PDF"


def test_figures_refuse(tmp_path):
    with pytest.raises(FileError, match=r"\.svg, \.png or \.pdf; found 'ladder\.txt'"):
        draw_ladder([make()], tmp_path / "ladder.txt")
    with pytest.raises(DataError, match="no result to draw"):
        draw_ladder([], tmp_path / "ladder.svg")


def test_pyplot_is_not_touched():
    code = (
        "import sys; from rewrite.measure import Result; import tempfile, pathlib;"
        "Result('m0', 'x', [1.0, 2.0], [2.0, 2.0]).draw(pathlib.Path(tempfile.mkdtemp(), 'a.png'));"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)
