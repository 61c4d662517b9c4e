"""`load`: what `save` wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rewrite.errors import FileError
from rewrite.files.disk import read
from rewrite.files.experiment import read_experiment
from rewrite.files.graphs import load_graph
from rewrite.measure import Pairs, Result
from rewrite.parts import Components
from rewrite.run import Sweep
from rewrite.trace import trace


def load(path: str | Path, parts: Components | None = None) -> Any:
    """Read a hypothesis (list if several), a result, sweep, pairs, or a graph.

    A hypothesis is about a component graph: give `parts`, or the model that the file names
    is traced.  A .pt2 file that torch.export.save wrote is a module.  Raises `FileError` for
    other files.

    >>> rw.load("hypothesis.xlsx")
    Traceback (most recent call last):
    ...
    rewrite.errors.FileError: 'hypothesis.xlsx' is none of .toml, .json, .pt2
    """
    path = Path(path)
    if path.suffix == ".pt2":
        return load_graph(path)
    if path.suffix == ".toml":
        experiment = read_experiment(path)
        if parts is None and experiment.model is None:
            raise FileError(f"{path} does not name its model: load(path, parts)")
        hypotheses = experiment.build(parts or trace(experiment.model).components())
        return hypotheses[0] if len(hypotheses) == 1 else hypotheses
    if path.suffix != ".json":
        raise FileError(f"{path.name!r} is none of .toml, .json, .pt2")
    data = read(path)
    kind = data.get("kind")
    if kind == "result":
        return Result.from_dict(data)
    if kind == "results":
        return [Result.from_dict(item) for item in data["results"]]
    if kind == "pairs":
        return Pairs.from_dict(data)
    if kind == "sweep":
        return Sweep.from_dict(data)
    raise FileError(f"{path} is JSON, but no result, sweep or pairs: its kind is {kind!r}")
