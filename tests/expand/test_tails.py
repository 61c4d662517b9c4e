"""Copies that equal another one before a position: computed from there on, with equal results."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

import rewrite as rw
from rewrite.expand.tails import tails_of
from tests.zoo import tokens, trace, traced

BATCH, LENGTH, WIDTH, VOCABULARY = 3, 8, 32, 97  # of the tiny models


def runs_of(parts: rw.Components) -> dict[str, dict[str, Tensor]]:
    def inputs(seed: int) -> dict[str, Tensor]:
        return {spec.name: tokens(BATCH, LENGTH, seed) if spec.name == "input_ids" else
                torch.full((BATCH, LENGTH), int("mask" in spec.name))
                for spec in parts.graph.inputs}

    return {"clean": inputs(1), "corrupt": inputs(2)}


def flops(exp: rw.Expansion, *arguments: Any) -> int:
    """What torch counts; it counts attention where it is made of products."""
    with FlopCounterMode(display=False) as counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        exp.together(*arguments)
    return counter.get_total_flops()


@st.composite
def masks(draw: Any) -> Tensor:
    """Positions that differ by example: several, one, or none."""
    found = torch.zeros(BATCH, LENGTH, dtype=torch.bool)
    for row in range(BATCH):
        for at in draw(st.lists(st.integers(0, LENGTH - 1), max_size=2)):
            found[row, at] = True
    return found


@settings(max_examples=3, deadline=None, derandomize=True)
@given(data=st.data())
@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma3", "bert"])
def test_the_literal_module(family: str, data: st.DataObject) -> None:
    parts = traced(family, torch.float64).parts
    names = [s for s in parts.dag.symbols if "logits" not in s]
    places = st.sampled_from(["@A", "@B", "@[-2:]", "@[3]", "@[:2]", ""])
    placed = st.tuples(st.sampled_from(names), places).map("".join)
    made = [rw.Hypothesis(parts, {"clean": "..."}),
            rw.Hypothesis(parts, {"clean": rw.PathSet.none()}, "corrupt")]
    for _ in range(data.draw(st.integers(1, 4))):
        chosen = data.draw(st.lists(placed, min_size=1, max_size=3, unique=True))
        made.append(rw.Hypothesis(parts, {"clean": " | ".join(chosen)}, "corrupt"))
    exp = rw.expand(made[data.draw(st.integers(0, 2)):], last=data.draw(st.booleans()))
    exp = replace(exp, reading=replace(exp.reading, anchored=data.draw(st.booleans())))
    positions = {"A": data.draw(masks()), "B": data.draw(masks())}
    runs = {run: runs_of(parts)[run] for run in exp.runs}
    with torch.no_grad():
        wanted = [torch.cat(values) for values in zip(
            *exp.module(*exp.arguments(runs, positions)), strict=True)]
        found = exp.together(*exp.all_arguments(runs, positions))
        unknown = exp.together(*exp.arguments(runs, positions))
    for a, b, c in zip(found, unknown, wanted, strict=True):
        torch.testing.assert_close(a, c, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(b, c, rtol=1e-10, atol=1e-10)


def heads_at(parts: rw.Components, place: str) -> rw.Expansion:
    made = [rw.Hypothesis(parts, {"clean": rw.PathSet.none()}, "corrupt")]
    made += [rw.Hypothesis(parts, {"clean": f"{head}@{place}"}, "corrupt") for head in parts.heads]
    return rw.expand(made)


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "llama", "qwen3", "gemma3"])
def test_the_later_the_less(family: str) -> None:
    """Work shrinks with the rows that can differ; each head is one row behind its own layer."""
    parts = traced(family).parts
    exp, runs = heads_at(parts, "X"), runs_of(parts)
    counts = [flops(exp, *exp.all_arguments(runs, {"X": [at] * BATCH})) for at in (0, 3, 6, 7)]
    assert counts == sorted(counts, reverse=True)
    assert counts[0] == flops(exp, *exp.arguments(runs, {"X": [0] * BATCH}))
    rows = [BATCH * (LENGTH - at) for at in (0, 3, 6, 7)]
    steps = {(a - b) / (n - m) for a, b, n, m in zip(
        counts, counts[1:], rows, rows[1:], strict=False)}
    assert len(steps) == 1, "each row costs the same"
    unembedding = 2 * WIDTH * VOCABULARY * len(parts.heads)
    assert steps.pop() > unembedding
    assert counts[3] < counts[0] / 2


def test_the_first_of_all_examples_counts() -> None:
    parts = traced("gpt2").parts
    exp, runs = heads_at(parts, "X"), runs_of(parts)
    assert exp.all_arguments(runs, {"X": [5, 2, 7]})[-1] == 2
    nowhere = torch.zeros(BATCH, LENGTH, dtype=torch.bool)
    assert exp.all_arguments(runs, {"X": nowhere})[-1] == LENGTH - 1
    sliced = heads_at(parts, "[-3:]")
    assert sliced.all_arguments(runs)[-1] == LENGTH - 3


def test_what_reads_ahead_is_computed_whole() -> None:
    """In an encoder a change at one token reaches all others at the next layer of attention."""
    parts = traced("bert").parts
    exp = heads_at(parts, "X")
    wanted = {(name, copy.index) for name, copies in exp.product.copies.items() for copy in copies}
    based = {name for name, _ in tails_of(parts, exp.product, wanted)}
    assert "m0" in based and not any(name.startswith("a1.h") and "a0.h0" in parts.dag[name].reads
                                     for name in based)
    decoder = traced("gpt2").parts
    exp = heads_at(decoder, "X")
    wanted = {(name, copy.index) for name, copies in exp.product.copies.items() for copy in copies}
    assert {"a1.h2", "m1", "logits"} <= {n for n, _ in tails_of(decoder, exp.product, wanted)}


def test_a_mask_of_queries_by_keys_may_change() -> None:
    """If it is an input, nobody can say that later tokens are never read."""

    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(9, 8)
            self.attend = nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, tokens: Tensor, hidden: Tensor) -> Tensor:
            x = self.embed(tokens)
            return x + self.attend(x, x, x, attn_mask=hidden, need_weights=False)[0]

    hidden = torch.triu(torch.ones(6, 6), 1).bool()
    ids = torch.randint(9, (2, 6))
    graph = rw.trace(Masked().eval(), {"tokens": ids, "hidden": hidden})
    assert graph.components(sources=("tokens",)).dag.motion.looks_ahead()


def test_gradients() -> None:
    parts = traced("gpt2", torch.float64).parts
    exp, runs = heads_at(parts, "X"), runs_of(parts)
    weight = dict(parts.graph.module.named_parameters())["transformer.h.1.mlp.c_fc.weight"]
    positions = {"X": [6, 7, 5]}
    outputs = [torch.cat([root[0] for root in exp.module(*exp.arguments(runs, positions))]),
               exp.together(*exp.all_arguments(runs, positions))[0]]
    wanted, found = [torch.autograd.grad(out.pow(2).sum(), weight)[0] for out in outputs]
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)


def test_keys_and_values_once() -> None:
    """Copies that differ in the query alone: what each adds, counted by hand."""
    parts = traced("gpt2").parts
    runs, width, heads = runs_of(parts), WIDTH, 4

    def work(senders: list[str]) -> int:
        made = [rw.Hypothesis(parts, {"clean": rw.PathSet.none()}, "corrupt")]
        made += [rw.Hypothesis(parts, {"clean": f"{s} -> a1.h2.q"}, "corrupt") for s in senders]
        exp = rw.expand(made)
        return flops(exp, *exp.arguments(runs))

    few, many = ["a0.h0", "a0.h1"], list(parts.heads[:4])
    rows, head = BATCH * LENGTH, width // heads
    product, attention = 2 * rows * width * head, 2 * rows * LENGTH * head * 2
    sender = 4 * product + attention  # in the other run
    receiver = 2 * product + attention  # its query and its output
    mlp, unembedding = 2 * rows * width * 4 * width * 2, 2 * rows * width * VOCABULARY
    each = sender + receiver + mlp + unembedding
    assert work(many) - work(few) == (len(many) - len(few)) * each


def test_outputs_at_all_positions_are_complete() -> None:
    parts = traced("llama", torch.float64).parts
    exp, runs = heads_at(parts, "X"), runs_of(parts)
    found = exp.run(positions={"X": [7, 7, 7]}, **runs)
    plain = parts.graph.outputs(parts.graph.flat(**runs["corrupt"]))
    for value in found:
        assert value.logits.shape == (BATCH, LENGTH, VOCABULARY)
        torch.testing.assert_close(value.logits[:, :7], plain.logits[:, :7], rtol=1e-9, atol=1e-9)
    assert all(len(tree_leaves(v)) for v in found)


class ReturnsStream(nn.Module):
    """Logits, and the streams in front of the MLP and behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.out = nn.Embedding(9, 8), nn.Linear(8, 5)
        self.mlp = nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8))

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = self.embed(ids)
        y = x + self.mlp(x)
        return self.out(y), x, y


