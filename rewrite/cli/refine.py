"""`rewrite refine`: a hypothesis from a file, refined, with its log."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rewrite.cli import show
from rewrite.discover import Refined, completeness
from rewrite.discover import refine as refine_hypothesis
from rewrite.discover.candidates import generators
from rewrite.discover.refine import check_numbers
from rewrite.disk import write
from rewrite.errors import FileError
from rewrite.expand import Hypothesis
from rewrite.files import read_experiment, save
from rewrite.files.experiment import Experiment
from rewrite.measure import Metric, Pairs
from rewrite.trace import trace


def refine(
    hypothesis: Annotated[Path, typer.Argument(help="An experiment file (.toml).")],
    out: Annotated[Path, typer.Option(
        "--out", "-o", help="Folder; a session that is there is gone on with.")] = Path("refined"),
    steps: Annotated[int, typer.Option(help="The most steps that let paths in.")] = 5,
    goal: Annotated[float, typer.Option(help="Stop at this proportion explained.")] = 0.9,
    tolerance: Annotated[float, typer.Option(
        help="What a change must gain, or may lose, of the total effect.")] = 0.01,
    holdout: Annotated[float, typer.Option(
        help="Share of the pairs that takes no part in choosing.")] = 0.5,
    candidates: Annotated[str, typer.Option(
        help="What to try, joined by |: extend, restrict, swap.")] = "extend|restrict|swap",
    by: Annotated[str, typer.Option(help="Rank by gain_per_path or by gain.")] = "gain_per_path",
    number: Annotated[int, typer.Option(help="Which hypothesis of the file.")] = 1,
    seed: Annotated[int, typer.Option(help="Of the choice which pairs are held out.")] = 0,
    batch_size: Annotated[int, typer.Option(min=1)] = 32,
    chunk: Annotated[int, typer.Option(min=1, help="The most candidates at once.")] = 300,
    budget: Annotated[str | None, typer.Option(
        help="Memory that may be used, such as 2GB; half of what is free by default.")] = None,
) -> None:
    """Refine a hypothesis: let in what helps most per path, drop what is not needed."""
    with show.errors():
        experiment = read_experiment(hypothesis)
        model, pairs, metric = _needed(experiment, hypothesis, number)
        kinds = [name.strip() for name in candidates.split("|")]
        _ = generators(kinds)  # what is wrong is said before the model is traced
        check_numbers(steps, goal, tolerance, holdout)
        with show.steps() as step:
            tracing = step(f"tracing {model}")
            parts = trace(model, dynamic=experiment.dynamic).components()
            tracing(1, 1)
            log = refine_hypothesis(
                experiment.build(parts)[number - 1], pairs, metric, steps=steps, goal=goal,
                tolerance=tolerance, holdout=holdout, seed=seed, by=by,
                candidates=kinds, file=out / "log.json", batch_size=batch_size, chunk=chunk,
                budget=budget, progress=step("refining"), say=show.say)
            whole = completeness(log.hypothesis, pairs, metric, batch_size=batch_size,
                                 budget=budget, progress=step("the complement"))
        show.console.print(log.rich())
        show.say(f"on all {len(pairs)} pairs:\n{whole}")
        _write(log, out, pairs, metric)


def _needed(experiment: Experiment, file: Path, number: int) -> tuple[str, Pairs, Metric]:
    """Model, pairs and metric of a file that has this hypothesis."""
    model, pairs, metric = experiment.model, experiment.pairs, experiment.metric
    for name in ("model", "pairs", "metric"):
        if getattr(experiment, name) is None:
            raise FileError(f"{file} does not say which {name} to refine with: save it with "
                            "rw.save(hypothesis, path, pairs=pairs, metric=metric)")
    assert model and pairs and metric
    if not 1 <= number <= len(experiment.hypotheses):
        raise FileError(f"{file} holds {len(experiment.hypotheses)} hypotheses, there is no "
                        f"number {number}")
    return model, pairs, metric


def _write(log: Refined, out: Path, pairs: Pairs, metric: Metric) -> None:
    found = log.hypothesis
    refined = Hypothesis(found.parts, found.runs, found.default, "refined")
    save(refined, out / "refined.toml", pairs=pairs, metric=metric)
    write(out / "log.csv", log.table.to_csv(index=False))
    write(out / "log.md", log.markdown())
    log.draw(out / "log.png")
    show.say(f"wrote refined.toml with its pairs, log.json, log.csv, log.md and log.png to {out}")
    show.say(f"test it with: rewrite test {out / 'refined.toml'}")
