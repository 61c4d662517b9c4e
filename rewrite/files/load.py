"""`load`: what `save` wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rewrite.discover import Refined
from rewrite.errors import FileError
from rewrite.files.disk import read
from rewrite.files.experiment import read_experiment
from rewrite.files.graphs import load_graph
from rewrite.measure import Pairs, Result
from rewrite.parts import Components
from rewrite.run import Sweep
from rewrite.trace import trace
from rewrite.world import check_table, edited


def load(path: str | Path, parts: Components | None = None) -> Any:
    """Read a hypothesis (list if several), a result, sweep, pairs, log of refining, or a graph.

    A hypothesis, and the log of refining one, is about a component graph: give `parts`, or the
    model that the file names is traced.  A file is data: nothing in it is executed.  Raises
    `FileError` for other files, and for .pt2 files, which cannot be read without running them
    (see `load_trusted`).

    >>> rw.load("hypothesis.xlsx")
    Traceback (most recent call last):
    ...
    rewrite.errors.FileError: 'hypothesis.xlsx' is none of .toml, .json, .graph
    """
    path = Path(path)
    if path.suffix == ".graph":
        return load_graph(path)
    if path.suffix == ".pt2":
        raise FileError(f"reading {path} would run what it says, as torch.export.load unpickles "
                        f"and evaluates texts: if you trust it as a program of your own, write "
                        f"rw.load_trusted({str(path)!r}); files of others are .graph files")
    if path.suffix == ".toml":
        experiment = read_experiment(path)
        hypotheses = experiment.build(_about(parts, experiment.model, path,
                                             experiment.dynamic))
        return hypotheses[0] if len(hypotheses) == 1 else hypotheses
    if path.suffix != ".json":
        raise FileError(f"{path.name!r} is none of .toml, .json, .graph")
    data = read(path)
    kind = data.get("kind")
    about = _about(parts, data.get("model"), path) if kind == "refined" else None
    if kind not in ("result", "results", "pairs", "sweep", "refined"):
        raise FileError(f"{path} is JSON, but no result, sweep, pairs or log of refining: its "
                        f"kind is {kind!r}")
    with edited(f"{path} says that its kind is {kind!r}", "write it anew"):
        match kind:
            case "result":
                return Result.from_dict(data)
            case "results":
                check_table(data, "a file of results", {"kind": str, "results": list})
                return [Result.from_dict(item) for item in data["results"]]
            case "pairs":
                return Pairs.from_dict(data)
            case "sweep":
                return Sweep.from_dict(data)
            case _:
                assert about is not None
                return Refined.from_dict(data, about)


def _about(
    parts: Components | None, model: str | None, path: Path,
    dynamic: dict[str, dict[int, str]] | None = None,
) -> Components:
    if parts is None and model is None:
        raise FileError(f"{path} does not name its model: load(path, parts)")
    return parts or trace(model, dynamic=dynamic).components()
