"""Estimates against hand values and against the normal theory of large samples."""

import json
from math import isnan, nan, sqrt

import numpy as np
import pytest

from rewrite.errors import DataError
from rewrite.measure import Estimate, aue, bootstrap, explained


def difference(values):
    return values["x"].mean(-1) - values["y"].mean(-1)


def test_values_by_hand():
    assert aue(np.array([1.0, 2.0, 6.0])).value == 3
    assert explained(np.array([1.0, 0.0, 2.0]), np.array([2.0, 4.0, 6.0])).value == 0.75
    assert explained(np.array([3.0, 3.0]), np.array([1.0, 1.0])).value == -2  # worse than nothing


@pytest.mark.parametrize("level, z", [(0.95, 1.960), (0.8, 1.2816)])
def test_interval_is_the_normal_one_on_a_large_sample(level, z):
    x = np.random.default_rng(1).exponential(size=4000)
    found = aue(x, level=level)
    half = z * x.std(ddof=1) / sqrt(len(x))
    assert found.low == pytest.approx(x.mean() - half, abs=0.1 * half)
    assert found.high == pytest.approx(x.mean() + half, abs=0.1 * half)
    assert found.level == level


def test_interval_covers_as_often_as_it_says():
    rng = np.random.default_rng(2)
    hits = [
        (found := aue(rng.normal(1, 1, 60), draws=300, seed=i)).low <= 1 <= found.high
        for i in range(300)
    ]
    assert 0.90 <= np.mean(hits) <= 0.98


def test_ratio_interval_agrees_with_the_delta_method():
    rng = np.random.default_rng(3)
    null = rng.gamma(4, 1, 5000)
    effects = 0.4 * null + rng.gamma(1, 0.3, 5000)
    ratio = effects.mean() / null.mean()
    half = 1.96 * (effects - ratio * null).std(ddof=1) / sqrt(5000) / null.mean()
    found = explained(effects, null)
    assert found.high - found.low == pytest.approx(2 * half, rel=0.1)


def test_resampling_is_paired():
    x = np.random.default_rng(4).normal(size=500)
    paired = bootstrap({"x": x, "y": x + 1}, difference)
    assert paired.low == pytest.approx(-1) and paired.high == pytest.approx(-1)
    shuffled = bootstrap({"x": x, "y": np.random.default_rng(5).permutation(x) + 1}, difference)
    assert shuffled.high - shuffled.low > 0.1


def test_seed_decides():
    x = np.random.default_rng(6).normal(size=50)
    assert aue(x) == aue(x) != aue(x, seed=1)


def test_chunks_do_not_change_the_answer(monkeypatch):
    x = np.random.default_rng(7).normal(size=64)
    whole = aue(x, draws=500)
    monkeypatch.setattr("rewrite.measure.stats._CHUNK", 64 * 30)
    assert aue(x, draws=500) == whole


def test_one_example_has_no_interval():
    found = aue(np.array([2.0]))
    assert found.value == 2 and isnan(found.low) and isnan(found.high)
    assert str(found) == "2.000 [no interval]"
    assert found.note == "one example gives no interval"


def test_nothing_to_explain():
    found = explained(np.array([1.0, 1.0]), np.zeros(2))
    assert isnan(found.value)
    assert str(found) == "undefined (ATE is zero: nothing to explain)"


def test_resampled_data_sets_with_nothing_to_explain_are_reported():
    rare = explained(np.ones(3), np.array([0.0, 0.0, 3.0]))
    assert rare.value == 0 and isnan(rare.low)
    assert rare.note.startswith("undefined in 3") or rare.note.startswith("undefined in 2")
    seldom = explained(np.ones(8), np.array([0.0] * 4 + [2.0] * 4))
    assert not isnan(seldom.low) and seldom.note.startswith("undefined in 0.")


@pytest.mark.parametrize(
    "numbers, text",
    [
        ((0.642, 0.601, 0.688), "0.642 [0.601, 0.688]"),
        ((1e-5, -2e-6, 12345.6), "1e-05 [-2e-06, 1.23e+04]"),
        ((nan, nan, nan), "undefined"),
    ],
)
def test_estimates_read_well(numbers, text):
    assert str(Estimate(*numbers)) == text


def test_json_has_no_nan():
    data = json.loads(json.dumps(aue(np.array([2.0])).to_dict(), allow_nan=False))
    assert data == {
        "value": 2.0,
        "low": None,
        "high": None,
        "level": 0.95,
        "note": "one example gives no interval",
    }


@pytest.mark.parametrize(
    "effects, null_effects, message",
    [
        ([], [], r"effects must be one number per example, found shape \(0,\)"),
        ([[1.0]], [1.0], r"found shape \(1, 1\)"),
        ([1.0, nan], [1.0, 1.0], r"effects are not finite in examples \[1\]"),
        ([1.0], [1.0, 2.0], "'effects': 1, 'null_effects': 2"),
    ],
)
def test_effects_that_say_nothing_are_refused(effects, null_effects, message):
    with pytest.raises(DataError, match=message):
        explained(np.array(effects), np.array(null_effects))


def test_options_that_make_no_sense_are_refused():
    with pytest.raises(DataError, match="0 < level < 1"):
        aue(np.ones(2), level=95)
