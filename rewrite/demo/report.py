"""The report of a study: one HTML file that needs nothing else."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, StrictUndefined

from rewrite.demo.study import Study
from rewrite.disk import write
from rewrite.expand import expand
from rewrite.measure import ladder_table
from rewrite.paths import count_paths


def write_report(found: Study, out: Path, seconds: float) -> Path:
    """Write `report.html` from a study and the pictures that lie in `out`."""
    source = (files("rewrite.demo") / "report.html.j2").read_text(encoding="utf-8")
    template = Environment(autoescape=True, undefined=StrictUndefined).from_string(source)
    best = found.hypotheses[found.best]
    texts = found.pairs.texts or {}
    text = template.render(
        found=found,
        paths=f"{count_paths('...', found.parts.dag):.3e}",
        best=best,
        best_result=found.results[found.best],
        cost=expand(best).cost,
        examples=list(zip(*texts.values(), strict=True))[:4],
        runs=list(texts),
        pictures={name: _inline(out / f"{name}.svg")
                  for name in ("expanded", "heads", "ladder", "examples")},
        rows=ladder_table(found.results).to_dict("records"),
        seconds=f"{seconds:.0f}",
        toml=(out / "hypothesis.toml").read_text(encoding="utf-8"),
    )
    return write(out / "report.html", text)


def _inline(path: Path) -> str:
    """An SVG file as an element, without its XML head."""
    text = path.read_text(encoding="utf-8")
    return text[text.index("<svg") :]
