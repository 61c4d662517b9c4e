"""Estimates against hand values, a plain loop, Fieller's inequality, and how often they hold."""

import json
from math import isnan, nan, sqrt

import numpy as np
import pytest
from scipy.stats import t as student

from rewrite.errors import DataError
from rewrite.measure import Estimate, aue, explained
from rewrite.measure.stats import ENOUGH, few_examples, means, p_values, ratios


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


def covers(low, high, truth):
    return np.mean((low <= truth) & (truth <= high))


SKEWED = {
    "exponential": (lambda rng, size: rng.exponential(1, size), 1.0),
    "half normal": (lambda rng, size: abs(rng.normal(0, 1, size)), sqrt(2 / np.pi)),
    "log-normal": (lambda rng, size: rng.lognormal(0, 0.5, size), np.exp(0.125)),
    "gamma, shape 1/2": (lambda rng, size: rng.gamma(0.5, 1, size), 0.5),
    "half of them zero": (
        lambda rng, size: rng.exponential(1, size) * (rng.random(size) < 0.5), 0.5),
}


@pytest.mark.parametrize("name", SKEWED)
def test_intervals_of_skewed_means_hold_from_twenty_examples_on(name):
    draw, truth = SKEWED[name]
    rows = draw(np.random.default_rng(2), (1500, ENOUGH))
    _, low, high = means(rows, draws=999).T
    assert 0.93 <= covers(low, high, truth) <= 0.98
    plain = np.quantile(rows[:, np.random.default_rng(3).integers(0, 20, (999, 20))].mean(-1),
                        [0.025, 0.975], axis=1) if name == "gamma, shape 1/2" else None
    assert plain is None or covers(*plain, truth) < 0.9  # what percentiles would give


def test_intervals_of_skewed_ratios_hold_from_twenty_examples_on():
    rng, found = np.random.default_rng(4), []
    for _ in range(400):
        null = rng.lognormal(0, 0.7, ENOUGH)
        share = explained(null * rng.beta(2, 3, ENOUGH), null, draws=500)
        found.append((share.low, share.high))
    assert 0.93 <= covers(*np.array(found).T, 0.6) <= 0.98


def test_an_end_is_the_farther_of_a_plain_loop_and_of_student():
    x = np.random.default_rng(5).exponential(size=25)
    found, rng, said = aue(x, draws=4000), np.random.default_rng(6), []
    error = x.std(ddof=1) / 5
    for _ in range(4000):
        again = rng.choice(x, 25)
        said.append((again.mean() - x.mean()) / max(again.std(ddof=1) / 5, error / 2))
    few, many = np.quantile(said, [0.025, 0.975])
    known = student.ppf(0.975, 24)
    assert found.low == pytest.approx(x.mean() - max(many, known) * error, rel=0.02)
    assert found.high == pytest.approx(x.mean() + max(-few, known) * error, rel=0.02)


def test_the_ratio_is_every_r_that_the_residuals_allow():
    """Each end solves Fieller's equality, and no r inside breaks the inequality."""
    rng = np.random.default_rng(7)
    null = rng.gamma(2, 1, 30)
    row = 0.3 * null + rng.normal(0, 0.5, 30)
    (found,) = ratios(row[None], null)

    def errors(r):
        left = row - r * null
        return left.mean() / (left.std(ddof=1) / sqrt(30))

    above, below = errors(found.low), errors(found.high)
    assert above >= student.ppf(0.975, 29) - 1e-9 and below <= -student.ppf(0.975, 29) + 1e-9
    assert all(below <= errors(r) <= above for r in np.linspace(found.low, found.high, 50))


@pytest.mark.parametrize("seed", range(20))
def test_a_value_lies_in_its_interval(seed):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(2, 40))
    effects, null = rng.lognormal(0, 1, n), rng.lognormal(1, 1, n)
    for found in (aue(effects), explained(effects, null)):
        assert isnan(found.low) or found.low <= found.value <= found.high


def test_few_examples_are_said():
    rng = np.random.default_rng(8)
    few, enough = (aue(rng.exponential(size=n)) for n in (ENOUGH - 1, ENOUGH))
    assert few.note == "too few examples for a sure interval: 19, of 20 at least"
    assert not enough.note


