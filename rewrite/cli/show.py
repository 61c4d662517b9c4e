"""What the commands print: progress bars, tables, errors."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pandas as pd
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from rewrite.errors import RewriteError
from rewrite.report import Structure

console = Console()
beside = Console(stderr=True)  # what is said while the output itself is for a program

Report = Callable[[int, int], None]


@contextmanager
def errors() -> Iterator[None]:
    """Print errors of this package as a message, and leave with status 1."""
    try:
        yield
    except RewriteError as error:
        beside.print(f"[bold red]error:[/] {_escape(str(error))}", highlight=False)
        sys.exit(1)


@contextmanager
def steps(on: Console = console) -> Iterator[Callable[[str], Report]]:
    """A function that starts a progress bar and returns what to call with (done, all)."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(bar_width=24),
               TextColumn("{task.completed:.0f}/{task.total:.0f}"), TimeElapsedColumn(),
               TextColumn("left"), TimeRemainingColumn())
    with Progress(*columns, console=on) as bars:

        def step(name: str) -> Report:
            task = bars.add_task(name, total=1)
            return lambda done, total: bars.update(task, completed=done, total=total)

        yield step


def table(frame: pd.DataFrame, title: str = "", folds: str = "") -> None:
    """Print a data frame; column `folds` takes several lines where the terminal is narrow."""
    shown = Table(title=title, title_justify="left")
    for column in frame.columns:
        numeric = pd.api.types.is_numeric_dtype(frame[column])
        shown.add_column(str(column), justify="right" if numeric else "left",
                         no_wrap=str(column) != folds, overflow="fold")
    for row in frame.itertuples(index=False):
        shown.add_row(*(f"{v:.3f}" if isinstance(v, float) else _escape(str(v)) for v in row))
    console.print(shown)


def ladder(frame: pd.DataFrame, title: str = "") -> None:
    """Print a table of hypotheses, narrow enough for a terminal of 80 columns."""
    rows = frame.to_dict("records")
    table(pd.DataFrame({
        "hypothesis": [row["hypothesis"] for row in rows],
        "explained": [f"{r['explained']:.3f} [{r['low']:.3f}, {r['high']:.3f}]" for r in rows],
        "AUE": [row["aue"] for row in rows],
    }), title)


def structure(report: Structure) -> None:
    """Print a structure report: as text, or on a terminal with its labels set off."""
    if not console.is_terminal:
        say(str(report))
        return
    origin = "" if report.origin is None else f"  [dim]{_escape(report.origin)}[/]"
    console.print(f"[bold]{_escape(report.name)}[/]{origin}", highlight=False)
    grid, before = Table.grid(padding=(0, 2)), ""
    for label, text in report.rows():
        color = NOTABLE.get(label, "cyan")
        grid.add_row(f"  [{color}]{'' if label == before else label}[/]", _escape(text))
        before = label
    console.print(grid, highlight=False)


NOTABLE = {"fixed": "yellow", "not split": "yellow", "slower": "yellow", "tried before": "yellow",
           "parity": "green"}


def say(text: str, on: Console = console) -> None:
    """Print a text as it is."""
    on.print(text, markup=False, highlight=False, soft_wrap=True)


def _escape(text: str) -> str:
    return text.replace("[", r"\[")
