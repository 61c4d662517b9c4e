"""Padding changes no number: each example as if it stood alone, by hooks on the original model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import rewrite as rw
from rewrite.errors import DataError
from rewrite.ir.ablate import means
from rewrite.measure import Batch
from rewrite.measure.check import as_positions
from tests.zoo import tiny, trace

LONGEST, N, VOCAB = 8, 5, 97


class Told(nn.Module):
    """One layer of attention that reads a mask of its own kind, True at padding."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.out = nn.Embedding(VOCAB, 16), nn.Linear(16, VOCAB)
        self.q, self.k, self.v, self.o = (nn.Linear(16, 16, bias=False) for _ in range(4))

    def forward(self, ids: Tensor, hidden: Tensor) -> Tensor:
        x = self.embed(ids)
        q, k, v = (f(x).unflatten(-1, (4, 4)).transpose(1, 2) for f in (self.q, self.k, self.v))
        scores = (q @ k.transpose(-1, -2)).masked_fill(hidden[:, None, None], -1e9)
        x = x + self.o((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))
        return self.out(x)


@dataclass(frozen=True)
class Case:
    """A model, how it is told of padding, and where its heads stand side by side."""

    model: nn.Module
    parts: rw.Components
    ids: str
    mask: str
    real: int
    layers: tuple[str, ...]

    def given(self, ids: Tensor, real: Tensor) -> dict[str, Tensor]:
        told = real if self.real else ~real
        kind = torch.bool if self.mask == "hidden" else torch.long
        return {self.ids: ids, self.mask: told.to(kind)}

    def logits(self, ids: Tensor, hook: Callable[..., Any] | None = None, layer: int = 0) -> Tensor:
        """Of one example without padding, with a hook in front of an output projection."""
        place = self.model.get_submodule(self.layers[layer])
        handle = place.register_forward_pre_hook(hook) if hook else None
        try:
            with torch.no_grad():
                found = self.model(**self.given(ids[None], torch.ones(1, len(ids)).bool()))
        finally:
            if handle:
                handle.remove()
        return getattr(found, "logits", found)[0]


PLACES = {
    "llama": ("model.layers.{}.self_attn.o_proj", 2),
    "gpt2": ("transformer.h.{}.attn.c_proj", 2),
    "told": ("o", 1),
}


@cache
def case(name: str) -> Case:
    torch.manual_seed(0)
    model = Told().eval() if name == "told" else tiny(name)
    for weight in model.parameters():
        if weight.ndim > 1:
            weight.data.mul_(1 if name == "told" else 6)
    where, count = PLACES[name]
    ids, mask, real = ("ids", "hidden", 0) if name == "told" else ("input_ids", "attention_mask", 1)
    made = Case(model, None, ids, mask, real, tuple(where.format(i) for i in range(count)))  # pyright: ignore[reportArgumentType]
    example = made.given(torch.randint(0, VOCAB, (3, 6)), torch.ones(3, 6).bool())
    parts = trace(model, example).components()
    return Case(model, parts, ids, mask, real, made.layers)


METRICS: dict[str, Callable[[Tensor, Tensor, Tensor, int, int], Tensor]] = {
    "last kl": lambda r, h, ids, c, w: kl(r[-1], h[-1]),
    "all kl": lambda r, h, ids, c, w: kl(r, h).mean(),
    "second kl": lambda r, h, ids, c, w: kl(r[1], h[1]),
    "last but one kl": lambda r, h, ids, c, w: kl(r[-2], h[-2]),
    "logit": lambda r, h, ids, c, w: ((h[-1, c] - h[-1, w]) - (r[-1, c] - r[-1, w])).abs(),
    "labelled logit": lambda r, h, ids, c, w: ((h[0, c] - h[0, w]) - (r[0, c] - r[0, w])).abs(),
    "loss": lambda r, h, ids, c, w: (h[-1].log_softmax(-1)[c] - r[-1].log_softmax(-1)[c]).abs(),
    "all loss": lambda r, h, ids, c, w: (losses(h, ids) - losses(r, ids)).abs().mean(),
    "own": lambda r, h, ids, c, w: (h[-1] - r[-1]).abs().sum(),
}


def measures() -> dict[str, rw.Metric]:
    def own(r: Any, h: Any, batch: Batch) -> Tensor:
        r, h = getattr(r, "logits", r), getattr(h, "logits", h)
        return h.sub_(r)[:, -1].abs().sum(-1)  # writes to what it is given

    return {
        "last kl": rw.kl_divergence(), "all kl": rw.kl_divergence(position="all"),
        "second kl": rw.kl_divergence(position=1),
        "last but one kl": rw.kl_divergence(position=-2), "logit": rw.logit_diff(),
        "labelled logit": rw.logit_diff(position="first"), "loss": rw.loss_diff(),
        "all loss": rw.loss_diff(position="all"), "own": rw.custom(own, "own", position=-1),
    }


