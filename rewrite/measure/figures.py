"""Two figures, scatter and bars.  They use matplotlib's objects: no pyplot, no open windows."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from math import isnan
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Any

import numpy as np

from rewrite.disk import replacement
from rewrite.errors import FileError, MissingPackage

from .stats import Effects, Estimate

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, ORANGE, INK, GREY, PALE = "#0072B2", "#D55E00", "#222222", "#767676", "#E6E6E6"
_KINDS = (".svg", ".png", ".pdf")


def draw_scatter(
    path: str | Path,
    *,
    title: str,
    effects: Effects,
    null_effects: Effects,
    share: Estimate,
    metric: str,
    null: str,
) -> Path:
    """Unexplained over total effect `[n]`, one point per example; see `Result.draw`."""
    x, y = null_effects, effects
    low, high = min(0.0, x.min(), y.min()), max(0.0, x.max(), y.max()) or 1.0
    margin = 0.06 * (high - low)
    left, right = low - margin, high + margin
    top = max(0.55 * right, min(right, 1.2 * y.max()))  # no empty half above good hypotheses
    figure = new_figure(6.4, 1.5 + 5.4 * (top - left) / (right - left))
    axes: Axes = figure.add_subplot()

    span = np.array([low, right])
    axes.axhline(0, color=GREY, linewidth=0.8)
    axes.plot(span, span, color=GREY, linewidth=1, linestyle=(0, (4, 3)))
    note: dict[str, Any] = {"color": GREY, "fontsize": 9, "rotation_mode": "anchor"}
    at = 0.72 * top
    axes.text(at, at + 0.2 * margin, "0 % explained", rotation=45, ha="center", **note)
    axes.text(right, -0.2 * margin, "100 % explained", ha="right", va="top", **note)
    if not isnan(share.low):
        edges = (1 - share.high) * span, (1 - share.low) * span
        axes.fill_between(span, *edges, color=ORANGE, alpha=0.18, linewidth=0)
    if not isnan(share.value):
        label = f"AUE / ATE = {1 - share.value:.2f}"
        axes.plot(span, (1 - share.value) * span, color=ORANGE, linewidth=2, label=label)
    alpha = float(np.clip(10 / np.sqrt(len(x)), 0.15, 0.8))
    axes.scatter(x, y, s=20, color=BLUE, alpha=alpha, linewidths=0, zorder=3, label="one example")

    axes.set(xlim=(left, right), ylim=(left, top), aspect="equal")
    axes.set_xlabel(f"total effect, null: {null}  ({metric})", parse_math=False)
    axes.set_ylabel("unexplained effect")
    axes.legend(loc="upper left", frameon=False, fontsize=9)
    bare(axes)
    axes.set_title(
        "\n".join(wrap(title, 60)), loc="left", fontsize=12, color=INK, pad=26, parse_math=False
    )
    subtitle = f"explained: {percent(share)},  n = {len(x)}"
    axes.annotate(
        subtitle,
        (0, 1),
        xycoords="axes fraction",
        xytext=(0, 10),
        textcoords="offset points",
        fontsize=10,
        color=GREY,
    )
    return save_figure(figure, path)


def draw_bars(
    path: str | Path, *, labels: Sequence[str], shares: Sequence[Estimate], caption: str
) -> Path:
    """One bar per hypothesis with its interval; see `draw_ladder`."""
    labels = ["\n".join(wrap(label, 50)) for label in labels]
    height = 1.3 + sum(0.3 + 0.17 * (1 + label.count("\n")) for label in labels)
    figure = new_figure(9, height)
    axes: Axes = figure.add_subplot()
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
    axes.set(xlim=(left, right), ylim=(len(shares) - 0.4, -0.6))
    axes.set_yticks(range(len(shares)), labels, fontsize=10, parse_math=False)
    axes.set_xticks([x for x in (-1, -0.5, 0, 0.25, 0.5, 0.75, 1) if left <= x <= right])
    axes.xaxis.set_major_formatter(lambda x, _: f"{_whole(x)} %")

    axes.set_xlabel(caption, fontsize=9, color=GREY, labelpad=8, parse_math=False)
    axes.set_title("Proportion explained", loc="left", fontsize=12, color=INK, pad=10)
    bare(axes)
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0, pad=12)
    return save_figure(figure, path)


def percent(share: Estimate) -> str:
    """`64 % [60, 69]`, or why there is no number."""
    if isnan(share.value):
        return "undefined"
    value = f"{_whole(share.value)} %"
    return value if isnan(share.low) else f"{value} [{_whole(share.low)}, {_whole(share.high)}]"


def _whole(share: float) -> str:
    return f"{round(100 * share)}".replace("-", "\N{MINUS SIGN}")


def _bar(axes: Axes, row: int, share: Estimate, left: float) -> None:
    if isnan(share.value):
        return
    color = BLUE if share.value >= 0 else ORANGE
    axes.barh(row, max(share.value, left), height=0.56, color=color, zorder=2)
    if share.value < left:
        axes.plot(left, row, marker="<", color=ORANGE, markersize=9, clip_on=False, zorder=5)
    if isnan(share.low) or share.high < left:
        return
    low = max(share.low, left)
    axes.plot([low, share.high], [row, row], color=INK, linewidth=1.4, zorder=3)
    caps = [end for end in (share.low, share.high) if end >= left]
    axes.plot(caps, [row] * len(caps), "|", color=INK, markersize=7, zorder=3)


def bare(axes: Axes) -> None:
    """No frame but two grey lines."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GREY)
    axes.tick_params(colors=INK, labelsize=9)


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of so many inches, without global state."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingPackage("figures need matplotlib: pip install matplotlib") from error
    return Figure(figsize=(width, height), layout="constrained")


def save_figure(figure: Figure, path: str | Path) -> Path:
    """Write a figure as .svg, .png or .pdf; raises `FileError` for another suffix."""
    from matplotlib import rc_context

    path = Path(path)
    if path.suffix.lower() not in _KINDS:
        raise FileError(f"a figure is .svg, .png or .pdf; found {path.name!r}")
    metadata: dict[str, Any] = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(
        path.suffix.lower()[1:], {}
    )
    same = rc_context({"svg.hashsalt": "rewrite"})  # the same figure is the same file
    with replacement(path) as file, same, warnings.catch_warnings():
        # A script that the font lacks is no failure.
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
        figure.savefig(file, format=path.suffix.lower()[1:], dpi=160, metadata=metadata)
    return path
