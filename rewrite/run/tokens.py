"""`token_effects`: what a hypothesis leaves unexplained, token by token."""

from __future__ import annotations

import numpy as np
import torch

from rewrite.errors import DataError
from rewrite.expand import Hypothesis, expand
from rewrite.measure import Metric, Pairs, loss_diff
from rewrite.measure.attribution import same_reference
from rewrite.measure.axes import axes_of
from rewrite.measure.tokens import Decoder, Passage, TokenEffects, token_texts
from rewrite.run.evaluate import check_runs, reference
from rewrite.run.execute import Progress, device_of
from rewrite.run.padded import check_positions
from rewrite.run.presence import notes_on_data
from rewrite.run.view import View


def token_effects(
    hypothesis: Hypothesis,
    pairs: Pairs,
    tokenizer: Decoder,
    metric: Metric | None = None,
    *,
    batch_size: int = 8,
    progress: Progress | None = None,
) -> TokenEffects:
    """The loss of every token under the model and under a hypothesis, to be drawn on the text.

    `metric` compares losses at all positions, `loss_diff(position="all", mask=...)` with a
    mask of the tokens that count (default: all but the first).  `evaluate` gives the mean of
    the same numbers per example.  Pairs with the same reference become one text, their
    counterfactuals draws of it.

        effects = rw.token_effects(hypothesis, pairs, tokenizer)
        effects.draw("text.html")

    Raises `DataError` for a metric with no value per token, without tokenizer, and where
    `evaluate` would.
    """
    metric = metric or loss_diff(position="all")
    if not metric.per_token:
        raise DataError(f"{metric} gives one number per example and none per token: measure with "
                        "loss_diff(position='all')")
    model = reference(hypothesis, pairs.reference)
    check_runs([model, hypothesis], pairs)
    groups = same_reference(pairs)
    notes = notes_on_data(hypothesis.path_sets.values(), hypothesis.parts, pairs,
                          hypothesis.run_names)
    token_texts(tokenizer, [])  # says what is wrong before anything runs
    ids, losses = _losses([model, hypothesis], pairs, metric, batch_size, progress)
    passages: list[Passage] = []
    for first in dict.fromkeys(groups.tolist()):
        drawn = np.stack([losses[i] for i in np.flatnonzero(groups == first).tolist()], 1)
        passages.append(Passage(first, token_texts(tokenizer, ids[first]), drawn[0], drawn[1]))
    return TokenEffects(hypothesis.describe(), str(metric), passages, tuple(notes))


def _losses(
    hypotheses: list[Hypothesis], pairs: Pairs, metric: Metric, batch_size: int,
    progress: Progress | None,
) -> tuple[dict[int, list[int]], dict[int, np.ndarray]]:
    """Token ids of each example, and its losses `[hypothesis, token]`."""
    expansion, view = expand(hypotheses), View.of(hypotheses[0].parts, pairs, metric)
    ids: dict[int, list[int]] = {}
    losses: dict[int, np.ndarray] = {}
    for batch in pairs.batches(batch_size):
        check_positions(expansion, view.layout, batch)
        moved = view.of_batch(batch.to(device_of(expansion)))
        with torch.no_grad():
            runs = {run: moved.inputs[run] for run in expansion.runs}
            outputs = expansion.run(moved.positions, **runs)
            found = torch.stack([metric.token_scores(output, moved) for output in outputs], 1)
        read = axes_of(metric, view.layout.outputs, view.layout).length
        written = moved.ids(read)
        assert written is not None  # or there would be no loss
        for i, tokens, values in zip(batch.index.tolist(), written.tolist(),
                                     found.double().cpu().numpy(), strict=True):
            ids[i], losses[i] = tokens, values
        if progress is not None:
            progress(len(ids), len(pairs))
    return ids, losses
