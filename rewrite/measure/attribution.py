"""Signed changes per reference example, over the counterfactuals that were drawn for it.

    change(x_r, x_c) = score(G_H(x_r, x_c)) - score(G(x_r))

Source: Goldowsky-Dill, MacLeod, Sato, Arora 2023, who plot these differences over x_c for each x_r.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from rewrite.errors import DataError

from .figures import BLUE, GREY, INK, ORANGE, bare, new_figure, save_figure
from .pairs import Pairs
from .stats import aue

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LABELLED = 40  # so many examples get their text beside them; more would not be legible
_LABEL = 56  # characters


def same_reference(pairs: Pairs) -> Int64[np.ndarray, " example"]:
    """The first example with the same reference inputs, for each example.

    >>> import torch
    >>> clean, corrupt = torch.tensor([[1], [1], [2]]), torch.tensor([[3], [4], [5]])
    >>> ids = {"clean": {"input_ids": clean}, "corrupt": {"input_ids": corrupt}}
    >>> same_reference(Pairs.from_tensors(ids)).tolist()
    [0, 0, 2]
    """
    first: dict[object, int] = {}
    return np.array([first.setdefault(_content(pairs, i), i) for i in range(len(pairs))])


def _content(pairs: Pairs, i: int) -> object:
    return tuple((name, value.dtype, value.shape, _bytes(value))
                 for name, value in pairs.runs[pairs.reference][i].items())


def _bytes(value: Tensor) -> bytes:
    return value.cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()


def attribution_columns(
    changes: Float[np.ndarray, " example"], references: Int64[np.ndarray, " example"],
    texts: Sequence[str] | None, options: dict[str, Any],
) -> dict[str, list[Any]]:
    """One entry per reference example, sorted by mean change; see `Result.attribution`."""
    rows: list[dict[str, Any]] = []
    for reference, first in zip(*np.unique(references, return_index=True), strict=True):
        drawn = changes[references == reference]
        mean = aue(drawn, **options)
        row = {"reference": int(reference)} | ({} if texts is None else {"text": texts[first]})
        rows.append(row | {"draws": len(drawn), "mean": mean.value, "low": mean.low,
                           "high": mean.high, "least": drawn.min(), "most": drawn.max()})
    rows.sort(key=lambda row: row["mean"])
    return {name: [row[name] for row in rows] for name in rows[0]}


def draw_changes(
    path: str | Path,
    *,
    title: str,
    metric: str,
    columns: dict[str, list[Any]],
    changes: Float[np.ndarray, " example"],
    references: Int64[np.ndarray, " example"],
) -> Path:
    """A row per reference example, the highest mean on top; see `Result.draw_attribution`."""
    count = len(columns["reference"])
    labelled = count <= LABELLED
    figure = new_figure(9 if labelled else 6.4, 1.7 + min(0.26 * count, 9.5))
    axes: Axes = figure.add_subplot()
    row = {reference: i for i, reference in enumerate(columns["reference"])}
    rows = np.array([row[reference] for reference in references.tolist()])
    size = 16 if labelled else 6
    axes.axvline(0, color=GREY, linewidth=0.9)
    for sign, color in ((changes < 0, BLUE), (changes >= 0, ORANGE)):
        axes.scatter(changes[sign], rows[sign], s=size, color=color, alpha=0.55, linewidths=0,
                     zorder=2)
    axes.set_xlim(axes.get_xlim())  # the interval of two draws may be wider than the picture
    low, high = np.array(columns["low"]), np.array(columns["high"])
    known = np.flatnonzero(~np.isnan(low))
    axes.hlines(known, low[known], high[known], color=INK if labelled else GREY,
                linewidth=1.2 if labelled else 0.5, zorder=3 if labelled else 1)
    if len(changes) > count:
        axes.plot(columns["mean"], range(count), "|", color=INK, markersize=9 if labelled else 3,
                  markeredgewidth=1.6, zorder=4)
    axes.set_ylim(-0.7, count - 0.3)
    if labelled:
        names = [_short(str(text)) for text in columns.get("text", columns["reference"])]
        axes.set_yticks(range(count), names, parse_math=False)
    else:
        axes.set_yticks([])
    axes.set_ylabel("" if labelled and "text" in columns else "reference examples, by mean change")
    axes.set_xlabel(f"score of the hypothesis minus score of the model  ({metric})",
                    parse_math=False)
    bare(axes)
    if labelled:
        axes.tick_params(axis="y", length=0, labelsize=8)
    axes.set_title("\n".join(wrap(title, 60)), loc="left", fontsize=12, color=INK, pad=24,
                   parse_math=False)
    axes.annotate(_subtitle(columns, len(changes)), (0, 1), xycoords="axes fraction",
                  xytext=(0, 9), textcoords="offset points", fontsize=9, color=GREY)
    return save_figure(figure, path)


def changes_of(
    metric: str, scores: np.ndarray | None, reference_scores: np.ndarray | None
) -> Float[np.ndarray, " example"]:
    """Score of the hypothesis minus score of the model; DataError if there are no scores."""
    if scores is None or reference_scores is None:
        raise DataError(
            f"{metric} has no score, so its effects have no sign: measure with logit_diff or "
            "loss_diff, or give custom(..., scores=...)"
        )
    return scores - reference_scores


def _subtitle(columns: dict[str, list[Any]], n: int) -> str:
    count, draws = len(columns["reference"]), sorted(set(columns["draws"]))
    each = str(draws[0]) if len(draws) == 1 else f"{draws[0]} to {draws[-1]}"
    drawn = f"{each} counterfactual{'s' * (draws != [1])} each" if n > count else "one draw each"
    interval = "" if n == count else "; bars: mean and its interval"
    return f"{count} reference example{'s' * (count > 1)}, {drawn}{interval}"


def _short(text: str) -> str:
    """The beginning and the end: prompts made from one pattern differ inside, answers at the end.

    >>> _short("one line\\nmore")
    'one line↵more'
    """
    text = text.replace("\n", "↵")
    if len(text) <= _LABEL:
        return text
    half = _LABEL // 2
    return f"{text[:half].rsplit(' ', 1)[0]} … {text[-half:].split(' ', 1)[-1]}"
