"""However a model adds up its stream, it has the same parts, and direct paths are exact.

The oracle freezes every writer by forward hooks: all write what they did on the corrupt run, but
for one, which writes what it did on the clean run.  What comes out is the direct effect of that
one, whatever the model does to the stream on the way.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

import rewrite as rw
from rewrite.expand.formula import formula
from tests.zoo import error, trace

WIDTH, HEADS, VOCAB = 16, 2, 23
CLEAN, CORRUPT = torch.randint(0, VOCAB, (2, 3, 5), generator=torch.Generator().manual_seed(1))
Step = Callable[["Block", Tensor, Tensor], Tensor]


class Mix(nn.Module):
    """Attention without its output projection, heads side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(WIDTH, WIDTH) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        shape = (*x.shape[:2], HEADS, WIDTH // HEADS)
        q, k, v = (f(x).view(shape).transpose(1, 2) for f in (self.q, self.k, self.v))
        return F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)


class Block(nn.Module):
    """Weights of a layer; the step of the model says how they are added to the stream."""

    def __init__(self) -> None:
        super().__init__()
        self.ln, self.ln2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.mix, self.o = Mix(), nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 24), nn.Linear(24, WIDTH)
        self.g, self.h = (nn.Parameter(torch.rand(WIDTH) + 0.5) for _ in range(2))
        self.s, self.t = nn.Parameter(torch.tensor(0.7)), nn.Parameter(torch.tensor([1.3]))
        self.bias, self.two = (nn.Parameter(torch.randn(n)) for n in (WIDTH, 2))

    def attention(self, x: Tensor) -> Tensor:
        return self.o(self.mix(x))

    def mlp(self, x: Tensor) -> Tensor:
        return self.down(self.up(x).relu())


class Toy(nn.Module):
    """Two layers, each added to the stream by a step."""

    def __init__(self, step: Step) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.step = nn.Embedding(VOCAB, WIDTH), step
        self.blocks = nn.ModuleList(Block() for _ in range(2))
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, VOCAB, bias=False)
        for parameter in self.parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, 0, 0.4)

    def forward(self, tokens: Tensor) -> Tensor:
        first = x = self.embed(tokens)
        for block in self.blocks:
            assert isinstance(block, Block)
            x = self.step(block, x, first)
        return self.head(self.norm(x))


def parallel(add: Callable[[Block, Tensor, Tensor, Tensor], Tensor]) -> Step:
    """Attention and MLP read the same norm."""
    def step(b: Block, x: Tensor, first: Tensor) -> Tensor:
        read = b.ln(x)
        return add(b, x, b.attention(read), b.mlp(read))
    return step


def serial(add: Callable[[Block, Tensor, Tensor], Tensor]) -> Step:
    """The MLP reads what attention has written."""
    def step(b: Block, x: Tensor, first: Tensor) -> Tensor:
        x = add(b, x, b.attention(b.ln(x)))
        return add(b, x, b.mlp(b.ln2(x)))
    return step


def two_streams(b: Block, x: Tensor, first: Tensor) -> Tensor:
    """The embedding enters every layer once more."""
    x = b.two[0] * x + b.two[1] * first
    x = x + b.attention(b.ln(x))
    return x + b.mlp(b.ln2(x))


def fused(b: Block, x: Tensor, first: Tensor) -> Tensor:
    """The product adds to the stream itself, for flat tokens."""
    x = torch.addmm(x.reshape(-1, WIDTH), b.mix(b.ln(x)).flatten(0, 1), b.o.weight.T).view(x.shape)
    return torch.addmm(x.view(-1, WIDTH), b.up(b.ln2(x)).relu().flatten(0, 1),
                       b.down.weight.T).view(x.shape)


def flat(b: Block, x: Tensor, first: Tensor) -> Tensor:
    """All tokens in a row, for the MLP alone."""
    x = x + b.attention(b.ln(x))
    y = x.reshape(-1, WIDTH)
    return (y + b.mlp(b.ln2(y))).view(x.shape)


