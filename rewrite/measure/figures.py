"""Figures of results.  They use matplotlib's objects: no pyplot, no open windows."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from math import isnan
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Any

import numpy as np

from rewrite.errors import DataError, FileError, MissingPackage

from .stats import Estimate

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from .result import Result

BLUE, ORANGE, INK, GREY, PALE = "#0072B2", "#D55E00", "#222222", "#767676", "#E6E6E6"
_KINDS = (".svg", ".png", ".pdf")


def draw_result(result: Result, path: str | Path) -> Path:
    """Unexplained over total effect, one point per example; see `Result.draw`."""
    figure = _figure(6.4, 5.6)
    axes: Axes = figure.add_subplot()
    x, y = result.null_effects, result.effects
    low, high = min(0.0, x.min(), y.min()), max(x.max(), y.max(), 0.0)
    margin = 0.04 * (high - low or 1.0)
    left, right = low - margin, high + margin
    span = np.array([low, right])

    share = result.explained
    axes.axhline(0, color=GREY, linewidth=0.8)
    axes.plot(span, span, color=GREY, linewidth=1, linestyle=(0, (4, 3)), label="0 % explained")
    if not isnan(share.low):
        edges = (1 - share.high) * span, (1 - share.low) * span
        axes.fill_between(span, *edges, color=ORANGE, alpha=0.18, linewidth=0)
    if not isnan(share.value):
        label = f"AUE / ATE = {1 - share.value:.2f}"
        axes.plot(span, (1 - share.value) * span, color=ORANGE, linewidth=2, label=label)
    alpha = float(np.clip(30 / np.sqrt(result.n) / 3, 0.15, 0.8))
    axes.scatter(x, y, s=20, color=BLUE, alpha=alpha, linewidths=0, zorder=3, label="one example")

    axes.set(xlim=(left, right), ylim=(left, right), aspect="equal")
    axes.set_xlabel(f"total effect: {result.null}  ({result.metric})")
    axes.set_ylabel(f"unexplained effect  ({result.metric})")
    axes.legend(loc="upper left", frameon=False, fontsize=9)
    _bare(axes)
    title = "\n".join(wrap(result.hypothesis, 60))
    axes.set_title(title, loc="left", fontsize=12, color=INK, pad=26)
    line = f"{percent(share)} explained, n = {result.n}"
    axes.text(0, 1.025, line, transform=axes.transAxes, fontsize=10, color=GREY)
    return _save(figure, path)


def draw_ladder(results: Sequence[Result], path: str | Path) -> Path:
    """One bar per hypothesis with its interval; see `rewrite.measure.draw_ladder`."""
    if not results:
        raise DataError("there is no result to draw; give at least one")
    labels = ["\n".join(wrap(result.hypothesis, 44)) for result in results]
    height = 1.3 + sum(0.3 + 0.17 * (1 + label.count("\n")) for label in labels)
    figure = _figure(9, height)
    axes: Axes = figure.add_subplot()
    shares = [result.explained for result in results]
    ends = [end for s in shares for end in (s.value, s.low, s.high) if not isnan(end)]
    left = max(min([0.0, *ends]) * 1.05, -1.0)  # a hopeless hypothesis must not squash the rest
    right = max([1.0, *ends])

    for at in (0.25, 0.5, 0.75, 1.0):
        axes.axvline(at, color=PALE, linewidth=1, zorder=0)
    axes.axvline(0, color=INK, linewidth=1, zorder=4)
    for row, share in enumerate(shares):
        _bar(axes, row, share, left)
        axes.annotate(
            percent(share),
            (1, row),
            xycoords=axes.get_yaxis_transform(),
            xytext=(12, 0),
            textcoords="offset points",
            va="center",
            color=INK if not isnan(share.value) else GREY,
            fontsize=10,
        )
    axes.set(xlim=(left, right), ylim=(len(results) - 0.4, -0.6))
    axes.set_yticks(range(len(results)), labels, fontsize=10)
    axes.set_xticks([x for x in (-1, -0.5, 0, 0.25, 0.5, 0.75, 1) if left <= x <= right])
    axes.xaxis.set_major_formatter(lambda x, _: f"{100 * x:.0f} %")
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel(_caption(results), fontsize=9, color=GREY, labelpad=8)
    axes.set_title("Proportion explained", loc="left", fontsize=12, color=INK, pad=10)
    _bare(axes)
    axes.spines["left"].set_visible(False)
    return _save(figure, path)


def percent(share: Estimate) -> str:
    """`64 % [60, 69]`, or why there is no number."""
    if isnan(share.value):
        return "undefined"
    value = f"{100 * share.value:.0f} %"
    return value if isnan(share.low) else f"{value} [{100 * share.low:.0f}, {100 * share.high:.0f}]"


def _bar(axes: Axes, row: int, share: Estimate, left: float) -> None:
    if isnan(share.value):
        return
    color = BLUE if share.value >= 0 else ORANGE
    axes.barh(row, max(share.value, left), height=0.56, color=color, alpha=0.85, zorder=2)
    if share.value < left:
        axes.plot(left, row, marker="<", color=ORANGE, markersize=9, clip_on=False, zorder=5)
    if isnan(share.low) or share.high < left:
        return
    low = max(share.low, left)
    axes.plot([low, share.high], [row, row], color=INK, linewidth=1.4, zorder=3)
    caps = [end for end in (share.low, share.high) if end >= left]
    axes.plot(caps, [row] * len(caps), "|", color=INK, markersize=7, zorder=3)


def _caption(results: Sequence[Result]) -> str:
    """What the bars share; mixed metrics or nulls are called mixed."""
    facts = {
        "metric": [result.metric for result in results],
        "null": [result.null for result in results],
        "n": [str(result.n) for result in results],
        "interval": [f"{100 * result.level:.0f} %" for result in results],
    }
    said = [f"{name}: {' or '.join(dict.fromkeys(values))}" for name, values in facts.items()]
    return ",  ".join(said)


def _bare(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GREY)
    axes.tick_params(colors=INK, labelsize=9)


def _figure(width: float, height: float) -> Figure:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingPackage("figures need matplotlib: pip install matplotlib") from error
    return Figure(figsize=(width, height), layout="constrained")


def _save(figure: Figure, path: str | Path) -> Path:
    path = Path(path)
    if path.suffix.lower() not in _KINDS:
        raise FileError(f"a figure is .svg, .png or .pdf; found {path.name!r}")
    metadata: dict[str, Any] = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(
        path.suffix.lower()[1:], {}
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():  # a label in a script that the font lacks is no failure
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
        figure.savefig(path, dpi=160, metadata=metadata)
    return path
