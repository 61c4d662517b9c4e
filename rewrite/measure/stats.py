"""Means, the proportion explained, and how sure a sample of examples makes us of them.

    AUE = mean delta(G(x_r), G_H(x_r, x_c))       average unexplained effect
    ATE = AUE of the null hypothesis              average total effect
    explained = 1 - AUE / ATE                     may be negative

Effects are skewed, so intervals are studentized: resampled data sets say how far, in standard
errors, a mean lies from the true one, and each end is the farther of that and Student's t.  The
ratio `AUE / ATE` is every r at which the mean of `effect - r * null effect` may be zero (Fieller).
docs/statistics.md shows how often these intervals hold the true value.

Sources: Goldowsky-Dill, MacLeod, Sato, Arora 2023, "Localizing Model Behavior with Path Patching";
Efron and Tibshirani 1993, chapter 12 (bootstrap-t); Fieller 1954.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import isnan, nan
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.special import stdtr, stdtrit
from torch import Tensor

from rewrite.errors import DataError

Effects = Float[np.ndarray, " example"]
Rows = Float[np.ndarray, "row example"]

ENOUGH = 20
"""From so many examples on, intervals hold about as often as they say (docs/statistics.md)."""

DECIDE = 4
"""A mean that rests on fewer examples than this has a note (`few_examples`)."""

_CHUNK = 1 << 22  # resampled values held at once


@dataclass(frozen=True)
class Estimate:
    """A value and the interval that holds the true one with probability `level`.

    `low` and `high` are nan where no interval exists, `value` is nan where the value does not;
    `note` says why, or that examples are too few to trust the interval.

    >>> print(Estimate(0.642, 0.601, 0.688))
    0.642 [0.601, 0.688]
    """

    value: float
    low: float
    high: float
    level: float = 0.95
    note: str = ""

    def __post_init__(self) -> None:
        for name in ("value", "low", "high"):
            if isnan(getattr(self, name)):
                object.__setattr__(self, name, nan)  # one nan equals itself, so estimates do too

    def __str__(self) -> str:
        if isnan(self.value):
            return f"undefined ({self.note})" if self.note else "undefined"
        if isnan(self.low):
            return f"{_short(self.value)} [no interval]"
        return f"{_short(self.value)} [{_short(self.low)}, {_short(self.high)}]"

    @property
    def complement(self) -> Estimate:
        """One minus a share: what is explained, from what is not.

        >>> print(Estimate(0.25, 0.0, 0.5).complement)
        0.750 [0.500, 1.000]
        """
        value, low, high = (round(1 - end, 12) for end in (self.value, self.high, self.low))
        return replace(self, value=value, low=low, high=high)

    def to_dict(self) -> dict[str, Any]:
        """For JSON, which has no nan: null instead."""
        numbers = {"value": self.value, "low": self.low, "high": self.high}
        shown = {name: None if isnan(x) else x for name, x in numbers.items()}
        return {**shown, "level": self.level, **({"note": self.note} if self.note else {})}


def means(
    effects: Rows, *, draws: int = 2000, seed: int = 0, level: float = 0.95
) -> Float[np.ndarray, "row 3"]:
    """`aue` of many rows at once, all resampled alike: value, low and high of each.

    >>> means(np.array([[1.0, 3.0], [0.0, 0.0]]))[:, 0].tolist()
    [2.0, 0.0]
    """
    value = effects.mean(1)
    if effects.shape[1] == 1:
        return np.stack([value, np.full_like(value, nan), np.full_like(value, nan)], 1)
    few, many = _errors(effects - value[:, None], draws, seed, level)
    scale = _standard_error(effects)
    return np.stack([value, value - many * scale, value - few * scale], 1)


def ratios(
    rows: Rows, null_effects: Effects, *, draws: int = 2000, seed: int = 0, level: float = 0.95
) -> list[Estimate]:
    """Mean of each row over the mean of the null's effects, example by example (paired).

    A row of effects gives the share that is left unexplained, `1 - explained`; a difference of
    two such rows gives what one hypothesis explains beyond the other.

    >>> print(ratios(np.array([[1.0, 0.0], [2.0, 2.0]]), np.array([2.0, 2.0]))[1])
    1.000 [1.000, 1.000]

    Undefined where the mean of the null's effects is zero, or not clearly away from zero.
    """
    null, n = as_effects(null_effects, "null_effects"), rows.shape[1]
    total = aue(null, draws=draws, seed=seed, level=level)
    if total.value == 0:
        return [Estimate(nan, nan, nan, level, "ATE is zero: nothing to explain")] * len(rows)
    values = rows.mean(1) / total.value
    if n == 1:
        return [Estimate(float(value), nan, nan, level, total.note) for value in values]
    unclear, why = total.low <= 0 <= total.high, f"ATE is not clearly away from zero, {total}"
    if unclear and n >= ENOUGH:
        return [Estimate(nan, nan, nan, level, why)] * len(rows)
    few, many = _errors(rows - values[:, None] * null, draws, seed, level)
    low, high = _fieller(rows, null, many, -1), _fieller(rows, null, few, 1)
    found: list[Estimate] = []
    for row, value, below, above in zip(rows, values.tolist(), low.tolist(), high.tolist(),
                                        strict=True):
        if unclear or isnan(below) or isnan(above):
            found.append(Estimate(value, nan, nan, level, why))
        else:
            found.append(Estimate(value, below, above, level, total.note or few_examples(row)))
    return found


def _fieller(rows: Rows, null: Effects, errors: np.ndarray, side: int) -> np.ndarray:
    """The r on one side at which `mean(row - r * null)` is so many standard errors from zero.

        (mean(row) - r mean(null))^2 = errors^2 (var(row) - 2 r cov(row, null) + r^2 var(null)) / n
    """
    n, square = len(null), errors**2
    row, other = rows - rows.mean(1)[:, None], null - null.mean()
    share = square / (n * (n - 1))
    a = null.mean() ** 2 - share * (other @ other)
    b = rows.mean(1) * null.mean() - share * (row @ other)
    c = rows.mean(1) ** 2 - share * (row**2).sum(1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(a > 0, (b + side * np.sqrt(np.maximum(b**2 - a * c, 0))) / a, nan)


def _errors(
    residuals: Rows, draws: int, seed: int, level: float
) -> tuple[np.ndarray, np.ndarray]:
    """How many standard errors below and above the true mean a mean may lie, for each row."""
    if not 0 < level < 1:
        raise DataError(f"0 < level < 1 is needed, found {level}")
    tail = (1 - level) / 2
    few, many = np.quantile(_studentized(residuals, draws, seed), [tail, 1 - tail], axis=0)
    known = float(stdtrit(residuals.shape[1] - 1, 1 - tail))
    return np.minimum(few, -known), np.maximum(many, known)


def _studentized(residuals: Rows, draws: int, seed: int) -> Float[np.ndarray, "draw row"]:
    """Means of resampled data sets, each in its own standard errors.

    A resampled data set may hold one value many times and so have hardly any spread: its standard
    error counts as at least half of that of the data.
    """
    if draws < 1:
        raise DataError(f"draws >= 1 is needed, found {draws}")
    n = residuals.shape[1]
    least = _standard_error(residuals) / 2
    drawn: list[np.ndarray] = []
    for counts in _resampled(n, draws, seed):
        mean = counts @ residuals.T / n
        spread = np.maximum(counts @ residuals.T**2 / n - mean**2, 0) / (n - 1)
        with np.errstate(divide="ignore", invalid="ignore"):
            drawn.append(np.nan_to_num(mean / np.maximum(np.sqrt(spread), least)))
    return np.concatenate(drawn)


def p_values(rows: Rows, *, draws: int = 2000, seed: int = 0) -> Float[np.ndarray, " row"]:
    """How often rows whose true mean is zero lie as far from it, in either direction, as these.

    The larger of Student's t and the bootstrap-t: below 0.05 where the interval of `means` does
    not hold zero.  nan for one example, and for values that are nan.

    >>> p_values(np.array([[1.0, 1.1, 0.9, 1.0], [1.0, -1.0, 2.0, -2.0]])).round(2).tolist()
    [0.0, 1.0]
    """
    n, value = rows.shape[1], rows.mean(1)
    if n == 1:
        return np.full_like(value, nan)
    with np.errstate(divide="ignore", invalid="ignore"):
        found = np.nan_to_num(value / _standard_error(rows))  # 0/0: nothing was changed
    drawn = _studentized(rows - value[:, None], draws, seed)
    beyond = np.where(found > 0, (drawn >= found).mean(0), (drawn <= found).mean(0))
    p = np.minimum(np.maximum(2 * stdtr(n - 1, -abs(found)), 2 * beyond), 1.0)
    return np.where(np.isnan(value), nan, p)


def _standard_error(rows: Rows) -> np.ndarray:
    return rows.std(1, ddof=1) / rows.shape[1] ** 0.5


def _resampled(n: int, draws: int, seed: int) -> Iterator[np.ndarray]:
    """How often each draw takes each example, `[some draws, n]`: the same for equal arguments."""
    rng = np.random.default_rng(seed)
    chunk = max(1, _CHUNK // n)
    for start in range(0, draws, chunk):
        yield rng.multinomial(n, np.full(n, 1 / n), size=min(chunk, draws - start)).astype(float)


def aue(effects: Effects, *, draws: int = 2000, seed: int = 0, level: float = 0.95) -> Estimate:
    """Average unexplained effect: the mean, with its interval, in the unit of the metric.

    Of the null hypothesis's effects it is the average total effect.

    >>> aue(np.array([1.0, 3.0])).value
    2.0
    """
    found = as_effects(effects)
    ((value, low, high),) = means(found[None], draws=draws, seed=seed, level=level).tolist()
    return Estimate(value, low, high, level, few_examples(found))


def explained(
    effects: Effects,
    null_effects: Effects,
    *,
    draws: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> Estimate:
    """Proportion explained, `1 - AUE / ATE`: 1 is everything, 0 no more than the null.

    Undefined (nan, with a note) where the average total effect is zero, or not clearly away
    from it.

    >>> explained(np.array([1.0, 0.0]), np.array([2.0, 2.0])).value
    0.75
    """
    row, null = as_effects(effects), as_effects(null_effects, "null_effects")
    if len(row) != len(null):
        counts = {"effects": len(row), "null_effects": len(null)}
        raise DataError(f"one value per example is needed from each; found numbers {counts}")
    (share,) = ratios(row[None], null, draws=draws, seed=seed, level=level)
    return share.complement


def as_array(values: Any, dtype: Any) -> np.ndarray:
    """A copy as an array, of a tensor too."""
    return np.array(values.numpy(force=True) if isinstance(values, Tensor) else values, dtype)


def as_effects(values: object, name: str = "effects") -> Effects:
    """Finite float64 values, one per example: a read-only copy.

    Raises DataError where they are not, and says which.
    """
    try:
        array = as_array(values, np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(f"{name} must be one number per example: {error}") from error
    if array.ndim != 1 or array.size == 0:
        raise DataError(f"{name} must be one number per example, found shape {array.shape}")
    bad = np.flatnonzero(~np.isfinite(array))
    if bad.size:
        raise DataError(f"{name} are not finite in examples {bad.tolist()[:8]}")
    array.setflags(write=False)
    return array


def few_examples(effects: np.ndarray) -> str:
    """Why an interval of these values is not to be trusted; empty if it is.

    >>> few_examples(np.ones(3))
    'too few examples for a sure interval: 3, of 20 at least'
    >>> few_examples(np.array([5.0] + 29 * [0.0]))
    'few examples decide: the mean rests on about 1 of 30, so the interval is not sure'
    """
    n = len(effects)
    if n == 1:
        return "one example gives no interval"
    if n < ENOUGH:
        return f"too few examples for a sure interval: {n}, of {ENOUGH} at least"
    weight = abs(effects).sum()
    share = weight**2 / (n * (effects**2).sum()) if weight else 1.0
    if share * n < DECIDE:
        return (f"few examples decide: the mean rests on about {max(round(share * n), 1)} of {n}, "
                "so the interval is not sure")
    return ""


def _short(x: float) -> str:
    return f"{x:.3f}" if x == 0 or 1e-3 <= abs(x) < 1e4 else f"{x:.3g}"
