"""A ladder of hypotheses about the induction heads, as in Goldowsky-Dill et al. 2023, section 3.

    python examples/induction/ladder.py --out induction-ladder

Every hypothesis leaves all paths important that do not run through the induction heads, and says
which of the others are: what these heads read as values, queries and keys, by which way and from
how far back.  Counterfactual texts are independent draws.  The effect is |difference of loss| of
single tokens, on tokens that complete a pair seen before in the text.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import torch
import typer
from jaxtyping import Bool, Int
from matplotlib.figure import Figure
from rich.progress import Progress
from torch import Tensor

if __name__ == "__main__":  # run as a script, from anywhere
    sys.path.insert(0, str(Path(__file__).parents[2]))

import rewrite as rw
from examples.induction.data import held_out
from examples.induction.model import WEIGHTS, Transformer, load
from examples.induction.scores import diagonal, repeated

LENGTH = 300
FOUND = 0.3  # attention from which a head is called an induction or a previous-token head


@dataclass(frozen=True)
class Heads:
    """Heads by what they do, measured on repeated random tokens.

    The parrot is the induction head that attends most to the token's own earlier occurrence.
    """

    induction: tuple[str, ...]
    previous: tuple[str, ...]
    parrot: str
    scores: dict[str, dict[str, float]]


def find_heads(model: Transformer, sequences: int = 32, half: int = 128) -> Heads:
    """Layer-1 heads that attend behind the previous occurrence, layer-0 heads that attend one back.

    Raises `ValueError` if the model has none.
    """
    tokens = repeated(model.shape.vocabulary, sequences, half)
    with torch.no_grad():
        patterns = model.patterns(tokens)
    behind, before = diagonal(patterns, half - 1, half + 1), diagonal(patterns, 1, 1)
    same = diagonal(patterns, half, half + 1)
    scores = {f"a{layer}.h{head}": {"induction": behind[layer][head],
                                    "previous token": before[layer][head],
                                    "same token": same[layer][head]}
              for layer in range(2) for head in range(model.shape.heads)}
    induction = tuple(
        n for n, s in scores.items() if n.startswith("a1.") and s["induction"] >= FOUND)
    previous = tuple(
        n for n, s in scores.items() if n.startswith("a0.") and s["previous token"] >= FOUND)
    if not induction or not previous:
        raise ValueError(f"no induction or previous-token heads above {FOUND}: {scores}")
    parrot = max(induction, key=lambda name: scores[name]["same token"])
    return Heads(induction, previous, parrot, scores)


def completes_a_pair(tokens: Int[Tensor, "batch seq"]) -> Bool[Tensor, "batch seq"]:
    """Tokens of the vocabulary's words whose pair with the token before them occurred earlier.

    The first token of the text, `<begin>`, counts for no pair.

    >>> completes_a_pair(torch.tensor([[0, 5, 6, 7, 5, 6]])).int().tolist()
    [[0, 0, 0, 0, 0, 1]]
    """
    pairs = tokens[:, :-1] * (int(tokens.max()) + 1) + tokens[:, 1:]
    seen = (pairs.unsqueeze(2) == pairs.unsqueeze(1)).tril(-1).any(-1)
    seen[:, 0] = False
    return torch.cat([torch.zeros(len(tokens), 1, dtype=torch.bool), seen], 1)


def independent_pairs(count: int, seed: int, file: Path | None = None) -> rw.Pairs:
    """Reference texts that hold tokens to measure, each with another text drawn at random.

    Raises `ValueError` if there are not enough texts.
    """
    texts = held_out() if file is None else held_out(file)
    marks = torch.cat([completes_a_pair(part) for part in texts[:, :LENGTH].split(64)])
    usable = marks.any(1).nonzero().flatten()
    if len(usable) < count:
        raise ValueError(f"{len(usable)} texts hold a repeated pair, {count} are asked for")
    draw = torch.Generator().manual_seed(seed)
    chosen = usable[torch.randperm(len(usable), generator=draw)[:count]]
    others = torch.randint(len(texts) - 1, (count,), generator=draw)
    others += (others >= chosen).long()  # any text but itself
    runs = {"clean": {"input_ids": texts[chosen, :LENGTH]},
            "corrupt": {"input_ids": texts[others, :LENGTH]}}
    return rw.Pairs.from_tensors(runs, labels={"repeats": marks[chosen]})


def ladder(heads: Heads) -> dict[str, str]:
    """What the induction heads read, as sets of important paths; V, Q, K by (back, included)."""
    ind = f"({' | '.join(heads.induction)})"
    v, q, k = (f"({' | '.join(f'{name}.{port}' for name in heads.induction)})" for port in "vqk")
    prev = f"({' | '.join(f'{name}.v' for name in heads.previous)})"
    rest = f"~{ind}"
    near_v, near_q = f"tokens -> ...[0] -> {v}", f"tokens -> ...[0] -> {q}"
    long_q, near_k = f"tokens -> ...[-2:1] -> {q}", f"tokens -> ...[-1] -> {k}"
    long_k = f"tokens -> ...[-3:0] -> {k}"
    return {
        "nothing of the heads": rest,
        "V direct": f"~{v} | embed -> {v}",
        "V (0,1)": f"~{v} | {near_v}",
        "Q direct": f"~{q} | embed -> {q}",
        "Q (0,1)": f"~{q} | {near_q}",
        "Q (2,3)": f"~{q} | {long_q}",
        "K previous-token heads": f"~{k} | embed -> {prev} -> {k}",
        "K (1,1)": f"~{k} | {near_k}",
        "K (3,3)": f"~{k} | {long_k}",
        "all initial": f"{rest} | embed -> {v} | embed -> {q} | embed -> {prev} -> {k}",
        "all, positions": f"{rest} | {near_v} | {near_q} | {near_k}",
        "all, long Q and K": f"{rest} | {near_v} | {long_q} | {long_k}",
        "all, long, parroting": (f"{rest} | {near_v} | {long_q} | {long_k} | "
                                 f"embed -> {heads.parrot}.k"),
    }


def measured(
    parts: rw.Components, rungs: dict[str, str], pairs: rw.Pairs, batch: int
) -> pd.DataFrame:
    """Each rung with its proportion explained, and how the expected difference flatters it.

    All rungs run as one expansion.  `seconds` are those of one batch of one rung alone.
    """
    hypotheses = [rw.Hypothesis(parts, {"clean": text}, name=name) for name, text in rungs.items()]
    metric = rw.loss_diff(position="all", mask="repeats")
    with Progress() as bar:
        task = bar.add_task("hypotheses x texts", total=None)
        results = rw.evaluate(
            hypotheses, pairs, metric, null=hypotheses[0], batch_size=batch, chunk=len(hypotheses),
            progress=lambda done, total: bar.update(task, completed=done, total=total))
    few = pairs.subset(slice(0, batch))
    rows = [_row(hypothesis, result, results[0], few, metric)
            for hypothesis, result in zip(hypotheses[1:], results[1:], strict=True)]
    return pd.DataFrame(rows)


def _row(
    hypothesis: rw.Hypothesis, result: rw.Result, null: rw.Result, few: rw.Pairs,
    metric: rw.Metric,
) -> dict[str, Any]:
    start = time.perf_counter()
    _ = rw.evaluate(hypothesis, few, metric, batch_size=len(few))
    seconds = time.perf_counter() - start
    changes = [abs(_change(each)) for each in (result, null)]
    explained = result.explained
    return {"hypothesis": hypothesis.name, "AUE": result.aue.value, "ATE": result.ate.value,
            "explained": explained.value, "low": explained.low, "high": explained.high,
            "expected loss": 1 - changes[0] / changes[1],
            "copies": sum(rw.expand(hypothesis).copies.values()), "seconds": seconds}


def _change(result: rw.Result) -> float:
    """The change of the expected loss."""
    assert result.scores is not None and result.reference_scores is not None
    return float(np.mean(result.scores) - np.mean(result.reference_scores))


def draw(table: pd.DataFrame, file: Path) -> None:
    """Bars of the proportion explained with intervals; the expected-loss version as a mark."""
    figure = Figure(figsize=(8, 0.42 * len(table) + 1.2), layout="constrained")
    axes = figure.subplots()
    places = range(len(table))[::-1]
    value = table["explained"]
    axes.barh(places, value, color="#4477aa", height=0.6, label="mean |difference of loss|",
              xerr=[value - table["low"], table["high"] - value])
    axes.plot(table["expected loss"], places, "D", color="#ee6677", label="|mean difference|")
    axes.axvline(0, color="black", linewidth=0.8)
    axes.axvline(1, color="black", linewidth=0.8, linestyle=":")
    axes.set_yticks(list(places), table["hypothesis"])
    axes.set_xlabel("proportion explained")
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(file, dpi=150)


def main(
    out: Annotated[Path, typer.Option(help="folder for table and picture")] = Path(
        "induction-ladder"),
    sequences: Annotated[int, typer.Option(help="reference texts")] = 2000,
    batch: int = 8, seed: int = 0, weights: Path = WEIGHTS,
    texts: Annotated[Path | None, typer.Option(help="held-out tokens of another folder")] = None,
) -> None:
    """Find the heads, climb the ladder, write ladder.csv, ladder.json and ladder.png."""
    out.mkdir(parents=True, exist_ok=True)
    model = load(weights)
    heads = find_heads(model)
    print("induction heads:", ", ".join(heads.induction))
    print("previous-token heads:", ", ".join(heads.previous))
    pairs = independent_pairs(sequences, seed, texts)
    example = {"input_ids": pairs.runs["clean"][0]["input_ids"][None].repeat(2, 1)[:, :20]}
    parts = rw.trace(model, inputs=example).components()
    rungs = ladder(heads)
    table = measured(parts, rungs, pairs, batch)
    print(table.round(3).to_string(index=False))
    table.to_csv(out / "ladder.csv", index=False)
    (out / "ladder.json").write_text(json.dumps(
        {"heads": heads.scores, "rungs": rungs, "sequences": sequences, "seed": seed}, indent=1))
    draw(table, out / "ladder.png")


if __name__ == "__main__":
    typer.run(main)
