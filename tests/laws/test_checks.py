"""A check does not depend on how things are run: what is wrong with data is said alike by all."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import pytest
import torch

import rewrite as rw
from rewrite.errors import DataError, InputError, RewriteError
from tests.zoo import tiny, tokens, trace, traced

Way = Callable[[rw.Components, rw.Pairs, Any], Any]


def data(length: int = 6, labels: Any = None, token: int = 1, mask: Any = None) -> rw.Pairs:
    runs = {run: {"input_ids": tokens(4, length, seed)}
            for seed, run in enumerate(("clean", "corrupt"), 1)}
    runs["corrupt"]["input_ids"][2, 1] = token
    if mask is not None:
        for inputs in runs.values():
            inputs["attention_mask"] = mask
    named = {"correct": torch.arange(4) + 7, "wrong": torch.arange(4) + 8}
    return rw.Pairs.from_tensors(runs, named if labels is None else labels)


def own(function: Callable[[Any, Any], Any]) -> rw.Metric:
    return rw.custom(lambda reference, hypothesis, batch: function(reference, hypothesis), "own",
                     position=-1)


WRONG: dict[str, tuple[Callable[[], rw.Pairs], Any, type[RewriteError], str]] = {
    "token": (lambda: data(token=5000), "logit_diff", InputError, "index out of range"),
    "negative token": (lambda: data(token=-3), "logit_diff", InputError, "index out of range"),
    "length": (lambda: data(length=400), "logit_diff", InputError, "shape"),
    "label": (lambda: data(labels={"correct": torch.tensor([1, 2, 3, 4000]),
                                   "wrong": torch.arange(4)}), "logit_diff", DataError, "4000"),
    "no label": (partial(data, labels={}), "logit_diff", DataError, "no such label"),
    "position": (data, rw.logit_diff(position=50), DataError, "position=50"),
    "position from the end": (data, rw.kl_divergence(position=-9), DataError, "position=-9"),
    "position in padding": (
        lambda: data(mask=torch.tensor([[1, 1, 1, 0, 0, 0]] + 3 * [[1] * 6])),
        rw.kl_divergence(position=4), DataError, "position=4"),
    "list": (data, own(lambda r, h: [1.0]), DataError, "found list"),
    "shape": (data, own(lambda r, h: h.logits), DataError, "one number per example"),
    "nan": (data, own(lambda r, h: h.logits[:, 0, 0] * float("nan")), DataError, "not finite"),
}


def about(parts: rw.Components, *texts: str) -> list[rw.Hypothesis]:
    return [rw.Hypothesis(parts, {"clean": text}) for text in texts]


WAYS: dict[str, Way] = {
    "one": lambda parts, p, m: rw.evaluate(about(parts, "m0")[0], p, m),
    "last row": lambda parts, p, m: rw.evaluate(about(parts, "a1.h1 -> logits"), p, m),
    "stacked": lambda parts, p, m: rw.evaluate(about(parts, "m0", "a0.h1 -> a1.h2.q"), p, m),
    "tails": lambda parts, p, m: rw.evaluate(about(parts, "a1.h1@[1]", "m0@[2]"), p, m),
    "pieces": lambda parts, p, m: rw.evaluate(about(parts, "m0", "a1.h1"), p, m, chunk=1),
    "batches": lambda parts, p, m: rw.evaluate(about(parts, "m0", "a1.h1"), p, m, batch_size=1),
    "edges": lambda parts, p, m: rw.sweep(parts, "a1.h*", pairs=p, metric=m),
    "nodes": lambda parts, p, m: rw.sweep(parts, "a0.h*", None, pairs=p, metric=m),
    "refining": lambda parts, p, m: rw.refinements(about(parts, "m0")[0], p, m),
    "compiled": lambda parts, p, m: rw.evaluate(about(parts, "m0"), p, m, compile=True),
}


def said(way: Way, parts: rw.Components, pairs: rw.Pairs, metric: Any) -> tuple[type, str]:
    """The error without what depends on the batch: its size, and the order of runs."""
    with pytest.raises(RewriteError) as error:
        way(parts, pairs, metric)
    text = re.sub(r"\[[\d, nan]*\]", "[]", str(error.value))
    return type(error.value), re.sub(r"clean|corrupt", "run", text)


@cache
def parts_of(masked: bool) -> rw.Components:
    example = {"input_ids": tokens(3, 5), "attention_mask": torch.ones(3, 5, dtype=torch.long)}
    return trace(tiny("gpt2"), example).components() if masked else traced("gpt2").parts


@pytest.mark.parametrize("wrong", WRONG)
def test_every_way_to_run_says_the_same(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = torch.compile
    monkeypatch.setattr(torch, "compile", lambda module, **_: real(module, backend="aot_eager"))
    make, metric, kind, words = WRONG[wrong]
    pairs = make()
    parts = parts_of(masked=wrong == "position in padding")
    found = {name: said(way, parts, pairs, metric) for name, way in WAYS.items()}
    assert set(found.values()) == {found["one"]}
    assert found["one"][0] is kind and words in found["one"][1]
