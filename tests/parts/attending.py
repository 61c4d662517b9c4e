"""Attention written by hand in many ways, and what single heads of it write.

The oracle never asks the package: a head is what the module computes when the projections of
all other heads, and its biases, are zero.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

WIDTH, HEADS, SIZE = 8, 2, 4  # of the stream; of the layer; of a head


class Attends(nn.Module):
    """Attention of two heads: `forward(q, k, v)`, each `[batch, length, 8]`, which may differ.

    Subclasses change one step.
    """

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(WIDTH, WIDTH) for _ in range(4))

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return self.project(self.joined(self.attended(
            *(self.apart(f(x)) for f, x in ((self.q, q), (self.k, k), (self.v, v))))))

    def apart(self, x: Tensor) -> Tensor:
        """`[batch, heads, length, 4]`"""
        return x.view(*x.shape[:2], HEADS, SIZE).transpose(1, 2)

    def attended(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v)

    def joined(self, z: Tensor) -> Tensor:
        """`[batch, length, 8]`, the features of each head in their places."""
        return z.transpose(1, 2).flatten(2)

    def project(self, z: Tensor) -> Tensor:
        return self.o(z)

    def places(self) -> Iterator[tuple[Tensor, int]]:
        """Weights that multiply the features of all heads, each with the axis of these."""
        yield self.o.weight, 1

    def added(self) -> Iterator[Tensor]:
        """Biases behind them."""
        yield self.o.bias

    def owned(self, head: int) -> Sequence[int]:
        """The places of a head's features."""
        return range(head * SIZE, (head + 1) * SIZE)

    def only(self, head: int) -> Attends:
        """The module with nothing but one head."""
        alone = copy.deepcopy(self)
        with torch.no_grad():
            for weight, axis in alone.places():
                kept = weight.index_select(axis, torch.tensor(list(self.owned(head))))
                weight.zero_().index_copy_(axis, torch.tensor(list(self.owned(head))), kept)
            for bias in alone.added():
                bias.zero_()
        return alone


class Torch(Attends):
    """`nn.MultiheadAttention`, which has the heads in the batch and time first within."""

    first = True

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.MultiheadAttention(WIDTH, HEADS, batch_first=self.first)
        nn.init.normal_(self.layer.out_proj.bias)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return self.layer(q, k, v, need_weights=False)[0]

    def places(self) -> Iterator[tuple[Tensor, int]]:
        yield self.layer.out_proj.weight, 1

    def added(self) -> Iterator[Tensor]:
        yield self.layer.out_proj.bias


class TorchWeights(Torch):
    """The same with its weights asked for: it spells attention out then."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return self.layer(q, k, v)[0]


class OpenClip(Torch):
    """Time first: `[length, batch, 8]`."""

    first = False

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (x.permute(1, 0, 2) for x in (q, k, v))
        return self.layer(q, k, v, need_weights=False)[0].permute(1, 0, 2)


class Arena(Attends):
    """Heads have matrices of their own, multiplied by einsum."""

    def __init__(self) -> None:
        super().__init__()
        self.W_Q, self.W_K, self.W_V = (
            nn.Parameter(torch.randn(HEADS, WIDTH, SIZE)) for _ in range(3))
        self.W_O = nn.Parameter(torch.randn(HEADS, SIZE, WIDTH))
        self.b_O = nn.Parameter(torch.randn(WIDTH))

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (torch.einsum("b s e, n e h -> b s n h", x, w)
                   for x, w in ((q, self.W_Q), (k, self.W_K), (v, self.W_V)))
        scores = torch.einsum("b q n h, b k n h -> b n q k", q, k) / 2
        z = torch.einsum("b k n h, b n q k -> b q n h", v, scores.softmax(-1))
        return torch.einsum("b q n h, n h e -> b q e", z, self.W_O) + self.b_O

    def places(self) -> Iterator[tuple[Tensor, int]]:
        yield self.W_O, 0

    def added(self) -> Iterator[Tensor]:
        yield self.b_O

    def owned(self, head: int) -> Sequence[int]:
        return [head]


class PerHead(Arena):
    """What each head writes on its own, then summed over heads."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (x[:, None] @ w for x, w in ((q, self.W_Q), (k, self.W_K), (v, self.W_V)))
        z = (q @ k.mT).softmax(-1) @ v
        return (z @ self.W_O).sum(1) + self.b_O


