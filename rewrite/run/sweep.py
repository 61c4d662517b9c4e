"""`sweep`: the same question asked of many paths at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from math import nan
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from rewrite.errors import (
    BackendError,
    DataError,
    HypothesisError,
    PathError,
    UnknownName,
    near,
)
from rewrite.expand import Hypothesis
from rewrite.measure import Measure, Pairs, as_metric
from rewrite.measure.stats import few_examples, means, p_values
from rewrite.parts import Components
from rewrite.parts.names import head_cell
from rewrite.paths import PathSet
from rewrite.run.backends import Backend, backend_of
from rewrite.run.compiled import Compile
from rewrite.run.evaluate import check_runs
from rewrite.run.execute import Progress
from rewrite.run.identity import identity
from rewrite.run.pieces import Say
from rewrite.run.places import Asked, edges_asked, nodes_asked, paths_asked
from rewrite.run.presence import notes_on_data
from rewrite.run.record import Record, record_at
from rewrite.run.remote import RowFailed
from rewrite.run.task import Found, Task
from rewrite.run.view import View
from rewrite.world import check_table, reading

COLUMNS = ("effect", "low", "high", "change", "p")
FILE = {"receiver": str, "metric": str, "n": int, "rows": list}
LATER = {"kind": str, "notes": Sequence[str], "read": str}
ROW = {**dict.fromkeys(("sender", "receiver", "paths"), str), **dict.fromkeys(COLUMNS[:4], float)}
RATE = 0.05
"""Share of cells that a picture may take for more than noise, and that are not."""


@dataclass(frozen=True)
class Sweep:
    """One row per sender, or per edge: what happens when its paths alone read the other run.

    `table` has `sender`, `receiver`, `effect` (mean of the metric between reference and
    patched model), the interval of the effect (`low`, `high`), `change` (mean signed change of
    the score), `p` (how often noise alone makes a mean change as large: `rw.measure.p_values`;
    nan where the metric has no score), and `paths`: the set that was patched, as `rw.paths`
    reads it.  A row is what
    `evaluate` gives for `Hypothesis(parts, {patch: row.paths}, default=reference)`: `effect`
    is its AUE.  `notes` say what had to be made smaller to fit into memory, and `read` what the
    metric reads of the outputs.
    """

    table: pd.DataFrame
    receiver: str
    metric: str
    n: int
    notes: tuple[str, ...] = ()
    read: str = ""

    @property
    def has_edges(self) -> bool:
        """Whether rows are edges to several receivers, and not senders alone."""
        return bool(self.table["receiver"].nunique() > 1)

    def top(self, count: int, by: str = "effect") -> list[str]:
        """The senders (`a0.h1`), or edges (`a0.h1 -> m0`), with the largest |value| in `by`."""
        self._check(by)
        order = np.argsort(-np.abs(self.table[by].to_numpy(dtype=float)), kind="stable")[:count]
        found = self.table.iloc[order]
        if not self.has_edges:
            return [str(name) for name in found["sender"]]
        return [f"{a} -> {b}" for a, b in zip(found["sender"], found["receiver"], strict=True)]

    def grid(self, column: str = "effect") -> pd.DataFrame:
        """Edges as a table of senders (rows) by receivers (columns), nan where there is no edge.

        With one receiver, or for nodes: heads as a table of layers (for each port and position
        that was asked for) by heads; others are left out.
        """
        self._check(column)
        if self.has_edges:
            table = self.table.pivot(index="sender", columns="receiver", values=column)
            return table.loc[self.table["sender"].unique(), self.table["receiver"].unique()]
        cells = [(head_cell(str(sender)), value) for sender, value in zip(
            self.table["sender"], self.table[column], strict=True)]
        if not any(cell for cell, _ in cells):
            raise HypothesisError("a grid shows attention heads; no sender here is one")
        rows = dict.fromkeys(cell[0] for cell, _ in cells if cell)
        heads = sorted({cell[1] for cell, _ in cells if cell})
        grid = pd.DataFrame(np.nan, index=pd.Index(list(rows), name="layer"),
                            columns=pd.Index(heads, name="head"))
        for cell, value in cells:
            if cell:
                grid.loc[cell] = value
        return grid

    def discoveries(self, rate: float = RATE, method: str = "bh") -> pd.DataFrame:
        """The rows whose score changes for sure: of these, a share `rate` at most is noise.

        Many rows are asked at once, and one in twenty of those that do nothing has an interval
        that does not hold zero.  So the false-discovery rate is controlled, not each row's error.
        `method` is that of `scipy.stats.false_discovery_control`: "bh" (Benjamini and Hochberg
        1995) where rows depend on each other positively, as they mostly do, "by" (Benjamini and
        Yekutieli 2001) for any dependence.

        >>> found = rw.sweep(parts, pairs=pairs, metric=rw.loss_diff(position="all"))
        >>> len(found.discoveries(0.05)) <= len(found.table)
        True

        Raises `DataError` where there is no `p`: the metric has no score, or there is one example.
        """
        return self.table.loc[self._clear(rate, method)]

    def _clear(self, rate: float, method: str = "bh") -> np.ndarray:
        """Of each row, whether its change is told from noise."""
        p = self.table["p"].to_numpy(dtype=float) if "p" in self.table else np.array([nan])
        if np.isnan(p).any():
            raise DataError(
                "discoveries ask how sure the sign of a change is, and these rows have no p: "
                + ("give two examples at least" if self.n == 1 else
                   f"{self.metric} has no score that rises and falls; measure logit_diff, or read "
                   "the column low"))
        if not 0 < rate < 1 or method not in ("bh", "by"):
            raise DataError(f"discoveries(rate, method) need 0 < rate < 1 and 'bh' or 'by', found "
                            f"{rate} and {method!r}")
        from scipy.stats import false_discovery_control  # half a second, only where asked

        return false_discovery_control(p, method=method) <= rate

    def draw(self, path: str | Path, column: str = "change", rate: float = RATE) -> Path:
        """Heatmap of the grid, to SVG, PNG or PDF by suffix; of effects if no score changes.

        A dot marks cells that are within noise, where the false-discovery rate among the others
        is `rate` (`discoveries`).
        """
        from rewrite.run.heatmap import heatmap

        if column == "change" and np.isnan(self.table[column].to_numpy(dtype=float)).all():
            column = "effect"  # the metric has no score
        what = "edge from each sender" if self.has_edges else (
            "path from each head" if self.receiver else "all paths through each head")
        title = f"{what}{' to ' * bool(self.receiver)}{self.receiver}, {self.metric}, n = {self.n}"
        noise = None
        if "p" in self.table and not np.isnan(self.table["p"].to_numpy(dtype=float)).any():
            table = self.table.assign(p=np.where(self._clear(rate), 0.0, 1.0))
            noise = replace(self, table=table).grid("p") == 1
        return heatmap(self.grid(column), Path(path), title, column,
                       "receiver" if self.has_edges else "head", noise,
                       f"within noise (false-discovery rate {rate:g})")

    def _check(self, column: str) -> None:
        known = [name for name in COLUMNS if name in self.table]
        if column not in known:
            raise UnknownName(f"a sweep has no column of numbers {column!r}; {near(column, known)}")

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form."""
        return {"receiver": self.receiver, "metric": self.metric, "n": self.n,
                "notes": list(self.notes), "read": self.read,
                "rows": self.table.to_dict("records")}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Sweep:
        """Read what `to_dict` wrote.  Raises FileError if it is something else."""
        with reading("a sweep"):
            check_table(data, "a file of a sweep", FILE, LATER)
            has_p = {"p": float} if data["rows"] and "p" in data["rows"][0] else {}
            for i, row in enumerate(data["rows"]):
                check_table(row, f"row {i}", ROW | has_p)
            return cls(pd.DataFrame(data["rows"]), data["receiver"], data["metric"], data["n"],
                       tuple(data.get("notes", ())), data.get("read", ""))

    def __str__(self) -> str:
        to = f" to {self.receiver}" if self.receiver else ""
        few = few_examples(np.ones(self.n))
        notes = "".join(f"\nnote: {note}" for note in (*self.notes, few) if note)
        of = f" of {self.read}" if self.read else ""
        return f"sweep{to}, {self.metric}{of}, n = {self.n}\n{self.table}{notes}"

    def _repr_html_(self) -> str:
        return self.table.to_html()


