"""What rules have done to a graph, step by step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import pandas as pd
from torch import fx

from rewrite.errors import RuleError
from rewrite.ir.diff import Diff, diff
from rewrite.ir.selection import Match
from rewrite.rules.declare import Absent

if TYPE_CHECKING:
    from rewrite.ir.graph import Graph


@dataclass(frozen=True)
class Step:
    """One application: which rule, at which node, what stood there and what stands there now.

    `made` and `removed` are names of nodes.
    """

    rule: str
    equation: str
    node: str
    before: str
    after: str
    made: tuple[str, ...]
    removed: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.rule} at {self.node}: {self.before} -> {self.after}"


@dataclass(frozen=True)
class Trail(Sequence[Step]):
    """The steps of one call of `rewrite`, and the graph that it began with.

    `trail.graph(i)` is the graph after `i` steps, so that a notebook can walk through them.
    Pickled, it keeps the steps and the rules of this package; with others, and with nodes chosen
    by a function, `graph` raises `RuleError` where it arrives.
    """

    start: Graph = field(repr=False)
    rules: tuple[Any, ...] = field(repr=False)
    at: Any = field(repr=False)
    limit: int = field(repr=False)
    steps: tuple[Step, ...]

    def __getstate__(self) -> dict[str, Any]:
        plain = self.at is None or isinstance(self.at, (str, Match))
        return vars(self) | ({} if plain else {"at": Absent("the choice of nodes by a function")})

    @overload
    def __getitem__(self, index: int) -> Step: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Step]: ...
    def __getitem__(self, index: int | slice) -> Step | Sequence[Step]:
        return self.steps[index]

    def __len__(self) -> int:
        return len(self.steps)

    def __iter__(self) -> Iterator[Step]:
        return iter(self.steps)

    def graph(self, steps: int) -> Graph:
        """The graph after so many steps; rules are deterministic, so it is made again."""
        from rewrite.rules.engine import rewrite

        if not 0 <= steps <= len(self.steps):
            raise RuleError(f"the trail has {len(self.steps)} steps, asked for {steps}")
        return rewrite(self.start, self.rules, self.at, limit=self.limit, steps=steps)

    def graphs(self) -> Iterator[Graph]:
        """The graph before the first step, and after each."""
        for count in range(len(self.steps) + 1):
            yield self.graph(count)

    def diff(self, step: int) -> Diff:
        """What one step changed, to print or to draw."""
        return diff(self.graph(step), self.graph(step + 1))

    def draw(self, folder: str | Path, suffix: str = ".svg") -> list[Path]:
        """One picture for each step, `01-distribute.svg` and so on: what it took and made.

        Raises `FileError` for suffixes that cannot be drawn.
        """
        folder, width = Path(folder), len(str(len(self.steps)))
        folder.mkdir(parents=True, exist_ok=True)
        return [self.diff(i).draw(folder / f"{i + 1:0{width}}-{step.rule}{suffix}")
                for i, step in enumerate(self.steps)]

    def table(self) -> pd.DataFrame:
        """One row for each step."""
        rows = [(s.rule, s.node, s.before, s.after, len(s.made), len(s.removed)) for s in self]
        return pd.DataFrame(rows, columns=["rule", "node", "before", "after", "made", "removed"])

    def counts(self) -> dict[str, int]:
        """How often each rule fired."""
        return dict(Counter(step.rule for step in self.steps))

    def __str__(self) -> str:
        if not self.steps:
            return "no rule fired"
        width = max(len(step.rule) for step in self.steps)
        return "\n".join(f"{i + 1:>4}  {s.rule:<{width}}  {s.node}: {s.before} -> {s.after}"
                         for i, s in enumerate(self.steps))

    def _repr_html_(self) -> str:
        return self.table().to_html()


_SIGNS = {"add": "+", "sub": "-", "mul": "*", "div": "/", "matmul": "@"}


def shown(value: Any, inside: set[fx.Node] | None = None) -> str:
    """A node as an expression of nodes; those `inside` are spelt out, each where it comes first."""
    left = {value} if inside is None else set(inside)

    def of(value: Any) -> str:
        if isinstance(value, (list, tuple)):
            return f"[{', '.join(map(of, value))}]"
        if not isinstance(value, fx.Node):
            return str(value)
        if value.op == "get_attr":
            return str(value.target)
        if value.op != "call_function" or value not in left:
            return value.name
        left.discard(value)
        operands = [of(v) for v in value.args]
        name = getattr(value.target, "_opname", None) or getattr(value.target, "__name__", "?")
        if name in _SIGNS and len(operands) == 2 and not value.kwargs:
            return f"({operands[0]} {_SIGNS[name]} {operands[1]})"
        operands += [f"{key}={of(v)}" for key, v in value.kwargs.items()]
        return f"{name}({', '.join(operands)})"

    return of(value)