class EinsumPerHead(Arena):
    """The same by einsum, results of heads on an axis of their own."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (torch.einsum("bse,neh->bsnh", x, w)
                   for x, w in ((q, self.W_Q), (k, self.W_K), (v, self.W_V)))
        pattern = torch.einsum("bqnh,bknh->bnqk", q, k).softmax(-1)
        z = torch.einsum("bnqk,bknh->bqnh", pattern, v)
        return torch.einsum("bqnh,nhe->bqne", z, self.W_O).sum(2) + self.b_O


class Fairseq(Attends):
    """Time first, heads in the batch, `bmm`."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (self.folded(f(x.transpose(0, 1)))
                   for f, x in ((self.q, q), (self.k, k), (self.v, v)))
        z = torch.bmm(torch.bmm(q, k.transpose(1, 2)).softmax(-1), v)
        z = z.transpose(0, 1).contiguous().view(z.shape[1], -1, WIDTH)
        return self.o(z).transpose(0, 1)

    def folded(self, x: Tensor) -> Tensor:
        return x.contiguous().view(x.shape[0], x.shape[1] * HEADS, SIZE).transpose(0, 1)


class Convolved(Attends):
    """The projection is a convolution of width 1, over channels before positions."""

    def __init__(self) -> None:
        super().__init__()
        self.o = nn.Conv1d(WIDTH, WIDTH, 1)

    def project(self, z: Tensor) -> Tensor:
        return self.o(z.transpose(1, 2)).transpose(1, 2)


class Image(Attends):
    """All of it by convolutions, tokens as an image in between."""

    def __init__(self) -> None:
        super().__init__()
        self.o = nn.Conv2d(WIDTH, WIDTH, 1)

    def project(self, z: Tensor) -> Tensor:
        image = z.transpose(1, 2).reshape(z.shape[0], WIDTH, 3, 4)
        return self.o(image).flatten(2).transpose(1, 2)


class Scaled(Attends):
    """A learned scale of each feature behind the projection (LayerScale)."""

    def __init__(self) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.randn(WIDTH))

    def project(self, z: Tensor) -> Tensor:
        return self.gamma * self.o(z)