def sweep(
    parts: Components,
    senders: str | PathSet | Sequence[str | PathSet] = "a*.h*",
    receivers: str | PathSet | Sequence[str | PathSet] | None = "logits",
    *,
    pairs: Pairs,
    metric: Measure,
    each: bool = False,
    patch: str | None = None,
    batch_size: int = 32,
    chunk: int = 300,
    budget: int | str | None = None,
    file: str | Path | None = None,
    progress: Progress | None = None,
    say: Say | None = None,
    compile: Compile = False,
    backend: str | Backend = "local",
    workers: int | None = None,
    address: str | None = None,
) -> Sweep:
    """Patch the direct edge from each sender to the receivers, one sender at a time.

    Every path of the form `... -> sender -> (receivers) -> ...` reads the run `patch`
    (default: the run of `pairs` that is not the reference), all others the reference run.
    `senders` are names of the path language, a list of them or one text in which they are
    joined by `|`, and a row is what its name means:

    * a name with `*`, ranges or lists has a row for each of its members: `a*.h*` for each head,
      `a*.h*.q` for each query, `a*` for each layer of attention; `a5.kv1.v` is one row, the
      shared value of two heads.  `*` alone is every part by itself.
    * names may say positions and windows: `a*.h*@S2 | a*.h*@END` has a row for each head at
      each of the two, `a*.h*.v@S2` reads there, `a*.h*.k[-1]` reads the token before.
    * what is written twice is one row.

    `receivers` are names or patterns joined by `|`, all of them together: `a9.h9.q` lets the
    change go on by every way, `a9.h9.q -> logits` by one only, which is far cheaper.  A sender
    from which no edge leads to a receiver is left out.  Raises `PathError` if none is left.

    * `each=True` patches every edge by itself.  Receivers are then names like senders, and
      `a1.h2` is one row, all ports of the head together; `*` alone is every port by itself, so
      `sweep(parts, "*", "*", each=True)` has one row for each of `parts.edges`.
    * `receivers=None` patches nodes: all paths through each sender.

    >>> found = rw.sweep(parts, "a0.h1.q | m0@[-1]", None, pairs=pairs, metric="kl_divergence")
    >>> list(found.table["paths"])
    ['a0.h1.q', 'm0@[-1]']
    >>> rw.sweep(parts, "a1.h*", "logits", pairs=pairs, metric="kl_divergence").grid().shape
    (1, 4)
    >>> edges = rw.sweep(parts, "a0.h*", "a1.*.q", each=True, pairs=pairs, metric="kl_divergence")
    >>> edges.grid().shape
    (4, 4)

    Up to `chunk` rows share one expansion, so that the forward passes of both runs and all
    that they have in common are computed once; fewer, if they would need more memory than
    `budget`, which is predicted before the run: bytes or a text such as "2GB", by default half
    of what is free.  Where memory runs out all the same, chunks are halved, `Sweep.notes` says
    so, and `say` is told.

    With `file`, rows are written to it (JSON lines) as they are found, and the same call goes
    on where it stopped; a file of another sweep is a `FileError` that says what differs.

    `compile=True`, or a mode of `torch.compile`, compiles the module of each chunk, which pays
    only where chunks meet very many examples (see `rw.compiled`).

    `backend="ray"` shares the rows, or the examples where rows are few, among `workers`
    processes of Ray (one for each processor if left out): on this machine, or on the cluster
    at `address` ("auto" for the one that this machine is part of).  The numbers are the same.
    Work of processes that die is done again; a row on which workers fail again and again is a
    `BackendError` with its name and their error.  `budget` is then that of each worker.
    """
    measure = as_metric(metric)
    senders = _joined(senders)
    receivers = None if receivers is None else _joined(receivers)
    runs_it = backend_of(backend, workers, address)
    others = [run for run in pairs.run_names if run != pairs.reference]
    patch = others[0] if patch is None else patch
    if receivers is None:
        asked = nodes_asked(parts, senders)
    elif each:
        asked = edges_asked(parts, senders, receivers)
    else:
        asked = paths_asked(parts, senders, receivers)
    check_runs([Hypothesis(parts, {patch: PathSet.none()}, pairs.reference)], pairs)
    task = Task(parts, [a.paths for a in asked], patch, pairs, measure, batch_size, chunk, budget,
                compile)
    read = View(measure, parts.layout).read  # an error before anything runs, if there is none
    notes: dict[str, None] = dict.fromkeys(pairs.notes)

    def note(text: str) -> None:
        notes[text] = None
        if say is not None:
            say(text)

    for text in notes_on_data((a.paths for a in asked), parts, pairs, [patch]):
        note(text)
    with nullcontext(Record()) if file is None else record_at(
            Path(file), {**identity(parts, pairs, measure), "senders": senders,
                         "receivers": receivers, "each": each, "patch": patch,
                         "rows": len(asked)}, [a.names for a in asked], note) as record:
        rows = record.rows
        left = [i for i in range(len(asked)) if i not in rows]
        after = _after(progress, len(rows), pairs)
        for found in _named(asked, runs_it.run(task, left, after, note)):
            record.add(dict(zip(found.numbers, _rows([asked[i] for i in found.numbers], found),
                                strict=True)))
    return Sweep(pd.DataFrame([rows[i] for i in range(len(asked))]), receivers or "",
                 str(measure), len(pairs), tuple(notes), read)


