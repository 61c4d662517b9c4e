"""The stacked module: the literal one's results, each part called once, gradients included."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import rewrite as rw
from rewrite.expand.stackable import Unstackable
from tests.models.table import TABLE
from tests.zoo import FAMILIES, tokens, traced


def parts_of(family: str) -> rw.Components:
    return traced(family, torch.float64).parts


def inputs(parts: rw.Components, seed: int, batch: int = 2, length: int = 7) -> dict[str, Tensor]:
    made = {}
    for spec in parts.graph.inputs:
        made[spec.name] = tokens(batch, length, seed) if spec.name == "input_ids" else (
            torch.full((batch, length), int("mask" in spec.name)))
    return made


def both(exp: rw.Expansion, batch: int = 2) -> tuple[list[Tensor], list[Tensor]]:
    runs = {run: inputs(exp.parts, seed, batch) for seed, run in enumerate(exp.runs)}
    arguments = exp.arguments(runs)
    return tree_leaves(exp.module(*arguments)), tree_leaves(exp.stacked(*arguments))


def agree(found: Sequence[Tensor], wanted: Sequence[Tensor], close: float = 1e-10) -> bool:
    return len(found) == len(wanted) and all(
        a.shape == b.shape and torch.allclose(a, b, rtol=close, atol=close)
        for a, b in zip(found, wanted, strict=True))


@st.composite
def hypotheses(draw: Any, parts: rw.Components) -> list[rw.Hypothesis]:
    """Some hypotheses of one or two runs, each about paths through some edges or nodes."""
    symbols = [s for s in parts.dag.symbols if s not in parts.dag.sources]
    edges = [f"{a} -> {b}" for a, b in parts.edges]
    made = []
    for number in range(draw(st.integers(1, 6))):
        chosen = draw(st.lists(st.sampled_from(edges) | st.sampled_from(symbols),
                               min_size=1, max_size=3, unique=True))
        made.append(rw.Hypothesis(parts, {"clean": " | ".join(chosen)}, "corrupt", f"h{number}"))
    return made


@settings(max_examples=8, deadline=None, derandomize=True)
@given(data=st.data())
@pytest.mark.parametrize("family", FAMILIES)
def test_the_literal_module(family: str, data: st.DataObject) -> None:
    parts = parts_of(family)
    made = data.draw(hypotheses(parts))
    options: dict[str, Any] = {"last": data.draw(st.booleans())}
    if options["last"] and data.draw(st.booleans()):
        options["columns"] = [1, 5, 6]
    exp = rw.expand(made if data.draw(st.booleans()) else made[0], **options)
    exp = replace(exp, reading=replace(exp.reading, anchored=data.draw(st.booleans())))
    literal, stacked = both(exp, batch=data.draw(st.sampled_from([1, 3])))
    assert agree(stacked, literal)


class Kernels(TorchDispatchMode):
    """Counts what is called."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("family", FAMILIES)
def test_calls_do_not_grow_with_copies(family: str) -> None:
    """Of the same kind of path, any number costs the same number of kernels."""
    parts = parts_of(family)
    edges = [e for e in parts.edges if e[0].startswith("a0.h") and "a1." not in e[1]]
    counts, calls = [], []
    for some in (edges[:2], edges):
        exp = rw.expand([rw.Hypothesis(parts, {"clean": f"{a} -> {b}"}) for a, b in some])
        counted = Kernels()
        arguments = exp.arguments({r: inputs(parts, i) for i, r in enumerate(exp.runs)})
        module = exp.stacked
        with counted, torch.no_grad():
            module(*arguments)
        counts.append(counted.count - 4 * len(some))  # each result is a view of the last stack
        calls.append(exp.stacked_calls)
    assert len(edges) > 3
    assert calls[1] <= calls[0] + len(parts.heads)
    assert counts[1] <= counts[0] + 40 * len(parts.heads)


