"""`save`: one function for everything that can be written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rewrite.discover import Refined
from rewrite.discover.log import write_log
from rewrite.errors import FileError
from rewrite.expand import Hypothesis
from rewrite.files.disk import write_json
from rewrite.files.experiment import write_experiment
from rewrite.files.graphs import save_graph
from rewrite.ir.graph import Graph
from rewrite.measure import Metric, Pairs, Result
from rewrite.run import Sweep


def save(
    thing: Any, path: str | Path, *, pairs: Pairs | None = None, metric: Metric | None = None
) -> Path:
    """Write a hypothesis (.toml), a result, sweep, pairs or log (.json), or a graph (.graph).

    A hypothesis may be a list, and may come with the `pairs` and `metric` that it is tested
    with (`rewrite test` needs them); pairs go to a JSON file beside it.  The log of `refine` is
    one that `refine(..., file=path)` goes on from.  Raises `FileError`
    for other things, other suffixes, and folders that cannot be written.

    >>> import tempfile
    >>> hypothesis = rw.Hypothesis(parts, {"clean": "a1.h3 -> logits"})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = rw.save(hypothesis, folder + "/hypothesis.toml")
    ...     rw.load(file, parts).runs
    {'clean': paths('a1.h3 -> logits')}
    """
    path = Path(path)
    things: list[Any] = list(thing) if isinstance(thing, (list, tuple)) else [thing]
    if things and all(isinstance(item, Hypothesis) for item in things):
        _suffix(path, ".toml", "a hypothesis")
        name = None
        if pairs is not None:
            name = f"{path.stem}.pairs.json"
            write_json(path.parent / name, pairs.to_dict())
        return write_experiment(path, things, name, metric)
    if isinstance(thing, Graph):
        if path.suffix == ".pt2":
            raise FileError(f"a .pt2 file is for other programs: graph.export({str(path)!r}); a "
                            f"graph is saved as {path.stem + '.graph'!r}, which rw.load reads")
        _suffix(path, ".graph", "a graph")
        return save_graph(thing, path)
    if isinstance(thing, Refined):
        _suffix(path, ".json", "a log of refining")
        return write_log(thing, path)
    for kind, label in ((Result, "result"), (Sweep, "sweep"), (Pairs, "pairs")):
        if isinstance(thing, kind):
            _suffix(path, ".json", f"a {label}")
            return write_json(path, {"kind": label} | thing.to_dict())
    if things and all(isinstance(item, Result) for item in things):
        _suffix(path, ".json", "results")
        return write_json(path, {"kind": "results", "results": [r.to_dict() for r in things]})
    raise FileError(f"cannot save a {type(thing).__name__}: save takes a hypothesis, a result, "
                    "a sweep, pairs, a log of refining, or a graph")


def _suffix(path: Path, wanted: str, what: str) -> None:
    if path.suffix != wanted:
        raise FileError(f"{what} is saved as {wanted}, found {path.name!r}: "
                        f"write {(path.stem or 'name') + wanted!r}")