def _joined(names: str | PathSet | Sequence[str | PathSet]) -> str:
    """A list of names is their union."""
    if isinstance(names, (str, PathSet)):
        return str(names)
    if not names:
        raise PathError("a sweep needs a sender: sweep(parts, ['a0.h1', 'a0.h2'], ...)")
    return " | ".join(map(str, names))


def _after(progress: Progress | None, rows: int, pairs: Pairs) -> Progress | None:
    """Count what was done before."""
    if progress is None:
        return None
    before = rows * len(pairs)
    return lambda done, total: progress(before + done, before + total)


def _named(asked: Sequence[Asked], found: Iterator[Found]) -> Iterator[Found]:
    """The same, with an error that names the row on which workers fail."""
    try:
        yield from found
    except RowFailed as error:
        a = asked[error.number]
        name = f"{a.sender} -> {a.receiver}" if a.receiver else a.sender
        raise BackendError(f"{name} failed on {error.times} workers, the others are done or "
                           f"waiting; the last one said:\n{error.error}") from error


def _rows(asked: list[Asked], found: Found) -> list[dict[str, Any]]:
    columns = zip(asked, means(found.effects).tolist(), found.changes.mean(1).tolist(),
                  p_values(found.changes).tolist(), strict=True)
    return [{"sender": a.sender, "receiver": a.receiver, "effect": value, "low": low,
             "high": high, "change": by, "p": p, "paths": str(a.paths)}
            for a, (value, low, high), by, p in columns]
