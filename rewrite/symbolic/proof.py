"""Proofs of rules: what a rule makes of each of its examples equals the example."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from rewrite.errors import ProofError
from rewrite.ir.graph import Graph
from rewrite.symbolic.equality import Verdict, equal


class Instance(Protocol):
    """A small graph on which a rule fires, with inputs for it; letters are sizes."""

    def graph(self, **letters: int) -> Graph: ...

    def inputs(self, seed: int = 0, **letters: int) -> Mapping[str, Tensor]: ...


class Provable(Protocol):
    """What `prove` needs to know of a rule."""

    @property
    def name(self) -> str: ...

    @property
    def equation(self) -> str: ...

    @property
    def examples(self) -> Sequence[Any]: ...


@dataclass(frozen=True)
class Proof:
    """The outcome for a rule; true only if every instance is proved.

    `instances` are the examples as text, `verdicts` one outcome for each, `entries` how many
    entries of results were compared in all.
    """

    rule: str
    equation: str
    instances: tuple[str, ...]
    verdicts: tuple[Verdict, ...]
    seconds: float

    @property
    def entries(self) -> int:
        """Entries that were compared."""
        return sum(verdict.entries for verdict in self.verdicts)

    @property
    def verdict(self) -> Verdict:
        """The first verdict that is no proof; else the last one."""
        return next((v for v in self.verdicts if not v), self.verdicts[-1])

    def __bool__(self) -> bool:
        return all(self.verdicts)

    def __str__(self) -> str:
        if self:
            count = len(self.instances)
            return (f"{self.rule}: {self.equation}\n  proved on {count} "
                    f"{'instance' if count == 1 else 'instances'}, {self.entries} entries, "
                    f"{self.seconds:.2f} s")
        failed = next(i for i, verdict in enumerate(self.verdicts) if not verdict)
        inner = str(self.verdicts[failed]).replace("\n", "\n  ")
        return f"{self.rule}: {self.equation}\n  not proved on {self.instances[failed]}\n  {inner}"


def prove(rule: Provable, **letters: int) -> Proof:
    """Prove a rule on symbolic tensors: on each of its examples, before and after are equal.

    The equation is shown for the sizes of the examples and for all real values of their
    entries (see `equal`); `letters` change sizes, such as `b=2`.

    Raises `ProofError` if the rule has no examples or does not fire on one.

    >>> from rewrite.rules.declare import rule
    >>> bool(prove(rule("twice", "x + x = 2 * x", examples="x: b s d")))
    True
    >>> bool(prove(rule("wrong", "gelu(a + b) = gelu(a) + gelu(b)", examples="a: s d, b: s d")))
    False
    """
    if not rule.examples:
        raise ProofError(f"{rule.name} has no example to prove it on: give the shapes of its "
                         "holes, such as examples='x: b s d'")
    start = time.perf_counter()
    verdicts = tuple(_proved(rule, example, letters) for example in rule.examples)
    return Proof(rule.name, rule.equation, tuple(str(e) for e in rule.examples), verdicts,
                 time.perf_counter() - start)


def _proved(rule: Provable, example: Instance, letters: Mapping[str, int]) -> Verdict:
    before: Any = example.graph(**letters)  # a rule of terms only need not be a Rule
    after = before.rewrite([rule])
    if not after.trail:
        raise ProofError(f"{rule.name} does not fire on its example {example}; an example is a "
                         f"graph of the form of the left side of {rule.equation}")
    given = {name: _with_first_key(x) for name, x in example.inputs(**letters).items()}
    return equal(before, after, given)


def _with_first_key(x: Tensor) -> Tensor:
    """A mask that hides no row completely: softmax of nothing is not defined."""
    if x.dtype != torch.bool or x.ndim == 0:
        return x
    first = torch.arange(x.shape[-1]) == 0
    return x | first
