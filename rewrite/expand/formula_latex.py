"""Equations as LaTeX."""

from __future__ import annotations

import re
from collections.abc import Sequence

import sympy

from rewrite.expand.folding import FACTOR, Equation, Loop

# A name with numbers or sets in its segments, then a run or the number of a copy.
NAME = re.compile(r"([A-Za-z_](?:\w|\.(?=\w)|\{[^}]*\})*)(?:\[(\w+)\]|#(\d+))?")
SEGMENT = re.compile(r"(.*?)(\d+|\{[^}]*\})?")
AFFINE = re.compile(r"\{(-?\d*)l([+-]\d+)?\}")


def to_latex(lines: Sequence[Equation | Loop]) -> str:
    r"""An `aligned` environment with one row for each equation.

    >>> print(to_latex([Equation("x1", "x0[clean] + a0.h{0-2}(x0)")]))
    \begin{aligned}
    x_{1} &= x_{0}^{\mathrm{clean}} + \sum_{i=0..2} a_{0}.h_{i}(x_{0})
    \end{aligned}
    """
    rows: list[str] = []
    for line in lines:
        if isinstance(line, Loop):
            rows.append(rf"&\mathrm{{for}}\ l = {line.first}, \ldots, {line.last}:")
            rows += [rf"\quad {_row(equation)}" for equation in line.body]
        else:
            rows.append(_row(line))
    return "\\begin{aligned}\n" + " \\\\\n".join(rows) + "\n\\end{aligned}"


def _row(equation: Equation) -> str:
    name, value = (NAME.sub(_name, text) for text in (equation.name, equation.value))
    value = re.sub(rf"{FACTOR}(?=\*|$)", lambda found: _number(found[0]), value)
    return f"{name} &= {value}".replace("*", r"\,")


def _number(text: str) -> str:
    size, _, power = text.partition("e")
    return rf"{size} \cdot 10^{{{int(power)}}}" if power else size


def _name(found: re.Match[str]) -> str:
    path, run, copy = found.groups()
    pieces, over = [], ""
    for segment in path.split("."):
        match = SEGMENT.fullmatch(segment)
        assert match is not None
        stem, index = match.groups()
        if affine := AFFINE.fullmatch(index or ""):
            step, offset = affine.groups()
            index = sympy.latex(int(step or 1) * sympy.Symbol("l") + int(offset or 0))
        elif index and index.startswith("{"):
            over, index = rf"\sum_{{i={index[1:-1].replace('-', '..')}}} ", "i"
        word = stem if len(stem) == 1 else rf"\mathrm{{{_escaped(stem)}}}"
        pieces.append(word + (f"_{{{index}}}" if index else ""))
    mark = rf"^{{\mathrm{{{_escaped(run)}}}}}" if run else f"^{{({copy})}}" if copy else ""
    return over + ".".join(pieces) + mark


def _escaped(text: str) -> str:
    return text.replace("_", r"\_")
