"""Which operands of the products behind a softmax are queries, and which are keys."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import rewrite as rw
from rewrite.ir.flow import Flow, args
from rewrite.rules.scores import readings
from rewrite.rules.spelling import spelled
from tests.rules.oracle import aten

WIDTH, HEADS = 4, 2
Scores = Callable[["Attends", Tensor, Tensor, Tensor], Tensor]


class Attends(nn.Module):
    """Attention on x `[batch, length, 8]` with the scores that a function makes of q and k.

    The function is given q and k `[batch, heads, length, 4]`, and x.  What it returns is
    normalised over the last axis.
    """

    def __init__(self, scores: Scores) -> None:
        super().__init__()
        self.scores = scores
        self.q, self.k, self.v = (nn.Linear(8, 8) for _ in range(3))
        self.gate, self.router = nn.Linear(8, HEADS), nn.Linear(8, 16)
        self.table = nn.Parameter(torch.randn(HEADS, 16, WIDTH))  # relative positions
        self.learned = nn.Parameter(torch.randn(HEADS, 5, WIDTH))
        self.sink = nn.Parameter(torch.randn(1, HEADS, 1, 1))
        self.shift = nn.Parameter(torch.randn(HEADS, 1, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            f(x).view(*x.shape[:2], HEADS, WIDTH).transpose(1, 2) for f in (self.q, self.k, self.v))
        scores = self.scores(self, q, k, x)
        pattern = scores.softmax(-1)
        if pattern.shape[-1] != x.shape[1]:
            return pattern.sum(-1)
        return pattern @ v.flatten(0, 1) if pattern.dim() == 3 else pattern @ v


def relative(length: int) -> Tensor:
    """For row i and column j, where i - j stands in the table."""
    places = torch.arange(length)
    return (places[:, None] - places[None, :]).clamp(-7, 8) + 7


def chosen(scores: Tensor, length: int) -> Tensor:
    ids = relative(length).expand(*scores.shape[:2], -1, -1)
    return scores.gather(-1, ids)


def names(scores: Scores) -> list[str] | None:
    """What the readings of a module say, in order: "q=<linear> k=<linear>" for each product.

    Each port is named by the part of the module from which the operand comes.
    """
    torch.manual_seed(0)
    graph = spelled(rw.trace(Attends(scores).eval(), inputs={"x": torch.randn(3, 7, 8)}))
    flow = Flow(graph.module.graph, ("x",))
    (softmax,) = [n for n in graph.module.graph.nodes if n.target is aten.softmax.int]
    found = readings(flow, args(softmax)[0])
    if found is None:
        return None
    told: dict[Any, dict[str, str]] = {}
    for (node, position), port in found.items():
        assert port not in told.setdefault(node, {}), "one port twice"
        told[node][port] = _origin(flow, args(node)[position])
    ordered = sorted(told, key=flow.order.__getitem__)
    return [" ".join(f"{p}={told[node][p]}" for p in sorted(told[node])) for node in ordered]


def _origin(flow: Flow, node: Any) -> str:
    """The linear layer from which a value comes, or the input."""
    while node.target is not aten.linear.default and node.op != "placeholder":
        node = flow.operands(node)[0]
    return "x" if node.op == "placeholder" else str(args(node)[1].target).partition(".")[0]


def plain(m: Attends, q: Tensor, k: Tensor, x: Tensor) -> Tensor:
    return q @ k.transpose(-1, -2)


def folded(q: Tensor) -> Tensor:
    return q.reshape(-1, q.shape[2], WIDTH)


def deberta(m: Attends, q: Tensor, k: Tensor, x: Tensor) -> Tensor:
    """Content with content, content with position, position with content."""
    length = q.shape[2]
    c2p = chosen(q @ m.table.transpose(-1, -2), length)
    p2c = chosen(k @ m.table.transpose(-1, -2), length).transpose(-1, -2)
    return (plain(m, q, k, x) + c2p + p2c) / WIDTH


def alibi(m: Attends, q: Tensor, k: Tensor, x: Tensor) -> Tensor:
    bias = torch.arange(q.shape[2], dtype=q.dtype).expand(q.shape[0] * HEADS, 1, -1)
    made = torch.baddbmm(bias, folded(q), folded(k).transpose(1, 2), beta=0.5, alpha=0.1)
    return made.view(q.shape[0], HEADS, q.shape[2], q.shape[2])


def shifted(m: Attends, q: Tensor, k: Tensor, x: Tensor) -> Tensor:
    """Rows moved against each other by padding and a view, as Transformer-XL does."""
    raw = q @ k.transpose(-1, -2)
    batch, heads, rows, columns = raw.shape
    padded = torch.cat([raw.new_zeros(batch, heads, rows, 1), raw], -1)
    moved = padded.view(batch, heads, columns + 1, rows)[:, :, 1:].view_as(raw)
    return plain(m, q + m.shift, k, x) + moved


def sink(m: Attends, q: Tensor, k: Tensor, x: Tensor) -> Tensor:
    column = m.sink.expand(q.shape[0], -1, q.shape[2], -1)
    return torch.cat([plain(m, q, k, x), column], -1)


def gated(m: Attends, q: Tensor, k: Tensor, x: Tensor) -> Tensor:
    """Each row computes the scale of its positional bias, as WavLM does."""
    bias = relative(q.shape[2]).to(q.dtype)
    gate = m.gate(x).sigmoid().transpose(1, 2)[..., None]
    return plain(m, q, k, x) + gate * bias


def masked_by_tokens(m: Attends, q: Tensor, k: Tensor, x: Tensor) -> Tensor:
    """Columns whose token is padding, which the model itself finds out."""
    padding = x[:, :, 0] > 1.5
    return plain(m, q, k, x).masked_fill(padding[:, None, None, :], -1e9)


def column_bias(m: Attends, q: Tensor, k: Tensor, x: Tensor) -> Tensor:
    """A bias that each column computes for itself."""
    return plain(m, q, k, x) + m.gate(x).transpose(1, 2)[:, :, None, :]


def causal(scores: Tensor) -> Tensor:
    return torch.ones(scores.shape[-2:], dtype=torch.bool).tril()


PLAIN = ["k=k q=q"]
FOUND: dict[str, tuple[Scores, list[str] | None]] = {
    "plain": (plain, PLAIN),
    "a transposed product": (lambda m, q, k, x: (k @ q.transpose(-1, -2)).transpose(-1, -2), PLAIN),
    "a permuted product": (
        lambda m, q, k, x: (k @ q.transpose(-1, -2)).permute(0, 1, 3, 2), PLAIN),
    "rows and columns exchanged": (
        lambda m, q, k, x: (q @ k.transpose(-1, -2)).transpose(-1, -2), ["k=q q=k"]),
    "transposed twice": (
        lambda m, q, k, x: plain(m, q, k, x).mT.mT, PLAIN),
    "einsum": (lambda m, q, k, x: torch.einsum("bhqd,bhkd->bhqk", q, k), PLAIN),
    "einsum the other way": (lambda m, q, k, x: torch.einsum("bhkd,bhqd->bhqk", k, q), PLAIN),
    "heads in the batch": (
        lambda m, q, k, x: torch.bmm(folded(q), folded(k).transpose(1, 2)), PLAIN),
    "heads in the batch for the product": (
        lambda m, q, k, x: torch.bmm(folded(k), folded(q).transpose(1, 2)).transpose(1, 2).view(
            -1, HEADS, q.shape[2], q.shape[2]), PLAIN),
    "a scale and a mask that is added": (
        lambda m, q, k, x: plain(m, q, k, x) * 0.5 + torch.full(
            (q.shape[2], q.shape[2]), -1e9).triu(1), PLAIN),
    "masked_fill": (
        lambda m, q, k, x: (s := plain(m, q, k, x)).masked_fill(~causal(s), -1e9), PLAIN),
    "where": (lambda m, q, k, x: torch.where(
        causal(s := plain(m, q, k, x)), s, torch.tensor(-1e9)), PLAIN),
    "where with a number": (
        lambda m, q, k, x: torch.where(causal(s := plain(m, q, k, x)), s, -1e9), PLAIN),
    "where with a number first": (
        lambda m, q, k, x: torch.where(~causal(s := plain(m, q, k, x)), -1e9, s), PLAIN),
    "a cast": (lambda m, q, k, x: plain(m, q, k, x).double().type_as(x), PLAIN),
    "softcap": (lambda m, q, k, x: (plain(m, q, k, x) / 5).tanh() * 5, PLAIN),
    "less its maximum": (
        lambda m, q, k, x: plain(m, q, k, x).clamp(-50, 50), PLAIN),
    "content and relative positions": (deberta, ["q=q", "k=k", "k=k q=q"]),
    "rows that are shifted": (shifted, ["k=k q=q", "k=k q=q"]),
    "a sink": (sink, PLAIN),
    "a gated bias": (gated, [*PLAIN, "q=gate"]),
    "a bias of the column": (column_bias, [*PLAIN, "k=gate"]),
    "baddbmm with a bias of the column's place": (alibi, PLAIN),
    "learned queries": (lambda m, q, k, x: m.learned @ k.transpose(-1, -2), ["k=k"]),
    "learned queries, transposed": (
        lambda m, q, k, x: (k @ m.learned.transpose(-1, -2)).transpose(-1, -2), ["k=k"]),
    "padding found among the tokens": (masked_by_tokens, PLAIN),
    "a router": (lambda m, q, k, x: m.router(x), None),
    "a router of the heads": (lambda m, q, k, x: q @ m.table.transpose(-1, -2), None),
    "a linear layer over places": (
        lambda m, q, k, x: m.router(plain(m, q, k, x)[..., :1].expand(-1, -1, -1, 8)), None),
    "one of two parts": (
        lambda m, q, k, x: plain(m, q, k, x) + (k @ q.mT).split([1, 1], 1)[1], ["k=k q=q"]),
    "distances, no product": (
        lambda m, q, k, x: -(q[:, :, :, None] - k[:, :, None]).square().sum(-1), None),
}


@pytest.mark.parametrize("case", FOUND)
def test_what_is_read(case: str) -> None:
    scores, wanted = FOUND[case]
    assert names(scores) == wanted
