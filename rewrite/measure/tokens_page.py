"""Texts on colours as one HTML file that needs nothing else."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, StrictUndefined

from rewrite.disk import write

from .tokens import Passage, Scale, TokenEffects, mean, visible

STEPS = 9  # of the legend


def write_page(effects: TokenEffects, path: Path) -> Path:
    """Write the page; see `TokenEffects.draw`.  Raises FileError where that is not possible."""
    source = (files("rewrite.measure") / "tokens.html.j2").read_text(encoding="utf-8")
    template = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True,
                           lstrip_blocks=True).from_string(source)
    scale = Scale(effects.limit)
    text = template.render(
        effects=effects,
        limit=f"{scale.limit:.2f}",
        legend=[scale.color(abs(x), x) for x in np.linspace(-1, 1, 2 * STEPS + 1) * scale.limit],
        passages=[_passage(passage, scale) for passage in effects.passages],
    )
    return write(path, text)


def _passage(passage: Passage, scale: Scale) -> dict[str, Any]:
    columns = (passage.tokens, mean(passage.reference), mean(passage.hypothesis), passage.change,
               passage.effect)
    tokens = [_token(i, *row, scale) for i, row in enumerate(zip(*columns, strict=True))]
    return {"summary": passage.summary, "tokens": tokens}


def _token(
    position: int, token: str, reference: float, hypothesis: float, change: float, effect: float,
    scale: Scale,
) -> dict[str, Any]:
    shown = {"text": visible(token)}
    head = f"{token!r}, position {position}"
    if np.isnan(effect):
        return shown | {"color": None, "ink": None, "tip": f"{head}\ndoes not count"}
    ground = scale.color(effect, change)
    tip = (f"{head}\nloss of the model {reference:.3f}\nunder the hypothesis {hypothesis:.3f}\n"
           f"change {change:+.3f}\nunexplained effect {effect:.3f}")
    return shown | {"color": ground, "ink": Scale.ink(ground), "tip": tip}
