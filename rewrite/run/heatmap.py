"""A heatmap of attention heads, layers upwards."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rewrite.measure.figures import new_figure, save_figure

if TYPE_CHECKING:
    import pandas as pd


def heatmap(grid: pd.DataFrame, path: Path, title: str, label: str) -> Path:
    """Draw `grid` (layers by heads) with a colour scale around zero; the layer 0 is below."""
    values = grid.to_numpy(dtype=float)
    layers, heads = values.shape
    figure = new_figure(max(5.0, 1.8 + 0.42 * heads), max(2.6, 1.3 + 0.22 * layers))
    axes = figure.add_subplot()
    limit = float(np.nanmax(np.abs(values))) or 1.0
    image = axes.imshow(values, cmap="RdBu_r", vmin=-limit, vmax=limit, origin="lower",
                        aspect="auto")
    axes.set_xticks(range(heads), [str(c) for c in grid.columns])
    axes.set_yticks(range(layers), list(grid.index), fontsize=8)
    axes.set_xlabel("head")
    axes.set_title(title, fontsize=10)
    axes.tick_params(length=0)
    for side in axes.spines.values():
        side.set_visible(False)
    for row, column in _largest(values, 5):
        axes.text(column, row, f"{values[row, column]:+.2f}", ha="center", va="center", fontsize=7,
                  color="white" if abs(values[row, column]) > 0.6 * limit else "black")
    bar = figure.colorbar(image, ax=axes, fraction=0.05, pad=0.03)
    bar.set_label(LABELS.get(label, label))
    return save_figure(figure, path)


LABELS = {
    "change": "change of the score when the path is patched",
    "effect": "mean effect when the path is patched",
}


def _largest(values: np.ndarray, count: int) -> list[tuple[int, int]]:
    order = np.argsort(-np.abs(np.nan_to_num(values)), axis=None)[:count]
    return [(int(r), int(c)) for r, c in zip(*np.unravel_index(order, values.shape), strict=True)]
