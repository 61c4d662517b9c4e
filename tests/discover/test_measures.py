"""Completeness, minimality and refinements: the numbers of single evaluations."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import rewrite as rw
from rewrite.discover import completeness, minimality, refinements
from rewrite.discover.candidates import at
from rewrite.errors import DataError, HypothesisError, PathError, UnknownName
from rewrite.measure.stats import ratios
from tests.run.test_sweep import pairs_of
from tests.zoo import tokens, traced

pytestmark = pytest.mark.xdist_group("planted")  # one process makes the fixtures

PAIRS = pairs_of()
NOTHING = "~(...)"


def about(text: str) -> rw.Hypothesis:
    return rw.Hypothesis(traced("gpt2", torch.float64).parts, {"clean": text})


def share(hypothesis: rw.Hypothesis, metric: Any = "logit_diff") -> float:
    return rw.evaluate(hypothesis, PAIRS, metric).explained.value


def test_gains_are_differences_of_two_evaluations() -> None:
    hypothesis = about("m0 -> a1.h3.v -> logits | a0.h1")
    found = refinements(hypothesis, PAIRS, "logit_diff",
                        candidates=["drop", "extend", "restrict", "swap"], chunk=30)
    before = share(hypothesis)
    assert found.before.value == pytest.approx(before, rel=1e-10)
    assert {row.change.kind for row in found.rows} == {"drop", "extend", "restrict", "swap"}
    for row in found.rows[::11]:
        after = share(about(str(row.change.paths)))
        assert row.explained.value == pytest.approx(after, rel=1e-9, abs=1e-9)
        assert row.gain.value == pytest.approx(after - before, rel=1e-9, abs=1e-9)


def test_intervals_are_paired() -> None:
    rng = np.random.default_rng(0)
    rows, null = rng.normal(size=(3, 20)), rng.uniform(1, 2, size=20)
    for row, found in zip(rows, ratios(rows, null), strict=True):
        (alone,) = ratios(row[None], null)  # all rows are resampled alike
        assert (found.low, found.high) == pytest.approx((alone.low, alone.high))
        assert found.value == row.mean() / null.mean()
    (alike,) = ratios(null[None] / 2, null)
    assert (alike.low, alike.high) == pytest.approx((0.5, 0.5))
    (one,) = ratios(np.array([[1.0]]), np.array([2.0]))
    assert one.value == 0.5 and np.isnan(one.low) and "one example" in one.note
    (none,) = ratios(rows[:1], np.zeros(20))
    assert np.isnan(none.value) and "nothing to explain" in none.note
    rare = np.array([1.0] + [0.0] * 9)
    (odd,) = ratios(rows[:1, :10], rare)
    assert "not clearly away from zero" in odd.note and np.isnan(odd.low)


def test_everything_and_nothing_are_complements() -> None:
    for text, wanted in (("...", (1, 0)), (NOTHING, (0, 1)), ("tokens", (1, 0))):
        found = completeness(about(text), PAIRS, "kl_divergence")
        assert (found.explained.value, found.complement.value) == pytest.approx(wanted, abs=1e-12)
        assert found.overlap.value == pytest.approx(0, abs=1e-12)
        assert found.table["share"].tolist()[:2] == pytest.approx(wanted, abs=1e-12)


def test_a_complement_is_the_swapped_hypothesis() -> None:
    hypothesis = about("a1.h2 | m0 -> logits")
    found = completeness(hypothesis, PAIRS, "logit_diff")
    swapped = rw.Hypothesis(hypothesis.parts, {"corrupt": "a1.h2 | m0 -> logits"}, "clean")
    assert found.explained.value == pytest.approx(share(hypothesis))
    assert found.complement.value == pytest.approx(share(swapped))
    both = share(hypothesis) + share(swapped) - 1
    assert found.overlap.value == pytest.approx(both)
    assert found.overlap.low <= both <= found.overlap.high
    assert "overlap" in str(found) and "n = 5" in str(found) and "<pre>" in found._repr_html_()
    assert found.to_dict()["complement"]["value"] == found.complement.value


def test_verdicts_on_the_overlap() -> None:
    def found(low: float, high: float) -> str:
        share = rw.evaluate(about("m0"), PAIRS, "logit_diff").explained
        overlap = type(share)((low + high) / 2, low, high)
        return type(DONE)(*(getattr(DONE, name) for name in ("hypothesis", "explained",
                          "complement")), overlap, "logit_diff", 5).verdict

    assert found(0.1, 0.2).startswith("carried twice")
    assert found(-0.2, -0.1).startswith("shortfall")
    assert found(-0.1, 0.1).startswith("neither")


DONE: Any = None


@pytest.fixture(autouse=True, scope="module")
def _done() -> None:
    global DONE
    DONE = completeness(about("m0"), PAIRS, "logit_diff")


def test_a_piece_that_is_not_needed(planted: rw.Components, differ: rw.Pairs) -> None:
    text = "a1.h2.v -> logits | a0.h1 -> logits | m0 | a1.h2.v -> logits"
    hypothesis = rw.Hypothesis(planted, {"clean": text.rpartition(" | ")[0]})
    found = minimality(hypothesis, differ, "logit_diff")
    verdicts = found.table.set_index("piece")["verdict"]
    assert verdicts["a1.h2.v -> logits"] == "needed"
    assert verdicts["m0"] == verdicts["a0.h1 -> logits"] == "can be dropped"
    assert len(found.droppable) == len(verdicts) - 1
    assert found.table["loss"].iloc[-1] == pytest.approx(1, abs=1e-9)
    assert "1.000 lost without a1.h2.v -> logits: needed" in str(found)
    assert "<table" in found._repr_html_()


def test_a_piece_that_another_repeats() -> None:
    found = minimality(about("a1.h2 -> logits | a1.h2.v -> logits"), PAIRS, "logit_diff")
    twice = found.table.set_index("piece").loc["a1.h2.v -> logits"]
    assert twice["loss"] == 0 and twice["fewer_paths"] == 0
    assert twice["verdict"] == "can be dropped"


def test_losses_are_differences_of_two_evaluations() -> None:
    hypothesis = about("a1.h[2-3].v -> logits | m0 -> m1")
    found = minimality(hypothesis, PAIRS, "logit_diff")
    assert set(found.table["piece"]) == {
        "a1.h[2-3].v -> logits", "m0 -> m1", "a1.h2.v of a1.h[2-3].v", "a1.h3.v of a1.h[2-3].v"}
    for row in found.table.itertuples():
        assert row.loss == pytest.approx(share(hypothesis) - share(about(str(row.paths))))
        assert row.low <= row.loss <= row.high


def test_how_refinements_are_ranked(planted: rw.Components, differ: rw.Pairs) -> None:
    nothing = rw.Hypothesis(planted, {"clean": NOTHING})
    found = refinements(nothing, differ, "logit_diff")
    assert [row.change.what for row in found.helpful] == ["a1.h2 -> logits"]
    assert found.rows[0].per_path == pytest.approx(1 / found.rows[0].change.more)
    assert found.table["change"].iloc[0] == "a1.h2 -> logits" and len(found.rows) == 11
    assert "1 of 11 refinements help" in str(found) and "<table" in found._repr_html_()
    random = about(NOTHING)
    by_gain = refinements(random, PAIRS, "kl_divergence", by="gain", tolerance=0)
    by_path = refinements(random, PAIRS, "kl_divergence", tolerance=0)
    gains = [row.gain.value for row in by_gain.helpful]
    per_path = [row.per_path for row in by_path.helpful]
    assert gains == sorted(gains, reverse=True) and per_path == sorted(per_path, reverse=True)
    assert {row.change.what for row in by_gain.helpful} == {
        row.change.what for row in by_path.helpful}


def test_positions_are_candidates_too() -> None:
    hypothesis = about("a1.h2 -> logits")
    found = refinements(hypothesis, PAIRS, "logit_diff", candidates=[at("[-1]", "[0]")])
    gains = {row.change.what: row.gain.value for row in found.rows}
    assert gains["logits@[-1]"] == pytest.approx(0, abs=1e-9), "no other row is read"
    assert gains["logits@[0]"] == pytest.approx(-found.before.value)
    assert gains["a1.h2@[-1]"] == gains["logits@[-1]"]


def test_bad_input() -> None:
    nothing, hypothesis = about(NOTHING), about("m0")
    none: Any = None
    for function in (completeness, minimality, refinements):
        with pytest.raises(DataError, match="say what to measure: a metric such as"):
            function(hypothesis, PAIRS, none)
        with pytest.raises(UnknownName, match="did you mean logit_diff"):
            function(hypothesis, PAIRS, "logit_dif")
    with pytest.raises(DataError, match="the budget is"):
        completeness(hypothesis, PAIRS, "logit_diff", budget="1 kB")
    with pytest.raises(HypothesisError, match=r"no important paths.*rw\.refinements"):
        minimality(nothing, PAIRS, "logit_diff")
    with pytest.raises(DataError, match="0 <= tolerance < 1; found 2"):
        refinements(nothing, PAIRS, "logit_diff", tolerance=2)
    with pytest.raises(UnknownName, match="no candidates called 'swop'; did you mean swap"):
        refinements(nothing, PAIRS, "logit_diff", candidates=["swop"])
    with pytest.raises(UnknownName, match="ranked by gain_per_path or gain, found 'size'"):
        refinements(nothing, PAIRS, "logit_diff", by="size")
    with pytest.raises(PathError, match="no candidate changes the paths m0"):
        refinements(hypothesis, PAIRS, "logit_diff", candidates=["swap"])
    turned = rw.Hypothesis(hypothesis.parts, {"corrupt": "m0"}, "clean")
    with pytest.raises(HypothesisError, match="which paths read 'corrupt', and the pairs ask"):
        completeness(turned, PAIRS, "logit_diff")
    same = {"input_ids": tokens(3, 6, 1)}
    equal = rw.Pairs.from_tensors({"clean": same, "corrupt": same})
    with pytest.raises(DataError, match="do not differ in kl_divergence"):
        completeness(hypothesis, equal, "kl_divergence")
