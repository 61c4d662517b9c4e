"""What an expansion tells of itself."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import rewrite as rw
from rewrite.parts.assemble import Assembler
from tests.zoo import FAMILIES, error, logits, tokens, traced

A, B = {"input_ids": tokens(2, 5)}, {"input_ids": tokens(2, 5, 2)}


def test_copies_and_cost() -> None:
    parts = traced("llama").parts
    exp = rw.expand(rw.Hypothesis(parts, {"clean": "a0.h1 -> m0 -> logits"}))
    assert exp.runs == ("clean", "corrupt")
    assert exp.copies["tokens"] == exp.copies["embed"] == exp.copies["a0.h1"] == 2
    assert exp.copies["m0"] == 2 and exp.copies["a0.h0"] == exp.copies["logits"] == 1
    assert exp.cost.copies == sum(exp.copies.values()) == len(exp.copies) + 4
    assert 1 < exp.cost.forwards < 2
    assert "forward passes" in str(exp.cost)
    assert exp.formula().splitlines()[-1].startswith("logits = logits(")


def test_counts_of_paths_add_up() -> None:
    parts = traced("gpt2").parts
    counts = rw.Hypothesis(parts, {"a": "m0", "b": "m1 - m0"}, default="c").count()
    assert counts == {"a": 338, "b": 169, "c": 169}


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "bert"])
def test_every_call_goes_to_its_own_body(family: str) -> None:
    """Bodies that are dropped while others are made must not lend them their number."""
    parts = traced(family).parts
    texts = ("a0.h1 | a1.h2", "a1.h0.v | a0.h3.q", "a1.h2.k", "a0.h2.q -> ... -> a1.h1")
    exp = rw.expand([rw.Hypothesis(parts, {"clean": text}) for text in texts])
    for node in exp.module.graph.nodes:
        if node.op == "call_module" and node.target != "context":
            name = node.meta["component"].partition("__")[0].replace(".", "_")
            assert node.target == name or str(node.target).rpartition("_")[0] == name
            body = exp.module.get_submodule(str(node.target))
            assert len(body.graph.find_nodes(op="placeholder")) == len(node.args)


def test_a_body_that_was_dropped_is_not_taken_for_another() -> None:
    """Each bias is a body of its own that nothing but the module keeps alive."""
    at = traced("gpt2")
    build = Assembler(at.parts, ("",))
    names = ["a0", "a1"] * 20
    bodies = {name: at.parts.bias(name) for name in names}
    made = [build._call(replace(bodies[name]), f"{name}.bias", ()) for name in names]
    for name, node in zip(names, made, strict=True):
        wanted = at.model.transformer.h[int(name[1])].attn.c_proj.bias
        assert torch.equal(build.root[str(node.target)](), wanted)


@pytest.mark.parametrize("family", FAMILIES)
def test_all_components_in_one_module_keep_their_biases(family: str) -> None:
    at = traced(family)
    targets = [n.target for n in at.parts.module.graph.nodes
               if n.op == "call_module" and n.name.endswith("_bias")]
    assert len(set(targets)) == len(targets)


@pytest.mark.parametrize("family", FAMILIES)
def test_any_number_of_runs(family: str) -> None:
    at = traced(family, torch.float64)
    runs = {"one": "a0.h0 - a1", "two": "a0.h1 - a1", "three": "a1.h2"}
    exp = rw.expand(rw.Hypothesis(at.parts, runs, default="rest"))
    assert exp.runs == ("one", "two", "three", "rest")
    given = {run: {"input_ids": tokens(2, 5, seed)} for seed, run in enumerate(exp.runs)}
    with torch.no_grad():
        mixed = exp(**given).logits
        for run in exp.runs:
            alone = exp(**dict.fromkeys(exp.runs, given[run])).logits
            assert error(alone, logits(at.model, **given[run])) < 1e-10
            assert error(mixed, alone) > 1e-3


def test_the_output_is_of_the_models_own_type() -> None:
    at = traced("gpt2")
    exp = rw.expand(rw.Hypothesis(at.parts, {"clean": "a0.h1"}))
    assert type(exp(clean=A, corrupt=B)) is type(at.model(**A))
