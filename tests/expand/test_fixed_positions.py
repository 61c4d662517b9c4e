"""Positions where the length was fixed at tracing: right as hooks have it, or refused."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import rewrite as rw
from rewrite.errors import HypothesisError, PathError
from tests.models.table import TABLE
from tests.zoo import error, trace

LENGTH = 6


class Block(nn.Module):
    """Attention and an MLP on a stream with a full table of positions, whose length it fixes."""

    def __init__(self, width: int, heads: int = 2) -> None:
        super().__init__()
        self.heads = heads
        self.embed, self.table = nn.Embedding(20, width), nn.Parameter(torch.randn(LENGTH, width))
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.head = nn.Linear(width, width), nn.Linear(width, 20)

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.embed(input_ids) + self.table
        q, k, v = (each.unflatten(2, (self.heads, -1)).transpose(1, 2)
                   for each in self.qkv(x).chunk(3, -1))
        x = x + self.out(F.scaled_dot_product_attention(q, k, v, is_causal=True)
                         .transpose(1, 2).flatten(2))
        return self.head(x + torch.relu(self.up(x)))


class Pooled(Block):
    """As many classes as tokens."""

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.head = nn.Linear(width, LENGTH)

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.embed(input_ids) + self.table
        return self.head((x + torch.relu(self.up(x))).mean(1))


class Crossed(Block):
    """Rows of tokens become columns: what is written behind that has no token for each row."""

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.embed(input_ids) + self.table
        return self.head(torch.relu(self.up((x + torch.relu(self.up(x))).transpose(1, 2))))


RUNS = {run: torch.randint(0, 20, (2, LENGTH), generator=torch.Generator().manual_seed(seed))
        for seed, run in enumerate(("clean", "corrupt"))}


@cache
def traced(kind: type[Block], width: int) -> tuple[Any, rw.Components]:
    torch.manual_seed(0)
    model = kind(width).double().eval()
    graph = trace(model, {"input_ids": torch.cat([*RUNS.values()])})
    assert graph.inputs[0].shape[1] == LENGTH
    return model, graph.components()


def patched(parts: rw.Components, text: str, **positions: Any) -> Tensor:
    """The corrupt model whose paths in a set read the clean run."""
    expanded = rw.expand(rw.Hypothesis(parts, {"clean": text}))
    given = {run: {"input_ids": ids} for run, ids in RUNS.items()}
    found = expanded(**given, positions=positions)
    stacked = expanded.run(**given, positions=positions)
    if not isinstance(found, Tensor):
        found, stacked = found.logits, stacked.logits
    assert error(stacked, found) < 1e-6
    return found.detach()


@torch.no_grad()
def hooked(model: Any, module: Any, rows: Any, features: slice | None = None) -> Tensor:
    """The corrupt run with some rows of what a module returns from the clean one."""
    kept: list[Tensor] = []
    columns = slice(None) if features is None else features

    def edit(_: nn.Module, __: Any, output: Tensor) -> Tensor:
        if not kept:
            kept.append(output)
            return output
        output = output.clone()
        output[:, rows, columns] = kept[0][:, rows, columns]
        return output

    handle = module.register_forward_hook(edit)
    model(RUNS["clean"])
    found = model(RUNS["corrupt"])
    handle.remove()
    return found if isinstance(found, Tensor) else found.logits


# widths: another than the length; the length; what heads and length have in common
@pytest.mark.parametrize("width", [8, LENGTH, 2 * LENGTH])
def test_positions_of_a_fixed_length(width: int) -> None:
    model, parts = traced(Block, width)
    half = width // 2
    for text, module, rows, features in (
        ("m0@[2]", model.up, 2, None), ("m0@[-2:]", model.up, slice(-2, None), None),
        ("m0@S", model.up, [1, 4], None), ("a0@[2]", model.out, 2, None),
        ("embed@[3]", model.embed, 3, None), ("embed@[3] -> ...", model.embed, 3, None),
        ("a0.h1.q@[2]", model.qkv, 2, slice(half, width)),
        ("a0.h1.k@[2]", model.qkv, 2, slice(width + half, 2 * width)),
        ("a0.h0.v@S", model.qkv, [1, 4], slice(2 * width, 2 * width + half)),
    ):
        found = patched(parts, text, S=[[1, 4]] * 2)
        assert error(found, hooked(model, module, rows, features)) < 1e-12, text
    mixed = torch.where(torch.arange(LENGTH) == 2, RUNS["clean"], RUNS["corrupt"])
    assert error(patched(parts, "tokens@[2]"), model(mixed)) < 1e-12
    outputs = model(RUNS["corrupt"]).clone()
    outputs[:, 2] = model(RUNS["clean"])[:, 2]
    assert error(patched(parts, f"{parts.names[-1]}@[2]"), outputs) < 1e-12


def test_windows_of_a_fixed_length() -> None:
    """That key j is token j is not proved where sizes are numbers: refused, never guessed."""
    _, parts = traced(Block, 8)
    with pytest.raises(PathError, match=r"a window cannot be followed through a0\.h0\.v"):
        patched(parts, "a0.h0.v[-1]")


@pytest.mark.parametrize(("kind", "width"), [(Pooled, 8), (Crossed, LENGTH)])
def test_sizes_that_agree_are_no_positions(kind: type[Block], width: int) -> None:
    """Classes or features, as many as tokens: what is no row of tokens is refused."""
    model, parts = traced(kind, width)
    assert error(patched(parts, "m0@[2]"), hooked_first(model)) < 1e-12
    output = parts.names[-1]
    with pytest.raises(HypothesisError, match="nothing shows that axis 1") as found:
        patched(parts, f"{output}@[2]")
    assert f"its shape is [batch, {LENGTH}" in str(found.value)
    assert f"(input_ids: int64 [batch, {LENGTH}])" in str(found.value)


@torch.no_grad()
def hooked_first(model: Any) -> Tensor:
    """Row 2 of the first MLP from the clean run, by hand."""
    x = {run: model.embed(ids) + model.table for run, ids in RUNS.items()}
    late = {run: torch.relu(model.up(value)) for run, value in x.items()}
    late["corrupt"][:, 2] = late["clean"][:, 2]
    stream = x["corrupt"] + late["corrupt"]
    if isinstance(model, Pooled):
        return model.head(stream.mean(1))
    return model.head(torch.relu(model.up(stream.transpose(1, 2))))


def test_a_model_of_the_table_whose_length_is_fixed() -> None:
    model: Any = TABLE["mamba"].build()
    given = {"input_ids": torch.cat([*RUNS.values()])}
    parts = trace(model, given).components()
    assert parts.graph.inputs[0].shape[1] == LENGTH
    for text, layer, rows in (("m0@[2]", 0, 2), ("m1@[1:4]", 1, slice(1, 4)), ("m0@S", 0, [1, 4])):
        found = patched(parts, text, S=[[1, 4]] * 2)
        wanted = hooked(model, model.backbone.layers[layer].mixer, rows)
        assert error(found, wanted) < 1e-5, text
        assert error(found, hooked(model, model.backbone.layers[layer].mixer, slice(None))) > 1e-3
