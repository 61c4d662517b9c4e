"""The picture of a session: what each hypothesis on the way explains."""

from __future__ import annotations

from collections.abc import Sequence
from math import isnan
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING

from rewrite.discover.changes import short
from rewrite.discover.log import Refined, Row
from rewrite.measure import Estimate
from rewrite.measure.figures import BLUE, GREY, INK, ORANGE, PALE, new_figure, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDEST = 46  # letters of a label
SIGNS = {"start": "start", "drop": "\N{MINUS SIGN}", "restrict": "only", "swap": "swap"}


def draw_refined(log: Refined, path: str | Path) -> Path:
    """One row for each change, from the start down: chosen and held-out shares with intervals."""
    figure = new_figure(9.5, 1.7 + 0.36 * len(log.rows))
    axes: Axes = figure.add_subplot()
    places = list(range(len(log.rows)))
    chosen = [row.explained for row in log.rows]
    held_out = [row.held_out for row in log.rows if row.held_out is not None]
    ends = [end for e in (*chosen, *held_out) for end in (e.value, e.low, e.high)
            if not isnan(end)]
    left, right = max(min([0.0, *ends]), -1.0) - 0.02, max([1.0, *ends]) + 0.02
    for at in (0.25, 0.5, 0.75, 1.0):
        axes.axvline(at, color=PALE, linewidth=1, zorder=0)
    axes.axvline(0, color=GREY, linewidth=0.8, zorder=0)
    _line(axes, places, chosen, BLUE, f"{log.chosen_on} pairs to choose on", -0.08)
    if held_out:
        _line(axes, places, held_out, ORANGE, f"{log.held_out_on} pairs held out", 0.08)
    axes.set(xlim=(left, right), ylim=(len(places) - 0.5, -0.5))
    axes.set_yticks(places, [_label(row) for row in log.rows], fontsize=9, parse_math=False)
    axes.set_xticks([x for x in (-1, -0.5, 0, 0.25, 0.5, 0.75, 1) if left <= x <= right])
    for at, row in zip(places, log.rows, strict=True):
        axes.annotate(short(row.paths), (1, at), xycoords=axes.get_yaxis_transform(),
                      xytext=(8, 0), textcoords="offset points", va="center", fontsize=9,
                      color=INK)
    axes.annotate("paths", (1, 1), xycoords="axes fraction", xytext=(8, 4),
                  textcoords="offset points", va="bottom", fontsize=9, color=GREY)
    axes.xaxis.set_major_formatter(lambda x, _: f"{100 * x:.0f} %")
    axes.set_xlabel(f"proportion explained  ({log.metric})", color=GREY, fontsize=9,
                    parse_math=False)
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, frameon=False, fontsize=9)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(GREY)
    axes.tick_params(axis="y", length=0)
    return save_figure(figure, path)


def _line(
    axes: Axes, places: Sequence[int], shares: Sequence[Estimate], color: str, label: str,
    shift: float,
) -> None:
    at = [place + shift for place in places]
    axes.plot([share.value for share in shares], at, "o-", color=color, markersize=5,
              linewidth=1.2, label=label, zorder=3)
    for place, share in zip(at, shares, strict=True):
        if not isnan(share.low):
            axes.plot([share.low, share.high], [place, place], color=color, linewidth=1.2,
                      alpha=0.5, zorder=2)


def _label(row: Row) -> str:
    sign = SIGNS.get(row.kind, "+")
    return f"{row.step}:  {sign} {shorten(row.change, WIDEST, placeholder=' ...')}"