def time_first(b: Block, x: Tensor, first: Tensor) -> Tensor:
    """The MLP writes to the stream with time as its first axis, scaled."""
    x = x + b.attention(b.ln(x))
    y = 0.5 * x.transpose(0, 1)
    return (y + b.mlp(b.ln2(y))).transpose(0, 1)


PARALLEL: dict[str, Callable[[Block, Tensor, Tensor, Tensor], Tensor]] = {
    "x + a + m": lambda b, x, a, m: x + a + m,
    "x + (a + m)": lambda b, x, a, m: x + (a + m),
    "m + a + x": lambda b, x, a, m: m + a + x,
    "a + x + m": lambda b, x, a, m: a + x + m,
    "m + (x + a)": lambda b, x, a, m: m + (x + a),
    "sum": lambda b, x, a, m: sum([a, m], x * 1),
    "in place": lambda b, x, a, m: x.clone().add_(a).add_(m),
    "stack": lambda b, x, a, m: torch.stack([x, a, m]).sum(0),
    "stack last": lambda b, x, a, m: torch.stack([x, a, m], -1).sum(-1),
    "mean": lambda b, x, a, m: torch.stack([x, a, m]).mean(0) * 3,
    "concat": lambda b, x, a, m: torch.cat([x[None], a[None], m[None]]).sum(0),
    "einsum": lambda b, x, a, m: torch.einsum("nbsd->bsd", torch.stack([x, a, m])),
    "alpha": lambda b, x, a, m: torch.add(torch.add(x, a, alpha=0.5), m, alpha=2),
    "half": lambda b, x, a, m: x + 0.5 * a + m * 2,
    "half of both": lambda b, x, a, m: x + 0.5 * (a + m),
    "gain of both": lambda b, x, a, m: x + b.g * (a + m),
    "root": lambda b, x, a, m: (x + a + m) / math.sqrt(2),
    "minus": lambda b, x, a, m: x - (-a) - m,
    "minus all": lambda b, x, a, m: -(-x - a) + m,
    "rsub": lambda b, x, a, m: torch.rsub(-x, a) + m,
    "sub alpha": lambda b, x, a, m: torch.sub(x, a, alpha=2) + m,
    "addcmul": lambda b, x, a, m: torch.addcmul(x, a, b.g).addcmul(m, b.h, value=0.5),
    "addcdiv": lambda b, x, a, m: torch.addcdiv(x, a, b.g) + m,
    "addcmul of a gate": lambda b, x, a, m: torch.addcmul(x + a, m, m.sigmoid()),
    "lerp": lambda b, x, a, m: torch.lerp(x, a, 0.3) + m,
    "lerp by a gain": lambda b, x, a, m: torch.lerp(x, a + m, b.g),
    "all scaled": lambda b, x, a, m: (b.g * x + b.h * a + b.s * m) / 1.5,
    "bias between": lambda b, x, a, m: (x + a + b.bias) + m,
    "other names": lambda b, x, a, m: torch.true_divide(
        torch.subtract(x, a, alpha=3) + torch.multiply(m, 2), 2) - torch.negative(m),
    "double": lambda b, x, a, m: (x.double() + a.double()).float() + m,
}
SERIAL: dict[str, Callable[[Block, Tensor, Tensor], Tensor]] = {
    "plain": lambda b, x, y: x + y,
    "layer scale": lambda b, x, y: x + b.g * y,
    "rezero": lambda b, x, y: x + b.s * y,
    "deepnorm": lambda b, x, y: 1.7 * x + y,
    "stream times vector": lambda b, x, y: x * b.g + y,
    "stream times number": lambda b, x, y: x * b.s + b.t * y,
    "stream by einsum": lambda b, x, y: torch.einsum("bsd,d->bsd", x, b.g) + y,
    "bias": lambda b, x, y: x + y + b.bias,
}
STEPS: dict[str, Step] = {
    **{name: parallel(add) for name, add in PARALLEL.items()},
    **{name: serial(add) for name, add in SERIAL.items()}, "two streams": two_streams,
    "fused product": fused, "flat": flat, "time first": time_first,
}
WRITERS = ("embed", "a0.h0", "a0.h1", "m0", "a1.h0", "a1.h1", "m1")


