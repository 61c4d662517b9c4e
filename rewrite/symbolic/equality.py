"""Whether two graphs, modules or functions compute the same, over the real numbers."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from rewrite.errors import ProofError
from rewrite.ir.graph import Graph
from rewrite.symbolic.expression import shortened
from rewrite.symbolic.run import Given, Runnable, Space, given_for, leaves, run
from rewrite.symbolic.table import MERGE_LIMIT, POINTS, Term, differs
from rewrite.symbolic.tensor import SymbolicTensor, lift
from rewrite.symbolic.vanishing import vanishes

LIMIT = 5_000
Status = Literal["proved", "refuted", "undecided"]


@dataclass(frozen=True)
class Verdict:
    """The outcome of a comparison; it is true only if equality is proved.

    `entries` were compared.  Of the first entry that differs, or that could not be decided:
    `where` it is, `left` and `right` (shortened), `values` of both for the variables in `at`.
    """

    status: Status
    entries: int
    reason: str = ""
    where: str = ""
    left: str = ""
    right: str = ""
    values: tuple[float, float] | None = None
    at: Mapping[str, float] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return self.status == "proved"

    def __str__(self) -> str:
        if self.status == "proved":
            return f"equal in all {self.entries} entries"
        head = {"refuted": "differs", "undecided": "undecided"}[self.status]
        if not self.where:
            return f"{head}: {self.reason}"
        text = f"{head} at {self.where}:\n  left   {self.left}\n  right  {self.right}"
        if self.values is not None:
            more = ", ..." if len(self.at) > 6 else ""
            point = ", ".join(f"{name}={value:g}" for name, value in list(self.at.items())[:6])
            text += f"\n  {self.values[0]:.6g} and {self.values[1]:.6g} for {point}{more}"
        return f"{text}\n  {self.reason}" if self.reason else text


def equal(
    left: Runnable,
    right: Runnable,
    inputs: Mapping[str, Given] | None = None,
    *,
    sizes: Mapping[str, int] | None = None,
    concrete: Collection[str] = (),
    buffers: bool = False,
    limit: int = LIMIT,
) -> Verdict:
    """Compare what two sides yield for the same symbolic inputs, entry by entry (see `run`).

    "proved" means that the difference of every pair of entries is zero as a rational
    expression in the variables, roots, exponentials and further functions: for all real
    values for which both sides are defined.  "refuted" comes with an example.  "undecided"
    are entries that agree at all points that were tried and could not be proved equal, because
    a law of a function would be needed or more than `limit` monomials.

    Raises `ProofError` if the sides have different inputs, or cannot be run.

    >>> from rewrite.symbolic import equal
    >>> print(equal(lambda x: torch.exp(x) ** 2, lambda x: torch.exp(2 * x), {"x": (3,)}))
    equal in all 3 entries
    >>> bool(equal(lambda x: x * x, lambda x: 2 * x, {"x": (3,)}))
    False
    """
    space = Space()
    given = inputs
    if isinstance(left, Graph):
        given = given_for(left, inputs or {}, sizes or {})
        if isinstance(right, Graph):
            _check_inputs(left, right)

    def of(what: Runnable) -> list[tuple[str, Tensor]]:
        return leaves(run(what, given, sizes=sizes, concrete=concrete, buffers=buffers,
                          space=space))

    return compare(of(left), of(right), space, limit)


def _check_inputs(left: Graph, right: Graph) -> None:
    one, other = ([spec.name for spec in graph.inputs] for graph in (left, right))
    if set(one) != set(other):
        raise ProofError(f"the sides have different inputs: {', '.join(one)} on the left, "
                         f"{', '.join(other)} on the right; compare graphs with the same inputs")


def compare(
    left: list[tuple[str, Tensor]], right: list[tuple[str, Tensor]], space: Space,
    limit: int = LIMIT,
) -> Verdict:
    """Compare outputs (see `leaves`) of two sides that were run in one space."""
    one, other = ([list(x.shape) for _, x in side] for side in (left, right))
    if one != other or not one:
        shapes = " and ".join(", ".join(map(str, s)) or "no tensor" for s in (one, other))
        return Verdict("refuted", 0, f"the sides yield {shapes}")
    entries = sum(x.numel() for _, x in left)
    doubts = []
    for (name, a), (_, b) in zip(left, right, strict=True):
        for found in _differences(name, a, b, space, limit, entries):
            if found.status == "refuted":
                return found
            doubts.append(found)
    return doubts[0] if doubts else Verdict("proved", entries)


def _differences(
    name: str, a: Tensor, b: Tensor, space: Space, limit: int, entries: int
) -> Iterator[Verdict]:
    """A verdict for every pair of entries that is not proved equal."""
    if not isinstance(a, SymbolicTensor) and not isinstance(b, SymbolicTensor):
        for place in torch.nonzero(a != b).tolist():
            left, right = (str(x[tuple(place)].item()) for x in (a, b))
            yield Verdict("refuted", entries, "", f"{name}{place}", left, right)
        return
    doubtful = False
    pairs = zip(lift(space.table, a).terms, lift(space.table, b).terms, strict=True)
    for place, (x, y) in enumerate(pairs):
        if x is y or (doubtful and differs(x, y, 1e-6) is None):
            continue  # one entry in doubt is enough; others may still differ
        found = _decided(x, y, f"{name}{_unravelled(place, a.shape)}", limit, entries)
        if found is not None:
            doubtful = True
            yield found


def _decided(x: Term, y: Term, where: str, limit: int, entries: int) -> Verdict | None:
    """None if two entries are equal."""
    point = differs(x, y, 1e-6)
    zero = vanishes([(x, 1), (y, -1)], limit if point is None else MERGE_LIMIT)
    if zero:
        return None
    sides = (shortened(x), shortened(y))
    if point is not None:
        at = {t.name: t.values[point] for t in _symbols(x, y)}
        values = (x.values[point], y.values[point])
        return Verdict("refuted", entries, "", where, *sides, values, at)
    reason = f"more than {limit} monomials would be compared; use a smaller instance"
    if zero is not None:
        known = sum(all(math.isfinite(t.values[i]) for t in (x, y)) for i in range(POINTS))
        reason = (f"both agree at the {known} points at which they are defined, and no law that is "
                  "used makes them equal")
    return Verdict("undecided", entries, reason, where, *sides)


def _symbols(*terms: Term) -> list[Term]:
    seen: dict[Term, None] = {}
    stack = list(terms)
    while stack:
        term = stack.pop()
        if term not in seen:
            seen[term] = None
            stack.extend(part for part, _ in term.parts)
    return sorted((t for t in seen if t.kind == "symbol"), key=lambda t: t.id)


def _unravelled(place: int, shape: Any) -> list[int]:
    return [int(i) for i in torch.unravel_index(torch.tensor(place), tuple(shape))]
