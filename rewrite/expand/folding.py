"""Equations that differ only by numbers in even steps are written once, for a range of `l`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

# Sets, runs, numbers of copies, factors and what is added do not count, nor does what is no
# number as it would be written.
FACTOR = r"(?<![\w.])[0-9]+(?:\.[0-9]+)?(?:e[+-]?[0-9]+)?"
NUMBER = re.compile(
    rf"(\{{[^}}]*\}}|\[[^\]]*\]|#[0-9]+|{FACTOR}\*|{FACTOR}$|0[0-9]+|[0-9]+)")
LONGEST = 24  # equations in a block


@dataclass(frozen=True)
class Equation:
    """One value and what it is."""

    name: str
    value: str

    def __str__(self) -> str:
        return f"{self.name} = {self.value}"


@dataclass(frozen=True)
class Loop:
    """The same equations for each number in a range; `{l}`, `{2l+1}` stand for numbers."""

    first: int
    last: int
    body: tuple[Equation, ...]

    def __str__(self) -> str:
        return "\n".join((f"for l = {self.first}..{self.last}:",
                          *(f"    {equation}" for equation in self.body)))


@dataclass(frozen=True)
class _Run:
    """`times` blocks of `period` equations from `start`, each a step on from the one before."""

    start: int
    period: int
    times: int

    @property
    def saved(self) -> int:
        return self.period * (self.times - 1) - 1


def fold(equations: Sequence[Equation]) -> list[Equation | Loop]:
    """The longest repetitions first come first served, from the top.

    >>> for line in fold([Equation(f"x{i + 1}", f"x{i} + m{i}(x{i})") for i in range(9)]):
    ...     print(line)
    for l = 0..8:
        x{l+1} = x{l} + m{l}(x{l})
    """
    shapes = [_shape(equation) for equation in equations]
    lines: list[Equation | Loop] = []
    start = 0
    while start < len(equations):
        longest = min(LONGEST, (len(equations) - start) // 2)
        runs = [_run(shapes, start, period) for period in range(1, longest + 1)]
        best = max(runs, key=lambda run: (run.saved, -run.period), default=_Run(start, 1, 1))
        if best.saved > 0 and not _better_later(shapes, best):
            lines.append(_loop(equations, shapes, best))
            start += best.period * best.times
        else:
            lines.append(equations[start])
            start += 1
    return lines


Shape = tuple[tuple[str, ...], tuple[int, ...]]


def _shape(equation: Equation) -> Shape:
    """The text around the numbers of an equation, and the numbers."""
    pieces = NUMBER.split(str(equation))
    text = tuple("" if _counts(piece) else piece for piece in pieces)
    return text, tuple(int(piece) for piece in pieces if _counts(piece))


def _counts(piece: str) -> bool:
    return piece.isdigit() and piece == str(int(piece))


def _run(shapes: Sequence[Shape], start: int, period: int) -> _Run:
    """How often the block at `start` repeats, numbers growing by the same steps each time."""
    def numbers(block: int) -> list[int]:
        at = start + block * period
        return [n for _, found in shapes[at:at + period] for n in found]

    def alike(block: int) -> bool:
        at = start + block * period
        return [s for s, _ in shapes[at:at + period]] == [s for s, _ in
                                                          shapes[start:start + period]]

    times, steps = 1, None
    while alike(times):
        found = [b - a for a, b in zip(numbers(times - 1), numbers(times), strict=True)]
        if steps is not None and found != steps:
            break
        steps, times = found, times + 1
    return _Run(start, period, times) if steps and any(steps) else _Run(start, period, 1)


def _better_later(shapes: Sequence[Shape], best: _Run) -> bool:
    """Whether a block that begins within this one repeats more often."""
    return any(_run(shapes, best.start + skip, best.period).saved > best.saved
               for skip in range(1, best.period))


def _loop(equations: Sequence[Equation], shapes: Sequence[Shape], run: _Run) -> Loop:
    block = range(run.start, run.start + run.period)
    pairs = [(a, b - a) for i in block
             for a, b in zip(shapes[i][1], shapes[i + run.period][1], strict=True)]
    first = min((a for a, step in pairs if step == 1), default=0)
    body = []
    for i in block:
        steps = iter(zip(shapes[i][1], shapes[i + run.period][1], strict=True))
        pieces = [_affine(*next(steps), first) if _counts(piece) else piece
                  for piece in NUMBER.split(str(equations[i]))]
        name, _, value = "".join(pieces).partition(" = ")
        body.append(Equation(name, value))
    return Loop(first, first + run.times - 1, tuple(body))


def _affine(number: int, following: int, first: int) -> str:
    """The number as an expression in `l`, which is `first` where the number stands."""
    step = following - number
    if not step:
        return str(number)
    offset = number - step * first
    return "{" + (f"{step}l" if step != 1 else "l") + (f"{offset:+d}" if offset else "") + "}"
