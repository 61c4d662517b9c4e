"""Attention spelt out, heads in the batch, and attention that cannot be read."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import rewrite as rw
from tests.zoo import FAMILIES, tiny, tokens, trace


@pytest.mark.parametrize("family", FAMILIES)
def test_eager_attention_is_split_too(family: str) -> None:
    model = tiny(family, torch.float64)
    model.set_attn_implementation("eager")
    parts = trace(model).components()
    ids = tokens(2, 9)
    with torch.no_grad():
        found, wanted = parts(input_ids=ids).logits, model(ids).logits
    assert len(parts.heads) == 8 and parts.notes == ()
    assert (found - wanted).abs().max() <= 1e-10 * wanted.abs().max()


class Layer(nn.Module):
    """Attention of two heads on x `[batch, length, 8]`, in a residual stream."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(8, 8) for _ in range(4))
        self.mix, self.norm = nn.Linear(2, 2), nn.RMSNorm(8)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.o(self.joined(x))

    def joined(self, x: Tensor) -> Tensor:
        """Results of all heads side by side, before the output projection."""
        raise NotImplementedError

    def head(self, x: Tensor, head: int) -> Tensor:
        """What one head writes, computed by hand."""
        at = slice(4 * head, 4 * head + 4)
        q, k, v = (f(x)[:, :, at] for f in (self.q, self.k, self.v))
        return (q @ k.transpose(1, 2)).softmax(-1) @ v @ self.o.weight[:, at].T


