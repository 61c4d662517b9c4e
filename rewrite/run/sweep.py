"""`sweep`: the same question asked of many paths at once."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from rewrite.errors import HypothesisError, PathError, UnknownName, near
from rewrite.expand import Hypothesis
from rewrite.ir.dag import symbols_of
from rewrite.measure import Metric, Pairs
from rewrite.parts import Components
from rewrite.paths import paths
from rewrite.paths.names import matches
from rewrite.run.evaluate import evaluate
from rewrite.run.execute import Progress


@dataclass(frozen=True)
class Sweep:
    """One row per sender: what happens when its path alone reads the other run.

    `table` has `sender`, `receiver`, `effect` (mean of the metric between reference and
    patched model), `change` (mean signed change of the score), and the interval of the effect.
    """

    table: pd.DataFrame
    receiver: str
    metric: str
    n: int

    def top(self, count: int, by: str = "effect") -> list[str]:
        """The senders with the largest absolute value in column `by`."""
        order = np.argsort(-np.abs(self.table[by].to_numpy(dtype=float)), kind="stable")
        return [str(name) for name in self.table["sender"].iloc[order[:count]]]

    def grid(self, column: str = "effect") -> pd.DataFrame:
        """Heads as a table of layers (rows) by heads (columns); other senders are left out."""
        names = self.table["sender"].str.extract(r"^(?P<layer>.*)\.h(?P<head>\d+)$")
        found = self.table.assign(layer=names["layer"], head=names["head"]).dropna(subset="head")
        if found.empty:
            raise HypothesisError("a grid shows attention heads; no sender here is one")
        found = found.assign(head=found["head"].astype(int))
        grid = found.pivot(index="layer", columns="head", values=column)
        return grid.loc[list(dict.fromkeys(found["layer"]))]

    def draw(self, path: str | Path, column: str = "change") -> Path:
        """Heatmap of the heads, to SVG, PNG or PDF by suffix."""
        from rewrite.run.heatmap import heatmap

        title = f"path from each head to {self.receiver}, {self.metric}, n = {self.n}"
        return heatmap(self.grid(column), Path(path), title, column)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form."""
        return {"receiver": self.receiver, "metric": self.metric, "n": self.n,
                "rows": self.table.to_dict("records")}

    def __str__(self) -> str:
        return f"sweep to {self.receiver}, {self.metric}, n = {self.n}\n{self.table}"

    def _repr_html_(self) -> str:
        return self.table.to_html()


def sweep(
    parts: Components,
    senders: str = "a*.h*",
    receivers: str = "logits",
    *,
    pairs: Pairs,
    metric: Metric | str,
    patch: str | None = None,
    batch_size: int = 32,
    chunk: int = 300,
    progress: Progress | None = None,
) -> Sweep:
    """Patch the direct edge from each sender to the receivers, one sender at a time.

    Every path of the form `... -> sender -> (receivers) -> ...` reads the run `patch`
    (default: the run of `pairs` that is not the reference), all others the reference run.
    `senders` is a name with globs (`a*.h*`, `m*`), `receivers` names or patterns joined by
    `|`: `a9.h9.q` lets the change go on by every way, `a9.h9.q -> logits` by one only, which
    is far cheaper.  A sender from which no edge leads to a receiver is left out.  Raises
    `PathError` if none is left.

    >>> rw.sweep(parts, "a1.h*", "logits", pairs=pairs, metric="kl_divergence").grid().shape
    (1, 4)

    All senders share one expansion (cut into pieces of `chunk`), so the forward passes of
    both runs are computed once.
    """
    _ = paths(receivers)  # what cannot be read is an error, and not an empty sweep
    others = [run for run in pairs.run_names if run != pairs.reference]
    patch = others[0] if patch is None else patch
    names = _nodes(parts, senders)
    hypotheses = []
    for name in names:
        with suppress(PathError):  # no edge leads from this sender to a receiver
            asked = {patch: f"{name} -> ({receivers})"}
            hypotheses.append(Hypothesis(parts, asked, pairs.reference, name))
    if not hypotheses:
        raise PathError(f"no sender that matches {senders!r} has an edge to {receivers!r}")
    rows: list[dict[str, Any]] = []
    pieces = [hypotheses[i : i + chunk] for i in range(0, len(hypotheses), chunk)]
    for number, piece in enumerate(pieces):
        results = evaluate(piece, pairs, metric, batch_size=batch_size,
                           progress=_part(progress, number, len(pieces)))
        for result in results:
            rows.append({
                "sender": result.hypothesis, "receiver": receivers, "effect": result.aue.value,
                "low": result.aue.low, "high": result.aue.high, "change": _change(result),
            })
    return Sweep(pd.DataFrame(rows), receivers, str(metric), len(pairs))


def _change(result: Any) -> float:
    if result.scores is None or result.reference_scores is None:
        return float("nan")
    return float(np.mean(np.asarray(result.scores) - np.asarray(result.reference_scores)))


def _nodes(parts: Components, pattern: str) -> Sequence[str]:
    """Names of the sources and parts that a pattern such as `a*.h* | m*` matches."""
    dag, wanted = parts.dag, [name.strip() for name in pattern.split("|")]
    for name in wanted:
        if not any(matches(name, (s, *dag.spellings.get(s, ()))) for s in dag.symbols):
            raise UnknownName(f"no sender is called {name!r}; {near(name, parts.names)}")
    return [
        node.name for node in dag.nodes
        if any(matches(name, (symbol, *dag.spellings.get(symbol, ())))
               for symbol in symbols_of(node) for name in wanted)
    ]


def _part(progress: Progress | None, number: int, pieces: int) -> Progress | None:
    if progress is None:
        return None
    return lambda done, total: progress(number * total + done, pieces * total)