def test_outputs_that_are_the_stream() -> None:
    torch.manual_seed(0)
    model = ReturnsStream().double().eval()
    clean, corrupt = torch.randint(0, 9, (2, BATCH, LENGTH))
    parts = trace(model, {"ids": clean}).components()
    exp = rw.expand([rw.Hypothesis(parts, {"clean": paths}, "corrupt")
                     for paths in ("~(...)", "output1@[-1] | m0@[2]")])
    with torch.no_grad():
        theirs, written = model.embed(clean), model.mlp(model.embed(clean))
        x = model.embed(corrupt)
        x[:, -1] = theirs[:, -1]
        m = model.mlp(x)
        m[:, 2] = written[:, 2]
        for found in (exp.run(clean={"ids": clean}, corrupt={"ids": corrupt}),
                      exp(clean={"ids": clean}, corrupt={"ids": corrupt})):
            for one, wanted in zip(found[1], (model.out(x + m), x, x + m), strict=True):
                torch.testing.assert_close(one, wanted, rtol=1e-10, atol=1e-10)


class Hides(nn.Module):
    """Attention to both sides; the mask is true at padding, which no query may read."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.out = nn.Embedding(9, 8), nn.Linear(8, 5)
        self.q, self.k, self.v, self.o = (nn.Linear(8, 8) for _ in range(4))

    def forward(self, input_ids: Tensor, padding_mask: Tensor) -> Tensor:
        x = self.embed(input_ids)
        q, k, v = (f(x).unflatten(-1, (2, 4)).transpose(1, 2) for f in (self.q, self.k, self.v))
        scores = (q @ k.mT).masked_fill(padding_mask[:, None, None], float("-inf"))
        return self.out(x + self.o((scores.softmax(-1) @ v).transpose(1, 2).flatten(2)))


def test_a_mask_that_is_true_at_padding_hides_nothing_that_is_read() -> None:
    torch.manual_seed(0)
    model = Hides().double().eval()
    clean, corrupt = torch.randint(0, 9, (2, BATCH, LENGTH))
    mask = torch.zeros(BATCH, LENGTH, dtype=torch.bool)
    mask[1, -2:] = True
    parts = trace(model, {"input_ids": clean, "padding_mask": mask}).components()
    exp = rw.expand([rw.Hypothesis(parts, {"clean": paths}, "corrupt")
                     for paths in ("~(...)", "embed@[4]")])
    mixed = torch.where(torch.arange(LENGTH) == 4, clean, corrupt)
    with torch.no_grad():
        found = exp.run(clean={"input_ids": clean, "padding_mask": mask},
                        corrupt={"input_ids": corrupt, "padding_mask": mask})
        torch.testing.assert_close(found[1], model(mixed, mask), rtol=1e-10, atol=1e-10)
    assert parts.dag.motion.looks_ahead()
