"""What a certificate claims was measured: at the given inputs, at other sizes, for gradients."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import rewrite as rw
from rewrite.errors import InputError, TraceError
from tests.models.table import TABLE


class Function(nn.Module):
    """A function of its inputs `x` and `y` and of a linear layer."""

    def __init__(self, function: Callable[..., Tensor], width: int = 4) -> None:
        super().__init__()
        self.function, self.linear = function, nn.Linear(width, width)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        return self.function(self.linear, x) if y is None else self.function(self.linear, x, y)


class Straight(torch.autograd.Function):
    """A step, with the gradient of the identity."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return (x > 0).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return grads[0]


def without_gradients(linear: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return linear(x) * 2


GRADIENTS: dict[str, tuple[Callable[..., Tensor], bool]] = {
    "plain": (lambda f, x: f(x).tanh(), True),
    "straight through": (lambda f, x: Straight.apply(f(x)) * 3, False),
    "detached": (lambda f, x: f(x).detach() + x, True),
    "no_grad": (lambda f, x: without_gradients(f, x) + x, False),
    "checkpoint": (lambda f, x: checkpoint(f, x, use_reentrant=False), True),
}


@pytest.mark.parametrize("name", GRADIENTS)
def test_gradients(name: str) -> None:
    """The certificate says whether `backward` through the graph is that of the model."""
    function, same = GRADIENTS[name]
    torch.manual_seed(0)
    model, x = Function(function).eval(), torch.randn(3, 4)
    graph = rw.trace(model, inputs={"x": x})
    pulled = []
    for call in (model, graph):
        leaf = x.clone().requires_grad_()
        (grad,) = torch.autograd.grad(call(x=leaf).square().sum() + 0 * leaf.sum(), leaf)
        pulled.append(grad)
    assert torch.allclose(*pulled) is same
    certificate = graph.certificate
    assert certificate is not None and certificate.gradients_agree is same
    assert certificate.difference == 0.0
    assert ("gradients differ: with respect to" in str(certificate)) is not same


def test_gradients_of_frozen_weights() -> None:
    """A frozen model stays frozen, and its gradients are compared all the same."""
    model = TABLE["gpt2"].build().requires_grad_(False)
    certificate = rw.trace(model).certificate
    assert certificate is not None and certificate.gradients == 0.0
    assert not any(weight.requires_grad for weight in model.parameters())


class Encoder(nn.Module):
    """Torch's own encoder: padded rows are zero on its fast path only."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 1)

    def forward(self, x: Tensor, pad: Tensor) -> Tensor:
        return self.encoder(x, src_key_padding_mask=pad)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("padded", [True, False])
def test_a_model_that_differs_from_itself(padded: bool) -> None:
    """The graph can be one of both; the certificate says which, and how far the other is."""
    torch.manual_seed(0)
    model, x = Encoder().eval(), torch.randn(3, 8, 8)
    pad = torch.zeros(3, 8, dtype=torch.bool)
    pad[0, 6:] = padded
    graph = rw.trace(model, inputs={"x": x, "pad": pad})
    pad[0, 6:] = True
    with torch.no_grad():
        off = float((graph(x=x, pad=pad) - model(x, pad)).abs().max())
    assert off > 1 and torch.allclose(graph(x=x, pad=pad), model(x, pad), atol=1e-5)
    certificate = graph.certificate
    assert certificate is not None and certificate.difference == pytest.approx(off)
    assert str(certificate).startswith("differs from the model")
    assert "in 2 of 24 places of output ([0, 6] first)" in str(certificate)
    assert "torch.backends.mha.set_fastpath_enabled(False)" in str(certificate)


def test_a_model_that_asks_for_gradients() -> None:
    model = Function(lambda f, x: f(x) * (2 if torch.is_grad_enabled() else 1)).eval()
    certificate = rw.trace(model, inputs={"x": torch.randn(3, 4)}).certificate
    assert certificate is not None and certificate.difference and certificate.difference > 0.1
    assert "where gradients are recorded the model computes something else" in str(certificate)


def edges(f: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return torch.zeros_like(x).index_add(0, y[1], f(x)[y[0]])


def bags(f: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return f(nn.functional.embedding_bag(
        torch.arange(4).repeat(20)[:40], x, y))


def pointers(f: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    sums = torch.cat([torch.zeros_like(x[:1]), f(x).cumsum(0)])
    return sums[y[1:]] - sums[y[:-1]]


def lasts(f: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    index = (y - 1)[:, None, None].expand(-1, 1, x.shape[2])
    return f(x).gather(1, index)[:, 0]


STRUCTURED: dict[str, tuple[Callable[..., Tensor], Tensor, Tensor]] = {
    "edges": (edges, torch.randn(5, 4), torch.tensor([[0, 1, 2, 3], [1, 2, 3, 4]])),
    "edges among few": (edges, torch.randn(5, 4), torch.tensor([[0] * 9, [4] * 9])),
    "offsets": (bags, torch.randn(9, 4), torch.tensor([0, 4, 30])),
    "pointers": (pointers, torch.randn(6, 4), torch.tensor([0, 2, 5, 6])),
    "segments": (lambda f, x, y: torch.zeros_like(x).index_add(0, y, f(x)),
                 torch.randn(6, 4), torch.tensor([0, 0, 1, 1, 1, 2])),
    "lengths": (lasts, torch.randn(3, 7, 4), torch.tensor([7, 3, 5])),
    "mask": (lambda f, x, y: (f(x) * y[..., None]).sum(1) / y.sum(1, keepdim=True),
             torch.randn(3, 7, 4), torch.arange(7)[None] < torch.tensor([[7], [3], [5]])),
    "one-hot": (lambda f, x, y: f(torch.einsum("btd,bt->bd", x, y)),
                torch.randn(3, 7, 4), torch.eye(7)[[6, 2, 0]]),
}


@pytest.mark.parametrize("name", STRUCTURED)
def test_structured_inputs(name: str) -> None:
    """They are given in sizes that the model accepts; what the graph then allows, it does right."""
    function, x, y = STRUCTURED[name]
    model = Function(function).eval()
    graph = rw.trace(model, inputs={"x": x, "y": y})
    assert torch.equal(graph(x=x, y=y), model(x, y))
    certificate = graph.certificate
    assert certificate is not None and len(certificate.shapes) > 1
    assert certificate.difference is not None and certificate.difference < 1e-5


def test_a_size_that_the_model_refuses_stays_fixed() -> None:
    """Every other batch is refused by the model itself, so nothing can be said about it."""
    def three(f: nn.Module, x: Tensor) -> Tensor:
        if x.shape[0] + 0 * int(x.shape[1]) not in (3,):
            raise ValueError("three rows")
        return f(x)

    with pytest.raises(TraceError, match="cannot be traced"):
        rw.trace(Function(three).eval(), inputs={"x": torch.randn(3, 4)})


def test_padding_is_tried_where_none_was_given() -> None:
    """A trace that ignores its mask is right only as long as nothing is masked."""
    def careless(f: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return f(x) if torch.compiler.is_exporting() else f(x) * y[..., None]

    model, x = Function(careless).eval(), torch.randn(3, 8, 4)
    with pytest.raises(TraceError, match="padded 3x8 but differs from the model"):
        rw.trace(model, inputs={"x": x, "y": torch.ones(3, 8, dtype=torch.long)})


@pytest.mark.parametrize("positions", [1, 2, 3, 4, 12, 64])
def test_short_contexts(positions: int) -> None:
    """Sizes that the model refuses say nothing about its graph; the greatest one is enforced."""
    model: Any = TABLE["gpt2"].build(n_positions=positions, n_layer=1)
    graph = rw.trace(model)
    assert graph.certificate is not None and graph.certificate.difference == 0.0
    longest: Mapping[str, int] = dict(graph.certificate.longest)
    assert longest == ({"seq": positions} if positions > 1 else {})
    ids = torch.randint(0, 50, (2, positions))
    with torch.no_grad():
        assert torch.equal(graph(input_ids=ids).logits, model(input_ids=ids).logits)
    with pytest.raises(InputError, match=rf"<= {positions}|fixed when the model was traced"):
        graph(input_ids=torch.ones(2, positions + 1, dtype=torch.long))


def test_beyond_a_table_that_depends_on_values() -> None:
    """Positions of RoBERTa count real tokens, so that no length is too long for all inputs."""
    graph = rw.trace(TABLE["roberta"].build(max_position_embeddings=30, pad_token_id=1))
    with pytest.raises(InputError, match="table of positions"):
        graph(input_ids=torch.full((2, 40), 5))
