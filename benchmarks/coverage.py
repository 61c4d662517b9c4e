"""How often intervals hold the true value, on data whose truth is known.

    python -m benchmarks.coverage                    all settings, printed
    python -m benchmarks.coverage --page             and written to docs/statistics.md
    python -m benchmarks.coverage --sets 200         fewer data sets for each setting

Beside ours stands the percentile bootstrap, which takes the middle 95 % of resampled means.
"""

from __future__ import annotations

from collections.abc import Callable
from math import exp, pi, sqrt
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.progress import track

from benchmarks.tables import Table
from rewrite.measure.stats import means, ratios

SIZES = (10, 20, 50, 100)
Draw = Callable[[Any, tuple[int, int]], Any]

MEANS: dict[str, tuple[Draw, float]] = {
    "normal": (lambda rng, s: rng.normal(1, 1, s), 1),
    "uniform": (lambda rng, s: rng.random(s), 0.5),
    "exponential": (lambda rng, s: rng.exponential(1, s), 1),
    "gamma, shape 4": (lambda rng, s: rng.gamma(4, 1, s), 4),
    "gamma, shape 1/2": (lambda rng, s: rng.gamma(0.5, 1, s), 0.5),
    "half normal": (lambda rng, s: abs(rng.normal(0, 1, s)), sqrt(2 / pi)),
    "log-normal, sigma 1/2": (lambda rng, s: rng.lognormal(0, 0.5, s), exp(0.125)),
    "log-normal, sigma 1": (lambda rng, s: rng.lognormal(0, 1, s), exp(0.5)),
    "half zeros, else exponential": (
        lambda rng, s: rng.exponential(1, s) * (rng.random(s) < 0.5), 0.5),
    "Student, 5 degrees": (lambda rng, s: rng.standard_t(5, s), 0),
    "a fifth at 5, the rest at 0": (
        lambda rng, s: np.where(rng.random(s) < 0.2, 5, 0) + rng.normal(0, 0.5, s), 1),
}


def _paired(null: Draw, effect: Callable[[Any, Any], Any]) -> Callable[[Any, tuple[int, int]], Any]:
    def draw(rng: Any, size: tuple[int, int]) -> Any:
        total = null(rng, size)
        return effect(rng, total), total

    return draw


def _log_normal(sigma: float) -> Draw:
    return lambda rng, s: rng.lognormal(0, sigma, s)


RATIOS: dict[str, tuple[Callable[[Any, tuple[int, int]], Any], float]] = {
    "gamma total, gamma rest": (_paired(
        lambda rng, s: rng.gamma(4, 1, s),
        lambda rng, d: 0.4 * d + rng.gamma(1, 0.3, d.shape)), 0.475),
    "log-normal total, beta share": (_paired(
        _log_normal(1), lambda rng, d: d * rng.beta(2, 3, d.shape)), 0.4),
    "two exponentials": (_paired(
        lambda rng, s: rng.exponential(1, s), lambda rng, d: rng.exponential(0.5, d.shape)), 0.5),
    "two normals": (_paired(
        lambda rng, s: rng.normal(3, 2, s), lambda rng, d: rng.normal(1, 2, d.shape)), 1 / 3),
    "small share": (_paired(
        _log_normal(0.5), lambda rng, d: abs(rng.normal(0, 0.1, d.shape)) * d),
        0.1 * sqrt(2 / pi)),
    "all of a fifth of examples": (_paired(
        lambda rng, s: rng.gamma(0.5, 2, s), lambda rng, d: d * (rng.random(d.shape) < 0.2)), 0.2),
    "signed": (_paired(
        lambda rng, s: rng.normal(1, 1, s), lambda rng, d: d - rng.normal(0.5, 0.5, d.shape)), 0.5),
    "twice as much in a tenth": (_paired(
        lambda rng, s: rng.exponential(1, s) + 0.1,
        lambda rng, d: d * np.where(rng.random(d.shape) < 0.1, 2, 0.1)), 0.29),
}


def _percentiles(rng: Any, rows: Any, null: Any = None) -> Any:
    """Low and high of the middle 95 % of resampled means, or ratios of means."""
    n = rows.shape[1]
    counts = rng.multinomial(n, np.full(n, 1 / n), size=999) / n
    drawn = counts @ rows.T
    if null is not None:
        drawn = drawn / (counts @ null.T)
    return np.quantile(drawn, [0.025, 0.975], axis=0)


def _share(ends: Any, truth: float) -> str:
    """How many intervals that exist hold the truth."""
    low, high = ends
    known = ~np.isnan(low)
    held = ((low <= truth) & (truth <= high))[known].mean()
    missing = f" ({(~known).mean():.0%} without)" if not known.all() else ""
    return f"{held:.3f}{missing}"


def _mean_row(name: str, sets: int) -> tuple[str, ...]:
    draw, truth = MEANS[name]
    cells: list[str] = []
    for n in SIZES:
        rng = np.random.default_rng(n)
        rows = draw(rng, (sets, n))
        cells += [_share(_percentiles(rng, rows), truth), _share(means(rows).T[1:], truth)]
    return name, *cells


def _ratio_row(name: str, sets: int) -> tuple[str, ...]:
    draw, truth = RATIOS[name]
    cells: list[str] = []
    for n in SIZES:
        rng = np.random.default_rng(n)
        rows, null = draw(rng, (sets, n))
        ours = [ratios(row[None], total, draws=999)[0]
                for row, total in zip(rows, null, strict=True)]
        cells += [_share(_percentiles(rng, rows, null), truth),
                  _share(np.array([(e.low, e.high) for e in ours]).T, truth)]
    return name, *cells


def main(
    sets: Annotated[int, typer.Option(help="data sets for each setting")] = 2000,
    page: Annotated[bool, typer.Option(help="write the page")] = False,
) -> None:
    """Measure the coverage of 95 % intervals."""
    console = Console()
    columns = ("data", *(f"{who}, n = {n}" for n in SIZES for who in ("percentile", "ours")))
    sure = 1.96 * sqrt(0.95 * 0.05 / sets)
    note = (f"{sets} data sets each. 0.950 is what an interval promises, give or take {sure:.3f} "
            "for so many data sets.")
    tables = [
        Table("Means: AUE, ATE, effects of a sweep", columns, note=note),
        Table("Ratios: proportion explained, gains of a refinement", columns, note=(
            f"{note} *Without*: the total effect was not clearly away from zero, so that no "
            "interval (from 20 examples on: no number) was given.")),
    ]
    for table, make, names in zip(tables, (_mean_row, _ratio_row), (MEANS, RATIOS), strict=True):
        for name in track(names, table.title, console=console, transient=True):
            table.add(*make(name, sets))
        table.show(console)
    if page:
        path = Path(__file__).parent.parent / "docs" / "statistics.md"
        head, _, _ = path.read_text().partition("\n## Means: ")
        path.write_text("\n".join([head, *(table.markdown for table in tables)]))


if __name__ == "__main__":
    typer.run(main)
