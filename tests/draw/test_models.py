"""Pictures of op graphs and of component graphs."""

from __future__ import annotations

import re

import pytest
import torch
from torch import nn

import rewrite as rw
from rewrite.draw.fold import fold
from rewrite.draw.modules import BOXES, dot_of_graph
from rewrite.draw.sketch import Item, Read, Sketch
from rewrite.draw.wiring import dot_of_components
from rewrite.ir.flow import Flow
from tests.draw.reading import Picture


class Block(nn.Module):
    def __init__(self, act: nn.Module) -> None:
        super().__init__()
        self.lin, self.act = nn.Linear(4, 4), act

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.act(self.lin(x))


class Net(nn.Module):
    def __init__(self, *acts: nn.Module) -> None:
        super().__init__()
        self.layers = nn.ModuleList(map(Block, acts))
        self.head = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x)
        return self.head(x)


def net(*acts: nn.Module) -> rw.Graph:
    return rw.trace(Net(*acts).eval(), inputs={"x": torch.randn(3, 4)})


def ops(picture: Picture) -> int:
    """How many ops the boxes say they stand for; a `+` is one."""
    total = 0
    for node in picture.labels:
        text = picture.text(node)
        layers = re.search(r"(\d+) layers? like the one below, (\d+) ops each", text)
        count = re.search(r"(\d+) ops?:", text)
        total += (int(layers[1]) * int(layers[2]) if layers else int(count[1]) if count
                  else picture.labels[node] == "+")
    return total


@pytest.mark.parametrize("options", [{}, {"full": True}, *({"depth": d} for d in range(1, 7))])
def test_every_op_is_in_one_box(deep: rw.Components, options: dict[str, int]) -> None:
    flow = Flow(deep.graph.module.graph, ["input_ids"])
    drawn = [n for n in flow.graph.nodes if n.op == "call_function" and flow.flows(n)]
    picture = Picture(dot_of_graph(deep.graph, **options))
    assert ops(picture) == len(drawn)
    picture.check_alive([picture.find("output")])
    assert f"{len(deep.graph.nodes)} ops" in picture.caption
    assert deep.graph.certificate is not None
    assert deep.graph.certificate.agreement in picture.caption
    if not options:
        assert len(picture.labels) <= BOXES
        assert "10 layers like the one below" in picture.text(picture.find("transformer.h.1–10"))


def test_deeper_is_more(small: rw.Components) -> None:
    sizes = [len(Picture(dot_of_graph(small.graph, depth=d)).labels) for d in (1, 2, 4, 5)]
    assert sizes == sorted(sizes) and sizes[0] < sizes[2] < sizes[3]
    with_context = Picture(dot_of_graph(small.graph, context=True))
    assert ops(with_context) == len(small.graph.nodes)
    assert "not drawn" not in with_context.caption


def test_only_layers_of_the_same_ops_are_alike() -> None:
    relu, gelu = nn.ReLU(), nn.GELU()
    alike = Picture(dot_of_graph(net(*[relu] * 9)))
    assert "7 layers like the one below" in alike.text(alike.find("layers.1–7"))
    broken = Picture(dot_of_graph(net(*[relu] * 4, gelu, *[relu] * 4)))
    broken.find("layers.1–2")
    broken.find("layers.6–7")
    broken.find("act", "gelu")
    assert len(Picture(dot_of_graph(net(*[relu] * 9), full=True)).labels) == 2 + 9 * 3


def test_a_model_as_parts(deep: rw.Components) -> None:
    picture = Picture(dot_of_components(deep))
    picture.check_alive(["logits"])
    row = picture.text(picture.find("a0 · 12 heads"))
    assert row.endswith(" ".join(f"h{i}" for i in range(12)))
    box = picture.find("8 layers alike: 2–9")
    assert "12 heads, MLP" in picture.text(box)
    for name in ("tokens", "embed", "pos", "m0", "m11", "logits"):
        picture.find(f"{name} ")
    assert not any("m5" in picture.text(n) for n in picture.labels)
    said = f"{len(deep.names)} nodes, 144 heads, {len(deep.edges):,} direct edges"
    assert said in picture.caption
    # tokens are read by the embedding alone, the output reads the end of the stream
    assert [b for a, b, *_ in picture.edges if a == "tokens"] == ["embed"]
    (last,) = (a for a, b, *_ in picture.edges if b == "logits")
    assert picture.labels[last] == "+"


def test_which_layers_are_drawn(deep: rw.Components) -> None:
    full = Picture(dot_of_components(deep, full=True))
    assert [t for t in full.axis if t] == [f"layer {i}" for i in range(12)]
    assert sum("12 heads" in full.text(n) for n in full.labels) == 12
    some = Picture(dot_of_components(deep, layers=[5]))
    some.find("a5 · 12 heads")
    some.find("5 layers alike: 0–4")
    none = Picture(dot_of_components(deep, layers=0))
    none.find("12 layers alike: 0–11")
    for picture in (full, some, none):
        picture.check_alive(["logits"])


def test_post_norms_are_on_the_stream(post_norm: rw.Components) -> None:
    picture = Picture(dot_of_components(post_norm))
    picture.check_alive(["logits"])
    assert {b for a, b, *_ in picture.edges if a == "n0.m"} >= {"a1.h0"}


def chain(*contents: str, reader_of: int | None = None) -> Sketch:
    items = [Item("in", "source", "in", 0, -1)]
    for i, content in enumerate(contents):
        items.append(Item(f"x{i}", "part", "x", i + 1, i, (Read("", items[-1].id),), content))
    reads = [Read("", items[-1].id)]
    if reader_of is not None:
        reads.append(Read("", f"x{reader_of}"))
    items.append(Item("out", "part", "out", 99, len(contents), tuple(reads)))
    return Sketch(tuple(items), outputs=("out",))


def hidden(sketch: Sketch, **options: int) -> list[int]:
    done = fold(sketch, lambda chain: (str(len(chain)), ()), **options)
    return [int(item.title) for item in done.items if item.kind == "fold"]


def test_folding() -> None:
    assert hidden(chain(*"aaaa"), least=3) == [4]
    assert hidden(chain(*"aaaa"), least=5) == []
    assert hidden(chain(*"aaaaa"), least=3, ends=1) == [3]
    assert hidden(chain(*"aabaa"), least=2) == [2, 2]
    assert hidden(chain(*"abab"), least=2) == []
    assert hidden(chain(*"aaaa", reader_of=1), least=2) == [2, 2]  # read from outside: an end
