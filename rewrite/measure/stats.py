"""Means, the proportion explained, and how sure a sample of examples makes us of them.

    AUE = mean delta(G(x_r), G_H(x_r, x_c))       average unexplained effect
    ATE = AUE of the null hypothesis              average total effect
    explained = 1 - AUE / ATE                     may be negative

Source: Goldowsky-Dill, MacLeod, Sato, Arora 2023, "Localizing Model Behavior with Path Patching".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import isnan, nan
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from rewrite.errors import DataError

Effects = Float[np.ndarray, " example"]
Statistic = Callable[[Mapping[str, np.ndarray]], Any]

_CHUNK = 1 << 22  # resampled values held at once


@dataclass(frozen=True)
class Estimate:
    """A value and the interval that `level` of resampled data sets give it.

    `low` and `high` are nan where no interval exists, `value` is nan where the value does not;
    `note` says why.

    >>> print(Estimate(0.642, 0.601, 0.688))
    0.642 [0.601, 0.688]
    """

    value: float
    low: float
    high: float
    level: float = 0.95
    note: str = ""

    def __str__(self) -> str:
        if isnan(self.value):
            return f"undefined ({self.note})" if self.note else "undefined"
        if isnan(self.low):
            return f"{_short(self.value)} [no interval]"
        return f"{_short(self.value)} [{_short(self.low)}, {_short(self.high)}]"

    def to_dict(self) -> dict[str, Any]:
        """For JSON, which has no nan: null instead."""
        numbers = {"value": self.value, "low": self.low, "high": self.high}
        shown = {name: None if isnan(x) else x for name, x in numbers.items()}
        return {**shown, "level": self.level, **({"note": self.note} if self.note else {})}


def bootstrap(
    effects: Mapping[str, Effects],
    statistic: Statistic,
    *,
    draws: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> Estimate:
    """Percentile bootstrap of a statistic of per-example values, *paired* across its arguments.

    Every draw picks the same examples from each array `[n]`, so that what varies from example
    to example alike cancels.  `statistic` gets arrays `[draws, n]` (and `[n]`) and reduces the
    last axis.

    >>> print(bootstrap({"x": np.zeros(9)}, lambda v: v["x"].mean(-1)))
    0.000 [0.000, 0.000]

    Raises DataError for arrays that are empty, unequal in length or not finite.
    Source: Efron and Tibshirani 1993, chapter 13.
    """
    arrays = _checked(effects)
    if draws < 1 or not 0 < level < 1:
        raise DataError(f"draws >= 1 and 0 < level < 1 are needed, found {draws} and {level}")
    n = len(next(iter(arrays.values())))
    value = float(statistic(arrays))
    if n == 1:
        return Estimate(value, nan, nan, level, "one example gives no interval")
    if isnan(value):
        return Estimate(nan, nan, nan, level)
    drawn = [np.asarray(statistic({name: x[index] for name, x in arrays.items()}))
             for index in _resampled(n, draws, seed)]
    values = np.concatenate(drawn)
    undefined = ~np.isfinite(values)
    note = f"undefined in {undefined.mean():.1%} of resampled data sets" if undefined.any() else ""
    if undefined.mean() > 1 - level:
        return Estimate(value, nan, nan, level, note)
    tail = (1 - level) / 2
    low, high = np.quantile(values[~undefined], [tail, 1 - tail])
    return Estimate(value, float(low), float(high), level, note)


def means(
    effects: Float[np.ndarray, "row example"], *, draws: int = 2000, seed: int = 0,
    level: float = 0.95,
) -> Float[np.ndarray, "row 3"]:
    """`aue` of many rows at once, all resampled alike: value, low and high of each.

    >>> means(np.array([[1.0, 3.0], [0.0, 0.0]]))[:, 0].tolist()
    [2.0, 0.0]
    """
    n = effects.shape[1]
    value = effects.mean(1)
    if n == 1:
        return np.stack([value, np.full_like(value, nan), np.full_like(value, nan)], 1)
    drawn: list[np.ndarray] = []
    for index in _resampled(n, draws, seed):
        taken = np.zeros((len(index), n))
        np.add.at(taken, (np.arange(len(index))[:, None], index), 1)
        drawn.append(taken @ effects.T / n)
    tail = (1 - level) / 2
    low, high = np.quantile(np.concatenate(drawn), [tail, 1 - tail], axis=0)
    return np.stack([value, low, high], 1)


def ratios(
    rows: Float[np.ndarray, "row example"], null_effects: Effects, *, draws: int = 2000,
    seed: int = 0, level: float = 0.95,
) -> list[Estimate]:
    """Mean of each row over the mean of the null's effects, all resampled alike (paired).

    A row of effects gives the share that is left unexplained, `1 - explained`; a difference of
    two such rows gives what one hypothesis explains beyond the other.

    >>> print(ratios(np.array([[1.0, 0.0], [2.0, 2.0]]), np.array([2.0, 2.0]))[1])
    1.000 [1.000, 1.000]

    Undefined where the mean of the null's effects is zero, as `explained` is.
    """
    null, n = as_effects(null_effects, "null_effects"), rows.shape[1]
    if null.mean() == 0:
        return [Estimate(nan, nan, nan, level, "ATE is zero: nothing to explain")] * len(rows)
    values = rows.mean(1) / null.mean()
    if n == 1:
        note = "one example gives no interval"
        return [Estimate(float(value), nan, nan, level, note) for value in values]
    drawn: list[np.ndarray] = []
    for index in _resampled(n, draws, seed):
        taken = np.zeros((len(index), n))
        np.add.at(taken, (np.arange(len(index))[:, None], index), 1)
        with np.errstate(divide="ignore", invalid="ignore"):
            drawn.append(taken @ rows.T / (taken @ null)[:, None])
    found = np.concatenate(drawn)
    defined = np.isfinite(found).all(1)
    note = "" if defined.all() else f"undefined in {1 - defined.mean():.1%} of resampled data sets"
    if defined.mean() < level:
        return [Estimate(float(value), nan, nan, level, note) for value in values]
    tail = (1 - level) / 2
    low, high = np.quantile(found[defined], [tail, 1 - tail], axis=0)
    columns = zip(values.tolist(), low.tolist(), high.tolist(), strict=True)
    return [Estimate(value, a, b, level, note) for value, a, b in columns]


def _resampled(n: int, draws: int, seed: int) -> Iterator[np.ndarray]:
    """Which examples each draw takes, `[some draws, n]`: the same for equal arguments."""
    rng = np.random.default_rng(seed)
    chunk = max(1, _CHUNK // n)
    for start in range(0, draws, chunk):
        yield rng.integers(0, n, size=(min(chunk, draws - start), n))


def aue(effects: Effects, *, draws: int = 2000, seed: int = 0, level: float = 0.95) -> Estimate:
    """Average unexplained effect: the mean, with its interval, in the unit of the metric.

    Of the null hypothesis's effects it is the average total effect.

    >>> aue(np.array([1.0, 3.0])).value
    2.0
    """
    return bootstrap({"effects": effects}, _mean, draws=draws, seed=seed, level=level)


def explained(
    effects: Effects,
    null_effects: Effects,
    *,
    draws: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> Estimate:
    """Proportion explained, `1 - AUE / ATE`: 1 is everything, 0 no more than the null.

    Undefined (nan, with a note) where the average total effect is zero.

    >>> explained(np.array([1.0, 0.0]), np.array([2.0, 2.0])).value
    0.75
    """
    both = {"effects": effects, "null_effects": null_effects}
    if _checked(both)["null_effects"].mean() == 0:
        return Estimate(nan, nan, nan, level, "ATE is zero: nothing to explain")
    return bootstrap(both, _explained, draws=draws, seed=seed, level=level)


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


def _checked(effects: Mapping[str, Effects]) -> dict[str, np.ndarray]:
    arrays = {name: as_effects(values, name) for name, values in effects.items()}
    counts = {name: len(array) for name, array in arrays.items()}
    if len(set(counts.values())) != 1:
        raise DataError(f"one value per example is needed from each; found numbers {counts}")
    return arrays


def _mean(values: Mapping[str, np.ndarray]) -> np.ndarray:
    return values["effects"].mean(-1)


def _explained(values: Mapping[str, np.ndarray]) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return 1 - values["effects"].mean(-1) / values["null_effects"].mean(-1)


def _short(x: float) -> str:
    return f"{x:.3f}" if x == 0 or 1e-3 <= abs(x) < 1e4 else f"{x:.3g}"
