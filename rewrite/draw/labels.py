"""HTML-like labels: the inside of each kind of box."""

from __future__ import annotations

import re
from collections.abc import Sequence

from rewrite.draw.palette import NEUTRAL, NEUTRAL_LINE, Palette
from rewrite.draw.sketch import Item, Sketch
from rewrite.draw.text import FAINT, INK, NORMAL, SMALL, html, shorten

MIXED = "#FFFFFF"
ROW = 12  # cells in one row


def label(item: Item, palette: Palette | None) -> str:
    """The label of a box as an HTML-like table."""
    mixed = palette is not None and len(item.runs) > 1
    fill, line = NEUTRAL, NEUTRAL_LINE
    if palette and len(item.runs) == 1:
        fill, line = palette.tint(item.runs[0]), palette.color(item.runs[0])
    elif palette is None:
        fill, line = FILLS.get(item.kind, NEUTRAL), NEUTRAL_LINE
    if item.kind == "mixture":
        return _mixture(item, palette)
    rows = [_title(item, palette)]
    rows += [_line(text, FAINT if text.startswith("+") else INK) for text in item.lines]
    if item.cells:
        rows.append(_cells(item.cells, palette))
    inner = ('<table border="0" cellborder="0" cellspacing="1" cellpadding="2">'
             f"{''.join(rows)}</table>")
    stripes = "".join(f'<td width="7" bgcolor="{palette.color(run)}"></td>'
                      for run in palette.ordered(item.runs)) if mixed and palette else ""
    border = 3 if item.kind == "fold" else 1
    return (f'<<table border="{border}" cellborder="0" cellspacing="0" cellpadding="0" '
            f'color="{line}" bgcolor="{fill}"><tr>{stripes}<td>{inner}</td></tr></table>>')


FILLS = {
    "source": "#FFFFFF", "constant": "#FFFFFF", "heads": "#EAF3FA", "part": "#FDF3E1",
    "fold": "#F1F1F1", "modules": "#F6F6F6", "output": "#E8F5EF",
}


def _mixture(item: Item, palette: Palette | None) -> str:
    """A rounded box of one line, its sides next to each other."""
    said = "".join(_line(line, FAINT) for line in item.lines)
    cells = "".join(_cell(name, runs, palette) for name, runs in item.cells)
    inner = ('<table border="0" cellborder="0" cellspacing="2" cellpadding="2">'
             f"<tr>{cells}</tr></table>")
    return (f'<<table border="1" cellborder="0" cellspacing="0" cellpadding="2" style="rounded" '
            f'color="{NEUTRAL_LINE}" bgcolor="{MIXED}">{said}<tr><td>{inner}</td></tr></table>>')


def _line(text: str, color: str) -> str:
    return f'<tr><td align="left" cellpadding="1">{html(text, SMALL, color)}</td></tr>'


def _title(item: Item, palette: Palette | None) -> str:
    text = html(item.title, NORMAL, bold=True)
    if palette and len(item.runs) == 1:
        (run,) = item.runs
        text += (f"{html('  ■', NORMAL, palette.color(run))}"
                 f"{html(f' {shorten(run, 16)} ', SMALL, palette.dark(run), bold=True)}")
    return f'<tr><td align="left">{text}</td></tr>'


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
    inner, fill = html(name, SMALL, bold=True), MIXED
    if len(runs) == 1:
        inner, fill = f"{inner} {html(shorten(runs[0], 10), SMALL)}", palette.tint(runs[0])
    else:  # no gradient: in SVG they are found by id, and a notebook has many pictures
        squares = "".join(html("■", SMALL, palette.color(run)) for run in palette.ordered(runs))
        inner = f"{squares} {inner} {html('mixed', SMALL)}"
    return f'<td port="{port(name)}" bgcolor="{fill}">{inner}</td>'


def port(name: str) -> str:
    """The name of a cell that edges can end at.

    >>> port("q k"), port("[-3:0]")
    ('q_k', 'x5b_x2d_3x3a_0x5d_')
    """
    plain = re.sub(r"[^\w ]", lambda found: f"x{ord(found[0]):x}_", name)
    return plain.replace(" ", "_") or "in"


def caption(sketch: Sketch, palette: Palette | None) -> str:
    """Legend and caption, below the picture."""
    rows = []
    if palette:
        for run, text in sketch.legend:
            name = html(run, SMALL, palette.dark(run), bold=True)
            rows.append(f'<tr><td align="left">{html("■ ", 18, palette.color(run))}{name}'
                        f"{html(f'  {text}', SMALL)}</td></tr>")
    rows += [_line(line, INK if i == 0 else FAINT) for i, line in enumerate(sketch.caption)]
    return ('<<table border="0" cellborder="0" cellspacing="0" cellpadding="1">'
            '<tr><td height="10"></td></tr>'
            f"{''.join(rows)}</table>>")
