"""Treeification over (node, position) by brute force, and path sets with positions as predicates.

A path is spelt as steps `(symbol, here, there)`: where the node writes and where it reads.
Nothing here uses the path language or the expansion of `rewrite`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random

import torch
from torch import Tensor, nn

from tests.laws.model_oracle import PIECES

Step = tuple[str, int, int]
Path = tuple[Step, ...]
Places = Mapping[str, frozenset[int]]


@torch.no_grad()
def treeified(
    family: str, model: nn.Module, inputs: Mapping[str, Tensor], choose: Callable[[Path], str],
) -> Tensor:
    """Logits [1, seq, vocabulary] of one example if each path reads the run that it is given."""
    pieces = PIECES[family](model)
    length = next(iter(inputs.values())).shape[1]

    def stream(layer: int, with_heads: bool, at: int, after: Path) -> Tensor:
        """The residual stream at one position [1, d], before `layer` or before its MLP."""
        run = choose((("tokens", at, at), ("embed", at, at), *after))
        total = pieces.embed(inputs[run])[:, at]
        table = pieces.constants(None, length)
        total = total + (table[:, at] if isinstance(table, Tensor) else table)
        for index in range(layer + with_heads):
            for head in range(pieces.heads):
                total = total + attention(index, head, at, after)
            total = total + pieces.constants(index, length)
            if index < layer:
                before = stream(index, True, at, ((f"m{index}", at, at), *after))
                total = total + pieces.mlp(index, before)
        return total

    def attention(layer: int, head: int, at: int, after: Path) -> Tensor:
        """What a head writes at one position: its keys and values are read for that row alone."""
        name = f"a{layer}.h{head}"
        q = stream(layer, False, at, ((f"{name}.q", at, at), *after))
        rows = {port: torch.stack([
            stream(layer, False, there, ((f"{name}.{port}", at, there), *after))
            if there <= at else torch.zeros_like(q) for there in range(length)], 1)
            for port in "kv"}
        queries = q.unsqueeze(1).expand(-1, length, -1)
        return pieces.head(layer, head, queries, rows["k"], rows["v"])[:, at]

    return torch.stack([
        pieces.logits(stream(pieces.layers, False, at, (("logits", at, at),)).unsqueeze(1))[:, 0]
        for at in range(length)], 1)


@dataclass(frozen=True)
class Said:
    """A stretch of a path as text, and the ends that it can have when it starts at step `i`."""

    text: str
    ends: Callable[[Path, int, Places], set[int]]


def name(atom: str, here: str = "", there: str = "", spell: str = "") -> Said:
    """A node, or a port, at positions."""
    def ends(path: Path, i: int, places: Places) -> set[int]:
        if i == len(path):
            return set()
        symbol, at, reads = path[i]
        fits = symbol == atom or symbol.startswith(f"{atom}.")
        fits &= not here or at in places[here]
        fits &= not there or reads in places[there]
        return {i + 1} if fits else set()

    return Said(spell or atom, ends)


def anything() -> Said:
    """`...`"""
    return Said("...", lambda path, i, places: set(range(i, len(path) + 1)))


def then(*parts: Said) -> Said:
    """`A -> B`"""
    def ends(path: Path, i: int, places: Places) -> set[int]:
        found = {i}
        for part in parts:
            found = {end for start in found for end in part.ends(path, start, places)}
        return found

    return Said(" -> ".join(part.text for part in parts), ends)


def maybe(part: Said) -> Said:
    """`A?`"""
    return Said(f"({part.text})?", lambda path, i, places: {i} | part.ends(path, i, places))


def either(*parts: Said) -> Said:
    """`(A | B)`"""
    return Said(f"({' | '.join(part.text for part in parts)})", lambda path, i, places: set().union(
        *(part.ends(path, i, places) for part in parts)))


def window(part: Said, low: int | None, high: int | None) -> Said:
    """`A[low:high]`: the hops of the stretch add up to one of these numbers."""
    def ends(path: Path, i: int, places: Places) -> set[int]:
        def hops(end: int) -> int:
            return sum(there - here for _, here, there in path[i:end])

        return {end for end in part.ends(path, i, places)
                if (low is None or low <= hops(end)) and (high is None or hops(end) < high)}

    single = low is not None and high == low + 1
    spelt = f"[{low}]" if single else "[{}:{}]".format(
        "" if low is None else low, "" if high is None else high)
    bare = part.text == "..." or part.text.replace(".", "").isalnum()
    return Said((part.text if bare else f"({part.text})") + spelt, ends)


def has(part: Said, path: Path, places: Places) -> bool:
    """Whether a whole path has the stretch somewhere."""
    return any(part.ends(path, i, places) for i in range(len(path) + 1))


Whole = tuple[str, Callable[[Path, Places], bool]]


def random_whole(random: Random, depth: int = 2) -> Whole:
    """A set of whole paths: its text and its predicate."""
    if depth and random.random() < 0.5:
        a, b = random_whole(random, depth - 1), random_whole(random, depth - 1)
        kind = random.choice("|&-~")
        if kind == "|":
            return f"({a[0]} | {b[0]})", lambda p, g: a[1](p, g) or b[1](p, g)
        if kind == "&":
            return f"({a[0]} & {b[0]})", lambda p, g: a[1](p, g) and b[1](p, g)
        if kind == "-":
            return f"({a[0]} - {b[0]})", lambda p, g: a[1](p, g) and not b[1](p, g)
        return f"~({a[0]})", lambda p, g: not a[1](p, g)
    walk = random_walk(random)
    return f"({walk.text})", lambda p, g: has(walk, p, g)


def random_walk(random: Random) -> Said:
    """A stretch with positions and windows, of a model of two layers with two heads."""
    layer, head = random.randrange(2), random.randrange(2)
    node, port = f"a{layer}.h{head}", random.choice("qkv")
    place, other = random.choice(["A", "B", "first", "last"]), random.choice(["A", "B"])
    spelt = {"first": "[0]", "last": "[-2:]"}.get(place, place)
    low, high = random.choice([(-1, 0), (-2, 0), (0, 1), (None, 0), (-1, None), (None, -1),
                               (-3, -1), (-2, 1)])
    late = f"a1.h{head}.{random.choice('qkv')}"
    kinds = [
        lambda: name("tokens", place, spell=f"tokens@{spelt}"),
        lambda: name(node, place, spell=f"{node}@{spelt}"),
        lambda: name(f"{node}.{port}", "", place, f"{node}.{port}@{spelt}"),
        lambda: name(f"{node}.{port}", other, place, f"{node}@{other}.{port}@{spelt}"),
        lambda: name(f"m{layer}", place, spell=f"m{layer}@{spelt}"),
        lambda: name("logits", place, spell=f"logits@{spelt}"),
        lambda: window(name(f"{node}.{random.choice('kv')}"), low, high),
        lambda: then(name("tokens"), window(anything(), low, high), name(late)),
        lambda: then(name("tokens"), window(anything(), low, high), name("logits")),
        lambda: then(name("tokens", place, spell=f"tokens@{spelt}"), window(anything(), low, high),
                     name(late, "", other, f"{late}@{other}"), anything()),
        lambda: then(window(then(name(f"a0.h{head}"), maybe(name("m0"))), low, high),
                     name(late)),
        lambda: then(window(either(name("a0.h0.v"), name("a0.h1.k"), name("m0")), low, high),
                     anything(), name("a1", other, spell=f"a1@{other}")),
    ]
    return random.choice(kinds)()
