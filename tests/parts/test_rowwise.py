"""Which parts treat every position for itself, against moving one position and looking."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, fx, nn

import rewrite as rw
from rewrite.errors import UnknownName
from rewrite.ir.flow import shape
from rewrite.parts.assemble import context_module
from rewrite.parts.rowwise import positions
from tests.models.table import TABLE
from tests.zoo import traced

BATCH, AT = 2, 3


class Moving:
    """A component graph, and which rows of a part's output move with one row of what it reads."""

    def __init__(self, parts: rw.Components) -> None:
        self.parts = parts
        fixed = parts.graph.inputs[0].shape[1]
        self.length = fixed if isinstance(fixed, int) else 6

    def mixes(self, name: str) -> bool:
        """Whether another value at one position moves the output at others."""
        body, region = self.parts.body(name), self.parts.component(name).region
        assert region is not None
        inputs = [torch.ones(BATCH, self.length, dtype=spec.dtype)
                  for spec in self.parts.graph.inputs]
        given = context_module(self.parts, body.context)(*inputs)
        torch.manual_seed(0)
        values = [self._some(node) for _, node in body.slots]
        changed = [value.clone() for value in values]
        for (_, node), value in zip(body.slots, changed, strict=True):
            self._rows(node, value)[AT] = self._rows(node, self._some(node))[AT]
        with torch.no_grad():
            before, after = (self._rows(region.output, body.module(*v, *given))
                             for v in (values, changed))
        others = [i for i in range(before.shape[0]) if i != AT]
        return not torch.allclose(before[others], after[others], atol=1e-5)

    def _some(self, node: fx.Node) -> Tensor:
        sizes = [size if isinstance(size, int) else 0 for size in shape(node)]
        if sizes.count(0) == 1 and self._merged(node):
            sizes[0] = BATCH * self.length
        while 0 in sizes:
            sizes[sizes.index(0)] = BATCH if sizes.index(0) == 0 else self.length
        if node.meta["val"].is_floating_point():
            return torch.randn(sizes, dtype=node.meta["val"].dtype)
        return torch.randint(1, 97, sizes)

    def _merged(self, node: fx.Node) -> bool:
        place = positions(self.parts.cut.flow, node)
        return place is not None and place[1] != shape(node)[place[0]]

    def _rows(self, node: fx.Node, value: Tensor) -> Tensor:
        """The value with positions first, sharing its memory."""
        if self._merged(node):
            return value.unflatten(0, (BATCH, self.length)).movedim(1, 0)
        place = positions(self.parts.cut.flow, node)
        return value.movedim(1 if place is None else place[0], 0)


def agree(parts: rw.Components) -> None:
    """Parts are row-wise if and only if no other rows move."""
    moving = Moving(parts)
    for name, component in parts.components.items():
        assert component.region is None or parts.rowwise(name) is not moving.mixes(name), name


@pytest.mark.parametrize("family", ["gpt2", "llama", "bert"])
def test_against_moving_one_position(family: str) -> None:
    agree(traced(family).parts)


def test_mixing_by_fourier_transforms() -> None:
    agree(rw.trace(TABLE["fnet"].build(num_hidden_layers=1)).components())


def test_an_expert_is_as_its_layer() -> None:
    parts = rw.trace(TABLE["mixtral"].build(num_hidden_layers=1)).components()
    agree(parts)
    assert parts.rowwise("m0.e3") and parts.rowwise("m0.router") and not parts.rowwise("a0.h3")


def test_unknown_names() -> None:
    with pytest.raises(UnknownName, match=r"has no component 'm7'.*m1"):
        traced("gpt2").parts.rowwise("m7")


class Layer(nn.Module):
    """Adds to a stream of 4 features what a function makes of it; at one length or at any."""

    def __init__(self, function: Callable[[Tensor], Tensor], length: int = 1) -> None:
        super().__init__()
        self.function = function
        self.embedding = nn.Embedding(97, 4)
        self.places = nn.Parameter(torch.randn(length, 4))
        self.weight = nn.Parameter(torch.randn(4, 4))

    def forward(self, input_ids: Tensor) -> Tensor:
        """The stream behind the layer."""
        x = self.embedding(input_ids) + self.places
        return x + self.function(x) @ self.weight


FUNCTIONS: dict[str, tuple[bool, Callable[[Tensor], Tensor]]] = {
    "positions and batch merged": (True, lambda x: x.reshape(-1, 4).exp().reshape(x.shape)),
    "features split": (True, lambda x: x.unflatten(-1, (2, 2)).flip(-1).flatten(-2)),
    "twice each, and added": (
        True, lambda x: x.reshape(-1, 1, 4).expand(-1, 2, 4).reshape(-1, 4)
        .sin().reshape(*x.shape[:2], 2, 4).sum(2)),
    "positions last for a while": (True, lambda x: x.transpose(1, 2).cos().transpose(1, 2)),
    "sorted features": (True, lambda x: x.sort(-1).values),
    "turned round": (False, lambda x: x.flip(1)),
    "added up": (False, lambda x: x.cumsum(1)),
    "beside its mean": (False, lambda x: x - x.mean(1, keepdim=True)),
    "sorted": (False, lambda x: x.sort(1).values),
    "merged another way": (
        False, lambda x: x.transpose(1, 2).reshape(-1, 4).exp().reshape(x.shape)),
    "rolled in one row": (False, lambda x: x.reshape(-1, 4).roll(1, 0).reshape(x.shape)),
    "a window": (False, lambda x: nn.functional.pad(x, (0, 0, 1, 0))[:, :-1]),
    "softmax over positions": (False, lambda x: x.softmax(1)),
}


@pytest.mark.parametrize("case", FUNCTIONS)
@pytest.mark.parametrize("length", [1, 6], ids=["any length", "one length"])
def test_operators(case: str, length: int) -> None:
    wanted, function = FUNCTIONS[case]
    graph = rw.trace(Layer(function, length).eval(),
                     inputs={"input_ids": torch.ones(2, 6, dtype=torch.int64)})
    assert graph.inputs[0].shape[1] == ("seq" if length == 1 else length)
    parts = graph.components()
    assert parts.rowwise("m0") is wanted
    agree(parts)
