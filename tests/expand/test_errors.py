"""What cannot be expanded or called says so, and what to write instead."""

from __future__ import annotations

import pytest
import torch

import rewrite as rw
from rewrite.errors import ArgumentError, HypothesisError, InputError, PathError, UnknownName
from tests.zoo import tiny, tokens, traced

A, B = {"input_ids": tokens(2, 5)}, {"input_ids": tokens(2, 5, 2)}


@pytest.fixture(scope="module")
def parts() -> rw.Components:
    return traced("gpt2").parts


@pytest.fixture(scope="module")
def masked() -> rw.Components:
    """A model that also takes a mask."""
    ids = tokens(3, 11)
    mask = torch.ones_like(ids)
    return rw.trace(tiny("gpt2"), inputs={"input_ids": ids, "attention_mask": mask}).components()


@pytest.mark.parametrize(("runs", "default", "kind", "message"), [
    ({"clean": "a1.h33"}, "corrupt", UnknownName, r"no a1.h33(.|\n)*did you mean a1.h3"),
    ({"clean": "a1.h3 -> a0.h1"}, "corrupt", PathError, "a0.h1 comes before it"),
    ({"clean": "m0 - m0"}, "corrupt", PathError, "no path of the graph is in this set"),
    ({"clean": "a1 ->"}, "corrupt", PathError, "remove the arrow"),
    ({"clean": "m0", "other": "m1"}, "corrupt", HypothesisError,
     "runs clean and other both claim the path"),
    ({"clean": "m0"}, "clean", HypothesisError, "clean is the default"),
    ({}, "corrupt", HypothesisError, "needs at least one run"),
    ("m0", "corrupt", ArgumentError, "runs must be a dict of text: "),
    ({"not a name": "m0"}, "corrupt", HypothesisError, "named like a Python variable"),
    ({"clean": "m0"}, "1", HypothesisError, "named like a Python variable, found '1'"),
])
def test_hypotheses(
    parts: rw.Components, runs: dict[str, str], default: str, kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        rw.Hypothesis(parts, runs, default=default)


def test_a_hypothesis_is_about_components() -> None:
    with pytest.raises(ArgumentError, match=r"found a Graph; pass graph.components\(\)"):
        rw.Hypothesis(traced("gpt2").graph, {"clean": "m0"})  # type: ignore[arg-type]


def test_expand(parts: rw.Components) -> None:
    with pytest.raises(HypothesisError, match="there is no hypothesis to expand"):
        rw.expand([])
    other = traced("llama").parts
    with pytest.raises(HypothesisError, match="about the same component graph"):
        rw.expand([rw.Hypothesis(parts, {"clean": "m0"}), rw.Hypothesis(other, {"clean": "m0"})])
    with pytest.raises(HypothesisError, match="last=True"):
        rw.expand(rw.Hypothesis(parts, {"clean": "m0"}), columns=[1])


@pytest.mark.parametrize(("runs", "message"), [
    ({"clean": A}, r"needs the run 'corrupt': call it with \(clean=\{...\}, corrupt=\{...\}\)"),
    ({"clean": A, "corrupt": B, "korrupt": B}, "no run 'korrupt'; did you mean corrupt"),
    ({"clean": A, "corrupt": {"input_ids": tokens(2, 6)}},
     r"equal shapes: input_ids is \[2, 5\] in 'clean' and \[2, 6\] in 'corrupt'; pad both"),
    ({"clean": A, "corrupt": {"input_ids": tokens(3, 5)}}, "equal shapes"),
    ({"clean": A, "corrupt": {"ids": tokens(2, 5)}}, r"\(run 'corrupt'\) has no input 'ids'"),
    ({"clean": A, "corrupt": {}}, r"\(run 'corrupt'\) needs the input 'input_ids'"),
    ({"clean": A["input_ids"], "corrupt": B}, "run 'clean' must be a dict of inputs such as"),
    ({"clean": {"input_ids": tokens(2, 5).int()}, "corrupt": B}, "expected input_ids: int64"),
])
def test_calls(
    parts: rw.Components, runs: dict[str, dict[str, torch.Tensor]], message: str
) -> None:
    exp = rw.expand(rw.Hypothesis(parts, {"clean": "m0"}))
    with pytest.raises(InputError, match=message):
        exp(**runs)


def test_context_that_differs(masked: rw.Components) -> None:
    exp = rw.expand(rw.Hypothesis(masked, {"clean": "m0"}))
    ones = torch.ones(2, 5, dtype=torch.int64)
    left = ones.clone()
    left[0, :2] = 0
    with pytest.raises(InputError, match="attention_mask differs between the runs 'clean' and"):
        exp(clean=A | {"attention_mask": ones}, corrupt=B | {"attention_mask": left})
    mixed = exp(clean=A | {"attention_mask": left}, corrupt=B | {"attention_mask": left})
    apart = exp(clean=A | {"attention_mask": ones}, corrupt=B | {"attention_mask": ones})
    assert not torch.allclose(mixed.logits, apart.logits)
    assert len(exp.module.graph.find_nodes(op="placeholder")) == 3
