"""A heatmap: attention heads with layers upwards, or senders by receivers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rewrite.measure.figures import new_figure, save_figure

if TYPE_CHECKING:
    import pandas as pd

WIDEST, TALLEST = 24.0, 18.0  # inches


def heatmap(
    grid: pd.DataFrame, path: Path, title: str, label: str, columns: str = "head",
    dots: pd.DataFrame | None = None, meaning: str = "",
) -> Path:
    """Draw `grid` with a colour scale around zero; its first row is below.

    Cells that hold in `dots` have a dot, and a line below says what that means.
    """
    values = grid.to_numpy(dtype=float)
    rows, count = values.shape
    figure = new_figure(min(WIDEST, max(5.0, 1.8 + 0.42 * count)),
                        min(TALLEST, max(2.6, 1.3 + 0.22 * rows)))
    axes = figure.add_subplot()
    limit = float(np.nanmax(np.abs(values))) or 1.0
    image = axes.imshow(values, cmap="RdBu_r", vmin=-limit, vmax=limit, origin="lower",
                        aspect="auto")
    names = [str(name) for name in grid.columns]
    shown = _spaced(count, int(WIDEST / 0.2))
    turned = 90 if max(map(len, names)) > 3 else 0
    axes.set_xticks(shown, [names[i] for i in shown], rotation=turned,
                    fontsize=7 if turned else None)
    shown = _spaced(rows, int(TALLEST / 0.16))
    axes.set_yticks(shown, [str(grid.index[i]) for i in shown], fontsize=8)
    marked = np.argwhere(dots.to_numpy(dtype=bool)) if dots is not None else np.empty((0, 2))
    if len(marked):
        axes.scatter(marked[:, 1], marked[:, 0], s=4, color="0.45", linewidths=0)
    axes.set_xlabel(f"{columns}\n\N{BULLET} {meaning}" if len(marked) else columns)
    axes.set_title(title, fontsize=10)
    axes.tick_params(length=0)
    for side in axes.spines.values():
        side.set_visible(False)
    for row, column in _largest(values, 5) if count <= WIDEST / 0.42 else ():
        axes.text(column, row, f"{values[row, column]:+.2f}", ha="center", va="center", fontsize=7,
                  color="white" if abs(values[row, column]) > 0.6 * limit else "black")
    bar = figure.colorbar(image, ax=axes, fraction=0.05, pad=0.03)
    bar.set_label(LABELS.get(label, label))
    return save_figure(figure, path)


LABELS = {
    "change": "change of the score when the path is patched",
    "effect": "mean effect when the path is patched",
}


def _spaced(count: int, most: int) -> list[int]:
    """Places of labels: all, or so many that they can be read."""
    return list(range(0, count, -(-count // most)))


def _largest(values: np.ndarray, count: int) -> list[tuple[int, int]]:
    order = np.argsort(-np.abs(np.nan_to_num(values)), axis=None)[:count]
    return [(int(r), int(c)) for r, c in zip(*np.unravel_index(order, values.shape), strict=True)]
