"""How well the model predicts, and which heads attend to the previous token or to induction's.

On a sequence of random tokens that comes twice, only induction can predict the second half: look
for the previous occurrence of the current token, attend to the token after it, predict that one.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

import torch
from jaxtyping import Float, Int
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn.functional import cross_entropy

from examples.induction.model import Transformer

HALF = 128


@dataclass(frozen=True)
class Scores:
    """What is measured now and then in training; losses in nats per token, heads by layer."""

    step: int
    loss: float
    first_half: float
    second_half: float
    induction: list[list[float]]
    previous: list[list[float]]

    @property
    def best(self) -> float:
        """Score of the best induction head."""
        return max(score for layer in self.induction for score in layer)


def losses(
    model: Transformer, tokens: Int[Tensor, "batch seq"]
) -> Float[Tensor, "batch seq_minus_one"]:
    """Minus log-probability of each token after the first."""
    logits = model(tokens[:, :-1]).logits
    return cross_entropy(logits.transpose(1, 2), tokens[:, 1:], reduction="none")


def repeated(
    vocabulary: int, count: int, half: int = HALF, seed: int = 0
) -> Int[Tensor, "count twice_half_plus_one"]:
    """`<begin>` and random tokens, the same `half` of them twice."""
    draw = torch.Generator().manual_seed(seed)
    once = torch.randint(1, vocabulary, (count, half), generator=draw)
    return torch.cat([torch.zeros(count, 1, dtype=torch.long), once, once], dim=1)


def diagonal(
    patterns: Float[Tensor, "layer batch head q k"], back: int, start: int
) -> list[list[float]]:
    """Mean attention of each head to the key `back` tokens before the query, from `start` on."""
    along = patterns.diagonal(-back, dim1=-2, dim2=-1)  # entry i is query back + i, key i
    return along[..., start - back:].mean(dim=(1, -1)).tolist()


@torch.no_grad()
def measure(
    model: Transformer, text: Int[Tensor, "batch seq"], step: int = 0, count: int = 16
) -> Scores:
    """All scores of a model: loss on `text`, the others on `count` repeated random sequences."""
    was_training = model.training
    model.eval()
    half = min(HALF, (model.shape.context - 1) // 2)
    twice = repeated(model.shape.vocabulary, count, half)
    patterns = model.patterns(twice)
    found = losses(model, twice)
    loss = torch.cat([losses(model, part) for part in text.split(16)]).mean()
    model.train(was_training)
    return Scores(
        step=step, loss=float(loss), first_half=float(found[:, :half].mean()),
        second_half=float(found[:, half + 1:].mean()),
        induction=diagonal(patterns, half - 1, half + 1),
        previous=diagonal(patterns, 1, 1))


def draw(history: list[Scores], file: Path, said_twice: int = 0) -> None:
    """Losses beside the scores of all heads, over the steps of training.

    Heads that end above 0.3 are named; passages were said twice until the step `said_twice`.
    """
    steps = [scores.step for scores in history]
    figure = Figure(figsize=(11, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for values, label, style in (
        ([s.loss for s in history], "held-out text", "-"),
        ([s.first_half for s in history], "random tokens", ":"),
        ([s.second_half for s in history], "the same tokens again", "--"),
    ):
        left.plot(steps, values, style, color="black", label=label)
    left.set(xlabel="step", ylabel="loss (nats per token)", title="Loss")
    last = len(history[0].induction) - 1
    for rows, layer, color, kind in (
        ([s.previous for s in history], 0, "tab:blue", "previous token"),
        ([s.induction for s in history], last, "tab:red", "induction"),
    ):
        styles = cycle(("-", "--", ":", "-."))
        for head in range(len(rows[0][layer])):
            values = [row[layer][head] for row in rows]
            if values[-1] < 0.3:
                right.plot(steps, values, color=color, alpha=0.2)
                continue
            right.plot(steps, values, next(styles), color=color, label=f"a{layer}.h{head}, {kind}")
    right.set(xlabel="step", ylabel="attention", ylim=(-0.02, 1.02), title="Attention of each head")
    for axes in (left, right):
        if said_twice:
            axes.axvline(said_twice, color="grey", linewidth=0.8)
    left.legend(frameon=False, loc="lower right", bbox_to_anchor=(1, 0.2), fontsize="small")
    if right.get_legend_handles_labels()[0]:
        right.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1), fontsize="small")
    figure.savefig(file, dpi=120)