@pytest.mark.parametrize("family", FAMILIES)
def test_one_run_is_the_model_bit_for_bit(family: str) -> None:
    parts = parts_of(family)
    exp = rw.expand(rw.Hypothesis(parts, {"clean": "..."}))
    literal, stacked = both(exp)
    wanted = tree_leaves(parts.graph.flat(**inputs(parts, 0)))
    assert all(map(torch.equal, stacked, wanted)) and all(map(torch.equal, literal, wanted))
    assert exp.stacked_calls == sum(c.region is not None for c in parts.components.values())


def test_gradients() -> None:
    parts = parts_of("gpt2")
    exp = rw.expand([rw.Hypothesis(parts, {"clean": p}) for p in ("a0.h1 -> m1", "m0 -> a1.h2.q")])
    weights = [p for p in parts.graph.module.parameters() if p.requires_grad]
    found = []
    for values in both(exp):
        total = sum((v * torch.linspace(-1, 1, v.numel()).view(v.shape)).sum() for v in values)
        found.append(torch.autograd.grad(total, weights, allow_unused=True))
    for a, b in zip(*found, strict=True):
        assert (a is None) == (b is None)
        assert a is None or torch.allclose(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("anchored", [False, True])
@pytest.mark.parametrize("name", ["mixtral", "t5", "vit", "deberta", "bloom"])
def test_other_kinds_of_models(name: str, anchored: bool) -> None:
    """Experts, two stacks, images, attention of other layouts."""
    family, exact = TABLE[name], name != "mixtral"  # grouped products take no doubles
    parts = rw.trace(family.build(torch.float64 if exact else torch.float32), {
        k: v.double() if v.is_floating_point() else v for k, v in family.inputs.items()} or None
    ).components()
    inner = [e for e in parts.edges if e[0] not in parts.dag.sources][::17][:8]
    exp = rw.expand([rw.Hypothesis(parts, {"clean": f"{a} -> {b}"}) for a, b in inner])
    runs = {}
    for seed, run in enumerate(exp.runs):
        draw = torch.Generator().manual_seed(seed)
        runs[run] = {}
        for spec in parts.graph.inputs:
            sizes = [d if isinstance(d, int) else {0: 2}.get(axis, 5)
                     for axis, d in enumerate(spec.shape)]
            runs[run][spec.name] = torch.ones(sizes, dtype=spec.dtype) if "mask" in spec.name else (
                torch.randn(sizes, generator=draw, dtype=spec.dtype)
                if spec.dtype.is_floating_point else torch.randint(3, 60, sizes, generator=draw))
    exp = replace(exp, reading=replace(exp.reading, anchored=anchored))
    arguments = exp.arguments(runs)
    with torch.no_grad():
        literal, stacked = exp.module(*arguments), exp.stacked(*arguments)
    assert agree(tree_leaves(stacked), tree_leaves(literal), 1e-10 if exact else 1e-4)


def test_two_batches_cannot_be_stacked() -> None:
    """Texts by images: each input has a batch of its own."""
    parts = rw.trace(TABLE["clip"].build(), TABLE["clip"].inputs or None).components()
    exp = rw.expand(rw.Hypothesis(parts, {"clean": "..."}))
    assert "the batch is not the first axis" in exp.not_stacked


def test_a_batch_that_cannot_be_stacked_is_said() -> None:
    class Fixed(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            y = x.transpose(0, 1)  # positions first
            return (y + self.layer(y)).transpose(0, 1)

    graph = rw.trace(Fixed().eval(), {"x": torch.randn(3, 5, 4)})
    exp = rw.expand(rw.Hypothesis(graph.components(), {"clean": "..."}))
    with pytest.raises(Unstackable, match=r"the batch is not the first axis of|no batch"):
        _ = exp.stacked
    assert exp.not_stacked
    x = torch.randn(2, 6, 4)
    found = exp.run(clean={"x": x}, corrupt={"x": x})
    assert torch.equal(found, exp(clean={"x": x}, corrupt={"x": x}))
