"""Induction heads of SmolLM2, on repeated random tokens and on repeated sentences.

    python examples/pretrained/induction.py --pairs 24 --out induction

Heads are named by where they attend on repeated random tokens.  Hypotheses then say from where
their keys, values and queries come.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from jaxtyping import Float, Int
from smollm import NAME, any_of, layer_of, start
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM

import rewrite as rw
from rewrite.cli import show
from rewrite.trace.packaged import folder

PERIOD, KNOWN = 12, 8  # random tokens before they repeat, and how many of the repeat are shown
START = 0  # <|endoftext|>, which stands before documents
WORDS = (1000, 40000)  # ids of ordinary tokens
METRIC = rw.loss_diff()  # |difference of the loss| of the repeated token


@dataclass(frozen=True)
class Found:
    """Heads by where they attend, the highest score first."""

    induction: list[str]
    previous: list[str]
    control: list[str]  # as many heads of the same layers, with the lowest induction score


def random_pairs(count: int, seed: int = 0) -> rw.Pairs:
    """Random tokens that repeat; `corrupt` are others without repeat, `aligned` with the same."""
    draw = torch.Generator().manual_seed(seed)
    shown = PERIOD + KNOWN

    def some(length: int) -> Int[Tensor, "count length"]:
        return torch.randint(*WORDS, (count, length), generator=draw)

    def prompt(ids: Tensor) -> dict[str, Tensor]:
        return {"input_ids": torch.cat([torch.full((count, 1), START), ids[:, :shown]], 1)}

    one, other, loose = some(PERIOD), some(PERIOD), some(shown)
    runs = {"clean": prompt(torch.cat([one, one], 1)), "corrupt": prompt(loose),
            "aligned": prompt(torch.cat([other, other], 1))}
    return rw.Pairs.from_tensors(
        runs, {"correct": one[:, KNOWN]},
        positions={"END": [shown] * count, "FIRST": [KNOWN] * count, "NEXT": [KNOWN + 1] * count})


@torch.no_grad()
def natural_pairs(tokenizer: Any, model: Any, count: int) -> rw.Pairs:
    """Sentences that repeat; `corrupt` is text made of the sentences that follow in the list."""
    file = Path(__file__).with_name("repeats.toml")
    sentences = tomllib.loads(file.read_text(encoding="utf-8"))["sentences"]
    tokens = [tokenizer.encode(f" {line}", add_special_tokens=False) for line in sentences]
    runs: dict[str, list[dict[str, Tensor]]] = {"clean": [], "corrupt": []}
    correct, places = [], {"END": [], "FIRST": [], "NEXT": []}
    for i, ids in enumerate(tokens[:count]):
        n, others = len(ids), [t for j in (1, 2, 3) for t in tokens[(i + j) % len(tokens)]]
        twice = torch.tensor([START, *ids, *ids])
        loss = cross_entropy(model(input_ids=twice[None, :-1]).logits[0], twice[1:],
                             reduction="none")
        k = int((loss[:n] - loss[n:]).argmax())  # which word is guessed better by most
        shown = n + k + 1
        runs["clean"].append({"input_ids": twice[:shown]})
        runs["corrupt"].append({"input_ids": torch.tensor([START, *others])[:shown]})
        correct.append(twice[shown])
        for name, place in zip(places, (shown - 1, k, k + 1), strict=True):
            places[name].append(torch.tensor([place]))
    return rw.Pairs(runs, {"correct": correct}, positions=places)


@torch.no_grad()
def find_heads(model: Any, pairs: rw.Pairs, least: float) -> Found:
    """Heads that attend more than `least` to the token behind the earlier copy, or one back."""
    ids = next(pairs.batches(len(pairs))).inputs["clean"]["input_ids"]
    weights = torch.stack(model(input_ids=ids, output_attentions=True).attentions)
    rows = torch.arange(PERIOD + 1, ids.shape[1])
    induction, previous = (
        _ranked(weights[:, :, :, rows, rows - back].mean((1, 3))) for back in (PERIOD - 1, 1))
    named = [_above(scores, name, least) for name, scores in
             (("induction", induction), ("previous token", previous))]
    quiet = [head for head in reversed(induction) if head not in named[0]]
    control: list[str] = []
    for head in named[0]:
        control += [other for other in quiet
                    if layer_of(other) == layer_of(head) and other not in control][:1]
    show.say(f"control: {', '.join(control)}")
    return Found(named[0], named[1], control)


def _ranked(scores: Float[Tensor, "layer head"]) -> dict[str, float]:
    values, order = scores.flatten().sort(descending=True)
    names = [f"a{i // scores.shape[1]}.h{i % scores.shape[1]}" for i in order.tolist()]
    return dict(zip(names, values.tolist(), strict=True))


def _above(scores: dict[str, float], name: str, least: float) -> list[str]:
    kept = [head for head, value in scores.items() if value > least]
    show.say(f"{name} heads: " + ", ".join(f"{head} {scores[head]:.2f}" for head in kept))
    return kept


def hypotheses(found: Found) -> dict[str, str]:
    """What is important alone, then the model with one port of the induction heads restricted."""
    q, k, v = (any_of(found.induction, port) for port in (".q", ".k", ".v"))
    heads, feeders = any_of(found.induction), any_of(found.previous, ".v[-1]")
    at = any_of(found.induction, "@END.v@NEXT")
    token, before = "tokens -> ...[0:1] ->", "tokens -> ...[-1] ->"
    return {
        "nothing": "~(...)",
        "V: the token": f"{token} {v}",
        "V the token, K the token before": f"{token} {v} | {before} {k}",
        "V the token, K the token before, Q the token":
            f"{token} {v} | {before} {k} | {token} {q}",
        "V, K, Q: up to three tokens back": f"tokens -> ...[-3:1] -> ({v} | {k} | {q})",
        "V any, from NEXT to END": at,
        "V, K, Q any": heads,
        "V, K, Q any of as many other heads": any_of(found.control),
        "all but the induction heads": f"~{heads}",
        "all but their V, and V the token": f"~{v} | {token} {v}",
        "all but their K, and K the token before": f"~{k} | {before} {k}",
        "all but their K, and K through previous-token heads":
            f"~{k} | {feeders} -> ... -> {k}",
        "all but their Q, and Q the token": f"~{q} | {token} {q}",
        "all three restricted": f"~{heads} | {token} {v} | {before} {k} | {token} {q}",
        "everything": "...",
    }


def main(
    pairs: Annotated[int, typer.Option(help="How many prompts of each kind.")] = 24,
    out: Annotated[Path, typer.Option(help="Where results go.")] = Path("induction"),
    least: Annotated[float, typer.Option(help="Attention from which on a head is named.")] = 0.3,
) -> None:
    """Find the heads, then test the same hypotheses on both kinds of repeats."""
    with show.errors(), show.steps() as step:
        setting = start(out, step)
        model = AutoModelForCausalLM.from_pretrained(folder(NAME), attn_implementation="eager")
        random = random_pairs(pairs)
        found = find_heads(model.eval(), random, least)
        natural = natural_pairs(setting.tokenizer, model, pairs)
        rungs = {name: {"clean": paths} for name, paths in hypotheses(found).items()}
        alone = {name: runs for name, runs in rungs.items() if "all" not in name}
        setting.ladder("induction_random", rungs, random, METRIC)
        setting.ladder("induction_aligned", alone, random, METRIC, "aligned")
        setting.ladder("induction_natural", rungs, natural, METRIC)


if __name__ == "__main__":
    typer.run(main)
