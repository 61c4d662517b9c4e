"""A row of a sweep is the hypothesis of its path set, and all rows together what was asked for.

`python -m tests.laws.test_sweeps llama mixtral t5` checks more rows, on families of the table too.
"""

from __future__ import annotations

import sys
from functools import cache
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import rewrite as rw
from rewrite.errors import HypothesisError, PathError
from rewrite.paths import count_paths
from tests.laws.positions_oracle import Path, Said, either, has, name, then, treeified, window
from tests.laws.test_positions import BATCH, RUNS, places, small
from tests.paths.test_members import members, random_atom
from tests.zoo import FAMILIES, trace, traced


def distance(reference: Any, found: Any, batch: object) -> Tensor:
    """Sum of absolute differences of the first output, for each example."""
    a, b = (each if isinstance(each, Tensor) else each[0] for each in (reference, found))
    return (a - b).flatten(1).abs().sum(1)


DISTANCE = rw.custom(distance, "distance")


class Gated(nn.Module):
    """No residual stream: it is cut at its modules."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.gate, self.last = nn.Linear(6, 8), nn.Linear(6, 8), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.tanh(self.first(x)) * torch.sigmoid(self.gate(x)))


@cache
def graph_of(family: str) -> rw.Components:
    """A tiny model, in double precision where it is of the zoo."""
    if family == "gated":
        torch.manual_seed(0)
        given = {"x": torch.randn(2, 7, 6, dtype=torch.float64)}
        return trace(Gated().double().eval(), given).components()
    if family in FAMILIES:
        return traced(family, torch.float64).parts
    from tests.models.traced import traced as of_the_table

    return of_the_table(family).parts


def pairs_for(parts: rw.Components, count: int = 3, length: int = 6) -> rw.Pairs:
    """Two runs of random inputs, with two named positions."""
    draw = torch.Generator().manual_seed(7)
    runs: dict[str, dict[str, Tensor]] = {"clean": {}, "corrupt": {}}
    for spec in parts.graph.inputs:
        sizes = [size if isinstance(size, int) else length for size in spec.shape]
        sizes[0] = count
        for run in runs.values():
            if "mask" in spec.name:
                run[spec.name] = torch.ones(sizes, dtype=spec.dtype)
            elif spec.dtype.is_floating_point:
                run[spec.name] = torch.randn(sizes, dtype=spec.dtype, generator=draw)
            else:
                run[spec.name] = torch.randint(1, 90, sizes, generator=draw)
    return rw.Pairs.from_tensors(runs, positions={"S": [1, 2, 0], "END": [-1, 4, 3]})


def random_names(random: Random, parts: rw.Components, most: int = 12) -> str:
    """One name or two, with positions and windows on some; few enough members for a table."""
    found: list[str] = []
    while len(found) < random.choice((1, 1, 2)):
        atom = random.choice((random_atom(random, parts.dag), random.choice(parts.dag.symbols)))
        if 0 < len(members(atom, parts.dag)) <= most:
            kinds = ("", "", "@S", "@END", "@[-1]", "@[1:3]", "[-1]", "[-2:1]")
            found.append(atom + random.choice(kinds))
    return " | ".join(found)


def check(family: str, random: Random) -> int:
    """One random sweep: how many rows agree; 0 where nothing can be asked."""
    parts, pairs = graph_of(family), pairs_for(graph_of(family))
    senders, each = random_names(random, parts), random.random() < 0.6
    receivers = random.choice((None, random_names(random, parts), random_names(random, parts)))
    asked = senders if receivers is None else f"({senders}) -> ({receivers})"
    try:
        swept = rw.sweep(parts, senders, receivers, each=each, pairs=pairs, metric=DISTANCE)
    except (PathError, HypothesisError):
        return 0
    table = swept.table
    made = [rw.Hypothesis(parts, {"corrupt": text}, default="clean") for text in table["paths"]]
    alone = [each.aue.value for each in rw.evaluate(made, pairs, DISTANCE)]
    assert np.allclose(table["effect"], alone, rtol=1e-4, atol=1e-6), (senders, receivers, each)
    union = rw.paths(" | ".join(table["paths"]))
    assert count_paths((union - asked) | (rw.paths(asked) - union), parts.dag) == 0, asked
    for row in table.to_dict("records"):
        ends = f" -> ({row['receiver']})" * bool(row["receiver"])
        same, other = rw.paths(row["paths"]), rw.paths(f"{row['sender']}{ends}")
        assert count_paths((same - other) | (other - same), parts.dag) == 0, row
    assert not table.duplicated("paths").any()
    assert rw.Sweep.from_dict(swept.to_dict()).table.equals(table)
    return len(table)


@pytest.mark.parametrize("family", ["gpt2", "llama", "gated"])
def test_a_row_is_the_hypothesis_of_its_paths(family: str) -> None:
    random, rows, tried = Random(family), 0, 0
    while rows < 10:
        rows, tried = rows + check(family, random), tried + 1
        assert tried < 60


PORTS: list[tuple[str, str | None, list[Said]]] = [
    ("a1.h1.q", None, [name("a1.h1.q")]),
    ("a0.h0.v@A", None, [name("a0.h0.v", "", "A")]),
    ("a0.h1@[0]", None, [name("a0.h1", "first")]),
    ("a0@A.h1", None, [name("a0.h1", "A")]),
    ("a0.kv0.k", "a1.h1", [then(either(name("a0.h0.k"), name("a0.h1.k")), name("a1.h1"))]),
    ("a0.kv0.v", None, [either(name("a0.h0.v"), name("a0.h1.v"))]),
    ("a0.h1.v", "a1.kv0.k", [then(name("a0.h1.v"), either(name("a1.h0.k"), name("a1.h1.k")))]),
    ("a0.h*", "a1.h1", [then(name(f"a0.h{h}"), name("a1.h1")) for h in (0, 1)]),
    ("a0", "m0", [then(name("a0"), name("m0"))]),
    ("a0.h1.{q,k}", "logits", [then(name(f"a0.h1.{p}"), name("logits")) for p in "qk"]),
    ("a1.h0.k[-1]", None, [window(name("a1.h0.k"), -1, 0)]),
    ("m0@A", "a1.h0.v@B", [then(name("m0", "A"), name("a1.h0.v", "", "B"))]),
]


@pytest.mark.parametrize(("senders", "receivers", "said"), PORTS)
def test_ports_and_positions_against_brute_force(
    senders: str, receivers: str | None, said: list[Said]
) -> None:
    """Rows of a grouped-query model, against every (node, position) treated by itself."""
    at, masks = small("llama"), {"A": [[1, 3], [2, 0]], "B": [[1, 2], [0, 3]]}
    where = [{**places(example), **{key: frozenset(value[example]) for key, value in masks.items()}}
             for example in range(BATCH)]
    pairs = rw.Pairs.from_tensors({run: {"input_ids": ids} for run, ids in RUNS.items()},
                                  positions={key: torch.tensor(v) for key, v in masks.items()})
    asked: dict[str, Any] = {"pairs": pairs, "metric": DISTANCE}
    found = rw.sweep(at.parts, senders, receivers, **asked).table
    if receivers is not None:
        each = rw.sweep(at.parts, senders, receivers, each=True, **asked).table
        assert each.equals(found), "one receiver is one row"
    assert len(found) == len(said)
    plain = at.model(RUNS["clean"]).logits.detach()
    for effect, part in zip(found["effect"], said, strict=True):
        wanted: list[float] = []
        for example, here in enumerate(where):
            given = {run: ids[example : example + 1] for run, ids in RUNS.items()}

            def choose(path: Path, part: Said = part, here: Any = here) -> str:
                return "corrupt" if has(part, path, here) else "clean"

            patched = treeified("llama", at.model, given, choose)
            wanted.append(float((patched - plain[example]).abs().sum()))
        assert np.mean(wanted) > 1e-3
        assert np.isclose(effect, np.mean(wanted), rtol=1e-9), part.text


if __name__ == "__main__":
    for asked_for in sys.argv[1:]:
        at_random, total = Random(asked_for), 0
        while total < 120:
            total += check(asked_for, at_random)
        print(asked_for, total, "rows", flush=True)