class Folded(Layer):
    """Attention whose heads stand in the batch, as some models compute it."""

    def folded(self, y: Tensor) -> Tensor:
        return y.view(y.shape[0], -1, 2, 4).transpose(1, 2).reshape(y.shape[0] * 2, -1, 4)

    def attended(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return torch.bmm(torch.bmm(q, k.transpose(1, 2)).softmax(-1), v)

    def joined(self, x: Tensor) -> Tensor:
        q, k, v = (self.folded(f(x)) for f in (self.q, self.k, self.v))
        z = self.attended(q, k, v).view(x.shape[0], 2, x.shape[1], 4).transpose(1, 2)
        return z.reshape(*x.shape)


class FoldedFused(Folded):
    """Heads in the batch of the fused operator."""

    def attended(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return nn.functional.scaled_dot_product_attention(q, k, v, scale=1.0)


class Innermost(Folded):
    """The batch in the heads: [heads * batch], as no axis of a fixed period holds it."""

    def folded(self, y: Tensor) -> Tensor:
        return y.view(y.shape[0], -1, 2, 4).permute(2, 0, 1, 3).reshape(2 * y.shape[0], -1, 4)

    def joined(self, x: Tensor) -> Tensor:
        q, k, v = (self.folded(f(x)) for f in (self.q, self.k, self.v))
        z = self.attended(q, k, v).view(2, x.shape[0], x.shape[1], 4).permute(1, 2, 0, 3)
        return z.reshape(*x.shape)


class Apart(Layer):
    """Heads on an axis of their own; subclasses change one step."""

    def apart(self, y: Tensor) -> Tensor:
        return y.view(y.shape[0], -1, 2, 4).transpose(1, 2)

    def scores(self, q: Tensor, k: Tensor, x: Tensor) -> Tensor:
        return q @ k.transpose(-1, -2)

    def joined(self, x: Tensor) -> Tensor:
        q, k, v = (self.apart(f(x)) for f in (self.q, self.k, self.v))
        return (self.scores(q, k, x).softmax(-1) @ v).transpose(1, 2).flatten(2)


class Talking(Apart):
    """Scores of each head are mixed from those of all heads."""

    def scores(self, q: Tensor, k: Tensor, x: Tensor) -> Tensor:
        made = super().scores(q, k, x)
        return self.mix(made.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class TalkingAfterwards(Apart):
    """The patterns of each head are mixed from those of all heads."""

    def joined(self, x: Tensor) -> Tensor:
        q, k, v = (self.apart(f(x)) for f in (self.q, self.k, self.v))
        pattern = self.scores(q, k, x).softmax(-1)
        mixed = self.mix(pattern.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return (mixed @ v).transpose(1, 2).flatten(2)


class Normed(Apart):
    """A norm over the features of all heads, before the output projection."""

    def forward(self, x: Tensor) -> Tensor:
        return x + self.o(self.norm(self.joined(x)))


class Beside(Apart):
    """The heads' features stand beside those of a convolution when they are projected."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.o = nn.Conv1d(8, 4, 3, padding=1), nn.Linear(12, 8)

    def forward(self, x: Tensor) -> Tensor:
        near = self.conv(x.transpose(1, 2)).transpose(1, 2)
        return x + self.o(torch.cat([self.joined(x), near], -1))


class Convolved(Apart):
    """The output projection is a convolution of width 1, over channels before positions."""

    def __init__(self) -> None:
        super().__init__()
        self.o = nn.Conv1d(8, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.o(self.joined(x).transpose(1, 2)).transpose(1, 2)


class Differential(Apart):
    """One head that is the difference of two patterns, normalised."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.o = nn.Linear(8, 16), nn.Linear(8, 16), nn.Linear(8, 8)
        self.norm = nn.RMSNorm(4)

    def forward(self, x: Tensor) -> Tensor:
        q, k = (f(x).view(*x.shape[:2], 4, 4).transpose(1, 2) for f in (self.q, self.k))
        v = self.apart(self.v(x)).repeat(1, 2, 1, 1)
        z = nn.functional.scaled_dot_product_attention(q, k, v)
        a, b = z.chunk(2, dim=1)
        return x + self.o(self.norm(a - 0.5 * b).transpose(1, 2).flatten(2))

    def head(self, x: Tensor, head: int) -> Tensor:
        at = slice(4 * head, 4 * head + 4)

        def pattern(i: int) -> Tensor:
            part = slice(4 * i, 4 * i + 4)
            q, k = self.q(x)[:, :, part], self.k(x)[:, :, part]
            return (q @ k.transpose(1, 2) / 2).softmax(-1)

        z = (pattern(head) - 0.5 * pattern(head + 2)) @ self.v(x)[:, :, at]
        return self.norm(z) @ self.o.weight[:, at].T


class Masked(Apart):
    """Columns of padding, which the model finds in its input."""

    def scores(self, q: Tensor, k: Tensor, x: Tensor) -> Tensor:
        return super().scores(q, k, x).masked_fill((x[:, :, 0] > 1)[:, None, None, :], -1e9)

    def head(self, x: Tensor, head: int) -> Tensor:
        at = slice(4 * head, 4 * head + 4)
        q, k, v = (f(x)[:, :, at] for f in (self.q, self.k, self.v))
        scores = (q @ k.transpose(1, 2)).masked_fill((x[:, :, 0] > 1)[:, None, :], -1e9)
        return scores.softmax(-1) @ v @ self.o.weight[:, at].T


def made(kind: Callable[[], Layer]) -> tuple[Layer, rw.Components]:
    torch.manual_seed(0)
    model = kind().double().eval()
    example = torch.randn(3, 11, 8, dtype=torch.float64)
    return model, rw.trace(model, inputs={"x": example}).components()


def assert_exact(model: Layer, parts: rw.Components) -> Tensor:
    x = torch.randn(2, 5, 8, dtype=torch.float64)
    assert torch.allclose(parts(x=x), model(x), atol=1e-12)
    return x


@pytest.mark.parametrize("kind", [Apart, Folded, FoldedFused, Masked, Differential])
def test_each_head_alone(kind: Callable[[], Layer]) -> None:
    model, parts = made(kind)
    assert parts.heads == ("a0.h0", "a0.h1") and parts.notes == ()
    x = assert_exact(model, parts)
    for head in (0, 1):
        body = parts.body("a0", (head,))
        assert body.context == () and body.stuck == ()
        found = body.module(*(x for _ in body.slots))
        assert torch.allclose(found, model.head(x, head), atol=1e-12)


@pytest.mark.parametrize("kind", [Normed, Beside])
def test_heads_side_by_side(kind: Callable[[], Layer]) -> None:
    """Where heads enter the projection together, each writes its own features in front of it."""
    model, parts = made(kind)
    assert parts.heads == ("a0.h0", "a0.h1") and parts.notes == ()
    assert {("a0.h0", "o0.a"), ("a0.h1", "o0.a")} <= set(parts.edges)
    assert ("a0.h0", "a0.h1.q") not in parts.edges
    x = assert_exact(model, parts)
    for head in (0, 1):
        body = parts.body("a0", (head,))
        found = body.module(*(x for _ in body.slots)).view(2, 5, 2, 4)
        wanted = torch.zeros_like(found)
        wanted[:, :, head] = model.joined(x).view(2, 5, 2, 4)[:, :, head]
        assert torch.allclose(found, wanted, atol=1e-12) and body.stuck == ()


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("kind", [Normed, Beside, Convolved])
def test_patching_heads_side_by_side(kind: Callable[[], Layer], last: bool) -> None:
    """A head of another run is its features of that run, whatever all heads enter together."""
    model, parts = made(kind)
    clean, corrupt = torch.randn(2, 2, 5, 8, dtype=torch.float64)
    exp = rw.expand(rw.Hypothesis(parts, {"clean": "a0.h1"}), last=last)
    found = exp(clean={"x": clean}, corrupt={"x": corrupt})
    z = torch.cat([model.joined(corrupt)[:, :, :4], model.joined(clean)[:, :, 4:]], -1)
    model.joined = lambda x: z
    wanted = model(corrupt)
    assert torch.allclose(found, wanted[:, -1:] if last else wanted, atol=1e-12)


@pytest.mark.parametrize("kind", [Folded, FoldedFused])
def test_readings_of_one_head_in_the_batch(kind: Callable[[], Layer]) -> None:
    """A head that reads q, k and v from three runs is that head of a layer which does."""
    model, parts = made(kind)
    q, k, v = torch.randn(3, 2, 5, 8, dtype=torch.float64)
    body = parts.body("a0", (1,), {port: port for port in "qkv"})
    given = {"q": q, "k": k, "v": v}
    found = body.module(*(given[port] for port, _ in body.slots))
    at = slice(4, 8)
    scores = model.q(q)[:, :, at] @ model.k(k)[:, :, at].transpose(1, 2)
    wanted = scores.softmax(-1) @ model.v(v)[:, :, at] @ model.o.weight[:, at].T
    assert torch.allclose(found, wanted, atol=1e-12)
    assert set(parts.edges) >= {("x", "a0.h1.q"), ("x", "a0.h1.k"), ("x", "a0.h1.v")}


@pytest.mark.parametrize(("kind", "named"), [
    (Talking, "linear_3 (aten.linear.default) mixes the scores or patterns of several heads"),
    (Innermost, "no features of linear_3 belong to one head of bmm_1"),
    (TalkingAfterwards, "linear_3 (aten.linear.default) mixes the scores"),
])
def test_heads_that_cannot_be_split_are_reported(kind: Callable[[], Layer], named: str) -> None:
    """The note names the attention, or the projection, whose heads cannot be told apart."""
    model, parts = made(kind)
    assert parts.heads == ()
    assert len(parts.notes) == 1 and "heads not split" in parts.notes[0]
    assert named in parts.notes[0]
    assert_exact(model, parts)
