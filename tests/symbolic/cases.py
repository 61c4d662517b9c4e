"""Functions and modules, each with the shapes of its floating inputs."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

aten: Any = torch.ops.aten
Shapes = dict[str, tuple[int, ...]]
HIDDEN = torch.tensor([[False, True, True], [False, False, True], [False, False, False]])
IDS = torch.tensor([[2, 0, 1], [1, 1, 0]])


def causal(scores: Tensor) -> Tensor:
    return scores.masked_fill(HIDDEN, -math.inf)


def opened(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.softmax(causal(q @ k.mT / math.sqrt(q.shape[-1])), -1) @ v


def rotary(x: Tensor) -> Tensor:
    angles = torch.arange(3)[:, None] * torch.tensor([1.0, 0.1], dtype=torch.float64)
    cos, sin = (torch.cat([f(angles)] * 2, -1) for f in (torch.cos, torch.sin))
    halves = torch.cat([-x[..., 2:], x[..., :2]], -1)
    return x * cos + halves * sin


def in_place(x: Tensor, y: Tensor) -> Tensor:
    z = x.clone()
    z[:, 1:] += y
    z.mul_(2)
    z[0] = y[0, 0]
    return z


class Gated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate, self.up = nn.Linear(3, 2, bias=False), nn.Linear(3, 2)
        self.down, self.norm = nn.Linear(2, 3), nn.RMSNorm(3, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        return x + self.down(F.silu(self.gate(y)) * self.up(y))


QKV: Shapes = {"q": (1, 2, 3, 2), "k": (1, 2, 3, 2), "v": (1, 2, 3, 2)}
SHARED: Shapes = {"q": (1, 4, 3, 2), "k": (1, 2, 3, 2), "v": (1, 2, 3, 1)}
X: Shapes = {"x": (2, 3)}
sdpa = F.scaled_dot_product_attention

FUNCTIONS: dict[str, tuple[Callable[..., Tensor], Shapes]] = {
    "sums and scales": (lambda x, y: 2 * x - y / 3 + torch.add(x, y, alpha=-0.5) - (1 - x),
                        {"x": (2, 3), "y": (3,)}),
    "quotients and powers": (lambda x, y: x ** 3 / y + y ** -2 + x.square() * y.reciprocal(),
                             {"x": (2, 2), "y": (2,)}),
    "roots": (lambda x: (x * x + 0.5).sqrt() + torch.rsqrt(x * x + 1) + (x * x) ** 1.5, X),
    "exponentials": (lambda x: torch.exp(-x) * torch.sigmoid(x) + F.silu(x), X),
    "functions": (lambda x: torch.tanh(x) + torch.erf(x).sin() * x.cos() + x.abs().log(), X),
    "activations": (lambda x: F.gelu(x) + F.gelu(x, approximate="tanh") + F.relu(x)
                    + F.leaky_relu(x, 0.1), X),
    "bounds": (lambda x, y: torch.clamp(x, -0.5, 0.5) + torch.maximum(x, y) - x.amax(-1, True),
               {"x": (2, 3), "y": (3,)}),
    "powers of tensors": (lambda x, y: (x * x + 1) ** y, {"x": (2,), "y": (2,)}),
    "reductions": (lambda x: x.sum() + x.mean(0) * x.var(0) + x.var((0, 1), correction=0)
                   + x.std(1, keepdim=True) + x.prod(0), {"x": (3, 3)}),
    "norm of a row": (lambda x: torch.linalg.vector_norm(x, dim=-1) + x.logsumexp(-1)
                      + torch.log_softmax(x, -1)[:, 0] + x.cumsum(1)[:, 2], X),
    "products": (lambda a, b, c: torch.einsum("bij,bkj->bik", a, b) @ c + torch.matmul(a, c[0]),
                 {"a": (2, 2, 3), "b": (2, 3, 3), "c": (2, 3, 3)}),
    "products with vectors": (lambda a, b: (a @ b) + torch.dot(b, b) + torch.outer(b, b)[0, 0],
                              {"a": (3, 3), "b": (3,)}),
    "sums of products": (lambda a, b, c: torch.addmm(c, a, b, beta=2, alpha=0.5)
                         + torch.baddbmm(c, a[None], b[None])[0],
                         {"a": (2, 3), "b": (3, 2), "c": (1, 2)}),
    "moves": (lambda x: torch.cat([x.transpose(0, 1).reshape(3, 4).flip(0),
                                   x.permute(2, 0, 1).flatten(1)[IDS[0]]], -1).roll(1, 0)[:, ::2],
              {"x": (2, 2, 3)}),
    "places": (lambda x, w: F.embedding(IDS, w) + x.gather(1, IDS)[..., None]
               + w.index_select(0, IDS[0]) + torch.where(IDS > 0, x, 0.5)[..., None],
               {"x": (2, 3), "w": (3, 2)}),
    "padding": (lambda x: F.pad(x, (1, 0), value=2.0) + F.pad(x, (1, 0), mode="reflect")
                + torch.stack([x[:, i % 3] for i in range(4)], 1), X),
    "scatter": (lambda x, y: x.scatter(1, IDS, y).select_scatter(y[0], 0, 1)
                + x.scatter(1, IDS, 0.25) + torch.zeros_like(x) + x.new_ones(3),
                {"x": (2, 3), "y": (2, 3)}),
    "in place": (in_place, {"x": (2, 3), "y": (2, 2)}),
    "softmax": (lambda x: torch.softmax(causal(x), -1), {"x": (3, 3)}),
    "attention": (lambda q, k, v: sdpa(q, k, v), QKV),
    "causal attention": (lambda q, k, v: sdpa(q, k, v, is_causal=True), QKV),
    "scaled attention": (lambda q, k, v: sdpa(q, k, v, ~HIDDEN, scale=0.3), QKV),
    "biased attention": (lambda q, k, v, m: sdpa(q, k, v, m), QKV | {"m": (1, 1, 3, 3)}),
    "grouped attention": (lambda q, k, v: sdpa(q, k, v, enable_gqa=True), SHARED),
    "operator of attention": (
        lambda q, k, v: aten.scaled_dot_product_attention.default(q, k, v, None, 0.0, True), QKV),
    "opened attention": (opened, QKV),
    "rotary": (rotary, {"x": (2, 3, 4)}),
    "convolution": (lambda x, w, b: F.conv1d(F.pad(x, (2, 0)), w, b, groups=2)
                    + F.conv1d(x, w, b, padding=2, groups=2, stride=1)[..., :4],
                    {"x": (1, 4, 4), "w": (2, 2, 3), "b": (2,)}),
    "convolution of images": (lambda x, w: F.conv2d(x, w, stride=2, dilation=(1, 2)),
                              {"x": (1, 2, 4, 5), "w": (2, 2, 2, 2)}),
    "batch norm": (lambda x, m, v, w, b: F.batch_norm(x, m, v * v, w, b),
                   {"x": (2, 2, 2), "m": (2,), "v": (2,), "w": (2,), "b": (2,)}),
    "group norm": (lambda x, w, b: F.group_norm(x, 2, w, b), {"x": (1, 4, 2), "w": (4,),
                                                              "b": (4,)}),
    "layer norm": (lambda x, w, b: F.layer_norm(x, (3,), w, b),
                   {"x": (2, 3), "w": (3,), "b": (3,)}),
    "layer norm of two axes": (lambda x: F.layer_norm(x, (2, 3)), {"x": (2, 2, 3)}),
    "rms norm": (lambda x, w: F.rms_norm(x, (3,), w, 1e-6) + F.rms_norm(x, (3,)),
                 {"x": (2, 3), "w": (3,)}),
}

MODULES: dict[str, tuple[Callable[[], nn.Module], Shapes]] = {
    "gated": (Gated, {"x": (1, 2, 3)}),
    "mlp": (lambda: nn.Sequential(nn.LayerNorm(3), nn.Linear(3, 4), nn.GELU(), nn.Linear(4, 3)),
            {"input": (2, 3)}),
    "encoder layer": (lambda: nn.TransformerEncoderLayer(4, 2, 3, batch_first=True),
                      {"src": (1, 3, 4)}),
    "convolution": (lambda: nn.Sequential(nn.Conv1d(2, 2, 2), nn.BatchNorm1d(2), nn.Tanh()),
                    {"input": (1, 2, 3)}),
}
