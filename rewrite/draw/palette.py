"""Runs get a colour of the palette of Okabe and Ito (2008), and always their name beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

DEFAULT = "#E69F00"  # orange: the run that everything else reads
OTHERS = ("#0072B2", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#7A7A7A")
NEUTRAL, NEUTRAL_LINE, SPINE = "#F6F6F6", "#555555", "#444444"


@dataclass(frozen=True)
class Palette:
    """The colour of each run; the last run is the default one.

    >>> Palette(("clean", "corrupt")).color("corrupt")
    '#E69F00'
    """

    runs: tuple[str, ...]

    def color(self, run: str) -> str:
        """The full colour, for lines and bars."""
        *others, default = self.runs
        return DEFAULT if run == default else OTHERS[others.index(run) % len(OTHERS)]

    def tint(self, run: str) -> str:
        """A light version, to write on in black."""
        return mix(self.color(run), 0.24)

    def dark(self, run: str) -> str:
        """A dark version, legible as text on white."""
        return mix(self.color(run), 0.62, "#000000")

    def stripes(self, runs: Sequence[str]) -> str:
        """The colours of several runs as Graphviz wants them for stripes and wedges."""
        return ":".join(self.color(run) for run in self.ordered(runs))

    def ordered(self, runs: Sequence[str]) -> list[str]:
        """Runs in the order of the legend."""
        return sorted(runs, key=self.runs.index)


def mix(color: str, share: float, ground: str = "#FFFFFF") -> str:
    """`share` of a colour on a ground.

    >>> mix("#000000", 0.5)
    '#808080'
    """
    def channel(text: str, at: int) -> int:
        return int(text[at : at + 2], 16)

    parts = (share * channel(color, i) + (1 - share) * channel(ground, i) for i in (1, 3, 5))
    return "#" + "".join(f"{round(part):02X}" for part in parts)
