"""An experiment file: hypotheses, the model that they are about, pairs and metric to test."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rewrite.errors import FileError
from rewrite.expand import Hypothesis
from rewrite.files.disk import read, write_toml
from rewrite.measure import Metric, Pairs, metric
from rewrite.parts import Components
from rewrite.world import check_table, reading

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
    check_table(about, f"{path}: [model]", {}, {"name": str})
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
    return Experiment(about.get("name"), tuple(found.values()), pairs, measure)


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
        data["model"] = {"name": origin}
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
