"""HTML-like labels: the inside of each kind of box."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from rewrite.draw.palette import NEUTRAL, NEUTRAL_LINE, Palette
from rewrite.draw.sketch import Item, Sketch
from rewrite.draw.text import FAINT, INK, NORMAL, SMALL, html, shorten

MIXED = "#E4E4E4"
ROW = 12  # cells in one row


def label(item: Item, palette: Palette | None) -> str:
    """The label of a box as an HTML-like table."""
    mixed = palette is not None and len(item.runs) > 1
    fill, line = NEUTRAL, NEUTRAL_LINE
    if palette and len(item.runs) == 1:
        fill, line = palette.tint(item.runs[0]), palette.color(item.runs[0])
    elif palette is None:
        fill, line = FILLS.get(item.kind, NEUTRAL), NEUTRAL_LINE
    rows = [_title(item, palette)]
    rows += [f'<tr><td align="left" cellpadding="1">{html(text, SMALL, FAINT if _more(text) else INK)}'
             "</td></tr>" for text in item.lines]
    if item.cells:
        rows.append(_cells(item.cells, palette))
    inner = f'<table border="0" cellborder="0" cellspacing="1" cellpadding="2">{"".join(rows)}</table>'
    bars = "".join(f'<td width="7" bgcolor="{palette.color(run)}"></td>'
                   for run in palette.ordered(item.runs)) if mixed and palette else ""
    border = 3 if item.kind == "fold" else 1
    return (f'<<table border="{border}" cellborder="0" cellspacing="0" cellpadding="0" '
            f'color="{line}" bgcolor="{fill}"><tr>{bars}<td>{inner}</td></tr></table>>')


FILLS = {
    "source": "#FFFFFF", "constant": "#FFFFFF", "heads": "#EAF3FA", "part": "#FDF3E1",
    "fold": "#F1F1F1", "modules": "#F6F6F6", "output": "#E8F5EF",
}


def _more(text: str) -> bool:
    return text.startswith("+")


def _title(item: Item, palette: Palette | None) -> str:
    text = html(item.title, NORMAL, bold=True)
    if palette is None or len(item.runs) != 1:
        return f'<tr><td align="left">{text}</td></tr>'
    badge = ""
    if palette and len(item.runs) == 1:
        (run,) = item.runs
        badge = (f'<td bgcolor="{palette.color(run)}" cellpadding="2">'
                 f"{html(f' {shorten(run, 12)} ', SMALL, on(palette.color(run)))}</td>")
    return ('<tr><td align="left"><table border="0" cellborder="0" cellspacing="2" '
            f'cellpadding="1"><tr><td>{text}</td>{badge}</tr></table></td></tr>')


def _cells(cells: Sequence[tuple[str, tuple[str, ...]]], palette: Palette | None) -> str:
    rows = []
    for start in range(0, len(cells), ROW):
        row = "".join(_cell(name, runs, palette) for name, runs in cells[start : start + ROW])
        rows.append(f"<tr>{row}</tr>")
    return ('<tr><td align="left"><table border="0" cellborder="1" cellspacing="0" '
            f'cellpadding="3" color="{NEUTRAL_LINE}">{"".join(rows)}</table></td></tr>')


def _cell(name: str, runs: tuple[str, ...], palette: Palette | None) -> str:
    if palette is None or not runs:
        return f'<td bgcolor="#FFFFFF">{html(name, SMALL)}</td>'
    tints = [palette.tint(run) for run in palette.ordered(runs)]
    fill = ":".join(tints) if len(tints) <= 2 else MIXED  # Graphviz shades from one to one
    said = shorten(runs[0], 10) if len(runs) == 1 else "mixed"
    return (f'<td port="{port(name)}" bgcolor="{fill}">{html(name, SMALL, bold=True)} '
            f"{html(said, SMALL)}</td>")


def port(name: str) -> str:
    """The name of a cell that edges can end at.

    >>> port("q k")
    'q_k'
    """
    return escape(name.replace(" ", "_") or "in")


def on(color: str) -> str:
    """Black or white, whichever can be read on a colour.

    >>> on("#0072B2"), on("#E69F00")
    ('#FFFFFF', '#000000')
    """
    red, green, blue = (int(color[i : i + 2], 16) for i in (1, 3, 5))
    return "#000000" if 0.299 * red + 0.587 * green + 0.114 * blue > 130 else "#FFFFFF"


def caption(sketch: Sketch, palette: Palette | None) -> str:
    """Legend and caption, below the picture."""
    rows = []
    if palette:
        for run, text in sketch.legend:
            color = palette.color(run)
            rows.append(f'<tr><td align="left">{html("■ ", 18, palette.color(run))}'
                        f"{html(run, SMALL, bold=True)}{html(f'  {text}', SMALL)}</td></tr>")
    rows += [f'<tr><td align="left">{html(line, SMALL, INK if i == 0 else FAINT)}</td></tr>'
             for i, line in enumerate(sketch.caption)]
    return ('<<table border="0" cellborder="0" cellspacing="0" cellpadding="1">'
            f"{''.join(rows)}</table>>")
