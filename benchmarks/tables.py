"""Tables that are printed, and written to a page."""

from __future__ import annotations

from dataclasses import dataclass, field

from rich.console import Console
from rich.table import Table as Printed


@dataclass
class Table:
    """Rows of text under a title, with what there is to say about them."""

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]] = field(default_factory=list)
    note: str = ""

    def add(self, *values: object) -> None:
        """A row; floats get three digits."""
        self.rows.append(tuple(
            str(v) if not isinstance(v, float) else f"{v:.0f}" if v >= 100 else f"{v:.3g}"
            for v in values))

    def show(self, console: Console) -> None:
        """Print it."""
        printed = Printed(*self.columns, title=self.title, caption=self.note)
        for row in self.rows:
            printed.add_row(*row)
        console.print(printed)

    @property
    def markdown(self) -> str:
        """The same for a page."""
        lines = [self.columns, ("---",) * len(self.columns), *self.rows]
        table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        return f"## {self.title}\n\n{self.note}\n\n{table}\n"