def kl(r: Tensor, h: Tensor) -> Tensor:
    p, q = r.log_softmax(-1), h.log_softmax(-1)
    return (p.exp() * (p - q)).sum(-1)


def losses(logits: Tensor, ids: Tensor) -> Tensor:
    return -logits[:-1].log_softmax(-1).gather(1, ids[1:, None])[:, 0]


@dataclass(frozen=True)
class Drawn:
    """Examples of different lengths, padded on one side."""

    alone: dict[str, list[Tensor]]
    pairs: rw.Pairs
    correct: Tensor
    wrong: Tensor


def drawn(at: Case, side: str, seed: int) -> Drawn:
    draw = torch.Generator().manual_seed(seed)
    lengths = torch.randint(2, LONGEST + 1, (N,), generator=draw).tolist()
    alone = {run: [torch.randint(0, VOCAB, (n,), generator=draw) for n in lengths]
             for run in ("clean", "corrupt")}
    real = torch.zeros(N, LONGEST, dtype=torch.bool)
    padded = {run: torch.randint(0, VOCAB, (N, LONGEST), generator=draw) for run in alone}
    first = torch.zeros(N, dtype=torch.long)
    for i, n in enumerate(lengths):
        columns = slice(LONGEST - n, LONGEST) if side == "left" else slice(0, n)
        real[i, columns] = True
        first[i] = columns.start
        for run in alone:
            padded[run][i, columns] = alone[run][i]
    correct = torch.randint(0, VOCAB // 2, (N,), generator=draw)
    wrong = torch.randint(VOCAB // 2, VOCAB, (N,), generator=draw)
    pairs = rw.Pairs.from_tensors(
        {run: at.given(ids, real) for run, ids in padded.items()},
        labels={"correct": correct, "wrong": wrong, "first": first})
    return Drawn(alone, pairs, correct, wrong)


def oracle(at: Case, data: Drawn, heads: list[tuple[int, int]]) -> dict[str, Tensor]:
    """Effects `[head, example]` by metric, of examples that stand alone: the last row is none."""
    found = {name: torch.zeros(len(heads) + 1, N) for name in METRICS}
    for i in range(N):
        clean, corrupt = (data.alone[run][i] for run in ("clean", "corrupt"))
        reference = at.logits(clean)
        outputs = [at.logits(corrupt, patch(at, clean, *head), head[0]) for head in heads]
        for row, output in enumerate([*outputs, at.logits(corrupt)]):
            for name, by_hand in METRICS.items():
                found[name][row, i] = by_hand(
                    reference, output, clean, int(data.correct[i]), int(data.wrong[i]))
    return found


def patch(at: Case, clean: Tensor, layer: int, head: int) -> Callable[..., Any]:
    kept: list[Tensor] = []
    at.logits(clean, lambda module, args: kept.append(args[0].clone()), layer)
    width = kept[0].shape[-1] // 4
    own = slice(head * width, (head + 1) * width)

    def hook(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        mixed = args[0].clone()
        mixed[..., own] = kept[0][..., own]
        return (mixed,)

    return hook


@pytest.mark.parametrize(("name", "side"), [
    ("llama", "left"), ("llama", "right"), ("gpt2", "right"), ("told", "left"), ("told", "right")])
@pytest.mark.parametrize("seed", range(2))
def test_effects_are_those_of_examples_alone(name: str, side: str, seed: int) -> None:
    at = case(name)
    data = drawn(at, side, seed)
    heads = [(layer, head) for layer in range(len(at.layers)) for head in (seed, 2 + seed)]
    wanted = oracle(at, data, heads)
    hypotheses = [rw.Hypothesis(at.parts, {"clean": f"a{a}.h{h}"}) for a, h in heads]
    for number, (key, metric) in enumerate(measures().items()):
        found = rw.evaluate(hypotheses, data.pairs, metric, batch_size=1 + (number + seed) % 5,
                            chunk=1 + number % 3)
        scale = float(wanted[key].abs().max())
        assert scale > 1e-3
        for row, result in zip(wanted[key], found, strict=False):
            error = (torch.tensor(result.effects) - row).abs().max()
            assert error <= 2e-4 * scale, (key, error, scale)
            error = (torch.tensor(result.null_effects) - wanted[key][-1]).abs().max()
            assert error <= 2e-4 * scale, (key, error, scale)


@pytest.mark.parametrize(("side", "good", "bad"), [
    ("right", "[0]", "[-1]"), ("right", "[1:]", "[-2:]"), ("left", "[-1]", "[0]"),
    ("left", "[-2:]", "[1:]")])
def test_positions_of_paths_mean_tokens_or_are_refused(side: str, good: str, bad: str) -> None:
    at = case("llama")
    data = drawn(at, side, 3)
    metric = rw.kl_divergence()
    found = rw.evaluate(rw.Hypothesis(at.parts, {"clean": f"a0.h1@{good}"}), data.pairs, metric)
    for i in range(N):  # tails and masks are those of one example without padding
        alone = {run: at.given(ids[i][None], torch.ones(1, len(ids[i])).bool())
                 for run, ids in data.alone.items()}
        single = rw.evaluate(rw.Hypothesis(at.parts, {"clean": f"a0.h1@{good}"}),
                             rw.Pairs.from_tensors(alone), metric)
        assert abs(single.effects[0] - found.effects[i]) <= 1e-4 * found.effects.max()
    with pytest.raises(DataError, match=r"counts columns, .* padding: name the position"):
        rw.evaluate(rw.Hypothesis(at.parts, {"clean": f"a0.h1@{bad}"}), data.pairs, metric)
    ends = {"END": [len(ids) - 1 for ids in data.alone["clean"]]}
    named = rw.Pairs(data.pairs.runs, data.pairs.labels, positions=as_positions(ends))
    hypothesis = rw.Hypothesis(at.parts, {"clean": "a0.h1@END"})
    if side == "right":
        assert rw.evaluate(hypothesis, named, metric).n == N
    else:
        with pytest.raises(DataError, match=r"@END is column .* is padding"):
            rw.evaluate(hypothesis, named, metric)


@pytest.mark.parametrize(("name", "side"), [("llama", "left"), ("told", "right")])
def test_losses_of_tokens_are_those_of_examples_alone(name: str, side: str) -> None:
    at = case(name)
    data = drawn(at, side, 4)
    hypothesis = rw.Hypothesis(at.parts, {"clean": "a0.h1"})
    found = rw.token_effects(hypothesis, data.pairs, Numbers(), batch_size=2)  # pyright: ignore[reportArgumentType]
    for i, passage in enumerate(found.passages):
        clean, corrupt = data.alone["clean"][i], data.alone["corrupt"][i]
        wanted = torch.stack([losses(at.logits(clean), clean),
                              losses(at.logits(corrupt, patch(at, clean, 0, 1)), clean)])
        measured = torch.tensor(np.stack([passage.reference[0], passage.hypothesis[0]]))
        counted = ~measured[0].isnan()
        assert int(counted.sum()) == len(clean) - 1
        assert (measured[:, counted] - wanted).abs().max() <= 2e-4 * wanted.abs().max()


class Numbers:
    """A tokenizer that shows ids."""

    def decode(self, ids: list[int], **options: Any) -> str:
        return " ".join(map(str, ids))

    def convert_ids_to_tokens(self, ids: list[int]) -> list[str]:
        return [str(i) for i in ids]


@pytest.mark.parametrize(("name", "side"), [
    ("llama", "left"), ("llama", "right"), ("gpt2", "right"), ("told", "right")])
def test_means_are_over_real_tokens(name: str, side: str) -> None:
    """Of a head and of a sum, over one padded batch and over two, as over examples alone."""
    at = case(name)
    graph, data = at.parts.as_graph(), drawn(at, side, 5)
    kept: list[Tensor] = []
    for ids in data.alone["clean"]:
        at.logits(ids, lambda module, args: kept.append(args[0][0]), 0)
    weight = at.model.get_submodule(at.layers[0])
    rows = torch.cat(kept)
    width = rows.shape[-1] // 4
    alone = torch.zeros_like(rows)
    alone[:, width:2 * width] = rows[:, width:2 * width]
    with torch.no_grad():
        wanted = (weight(alone) - weight(torch.zeros_like(rows))).mean(0)
    examples = [{key: value[key] for key in value} for value in data.pairs.runs["clean"]]
    whole = {key: torch.stack([e[key] for e in examples]) for key in examples[0]}
    parts = [{key: value[:2] for key, value in whole.items()},
             {key: value[2:] for key, value in whole.items()}]
    for inputs in (whole, parts, parts[::-1]):
        (found,) = means(graph, ["a0_h1"], inputs)
        assert (found - wanted).abs().max() <= 2e-5 * wanted.abs().max()
    (by_place,) = means(graph, ["a0_h1"], whole, by_position=True) if side == "right" and all(
        any(len(ids) > p for ids in data.alone["clean"]) for p in range(LONGEST)) else (None,)
    if by_place is not None:
        for p in range(LONGEST):
            here = torch.stack([alone_row(weight, ids, p, width) for ids in kept if len(ids) > p])
            assert (by_place[0, p] - here.mean(0)).abs().max() <= 2e-5 * here.abs().max()


def alone_row(weight: nn.Module, rows: Tensor, p: int, width: int) -> Tensor:
    row = torch.zeros_like(rows[p])
    row[width:2 * width] = rows[p][width:2 * width]
    with torch.no_grad():
        return weight(row[None])[0] - weight(torch.zeros_like(row)[None])[0]
