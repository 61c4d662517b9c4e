"""Pictures of results: which examples, and which tokens, a hypothesis leaves unexplained."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rewrite.errors import FileError
from rewrite.expand import Hypothesis
from rewrite.measure import Metric, Pairs, Result
from rewrite.measure.attribution import same_reference
from rewrite.run import token_effects
from rewrite.trace.packaged import PACKAGED
from rewrite.trace.packaged import folder as packaged_folder

TEXTS = 12  # texts that are coloured; more are for rw.token_effects


def write_plots(
    folder: Path, results: Sequence[Result], hypotheses: Sequence[Hypothesis], pairs: Pairs,
    metric: Metric, model: str,
) -> Iterator[Path]:
    """Write what the metric allows for each hypothesis, by its number in the file.

    Always a point per example; signed changes per reference example if the metric has a score;
    coloured texts, as page and picture, if it is a mean over tokens.
    """
    references = same_reference(pairs)
    few = pairs.subset(np.isin(references, np.unique(references)[:TEXTS]))
    tokenizer = tokenizer_of(model) if metric.per_token else None
    for number, (result, hypothesis) in enumerate(zip(results, hypotheses, strict=True), start=1):
        yield result.draw(folder / f"{number}_examples.png")
        if result.scores is not None:
            yield result.draw_attribution(folder / f"{number}_attribution.png")
        if tokenizer is not None:
            effects = token_effects(hypothesis, few, tokenizer, metric)
            yield from (effects.draw(folder / f"{number}_text{kind}") for kind in (".html", ".png"))


def tokenizer_of(model: str) -> Any:
    """The tokenizer beside a model; FileError if there is none."""
    from transformers import AutoTokenizer

    source = str(packaged_folder(model)) if model in PACKAGED else model
    try:
        return AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise FileError(f"texts are coloured token by token, and {source} has no tokenizer beside "
                        "the model: save one there with tokenizer.save_pretrained(folder), or "
                        "leave out --plots") from error
