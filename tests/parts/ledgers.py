"""Random stacks of blocks, and a ledger that runs them by hand: who wrote what, who reads whom.

A block is written twice: as a module, and as entries of the ledger.  A reading adds up entries,
so the direct edge from a writer to a reading is patched by taking that entry from another run.
Nothing of the package is used here.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

WIDTH, HEADS, TOKENS = 8, 2, 11
Entries = Mapping[str, Tensor]


@dataclass
class Ledger:
    """One run of a stack: `edges` are (writer, reader), `values` what each part gave.

    `patch` says which entry a reader gets from elsewhere: (writer, reader, value).
    """

    patch: tuple[str, str, Tensor] | None = None
    values: dict[str, Tensor] = field(default_factory=dict)
    edges: list[tuple[str, str]] = field(default_factory=list)

    def read(self, entries: Entries, reader: str) -> Tensor:
        """The sum of entries as a reader gets it."""
        self.edges += [(writer, reader) for writer in entries]
        given = dict(entries)
        if self.patch and self.patch[1] == reader and self.patch[0] in given:
            given[self.patch[0]] = self.patch[2]
        return sum(given.values(), torch.tensor(0.0, dtype=torch.float64))

    def write(self, name: str, value: Tensor) -> dict[str, Tensor]:
        """The entry of a part."""
        self.values[name] = value
        return {name: value}


class Block(nn.Module):
    """What is done to the stream, and to the keys and values that later blocks may read."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)

    def forward(self, x: Tensor, kept: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        raise NotImplementedError

    def record(self, book: Ledger, i: str, stream: Entries, kept: list[Entries]) -> Entries:
        """The stream behind the block; `kept` are the keys and values."""
        raise NotImplementedError


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal attention of heads [batch, heads, seq, width]."""
    return nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)


def heads(x: Tensor) -> Tensor:
    return x.view(*x.shape[:2], HEADS, WIDTH // HEADS).transpose(1, 2)


class Borrows(Block):
    """Attention that reads the keys and values of the last block which had its own."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.o = (nn.Linear(WIDTH, WIDTH, bias=False) for _ in "qo")

    def keys(self, x: Tensor, kept: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return kept

    def forward(self, x, kept):
        kept = self.keys(x, kept)
        z = attend(heads(self.q(self.norm(x))), *kept)
        return x + self.o(z.transpose(1, 2).reshape(x.shape)), kept

    def record(self, book, i, stream, kept):
        width, made = WIDTH // HEADS, dict(stream)
        for h in range(HEADS):
            name, place = f"{i}.h{h}", slice(h * width, (h + 1) * width)
            q = heads(self.q(self.norm(book.read(stream, f"{name}.q"))))
            z = attend(q, *self.asked(book, name, stream, kept))[:, h]
            made |= book.write(name, z @ self.o.weight[:, place].T)
        return made

    def asked(
        self, book: Ledger, name: str, stream: Entries, kept: list[Entries]
    ) -> tuple[Tensor, ...]:
        """Keys and values as a head reads them."""
        return tuple(book.read(kept[j], f"{name}.{port}") for j, port in enumerate("kv"))


class Attends(Borrows):
    """Attention with keys and values of its own; parts if later blocks read them too."""

    shared = False

    def __init__(self) -> None:
        super().__init__()
        self.k, self.v = (nn.Linear(WIDTH, WIDTH) for _ in "kv")

    def keys(self, x, kept):
        return heads(self.k(self.norm(x))), heads(self.v(self.norm(x)))

    def record(self, book, i, stream, kept):
        for j, port in enumerate("kv"):
            if self.shared:
                x = self.norm(book.read(stream, f"{i}.{port}"))
                kept[j] = book.write(f"{i}.{port}", heads(getattr(self, port)(x)))
        return super().record(book, i, stream, kept)

    def asked(self, book, name, stream, kept):
        if self.shared:
            return super().asked(book, name, stream, kept)
        return tuple(heads(getattr(self, port)(self.norm(book.read(stream, f"{name}.{port}"))))
                     for port in "kv")


class Adds(Block):
    """An MLP that adds to the stream, or in place to some of its rows or features."""

    def __init__(self, place: Any = ()) -> None:
        super().__init__()
        self.mlp, self.place = nn.Linear(WIDTH, WIDTH), place

    def forward(self, x, kept):
        y = torch.relu(self.mlp(self.norm(x)))
        if not self.place:
            return x + y, kept
        x = x.clone()
        x[self.place] += y[self.place]
        return x, kept

    def record(self, book, i, stream, kept):
        y = torch.relu(self.mlp(self.norm(book.read(stream, f"{i}.mlp"))))
        if self.place:
            whole = torch.zeros_like(y)
            whole[self.place] = y[self.place]
            y = whole
        return {**stream, **book.write(f"{i}.mlp", y)}


class Scales(Block):
    """The stream times what a matrix makes of it, feature by feature."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(WIDTH, WIDTH)

    def scaled(self, x: Tensor, gate: Tensor) -> Tensor:
        return x * (1 + gate)

    def made(self, x: Tensor) -> Tensor:
        return torch.tanh(self.gate(self.norm(x)))

    def forward(self, x, kept):
        return self.scaled(x, self.made(x)), kept

    def record(self, book, i, stream, kept):
        gate = book.write(f"{i}.gate", self.made(book.read(stream, f"{i}.gate")))
        x = book.read(stream, f"{i}.n")
        return book.write(f"{i}.n", self.scaled(x, book.read(gate, f"{i}.n")))


class Mixes(Scales):
    """Features mixed by a matrix that another one makes of the stream, and added to it."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(WIDTH, WIDTH * WIDTH)

    def scaled(self, x, gate):
        return (x.unsqueeze(-2) @ gate.view(*x.shape, WIDTH)).squeeze(-2)

    def forward(self, x, kept):
        return x + self.scaled(x, self.made(x)), kept

    def record(self, book, i, stream, kept):
        return {**stream, **super().record(book, i, stream, kept)}


ALL = slice(None)
PLACES: tuple[Any, ...] = (
    (ALL, slice(1, None)), (..., slice(2, 6)), (ALL, ALL, slice(-3, None)), (ALL, 0),
    (ALL, slice(1, -1), slice(0, 3)))
KINDS: tuple[Callable[[], Block], ...] = (
    Attends, Borrows, Adds, Scales, Mixes, *(partial(Adds, place) for place in PLACES))


class Stack(nn.Module):
    """Embedding, random blocks, output.  Keys are borrowed twice at least, so they are parts."""

    def __init__(self, seed: int, blocks: int = 4) -> None:
        super().__init__()
        draw = random.Random(seed)
        torch.manual_seed(seed)
        self.embed = nn.Embedding(TOKENS, WIDTH)
        chosen = [draw.choice(KINDS)() for _ in range(blocks)]
        self.blocks = nn.ModuleList([Attends(), Borrows(), *chosen, Borrows(), Adds()])
        asking = [block for block in self.blocks if isinstance(block, Borrows)]
        for block, later in pairwise(asking):
            block.shared = not isinstance(later, Attends)
        self.head = nn.Linear(WIDTH, TOKENS)
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.4)
        self.double().eval()

    def forward(self, ids: Tensor) -> Tensor:
        x, kept = self.embed(ids), ()
        for block in self.blocks:
            x, kept = block(x, kept)
        return self.head(x)

    def record(self, ids: Tensor, patch: tuple[str, str, Tensor] | None = None) -> Ledger:
        """The same by hand."""
        book = Ledger(patch)
        stream, kept = book.write("embed", self.embed(ids)), [{}, {}]
        for i, block in enumerate(self.blocks):
            stream = block.record(book, str(i), stream, kept)
        book.write("output", self.head(book.read(stream, "output")))
        return book
