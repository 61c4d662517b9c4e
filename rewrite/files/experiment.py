"""An experiment file: hypotheses, the model that they are about, pairs and metric to test."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rewrite.errors import FileError
from rewrite.expand import Hypothesis
from rewrite.files.disk import read, write_toml
from rewrite.ir.graph import Graph
from rewrite.measure import Metric, Pairs, metric
from rewrite.parts import Components
from rewrite.world import check_table, reading

Dynamic = dict[str, dict[int, str]]
HEAD = """A hypothesis of `rewrite`: each run lists the paths that read it, all others read the
default.  Test it with: rewrite test THIS_FILE
Patterns are read from input to output, see docs/path_language.md."""


@dataclass(frozen=True)
class Experiment:
    """What an experiment file says; `parts` is not part of it, the model is named."""

    model: str | None
    hypotheses: tuple[dict[str, Any], ...]
    pairs: Pairs | None
    metric: Metric | None
    dynamic: Dynamic | None = None  # which axes vary, as `rw.trace` takes it

    def build(self, parts: Components) -> list[Hypothesis]:
        """The hypotheses, about a component graph of the model."""
        return [
            Hypothesis(parts, dict(h["runs"]), h.get("default", "corrupt"), h.get("name", ""))
            for h in self.hypotheses
        ]


def read_experiment(path: str | Path) -> Experiment:
    """Read an experiment file (TOML or JSON).  Raises `FileError` if it is none."""
    path = Path(path)
    data = read(path)
    found = data.get("hypothesis")
    if not found or not isinstance(found, dict):
        raise FileError(f"{path} holds no hypothesis: it needs [hypothesis.1] and "
                        f"[hypothesis.1.runs]; found the keys {', '.join(data) or 'none'}")
    check_table(data, f"{path}", {"hypothesis": dict}, {"test": dict, "model": dict})
    for number, each in found.items():
        check_table(each, f"{path}: [hypothesis.{number}]", {"runs": dict[str, str]},
                    {"default": str, "name": str})
    test, about = data.get("test", {}), data.get("model", {})
    check_table(test, f"{path}: [test]", {}, {"pairs": str, "metric": dict})
    check_table(about, f"{path}: [model]", {}, {"name": str, "dynamic": dict[str, dict[str, str]]})
    pairs = measure = None
    if "pairs" in test:
        beside = path.parent / test["pairs"]
        data = read(beside)
        with reading(beside):
            pairs = Pairs.from_dict(data)
    if "metric" in test:
        check_table(test["metric"], f"{path}: [test.metric]", {"name": str}, others=True)
        with reading(path):
            measure = metric(**test["metric"])
    return Experiment(about.get("name"), tuple(found.values()), pairs, measure,
                      _dynamic(about.get("dynamic"), path))


def _dynamic(said: dict[str, dict[str, str]] | None, path: Path) -> Dynamic | None:
    """Axes by number, which are texts in TOML and JSON."""
    for name, axis in ((name, axis) for name, axes in (said or {}).items() for axis in axes):
        if not re.fullmatch(r"-?\d{1,3}", axis):
            raise FileError(f"{path}: [model.dynamic.{name}] names the axis {axis!r}: axes are "
                            'numbers, as in 0 = "batch"')
    return None if said is None else {
        name: {int(axis): label for axis, label in axes.items()} for name, axes in said.items()}


def _asked(graph: Graph) -> dict[str, dict[str, str]] | None:
    """The axes that vary, if the user said which."""
    if graph.certificate is None or "as asked" not in graph.certificate.varying:
        return None
    return {spec.name: {str(axis): dim for axis, dim in enumerate(spec.shape)
                        if isinstance(dim, str)} for spec in graph.inputs}


def write_experiment(
    path: Path,
    hypotheses: list[Hypothesis],
    pairs_file: str | None = None,
    measure: Metric | None = None,
) -> Path:
    """Write hypotheses about one model, with the pairs (a file beside it) and metric to test."""
    origin = hypotheses[0].parts.graph.origin
    data: dict[str, Any] = {}
    if origin is not None:
        dynamic = _asked(hypotheses[0].parts.graph)
        data["model"] = {"name": origin} | ({} if dynamic is None else {"dynamic": dynamic})
    test = {}
    if pairs_file is not None:
        test["pairs"] = pairs_file
    if measure is not None:
        test["metric"] = {k: v for k, v in measure.to_dict().items() if v is not None}
    if test:
        data["test"] = test
    data["hypothesis"] = {
        str(number): {"name": h.name, "default": h.default,
                      "runs": {run: str(paths) for run, paths in h.runs.items()}}
        for number, h in enumerate(hypotheses, start=1)
    }
    return write_toml(path, data, HEAD)