def test_a_mean_that_few_examples_decide_says_so():
    rare = np.array([3.0, 4.0] + 38 * [0.01])
    assert aue(rare).note.startswith("few examples decide: the mean rests on about 2 of 40")
    assert not few_examples(np.random.default_rng(8).exponential(size=40))
    assert explained(rare, np.full(40, 5.0)).note.startswith("few examples decide")
    assert not few_examples(np.zeros(40))


@pytest.mark.parametrize("n, most", [(ENOUGH, 0.065), (100, 0.06)])
@pytest.mark.parametrize("name", ["normal", "exponential"])
def test_p_values_are_small_as_often_as_they_say(name, n, most):
    rng = np.random.default_rng(11)
    rows = rng.normal(size=(2000, n)) if name == "normal" else rng.exponential(1, (2000, n)) - 1
    assert 0.03 <= (p_values(rows, draws=999) < 0.05).mean() <= most


@pytest.mark.parametrize("seed", range(5))
def test_p_values_and_intervals_say_the_same(seed):
    rows = np.random.default_rng(seed).gamma(1, 1, (200, 25)) - 0.8
    _, low, high = means(rows, draws=1000).T
    p = p_values(rows, draws=1000)
    sure = abs(p - 0.05) > 0.004  # a quantile lies between two draws
    assert ((p < 0.05) == ((low > 0) | (high < 0)))[sure].all() and sure.sum() > 150


def test_p_values_where_nothing_varies():
    assert p_values(np.array([[0.0, 0.0], [2.0, 2.0]])).tolist() == [1.0, 0.0]
    assert np.isnan(p_values(np.array([[2.0]]))).all()
    assert np.isnan(p_values(np.array([[nan, nan], [1.0, 2.0]]))).tolist() == [True, False]


def test_a_total_effect_that_may_be_zero_gives_no_share():
    rng = np.random.default_rng(9)
    null = rng.normal(0.05, 1, 50)
    found = explained(np.abs(rng.normal(size=50)), null)
    assert isnan(found.value)
    assert str(found).startswith("undefined (ATE is not clearly away from zero, ")
    small = explained(np.array([1.0, 0.0, 2.0]), np.array([-1.0, 1.0, 3.0]))
    assert small.value == 0 and isnan(small.low)
    assert small.note.startswith("ATE is not clearly away from zero, 1.000 [-")


def test_ratio_interval_agrees_with_the_delta_method():
    rng = np.random.default_rng(3)
    null = rng.gamma(4, 1, 5000)
    effects = 0.4 * null + rng.gamma(1, 0.3, 5000)
    ratio = effects.mean() / null.mean()
    half = 1.96 * (effects - ratio * null).std(ddof=1) / sqrt(5000) / null.mean()
    found = explained(effects, null)
    assert found.high - found.low == pytest.approx(2 * half, rel=0.1)


def test_ratios_are_paired():
    x = np.random.default_rng(4).gamma(4, 1, 500)
    paired = explained(x / 2, x)
    assert paired.low == pytest.approx(0.5) and paired.high == pytest.approx(0.5)
    shuffled = explained(np.random.default_rng(5).permutation(x) / 2, x)
    assert shuffled.high - shuffled.low > 0.05


def test_seed_decides():
    x = np.random.default_rng(6).normal(size=50)
    assert aue(x) == aue(x) != aue(x, seed=1)


def test_chunks_do_not_change_the_answer(monkeypatch):
    x = np.random.default_rng(7).normal(size=64)
    whole = aue(x, draws=500)
    monkeypatch.setattr("rewrite.measure.stats._CHUNK", 64 * 30)
    again = aue(x, draws=500)
    assert again == whole


def test_one_example_has_no_interval():
    found = aue(np.array([2.0]))
    assert found.value == 2 and isnan(found.low) and isnan(found.high)
    assert str(found) == "2.000 [no interval]"
    assert found.note == "one example gives no interval"


def test_nothing_to_explain():
    found = explained(np.array([1.0, 1.0]), np.zeros(2))
    assert isnan(found.value)
    assert str(found) == "undefined (ATE is zero: nothing to explain)"


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