@contextmanager
def writing(model: Toy, change: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """What each writer computes last; `change` replaces it."""
    seen: dict[str, Tensor] = {}
    modules: dict[str, nn.Module] = {"embed": model.embed}
    for i, block in enumerate(model.blocks):
        modules |= {f"a{i}": block.get_submodule("mix"), f"m{i}": block.get_submodule("up")}

    def hook(name: str) -> Callable[..., Tensor]:
        def keep(module: nn.Module, args: object, output: Tensor) -> Tensor:
            seen[name] = change.get(name, output)
            return seen[name]
        return keep

    with ExitStack() as stack, torch.no_grad():
        for name, module in modules.items():
            stack.callback(module.register_forward_hook(hook(name)).remove)
        yield seen


def by_hand(model: Toy, writer: str) -> Tensor:
    """Outputs of the corrupt run if `writer` alone reads the clean one, and only they see it."""
    with writing(model, {}) as clean:
        model(CLEAN)
    with writing(model, {}) as corrupt:
        model(CORRUPT)
    layer, _, head = writer.partition(".h")
    new = clean[layer]
    if head:
        size = WIDTH // HEADS
        place = slice(int(head) * size, (int(head) + 1) * size)
        new = corrupt[layer].clone()
        new[..., place] = clean[layer][..., place]
    with writing(model, corrupt | {layer: new}):
        return model(CORRUPT)


class Values(fx.Interpreter):
    """The values of the graph of a model, by name."""

    def __init__(self, parts: rw.Components) -> None:
        super().__init__(parts.graph.module)
        self.parts, self.found = parts, dict[str, Tensor]()

    def run_node(self, n: fx.Node) -> object:
        value = super().run_node(n)
        if n in self.parts.values:
            self.found[self.parts.values[n]] = value
        return value


def assert_equations(parts: rw.Components) -> None:
    """Every equation of the stream holds of what the model computes; none adds up nothing."""
    values = Values(parts)
    with torch.no_grad():
        values.run(CLEAN)
    lines = [line.split(" = ") for line in formula(parts).splitlines()]
    assert not any(line[0].startswith("for") for line in lines)
    for name, text in lines:
        if not name.startswith("resid"):
            continue
        known, scaled, rest = torch.zeros(()), None, values.found[name].double()
        for sign, factor, term in re.findall(r"(-|\+|^) ?(-?(?:[\w.]+\*)?)([\w.]+)", text):
            term = f"{term}.out" if f"{term}.out" in values.found else term
            number = factor.removesuffix("*").replace("-", "-1" * (factor == "-") or "-") or "1"
            if term.endswith(".shift") or number.endswith(".scale"):
                assert scaled is None and sign != "-"
                scaled = values.found.get(term, torch.ones(())).double()
                continue
            at = values.found[term].double() if term in values.found else torch.tensor(float(term))
            known = known + (-1 if sign == "-" else 1) * float(number) * at
        rest = rest - known
        if scaled is not None:  # one number for each feature
            rest = rest - scaled * (rest / scaled)[0, 0]
        assert rest.abs().max() < 1e-5 * values.found[name].abs().max(), (name, text)


@pytest.mark.parametrize("name", STEPS)
def test_every_spelling(name: str) -> None:
    model = Toy(STEPS[name]).eval()
    parts = trace(model, {"tokens": CLEAN}).components()
    assert set(parts.names) == {"tokens", *WRITERS, "output"} and parts.notes == ()
    assert {writer for writer, reader in parts.edges if reader == "output"} == set(WRITERS)
    assert_equations(parts)
    for writer in WRITERS:
        exp = rw.expand(rw.Hypothesis(parts, {"clean": f"{writer} -> output"}))
        with torch.no_grad():
            found = exp(clean={"tokens": CLEAN}, corrupt={"tokens": CORRUPT})
            stacked = exp.run(clean={"tokens": CLEAN}, corrupt={"tokens": CORRUPT})
        wanted = by_hand(model, writer)
        assert error(found, wanted) < 1e-5, writer
        assert error(stacked, wanted) < 1e-5, writer
        assert error(wanted, model(CORRUPT)) > 1e-4
