"""An experiment file: hypotheses, the model that they are about, pairs and metric to test."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rewrite.errors import FileError
from rewrite.expand import Hypothesis
from rewrite.files.disk import read, write_toml
from rewrite.kinds import kind_of, short
from rewrite.measure import Metric, Pairs, metric
from rewrite.parts import Components

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
    found = list(found.values()) if isinstance(found, dict) else None
    if not found or not all(isinstance(h, dict) and "runs" in h for h in found):
        raise FileError(f"{path} holds no hypothesis: it needs [hypothesis.1] and "
                        f"[hypothesis.1.runs]; found the keys {', '.join(data) or 'none'}")
    for number, each in data["hypothesis"].items():
        where = f"[hypothesis.{number}]"
        _typed(path, where, each, {"runs": dict[str, str], "default": str, "name": str})
    _typed(path, "the file", data, {"test": dict, "model": dict})
    test, about = data.get("test", {}), data.get("model", {})
    _typed(path, "[test]", test, {"pairs": str, "metric": dict})
    _typed(path, "[model]", about, {"name": str})
    pairs = None
    if "pairs" in test:
        pairs = Pairs.from_dict(read(path.parent / test["pairs"]))
    measure = None
    if "metric" in test:
        _typed(path, "[test.metric]", test["metric"], {"name": str}, needed="name")
        measure = metric(**test["metric"])
    return Experiment(about.get("name"), tuple(found), pairs, measure)


def _typed(
    path: Path, where: str, table: Mapping[str, Any], wanted: Mapping[str, Any], needed: str = "",
) -> None:
    """Raise `FileError` for a key whose value is of another kind than it must be."""
    if needed and needed not in table:
        raise FileError(f"{path}: {where} needs {needed} = ...")
    for key, hint in wanted.items():
        kind = kind_of(hint)
        if key in table and kind is not None and not kind.holds(table[key]):
            raise FileError(f"{path}: {key} of {where} must be {kind.words}, found "
                            f"{short(table[key])}")


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