class Lora(nn.Module):
    """W x + b + s B A x"""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base, self.dropout = base, nn.Dropout(0.1)
        self.A, self.B = nn.Linear(WIDTH, 3, bias=False), nn.Linear(3, WIDTH, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.B(self.A(self.dropout(x.to(self.A.weight.dtype)))) * 0.5


class Adapted(Attends):
    """LoRA on all four projections."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = map(Lora, (self.q, self.k, self.v, self.o))

    def places(self) -> Iterator[tuple[Tensor, int]]:
        yield self.o.base.weight, 1
        yield self.o.A.weight, 1

    def added(self) -> Iterator[Tensor]:
        yield self.o.base.bias


class AdaptedScaled(Adapted):
    """LoRA on the projection, behind it a norm's scale and a cast."""

    def project(self, z: Tensor) -> Tensor:
        return (self.o(z) * 0.5).to(z.dtype).neg()


class Twice(Attends):
    """A linear map behind the projection."""

    def __init__(self) -> None:
        super().__init__()
        self.again = nn.Linear(WIDTH, WIDTH)

    def project(self, z: Tensor) -> Tensor:
        return self.again(self.o(z))

    def added(self) -> Iterator[Tensor]:
        yield from (self.o.bias, self.again.bias)


class AddedApart(Attends):
    """The bias is added by itself, as a model of matrices does."""

    def project(self, z: Tensor) -> Tensor:
        return z @ self.o.weight.T + self.o.bias


class FromLeft(Attends):
    """The weight stands on the left: W z, over features before positions."""

    def project(self, z: Tensor) -> Tensor:
        return (self.o.weight @ z.mT).mT + self.o.bias


class Interleaved(Attends):
    """Features of heads in turn: b n s d -> b s (d n)."""

    def joined(self, z: Tensor) -> Tensor:
        return z.permute(0, 2, 3, 1).flatten(2)

    def owned(self, head: int) -> Sequence[int]:
        return range(head, WIDTH, HEADS)


class Shuffled(Attends):
    """Tokens in another order within the layer: flipped, and put back behind the projection."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return super().forward(q.flip(1), k.flip(1), v.flip(1)).flip(1)


class Selected(Attends):
    """Tokens in an order that an index tells, and back by another index."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        order = (torch.arange(12) * 5) % 12
        out = super().forward(*(x.index_select(1, order) for x in (q, k, v)))
        return out[:, torch.argsort(order)]


class Windows(Attends):
    """Windows of four of twelve tokens, rolled by two: as in Swin."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        batch = q.shape[0]
        windows = (x.roll(-2, 1).view(batch, 3, 4, WIDTH).reshape(-1, 4, WIDTH) for x in (q, k, v))
        out = super().forward(*windows)
        return out.view(batch, 3, 4, WIDTH).reshape(batch, 12, WIDTH).roll(2, 1)


class SwinBlock(Attends):
    """An image of 2 x 6 in shifted windows of 2 x 3, and q, k and v by one product."""

    def parted(self, x: Tensor) -> Tensor:
        image = x.view(-1, 2, 6, WIDTH).roll((-1, -1), (1, 2))
        return image.view(-1, 1, 2, 2, 3, WIDTH).permute(0, 1, 3, 2, 4, 5).reshape(-1, 6, WIDTH)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out = super().forward(*map(self.parted, (q, k, v)))
        image = out.view(-1, 1, 2, 2, 3, WIDTH).permute(0, 1, 3, 2, 4, 5).reshape(-1, 2, 6, WIDTH)
        return image.roll((1, 1), (1, 2)).reshape(q.shape)


class Padded(Attends):
    """Tokens padded to a multiple of the window, and cut off behind the projection."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (F.pad(x, (0, 0, 0, 4)).reshape(-1, 4, WIDTH) for x in (q, k, v))
        return super().forward(q, k, v).view(-1, 16, WIDTH)[:, :12].contiguous()


class PaddedAfter(Attends):
    """No bias; the result is shifted by one token, zeros in front."""

    def __init__(self) -> None:
        super().__init__()
        self.o = nn.Linear(WIDTH, WIDTH, bias=False)

    def project(self, z: Tensor) -> Tensor:
        return F.pad(self.o(z), (0, 0, 1, 0))[:, :-1]

    def added(self) -> Iterator[Tensor]:
        yield from ()


class Scattered(PaddedAfter):
    """No bias; rows are put into zeros where an index says."""

    def project(self, z: Tensor) -> Tensor:
        order = (torch.arange(12) * 5) % 12
        out = torch.zeros_like(z)
        out[:, order] = self.o(z)
        return out


class Single(nn.Module):
    """One head, on its own."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(WIDTH, SIZE) for _ in range(3))

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return (self.q(q) @ self.k(k).transpose(-1, -2) / 2).softmax(-1) @ self.v(v)


class Listed(Attends):
    """A list of single heads, concatenated."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = nn.ModuleList(Single() for _ in range(HEADS))

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return self.o(torch.cat([head(q, k, v) for head in self.heads], -1))


class Loop(Arena):
    """A loop over heads that adds up what each projects."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out = 0
        for n in range(HEADS):
            a, b, c = q @ self.W_Q[n], k @ self.W_K[n], v @ self.W_V[n]
            out = out + F.scaled_dot_product_attention(a, b, c) @ self.W_O[n]
        return out + self.b_O


class LoopOfSlices(Attends):
    """A loop over heads that are slices of common projections."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = self.q(q), self.k(k), self.v(v)
        parts = []
        for n in range(HEADS):
            at = slice(n * SIZE, (n + 1) * SIZE)
            scores = q[..., at] @ k[..., at].transpose(-1, -2)
            parts.append(scores.softmax(-1) @ v[..., at])
        return self.o(torch.cat(parts, -1))


SECTIONS: tuple[type[Attends], ...] = (
    Attends, Torch, TorchWeights, OpenClip, Arena, PerHead, EinsumPerHead, Fairseq, Convolved,
    Image, Scaled, Adapted, AdaptedScaled, Twice, AddedApart, FromLeft, Interleaved, Shuffled,
    Selected, Windows, SwinBlock, Padded, PaddedAfter, Scattered, Listed, Loop, LoopOfSlices,
)


class Weighed(Attends):
    """Attention spelt out, with the pattern that a function makes of scores."""

    def attended(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return self.weigh(q @ k.transpose(-1, -2) / 2) @ v

    def weigh(self, scores: Tensor) -> Tensor:
        raise NotImplementedError


class ExpOverSum(Weighed):
    """softmax by hand, the largest score taken off."""

    def weigh(self, scores: Tensor) -> Tensor:
        weights = (scores - scores.max(-1, keepdim=True).values).exp()
        return weights / (1 + weights.sum(-1, keepdim=True))


class LogSoftmax(Weighed):
    def weigh(self, scores: Tensor) -> Tensor:
        return scores.log_softmax(-1).exp()


class Sigmoid(Weighed):
    def weigh(self, scores: Tensor) -> Tensor:
        return scores.sigmoid()


class Normalised(Weighed):
    """relu, and an L1 norm over keys."""

    def weigh(self, scores: Tensor) -> Tensor:
        return F.normalize(scores.relu() + 0.1, p=1, dim=-1)


class Sunk(Weighed):
    """A column more, which takes attention and gives nothing."""

    def weigh(self, scores: Tensor) -> Tensor:
        sink = torch.zeros_like(scores[..., :1]) + 0.3
        return torch.cat([scores, sink], -1).softmax(-1)[..., :-1]


class DividedAfterwards(Weighed):
    def attended(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        weights = (q @ k.transpose(-1, -2) / 2).exp().tril()
        return (weights @ v) / weights.sum(-1, keepdim=True)


class KeysFirst(Attends):
    """Scores with keys before queries, normalised over the first of the two."""

    def attended(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return (k @ q.transpose(-1, -2)).softmax(-2).transpose(-1, -2) @ v


class OneKey(Attends):
    """Keys and values that all heads share, by einsum."""

    def __init__(self) -> None:
        super().__init__()
        self.k, self.v = nn.Linear(WIDTH, SIZE), nn.Linear(WIDTH, SIZE)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        scores = torch.einsum("bhid,bjd->bhij", self.apart(self.q(q)), self.k(k)) / 2
        z = torch.einsum("bhij,bjd->bhid", scores.softmax(-1), self.v(v))
        return self.project(self.joined(z))


class LinearAttention(Attends):
    """Keys and values are summed up before queries meet them."""

    def attended(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return (F.elu(q) + 1) @ ((F.elu(k) + 1).transpose(-1, -2) @ v)


class LinearNormalised(Attends):
    """Linear attention, divided by what queries and keys add up to."""

    def attended(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k = F.elu(q) + 1, F.elu(k) + 1
        return (q @ (k.transpose(-1, -2) @ v)) / self.norm(q, k)

    def norm(self, q: Tensor, k: Tensor) -> Tensor:
        return q @ k.sum(2, keepdim=True).transpose(-1, -2)


class LinearEinsum(LinearNormalised):
    """The same by einsum, multiplied."""

    def attended(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k = q.softmax(-1), k.exp()
        z = 1 / (torch.einsum("bhnd,bhd->bhn", q, k.sum(-2)) + 1e-6)
        return torch.einsum("bhnd,bhde,bhn->bhne", q, torch.einsum("bhnd,bhne->bhde", k, v), z)


class LinearMasked(LinearNormalised):
    """A normaliser by entrywise products."""

    def norm(self, q: Tensor, k: Tensor) -> Tensor:
        return (q * k.mean(2, keepdim=True)).sum(-1, keepdim=True) + 0.1


class NormOfKeys(LinearNormalised):
    """A normaliser of keys alone."""

    def norm(self, q: Tensor, k: Tensor) -> Tensor:
        return k.sum((2, 3), keepdim=True)


class Quadratic(LinearNormalised):
    """All weights, and the same normaliser."""

    def attended(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k = q.relu() + 0.1, k.relu() + 0.1
        return (q @ k.transpose(-1, -2)) @ v / self.norm(q, k)


class QueryAdded(Attends):
    """What was asked is added to what was found."""

    def attended(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return q + F.scaled_dot_product_attention(q, k, v)


class ValueConvolved(Attends):
    """Values enter once more, by a convolution of each feature over time."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(HEADS, HEADS, (3, 1), padding=(1, 0), groups=HEADS, bias=False)

    def attended(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v) + self.conv(v)


class LinearFused(LinearNormalised):
    """The same from one product for queries, keys and values where these are one."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        made = [self.qkv(x) for x in ([q] if q is k is v else [q, k, v])]
        q, k, v = (self.apart(x.chunk(3, -1)[i]) for i, x in enumerate(made * (3 // len(made))))
        return self.project(self.joined(self.attended(q, k, v)))


class QueryGated(Attends):
    """A gate by its own half of the product that makes queries: no use of the query."""

    def __init__(self) -> None:
        super().__init__()
        self.q = nn.Linear(WIDTH, 2 * WIDTH)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, gate = self.q(q).chunk(2, -1)
        z = self.attended(self.apart(q), self.apart(self.k(k)), self.apart(self.v(v)))
        return self.o(self.joined(z) * gate.sigmoid())


class OneForBoth(LinearNormalised):
    """Queries that are the keys too."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, v = F.elu(self.apart(self.q(q))) + 1, self.apart(self.v(v))
        return self.project(self.joined(q @ (q.mT @ v) / self.norm(q, q)))


class Talking(Attends):
    """Scores and patterns of heads are mixed (CaiT)."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.after = nn.Linear(HEADS, HEADS), nn.Linear(HEADS, HEADS)

    def attended(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        scores = self.before((q @ k.transpose(-1, -2)).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return self.after(scores.softmax(-1).permute(0, 2, 3, 1)).permute(0, 3, 1, 2) @ v


class CausalLinear(Attends):
    """Linear attention with a running sum."""

    def attended(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        summed = (k.unsqueeze(-1) * v.unsqueeze(-2)).cumsum(2)
        return (q.unsqueeze(-2) @ summed).squeeze(-2)


class Additive(Attends):
    """Scores of an MLP on each pair of tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Linear(SIZE, 1, bias=False)

    def attended(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return self.w((q.unsqueeze(3) + k.unsqueeze(2)).tanh()).squeeze(-1).softmax(-1) @ v


WEIGHTS: tuple[type[Attends], ...] = (
    ExpOverSum, LogSoftmax, Sigmoid, Normalised, Sunk, DividedAfterwards, KeysFirst, OneKey,
    LinearAttention, LinearNormalised, LinearEinsum, LinearMasked, NormOfKeys, Quadratic,
    QueryAdded, ValueConvolved, LinearFused,
)


class Block(nn.Module):
    """x + attention(norm(x)), then an MLP on the stream."""

    def __init__(self, kind: type[Attends]) -> None:
        super().__init__()
        self.norm, self.attention = nn.LayerNorm(WIDTH), kind()
        self.mlp = nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 9), nn.GELU(),
                                 nn.Linear(9, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        x = x + self.attention(y, y, y)
        return x + self.mlp(x)


class Net(nn.Module):
    """Two blocks on x `[batch, 12, 8]`, and what reads them."""

    def __init__(self, kind: type[Attends]) -> None:
        super().__init__()
        self.embed = nn.Linear(WIDTH, WIDTH)
        self.blocks = nn.ModuleList(Block(kind) for _ in range(2))
        self.norm, self.unembed = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        for block in self.blocks:
            x = block(x)
        return self.unembed(self.norm(x))

    def read(self, module: nn.Module, x: Tensor) -> Tensor:
        """What a module is given when the model runs on x."""
        seen: list[Tensor] = []
        handle = module.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
        self(x)
        handle.remove()
        return seen[0]

    def direct(self, head: int, clean: Tensor, corrupt: Tensor) -> Tensor:
        """The output on `corrupt` with the edge of a head of layer 0 to it read from `clean`."""
        changed = self.read(self.norm, corrupt) + self.change(head, clean, corrupt)
        return self.unembed(self.norm(changed))

    def change(self, head: int, clean: Tensor, corrupt: Tensor) -> Tensor:
        """What a head of layer 0 writes more on `clean`."""
        first = self.blocks[0]
        only = first.attention.only(head)
        new, old = (first.norm(self.read(first, x)) for x in (clean, corrupt))
        return only(new, new, new) - only(old, old, old)

    def by_port(self, head: int, later: int, port: str, clean: Tensor, corrupt: Tensor) -> Tensor:
        """The same of the path from that head to a port of a head of layer 1 to the output."""
        block = self.blocks[1]
        stream = self.read(block, corrupt)
        old, new = block.norm(stream), block.norm(stream + self.change(head, clean, corrupt))
        only = block.attention.only(later)
        given = [new if port == each else old for each in "qkv"]
        changed = self.read(self.norm, corrupt) + only(*given) - only(old, old, old)
        return self.unembed(self.norm(changed))
