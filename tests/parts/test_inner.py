"""What is made with weights beside the stream is a part by itself, and the stream is found past it.

Keys and values that several layers share, factors and matrices that are made of the stream, and
sums in place: random stacks of these, against a ledger by hand.
"""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor, nn

import rewrite as rw
from rewrite import match
from tests.parts.ledgers import HEADS, TOKENS, WIDTH, Attends, Borrows, Ledger, Stack
from tests.zoo import trace

CASES = [(seed, 6) for seed in range(8)]


@pytest.mark.parametrize(("seed", "edges"), CASES)
def test_every_direct_edge_is_that_of_the_ledger(seed: int, edges: int) -> None:
    model = Stack(seed)
    clean, corrupt = torch.randint(0, TOKENS, (2, 3, 7))
    parts = trace(model, {"ids": torch.randint(0, TOKENS, (2, 5))}).components()
    book, base = model.record(clean), model.record(corrupt)
    names = _names(parts, model)
    wanted = {(names[writer], names[reader]) for writer, reader in book.edges}
    assert {e for e in parts.edges if e[0] != "ids"} == wanted
    assert torch.allclose(base.values["output"], model(corrupt), rtol=0, atol=1e-12)
    for writer, reader in random.Random(seed).sample(sorted(set(book.edges)), edges):
        patched = model.record(corrupt, (writer, reader, book.values[writer])).values["output"]
        hypothesis = rw.Hypothesis(parts, {"clean": f"{names[writer]} -> {names[reader]}"})
        with torch.no_grad():
            found = rw.expand(hypothesis)(clean={"ids": clean}, corrupt={"ids": corrupt})
        assert torch.allclose(found, patched, rtol=0, atol=1e-11), f"{writer} -> {reader}"


def _names(parts: rw.Components, model: Stack) -> dict[str, str]:
    """The names of the package for those of the ledger, by the modules that parts come from."""
    found = {"embed": "embed", "output": "output"}
    for i, block in enumerate(model.blocks):
        for name, component in parts.components.items():
            path = component.name.path
            if component.heads and path == f"blocks.{i}":
                for h in range(HEADS):
                    found[f"{i}.h{h}"] = f"{name}.h{h}"
                    found |= {f"{i}.h{h}.{port}": f"{name}.h{h}.{port}" for port in "qkv"}
            elif component.name.kind == "norm" and path == f"blocks.{i}":
                found[f"{i}.n"] = name
            elif path.startswith(f"blocks.{i}."):
                found[f"{i}.{path.rpartition('.')[2]}"] = name
        if isinstance(block, Borrows) and not isinstance(block, Attends):
            assert f"{i}.h0" in found, parts.notes
    return found


def test_shared_keys_make_no_encoder() -> None:
    """Their layers are attention of one stream, and what they share is called by its own name."""
    parts = trace(Stack(0, blocks=0), {"ids": torch.randint(0, TOKENS, (2, 5))}).components()
    assert [name for name in parts.names if ".h" not in name] == [
        "ids", "embed", "i0", "i1", "m3", "output"]
    assert parts.heads == tuple(f"a{i}.h{h}" for i in range(3) for h in range(HEADS))
    found = parts.as_graph().find(match.kind("inner"))
    assert list(found) == ["i0", "i1"]


class Beside(nn.Module):
    """An embedding that is added to nothing: every part reads it beside the stream."""

    def __init__(self, normed: bool, indexed: bool) -> None:
        super().__init__()
        torch.manual_seed(normed + 2 * indexed)
        self.table = nn.Parameter(torch.randn(TOKENS, WIDTH))
        self.norm = nn.LayerNorm(WIDTH) if normed else nn.Identity()
        self.mlps = nn.ModuleList([nn.Linear(2 * WIDTH if i else WIDTH, WIDTH) for i in range(4)])
        self.head, self.indexed = nn.Linear(2 * WIDTH, TOKENS), indexed
        self.double().eval()

    def rows(self, ids: Tensor) -> Tensor:
        return self.table[ids] if self.indexed else nn.functional.embedding(ids, self.table)

    def forward(self, ids: Tensor) -> Tensor:
        rows = self.norm(self.rows(ids))
        x = torch.relu(self.mlps[0](rows))
        for mlp in self.mlps[1:]:
            x = x + torch.relu(mlp(torch.cat([rows, x], -1)))
        return self.head(torch.cat([rows, x], -1))

    def record(self, ids: Tensor, patch: tuple[str, str, Tensor] | None = None) -> Ledger:
        """The same by hand."""
        book = Ledger(patch)
        embed, stream = book.write("embed", self.rows(ids)), dict[str, Tensor]()
        for i, part in enumerate([*self.mlps, self.head]):
            name = f"m{i}" if i < len(self.mlps) else "output"
            read = [self.norm(book.read(embed, name))]
            read += [book.read(stream, name)] if stream else []
            y = part(torch.cat(read, -1))
            stream |= book.write(name, y if name == "output" else torch.relu(y))
        return book


@pytest.mark.parametrize("normed", [False, True])
@pytest.mark.parametrize("indexed", [False, True])
def test_an_embedding_beside_the_stream_is_one_part(normed: bool, indexed: bool) -> None:
    model = Beside(normed, indexed)
    clean, corrupt = torch.randint(0, TOKENS, (2, 3, 7))
    parts = trace(model, {"ids": torch.randint(0, TOKENS, (2, 5))}).components()
    book, base = model.record(clean), model.record(corrupt)
    assert torch.allclose(base.values["output"], model(corrupt), rtol=0, atol=1e-12)
    assert set(parts.edges) == {("ids", "embed"), *book.edges}
    for writer, reader in book.edges:
        patched = model.record(corrupt, (writer, reader, book.values[writer])).values["output"]
        hypothesis = rw.Hypothesis(parts, {"clean": f"{writer} -> {reader}"})
        with torch.no_grad():
            found = rw.expand(hypothesis)(clean={"ids": clean}, corrupt={"ids": corrupt})
        assert torch.allclose(found, patched, rtol=0, atol=1e-11), f"{writer} -> {reader}"
