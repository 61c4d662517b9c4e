"""Law 1 on tiny transformers: the expansion against a treeifier made of their own submodules."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from random import Random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import rewrite as rw
from tests.laws.model_oracle import treeified
from tests.laws.oracle import Word
from tests.laws.random_dags import hypotheses, path_set, random_set
from tests.zoo import Traced, error, tiny, tokens, trace, traced

FAMILIES = ["gpt2", "llama", "qwen3"]
RUNS = {name: tokens(2, 5, seed) for seed, name in enumerate(
    ["clean", "corrupt", "other", "rest", "run0", "run1", "run2"])}


def through(word: Word, *names: str) -> bool:
    """Whether a path passes these nodes, directly one after the other."""
    for start in range(len(word) - len(names) + 1):
        here = word[start : start + len(names)]
        if all(s == n or s.startswith(f"{n}.") for s, n in zip(here, names, strict=True)):
            return True
    return False


WHOLE = ("tokens", "embed", "a0.h1.v", "m0", "a1.h0.k", "logits")

# What a pattern means is said again beside it, as a function of a path.
CASES: dict[str, tuple[dict[str, str], Callable[[Word], str]]] = {
    "node": ({"clean": "a0.h1"}, lambda w: "clean" if through(w, "a0.h1") else "corrupt"),
    "port": ({"clean": "a1.h0.k"}, lambda w: "clean" if through(w, "a1.h0.k") else "corrupt"),
    "layer": ({"clean": "a0"}, lambda w: (
        "clean" if any(s.startswith("a0.") for s in w) else "corrupt")),
    "edge": ({"clean": "a0.h1 -> a1.h0.q"}, lambda w: (
        "clean" if through(w, "a0.h1", "a1.h0.q") else "corrupt")),
    "path": ({"clean": " -> ".join(WHOLE)}, lambda w: "clean" if w == WHOLE else "corrupt"),
    "all but one path": ({"clean": f"~({' -> '.join(WHOLE)})"}, lambda w: (
        "corrupt" if w == WHOLE else "clean")),
    "complement of a node": ({"clean": "~(a0.h1 | m1)"}, lambda w: (
        "corrupt" if through(w, "a0.h1") or through(w, "m1") else "clean")),
    "M twice": ({"clean": "a0.h0 -> m0 -> a1.h0 | a0.h1 -> m0 -> logits"}, lambda w: (
        "clean" if through(w, "a0.h0", "m0", "a1.h0") or through(w, "a0.h1", "m0", "logits")
        else "corrupt")),
    "M twice, the recombined paths": (
        {"clean": "a0.h0 -> m0 -> logits | a0.h1 -> m0 -> a1.h0"}, lambda w: (
            "clean" if through(w, "a0.h0", "m0", "logits") or through(w, "a0.h1", "m0", "a1.h0")
            else "corrupt")),
    "three runs": ({"clean": "a0.h0 -> a1", "other": "m0 - (a0.h0 -> a1)"}, lambda w: (
        "clean" if any(through(w, "a0.h0", f"a1.h{h}") for h in range(4))
        else "other" if through(w, "m0") else "corrupt")),
    "three runs at one head": ({"clean": "a1.h0.q", "other": "a1.h0.k"}, lambda w: (
        "clean" if through(w, "a1.h0.q") else "other" if through(w, "a1.h0.k") else "corrupt")),
    "no heads": ({"clean": "tokens -> embed -> m0? -> m1? -> logits"}, lambda w: (
        "corrupt" if any(".h" in s for s in w) else "clean")),
    "long patterns": ({"clean": "a0.h[0-1].{q,v} -> ... -> a1.h* - (m0 -> a1.h1)"}, lambda w: (
        "clean" if w[2] in {f"a0.h{h}.{p}" for h in (0, 1) for p in "qv"} and len(w) > 4
        and any(s.startswith("a1.") for s in w) and not through(w, "m0", "a1.h1") else "corrupt")),
}


def inputs_of(exp: rw.Expansion) -> dict[str, dict[str, torch.Tensor]]:
    """The tokens of each run that an expansion needs."""
    return {run: {"input_ids": RUNS[run]} for run in exp.runs}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("case", CASES)
def test_path_sets(family: str, case: str) -> None:
    at = traced(family, torch.float64)
    runs, choose = CASES[case]
    exp = rw.expand(rw.Hypothesis(at.parts, runs))
    with torch.no_grad():
        found = exp(**inputs_of(exp)).logits
    wanted = treeified(family, at.model, RUNS, choose)
    assert error(found, wanted) < 1e-10
    eager = at.model(input_ids=RUNS["clean"]).logits, at.model(input_ids=RUNS["corrupt"]).logits
    assert all(error(found, other) > 1e-6 for other in eager)


def test_grouped_keys() -> None:
    """`a1.kv0.k` is what heads 0 and 1 read as key; each head is a path of its own."""
    at = traced("llama", torch.float64)
    exp = rw.expand(rw.Hypothesis(at.parts, {"clean": "a1.kv0.k"}))
    wanted = treeified("llama", at.model, RUNS, lambda w: (
        "clean" if {"a1.h0.k", "a1.h1.k"} & set(w) else "corrupt"))
    assert error(exp(**inputs_of(exp)).logits.detach(), wanted) < 1e-10


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_the_oracle_is_the_model_if_all_paths_read_one_run(family: str) -> None:
    model = traced(family, torch.float64).model
    found = treeified(family, model, RUNS, lambda w: "other")
    assert error(found, model(input_ids=RUNS["other"]).logits.detach()) < 1e-12


@lru_cache(maxsize=1)
def deep() -> Traced:
    """Three layers of two heads, small enough for all of its 2744 paths."""
    model = tiny("gpt2", torch.float64, n_layer=3, n_head=2, n_embd=16)
    graph = trace(model)
    return Traced(model, graph, graph.components())


@pytest.mark.parametrize(("runs", "choose"), [
    ({"clean": "a0.h0 -> m1 -> a2.h1.k", "other": "m0 -> a1.h0 - (a0.h0 -> m1 -> a2.h1.k)"},
     lambda w: "clean" if through(w, "a0.h0", "m1", "a2.h1.k")
     else "other" if through(w, "m0", "a1.h0") else "corrupt"),
    ({"clean": "(a*.h0)* -> logits & ~m*"}, lambda w: (
        "corrupt" if {"m0", "m1", "m2"} & set(w) else "clean")),
    ({"clean": "embed -> (a*.h0)* -> logits"}, lambda w: (
        "clean" if all(".h0" in s for s in w[2:-1]) else "corrupt")),
])
def test_three_layers(runs: dict[str, str], choose: Callable[[Word], str]) -> None:
    at = deep()
    assert rw.count_paths("...", at.parts.dag) == 14**3
    exp = rw.expand(rw.Hypothesis(at.parts, runs))
    with torch.no_grad():
        found = exp(**inputs_of(exp)).logits
    assert error(found, treeified("gpt2", at.model, RUNS, choose)) < 1e-10


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@settings(max_examples=25, derandomize=True, deadline=None)
@given(data=st.data())
def test_random_path_sets(family: str, data: st.DataObject) -> None:
    at = traced(family, torch.float64)
    parts = replace(at.parts, dag=replace(at.parts.dag, spellings={}))  # the oracle knows none
    runs, choose = data.draw(hypotheses(parts.dag))
    reachable = {r: p for r, p in runs.items() if rw.count_paths(p, parts.dag)}
    exp = rw.expand(rw.Hypothesis(
        parts, reachable or {"run0": rw.PathSet.none()}, default="rest"))
    with torch.no_grad():
        found = exp(**inputs_of(exp)).logits
    assert error(found, treeified(family, at.model, RUNS, choose)) < 1e-10


def test_the_random_path_sets_are_no_trivial_ones() -> None:
    dag = traced("gpt2", torch.float64).parts.dag
    mixed = 0
    for seed in range(20):
        count = rw.count_paths(path_set(random_set(Random(seed), dag, 1), dag).text, dag)
        mixed += 0 < count < rw.count_paths("...", dag)
    assert mixed > 12
