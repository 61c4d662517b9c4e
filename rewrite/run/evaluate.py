"""`evaluate`: how much of a behaviour the important paths of a hypothesis explain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import overload

from rewrite.errors import DataError, near
from rewrite.expand import Hypothesis, expand
from rewrite.measure import Measure, Pairs, Result, as_metric
from rewrite.measure.attribution import same_reference
from rewrite.paths import PathSet
from rewrite.paths.bind import Wiring
from rewrite.paths.pattern import names_in
from rewrite.run.compiled import Compile
from rewrite.run.execute import Progress
from rewrite.run.pieces import Pieces, Say
from rewrite.run.presence import notes_on_data


@overload
def evaluate(
    hypothesis: Hypothesis, pairs: Pairs, metric: Measure, *,
    null: Hypothesis | None = None, batch_size: int = 32, chunk: int = 300,
    budget: int | str | None = None, progress: Progress | None = None, say: Say | None = None,
    compile: Compile = False,
) -> Result: ...
@overload
def evaluate(
    hypothesis: Sequence[Hypothesis], pairs: Pairs, metric: Measure, *,
    null: Hypothesis | None = None, batch_size: int = 32, chunk: int = 300,
    budget: int | str | None = None, progress: Progress | None = None, say: Say | None = None,
    compile: Compile = False,
) -> list[Result]: ...
def evaluate(
    hypothesis: Hypothesis | Sequence[Hypothesis],
    pairs: Pairs,
    metric: Measure,
    *,
    null: Hypothesis | None = None,
    batch_size: int = 32,
    chunk: int = 300,
    budget: int | str | None = None,
    progress: Progress | None = None,
    say: Say | None = None,
    compile: Compile = False,
) -> Result | list[Result]:
    """Run hypotheses on pairs of prompts and compare each with the model on the reference run.

    `pairs` gives every run of the hypotheses; effects are `metric` between the model on the
    run `pairs.reference` and the expanded model, per example.  The null hypothesis is that
    nothing is important, so that every path reads the default run.  Several hypotheses run
    as one expansion and share their common parts, at most `chunk` at once and as many as fit
    into `budget`: bytes or a text such as "2GB", by default half of the memory that is free.

    `compile=True`, or a mode of `torch.compile`, runs compiled (see `rw.compiled`).

    Returns results with AUE, ATE and proportion explained (Goldowsky-Dill et al. 2023,
    section 2), each with a paired interval; what had to be made smaller to fit, and
    in how many examples a position is empty or the runs are equal, is in their notes, and told
    to `say`.  Raises `DataError` if the pairs lack a run of the hypotheses, if a position is
    empty in all examples, or if one hypothesis on one example is beyond the budget.

    >>> hypothesis = rw.Hypothesis(parts, {"clean": "..."}, name="everything")
    >>> rw.evaluate(hypothesis, pairs, "kl_divergence").explained.value
    1.0
    """
    single = isinstance(hypothesis, Hypothesis)
    hypotheses = [hypothesis] if single else list(hypothesis)
    if not hypotheses:
        raise DataError("there is no hypothesis to evaluate")
    measure = as_metric(metric)
    first = hypotheses[0]
    null = null or nothing(first, pairs.reference)
    base = [reference(first, pairs.reference), null]
    check_runs([*base, *hypotheses], pairs)
    if any(other.parts is not first.parts for other in hypotheses):
        expand(hypotheses)  # says what is wrong
    asked = [null, *hypotheses]
    told = notes_on_data([each for other in asked for each in other.path_sets.values()],
                         first.parts, pairs, [run for each in asked for run in each.run_names])
    if say is not None:
        for text in told:
            say(text)
    pieces = Pieces(base, pairs, measure, batch_size, chunk, budget, say, compile=compile)
    order = sorted(range(len(hypotheses)), key=lambda i: latest(hypotheses[i]))
    results: dict[int, Result] = {}
    references = same_reference(pairs)
    for piece, found in pieces.run(len(order), lambda i: hypotheses[order[i]], progress):
        for row, i in enumerate(piece, start=2):
            results[order[i]] = Result(
                hypothesis=hypotheses[order[i]].describe(), metric=str(measure),
                effects=found.effects[row], null_effects=found.effects[1],
                null=null.name or null.describe(),
                scores=None if found.scores is None else found.scores[row],
                reference_scores=None if found.scores is None else found.scores[0],
                references=references, reference=pairs.reference,
                texts=pairs.texts or {}, read=pieces.view.read,
            )
    ordered = [results[i] for i in range(len(order))]
    if notes := (*pairs.notes, *told, *pieces.notes):
        ordered = [replace(result, notes=notes) for result in ordered]
    return ordered[0] if single else ordered


def latest(hypothesis: Hypothesis) -> list[int]:
    """Where the paths of a hypothesis pass, the latest place first: neighbours share most."""
    wiring = Wiring.of(hypothesis.parts.dag)
    named = {name for path_set in hypothesis.path_sets.values()
             for name in names_in(path_set.pattern)}
    return sorted((wiring.named(name).bit_length() for name in named), reverse=True)


def reference(like: Hypothesis, run: str) -> Hypothesis:
    """All paths read the reference run: the model itself."""
    if run == like.default:
        other = next(iter(like.runs))
        return Hypothesis(like.parts, {other: PathSet.none()}, run, "everything")
    return Hypothesis(like.parts, {run: PathSet.all()}, like.default, "everything")


def nothing(like: Hypothesis, run: str) -> Hypothesis:
    """No path reads the reference run: all read the default, or the other run if that is it."""
    if run != like.default:
        return Hypothesis(like.parts, {run: PathSet.none()}, like.default, "nothing important")
    other = next(iter(like.runs))
    return Hypothesis(like.parts, {other: PathSet.all()}, like.default, "nothing important")


def check_runs(hypotheses: Sequence[Hypothesis], pairs: Pairs) -> None:
    """Raise `DataError` unless `pairs` has every run of the hypotheses."""
    for hypothesis in hypotheses:
        for run in hypothesis.run_names:
            if run not in pairs.run_names:
                raise DataError(f"the hypothesis reads a run {run!r} and the pairs have "
                                f"{', '.join(pairs.run_names)}; {near(run, pairs.run_names)}")
