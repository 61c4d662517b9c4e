"""Law 1 with positions: expansions against brute force over (node, position)."""

from __future__ import annotations

from functools import cache
from random import Random

import pytest
import torch

import rewrite as rw
from rewrite.errors import PathError
from tests.laws.positions_oracle import Path, Places, random_whole, treeified
from tests.zoo import Traced, error, tiny, tokens, trace

LENGTH, BATCH = 4, 2
CHANGES = {"gpt2": {"n_head": 2}, "llama": {"num_attention_heads": 2, "num_key_value_heads": 1}}
RUNS = {"clean": tokens(BATCH, LENGTH, 0), "corrupt": tokens(BATCH, LENGTH, 1)}
MASKS = {"A": torch.tensor([[0, 1, 0, 1], [0, 0, 0, 0]]).bool(),
         "B": torch.tensor([[0, 1, 1, 0], [1, 0, 0, 1]]).bool()}


@cache
def small(family: str) -> Traced:
    """Two layers with two heads, in double precision."""
    model = tiny(family, torch.float64, **CHANGES[family])
    graph = trace(model)
    return Traced(model, graph, graph.components())


def places(example: int) -> Places:
    """The named positions and the slices of one example."""
    named = {name: frozenset(mask[example].nonzero().flatten().tolist())
             for name, mask in MASKS.items()}
    return named | {"first": frozenset({0}), "last": frozenset({LENGTH - 2, LENGTH - 1})}


@pytest.mark.parametrize(("family", "seed"), [
    *(("gpt2", seed) for seed in range(10)), *(("llama", seed) for seed in range(4))])
def test_random_sets(family: str, seed: int) -> None:
    text, member = random_whole(Random(f"{family}{seed}"))
    at = small(family)
    try:
        hypothesis = rw.Hypothesis(at.parts, {"clean": text})
    except PathError:  # no path is in it, at any positions
        hypothesis = rw.Hypothesis(at.parts, {"clean": "~(...)"})
    exp = rw.expand(hypothesis)
    given = {run: {"input_ids": ids} for run, ids in RUNS.items()}
    found = exp(**given, positions=MASKS).logits
    for example in range(BATCH):
        here = places(example)

        def choose(path: Path, here: Places = here) -> str:
            return "clean" if member(path, here) else "corrupt"

        wanted = treeified(family, at.model, {
            run: ids[example : example + 1] for run, ids in RUNS.items()}, choose)
        assert error(found[example : example + 1], wanted) < 1e-12, text
    assert not exp.not_stacked
    assert error(exp.run(**given, positions=MASKS).logits, found) < 1e-12
    ends = rw.expand(hypothesis, last=True)
    for run in (ends, ends.run):
        assert error(run(**given, positions=MASKS).logits, found[:, -1:]) < 1e-12
    assert rw.paths(str(rw.paths(text))) == rw.paths(text)
