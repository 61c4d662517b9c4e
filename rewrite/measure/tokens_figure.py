"""Texts on colours as a picture: words of their own width, lines that wrap."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Any

import numpy as np

from rewrite.errors import DataError

from .figures import GREY, INK, new_figure, save_figure
from .tokens import Passage, Scale, TokenEffects, visible

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH, MARGIN = 640.0, 14.0  # points
SIZE, LINE = 10.0, 17.0  # of letters and of lines, points
NOTE = 8.0
MOST = 1000  # lines; a picture of more cannot be opened everywhere
_STEPS = 60  # of the legend


@dataclass(frozen=True)
class Box:
    """A token, or a piece of one that is wider than a line, and where it stands."""

    token: int
    text: str
    line: int
    left: float
    width: float


def draw_texts(effects: TokenEffects, path: str | Path) -> Path:
    """Draw passages below each other; see `TokenEffects.draw`."""
    scale = Scale(effects.limit)
    texts = [list(boxes(passage.tokens)) for passage in effects.passages]
    lines = sum(text[-1].line + 1 for text in texts)
    if lines > MOST:
        raise DataError(f"{len(texts)} texts fill {lines} lines, and a picture holds {MOST}: "
                        "choose some with .subset([0, 1, 2]), or write .html")
    title = wrap(effects.hypothesis, 80)
    height = 2 * MARGIN + 18 * len(title) + 42 + LINE * lines + 2.0 * LINE * len(texts)
    figure = new_figure(WIDTH / 72, height / 72)
    figure.set_layout_engine("none")
    axes: Axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, WIDTH), ylim=(height, 0))
    axes.axis("off")
    top = MARGIN
    for line in title:
        top += 18
        axes.text(MARGIN, top - 5, line, fontsize=12, color=INK, parse_math=False)
    top += 14
    axes.text(MARGIN, top - 4, f"unexplained effect of each token, in nats  ({effects.metric})",
              fontsize=NOTE, color=GREY, parse_math=False)
    _legend(axes, scale, top + 3)
    top += 28
    for passage, text in zip(effects.passages, texts, strict=True):
        top += LINE
        axes.text(MARGIN, top, passage.summary, fontsize=NOTE, color=GREY)
        top += 0.5 * LINE
        _draw(axes, passage, text, scale, top)
        top += LINE * (text[-1].line + 1.5)
    return save_figure(figure, path)


def boxes(tokens: tuple[str, ...]) -> Iterator[Box]:
    """Where tokens stand: a line is full, or ends with a line end in a token.

    >>> [(box.text, box.line) for box in boxes(("a", "\\n", "b"))]
    [('a', 0), ('↵', 0), ('b', 1)]
    """
    room = WIDTH - 2 * MARGIN
    line, left = 0, 0.0
    for token, raw in enumerate(tokens):
        for number, part in enumerate(visible(raw).split("\n")):
            if number:
                line, left = line + 1, 0.0
            for text in _pieces(part, room):
                width = sum(map(_advance, text))
                if left and left + width > room:
                    line, left = line + 1, 0.0
                yield Box(token, text, line, left, width)
                left += width


def _pieces(text: str, room: float) -> Iterator[str]:
    """The text, cut where it is wider than a line."""
    start, width = 0, 0.0
    for end, letter in enumerate(text):
        width += _advance(letter)
        if width > room:
            yield text[start:end]
            start, width = end, _advance(letter)
    if text:
        yield text[start:]


@cache
def _font() -> Any:
    from matplotlib.font_manager import FontProperties, findfont, get_font

    font = get_font(findfont(FontProperties(size=SIZE)))
    font.set_size(SIZE, 72)
    return font


@cache
def _advance(letter: str) -> float:
    """Points from one letter to the next."""
    from matplotlib.ft2font import LoadFlags

    font = _font()
    glyph = font.load_glyph(font.get_char_index(ord(letter)), LoadFlags.NO_HINTING)
    return glyph.linearHoriAdvance / 65536


def _draw(axes: Axes, passage: Passage, text: list[Box], scale: Scale, top: float) -> None:
    from matplotlib.patches import Rectangle

    effect, change = passage.effect, passage.change
    for box in text:
        left, base = MARGIN + box.left, top + LINE * box.line
        counts = not np.isnan(effect[box.token])
        ground = scale.color(effect[box.token], change[box.token]) if counts else "#FFFFFF"
        if counts:
            axes.add_patch(Rectangle((left, base), box.width, LINE - 1.5, facecolor=ground,
                                     edgecolor="#DDDDDD", linewidth=0.4))
        bare = box.text.lstrip(" ")
        axes.text(left + sum(map(_advance, " ")) * (len(box.text) - len(bare)), base + 11.5, bare,
                  fontsize=SIZE, color=Scale.ink(ground) if counts else "#8A8A8A",
                  parse_math=False)


def _legend(axes: Axes, scale: Scale, top: float) -> None:
    from matplotlib.patches import Rectangle

    left, step = MARGIN + 128, 2.0
    for i, x in enumerate(np.linspace(-scale.limit, scale.limit, _STEPS)):
        axes.add_patch(Rectangle((left + step * i, top), step, 9, facecolor=scale.color(abs(x), x),
                                 linewidth=0))
    words: dict[str, Any] = {"fontsize": NOTE, "color": GREY}
    axes.text(left - 6, top + 7.5, f"predicted better, ≥ {scale.limit:.2f}", ha="right", **words)
    axes.text(left + step * _STEPS + 6, top + 7.5, f"≥ {scale.limit:.2f}, predicted worse", **words)
