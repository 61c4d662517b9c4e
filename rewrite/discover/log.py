"""What a session of refining did: one row for each hypothesis on the way."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from math import nan
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from rewrite.discover.changes import short
from rewrite.disk import write
from rewrite.errors import FileError
from rewrite.expand import Hypothesis
from rewrite.measure import Estimate
from rewrite.parts import Components
from rewrite.paths import PathSet, paths
from rewrite.run.identity import differences
from rewrite.world import check_table, edited, reading, table_of, text_of

if TYPE_CHECKING:
    from rich.table import Table

COLUMNS = ("step", "kind", "change", "paths", "explained", "low", "high", "gain", "held_out",
           "held_out_low", "held_out_high", "tried", "important")
FILE = {"kind": str, "model": str | None, "run": str, "default": str, "identity": dict,
        "metric": str, "chosen_on": int, "held_out_on": int, "stopped": str,
        "notes": Sequence[str], "rows": list}
ROW = {"step": int, "kind": str, "change": str, "important": str, "paths": int, "explained": dict,
       "gain": float, "held_out": dict | None, "tried": int}
ESTIMATE = {**dict.fromkeys(("value", "low", "high"), float | None), "level": float}
HEAD = ("step", "change", "paths", "gain", "explained", "held out")


@dataclass(frozen=True)
class Row:
    """One hypothesis: what changed, its important paths, and what it explains.

    `explained` is measured on the pairs that the change was chosen on, `held_out` on the
    others.  `gain` refers to the row before.  `tried` counts the candidates it was chosen from.
    """

    step: int
    kind: str
    change: str
    important: PathSet
    paths: int
    explained: Estimate
    gain: float
    held_out: Estimate | None
    tried: int

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form."""
        return {
            "step": self.step, "kind": self.kind, "change": self.change,
            "important": str(self.important), "paths": self.paths,
            "explained": self.explained.to_dict(), "gain": self.gain,
            "held_out": None if self.held_out is None else self.held_out.to_dict(),
            "tried": self.tried,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Row:
        """Read what `to_dict` wrote."""
        check_table(data, "a row of refining", ROW)
        held_out = data["held_out"]
        return cls(**{
            **data, "important": paths(data["important"]),
            "explained": _estimate(data["explained"]),
            "held_out": None if held_out is None else _estimate(held_out)})


@dataclass(frozen=True)
class Refined:
    """The log of `refine`: its rows, why it stopped, and the hypothesis that it came to.

    `identity` says what was refined on what, so that a file of another session is noticed.
    """

    hypothesis: Hypothesis
    rows: tuple[Row, ...]
    metric: str
    chosen_on: int
    held_out_on: int
    stopped: str
    identity: Mapping[str, Any]
    notes: tuple[str, ...] = ()

    @property
    def table(self) -> pd.DataFrame:
        """One row for each hypothesis on the way, the start first."""
        return pd.DataFrame([{
            "step": row.step, "kind": row.kind, "change": row.change, "paths": row.paths,
            "explained": row.explained.value, "low": row.explained.low,
            "high": row.explained.high, "gain": row.gain, **_held_out(row),
            "tried": row.tried, "important": str(row.important),
        } for row in self.rows], columns=list(COLUMNS))

    @property
    def caption(self) -> str:
        """How the numbers came about, and why it stopped."""
        if self.held_out_on:
            chosen = (f"changes are chosen on {self.chosen_on} pairs, which flatters; "
                      f"held_out is measured on {self.held_out_on} others")
        else:
            chosen = (f"changes are chosen and measured on the same {self.chosen_on} pairs, "
                      "which flatters: use holdout")
        return f"{self.metric}; {chosen}; stopped: {self.stopped}"

    def markdown(self) -> str:
        """The table for a page."""
        lines = [f"| {' | '.join(HEAD)} |", "|" + "---|" * len(HEAD)]
        lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
                  for cells in self._cells()]
        return "\n".join([*lines, "", self.caption, "", "Important paths:", "",
                          f"    {self.rows[-1].important}", ""])

    def rich(self) -> Table:
        """The table for a terminal."""
        from rich.table import Table

        shown = Table(title="refining", title_justify="left", caption=escaped(self.caption),
                      caption_justify="left")
        for name in HEAD:
            right = name in ("step", "paths", "gain")
            shown.add_column(name, justify="right" if right else "left",
                             overflow="fold", no_wrap=name != "change")
        for cells in self._cells():
            shown.add_row(*map(escaped, cells))
        return shown

    def draw(self, path: str | Path) -> Path:
        """Proportion explained against the changes, chosen and held out; SVG, PNG or PDF."""
        from rewrite.discover.figure import draw_refined

        return draw_refined(self, path)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form; a file with it can be gone on from."""
        (run,) = self.hypothesis.runs
        return {"kind": "refined", "model": self.hypothesis.parts.graph.origin, "run": run,
                "default": self.hypothesis.default, "identity": dict(self.identity),
                "metric": self.metric, "chosen_on": self.chosen_on,
                "held_out_on": self.held_out_on, "stopped": self.stopped,
                "notes": list(self.notes), "rows": [row.to_dict() for row in self.rows]}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], parts: Components) -> Refined:
        """Read what `to_dict` wrote, about a component graph."""
        with reading("a log of refining"):
            check_table(data, "a log of refining", FILE)
            rows = tuple(Row.from_dict(row) for row in data["rows"])
            found = Hypothesis(parts, {data["run"]: rows[-1].important}, data["default"])
            return cls(found, rows, data["metric"], data["chosen_on"], data["held_out_on"],
                       data["stopped"], data["identity"], tuple(data["notes"]))

    def __str__(self) -> str:
        cells = [HEAD, *self._cells()]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True))
                 for row in cells]
        return "\n".join([*(line.rstrip() for line in lines), self.caption,
                          *(f"note: {note}" for note in self.notes)])

    def _repr_html_(self) -> str:
        return f"<pre>{escape(str(self))}</pre>"

    def _cells(self) -> list[tuple[str, ...]]:
        return [(str(row.step), f"{row.kind} {row.change}".strip(), short(row.paths),
                 f"{row.gain:+.3f}" if row.kind != "start" else "", str(row.explained),
                 "" if row.held_out is None else str(row.held_out)) for row in self.rows]


def read_log(
    path: Path, identity: Mapping[str, Any]
) -> tuple[list[Row], list[str], str]:
    """The rows of a log, its notes, and why it stopped.

    Raises `FileError` for the log of another session, which says what differs, or another file.
    """
    data = table_of(text_of(path), path)
    if data.get("kind") != "refined":
        raise FileError(f"{path} is no log of refining: give another name")
    with edited(f"{path} is a log of refining", "give another file, or remove this one"):
        check_table(data, "a log of refining", FILE)
        was, rows = data["identity"], [Row.from_dict(row) for row in data["rows"]]
        notes, stopped = data["notes"], data["stopped"]
    if differ := differences(was, identity):
        raise FileError(f"{path} is the log of another session: {differ}\n"
                        "give another file, or remove this one")
    return rows, notes, stopped


def write_log(log: Refined, path: Path) -> Path:
    """Write a log as a whole: an interruption leaves the one before."""
    return write(path, json.dumps(log.to_dict(), indent=1) + "\n")


def escaped(text: str) -> str:
    """A text for rich, which reads brackets."""
    return text.replace("[", r"\[")


def _held_out(row: Row) -> dict[str, float]:
    found = row.held_out or Estimate(nan, nan, nan)
    return {"held_out": found.value, "held_out_low": found.low, "held_out_high": found.high}


def _estimate(data: Mapping[str, Any]) -> Estimate:
    check_table(data, "an estimate", ESTIMATE, {"note": str})
    value, low, high = (nan if data[name] is None else float(data[name])
                        for name in ("value", "low", "high"))
    return Estimate(value, low, high, data["level"], data.get("note", ""))
