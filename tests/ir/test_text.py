"""Texts: what they look like, that they read back to the same graph, and where reading stops."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, fx, nn

import rewrite as rw
from rewrite.errors import TextError
from rewrite.ir.graph import Graph, InputSpec, OutputSpec
from rewrite.ir.spec import check
from rewrite.ir.text import argument, to_text
from rewrite.ir.text_parse import Line, value
from rewrite.ir.text_read import from_text
from rewrite.trace.examples import default_inputs
from tests.ir.test_spec import GRAPHS, random_graph
from tests.models.table import TABLE
from tests.models.traced import grouped
from tests.models.traced import traced as family_traced
from tests.zoo import tiny, tokens, traced

aten = torch.ops.aten
GOLDEN = Path(__file__).parents[1] / "golden"
TINY = ("gpt2", "llama", "gemma3", "mixtral", "mamba", "bert", "deberta_v2", "t5", "clip", "resnet")


class Small(nn.Module):
    """x -> linear -> relu -> (+ x) -> scaled."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return (torch.relu(self.linear(x)) + x) * 2


TEXT = """\
graph Small {
  @linear.weight : float32[4, 4]
  @linear.bias : float32[4]
  input %x : float32[batch, 4]
  %linear = linear(%x, @linear.weight, @linear.bias) : float32[batch, 4]  # linear
  %relu = relu(%linear) : float32[batch, 4]
  %add = add.Tensor(%relu, %x) : float32[batch, 4]
  %mul = mul.Tensor(%add, 2) : float32[batch, 4]
  output output = %mul
}"""
MODEL = Small().eval()


@pytest.fixture(scope="module")
def small() -> Graph:
    return rw.trace(MODEL, inputs={"x": torch.randn(3, 4)})


def same(first: Graph, second: Graph) -> None:
    """Equal text and code."""
    assert to_text(first) == to_text(second)
    assert first.code == second.code
    assert first.inputs == second.inputs and first.guards == second.guards


def test_what_it_looks_like(small: Graph) -> None:
    assert to_text(small) == TEXT


def test_a_text_is_a_graph(small: Graph) -> None:
    x = torch.randn(5, 4)
    of_graph, of_model = from_text(TEXT, small), from_text(TEXT, MODEL)
    same(of_graph, small)
    same(of_model, small)
    check(of_model, "traced", deep=True)
    assert torch.equal(of_graph(x=x), small(x=x))
    assert torch.equal(of_model(x=x)["output"], small(x=x))  # a model does not say what to build
    assert of_graph.certificate is None


def test_a_text_can_be_edited(small: Graph) -> None:
    x = torch.randn(5, 4)
    edited = TEXT.replace("relu(%linear)", "tanh(%linear)").replace("%add, 2)", "%add, 3)")
    wanted = 3 * (torch.tanh(MODEL.linear(x)) + x)
    assert torch.equal(from_text(edited, small)(x=x), wanted)
    renamed = TEXT.replace("output output", "output hidden")
    assert set(from_text(renamed, small)(x=x)) == {"hidden"}


@settings(max_examples=30, derandomize=True, deadline=None)
@given(st.integers(0, 10_000))
def test_random_graphs_read_back(seed: int) -> None:
    graph = random_graph(seed)
    again = from_text(to_text(graph), graph)
    same(again, graph)
    check(again, "traced", deep=True)
    x = torch.randn(5, 4)
    assert torch.equal(again(x=x), graph(x=x))


@pytest.mark.parametrize("name", grouped(TINY))
def test_tiny_models_read_back(name: str) -> None:
    family = TABLE[name]
    known = family_traced(name)
    model, graph, parts = known.model, known.graph, known.parts
    inputs = dict(family.inputs) or default_inputs(model)
    given = {spec.name: inputs[spec.name] for spec in graph.inputs}
    for stage, first in {"traced": graph, "components": parts.as_graph()}.items():
        again = from_text(to_text(first), first)
        same(again, first)
        check(again, stage)
        with torch.no_grad():
            for a, b in zip(again.flat(**given), first.flat(**given), strict=True):
                assert torch.equal(a, b)


def test_tracing_again_gives_the_same_text() -> None:
    first, second = (rw.trace(tiny("llama"), inputs={"input_ids": tokens(2, n)}) for n in (7, 9))
    assert to_text(first) == to_text(second)


def test_graphs_without_weights() -> None:
    model = tiny("gpt2")
    empty = rw.trace(model.config)
    assert to_text(from_text(to_text(empty), empty)) == to_text(empty)
    full = from_text(to_text(empty), model)
    ids = tokens(2, 6)
    assert torch.equal(full(input_ids=ids)["logits"], rw.trace(model)(input_ids=ids).logits)
    assert from_text(to_text(empty), empty.module).weightless


def test_expansions_are_written_too() -> None:
    parts = traced("gpt2").parts
    text = to_text(rw.expand(rw.Hypothesis(parts, {"clean": "a1.h3"})).module)
    assert "%a1_h0_1_2 = call a1_h0_1_2(%resid2__corrupt, %getitem_3) :" in text
    assert "float32[s0, s1, 97]" in text
    with pytest.raises(TextError, match="line 1: expected a graph, found a module"):
        from_text(text, parts.graph)


def test_functions_and_modules_of_the_user() -> None:
    graph = rw.trace(MODEL, inputs={"x": torch.randn(3, 4)})
    edited = graph.insert("relu", lambda value: value * 7).replace("relu", nn.ReLU())
    edited = edited.insert("add", torch.tanh)
    x = torch.randn(2, 4)
    again = from_text(to_text(edited), edited)
    assert to_text(again) == to_text(edited) and torch.equal(again(x=x), edited(x=x))
    assert "`torch.tanh`(" in to_text(edited)
    by_function = to_text(graph.insert("relu", lambda value: value * 7))
    with pytest.raises(TextError, match=r"<lambda>` is not known; give the graph that calls it"):
        from_text(by_function, graph)


plain = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(),
    st.sampled_from([torch.float32, torch.bool, torch.device("cpu"), torch.device("cuda", 1),
                     torch.channels_last, torch.contiguous_format, torch.strided, ...,
                     math.inf, -math.inf, slice(None, 3, None), slice(-1, None, 2)]))
nested = st.recursive(plain, lambda inner: st.one_of(
    st.lists(inner, max_size=3), st.lists(inner, max_size=3).map(tuple),
    st.dictionaries(st.text(), inner, max_size=2)), max_leaves=8)


@settings(max_examples=300, derandomize=True, deadline=None)
@given(nested)
def test_every_kind_of_argument_reads_back(thing: object) -> None:
    line = Line(1, argument(thing))
    found = value(line, lambda line, name, at: line.fail("no node is here"))
    line.end()
    assert repr(found) == repr(thing) and type(found) is type(thing)


def test_not_a_number() -> None:
    found = value(Line(1, argument(math.nan)), lambda line, name, at: None)
    assert isinstance(found, float) and math.isnan(found)


def test_names_that_need_quotes() -> None:
    graph = fx.Graph()
    x = graph.placeholder("x")
    graph.output((graph.call_function(aten.relu.default, (x,)),))
    odd = Graph(fx.GraphModule({}, graph), (InputSpec("x", (2, "a.len"), torch.float32),),
                OutputSpec(("last state",), dict), "my model")
    assert to_text(from_text(to_text(odd), odd)) == to_text(odd) == (
        "graph 'my model' {\n  input %x : float32[2, a.len]\n  %relu_default = relu(%x)\n"
        "  output 'last state' = %relu_default\n}")


@pytest.mark.parametrize(("old", "new", "message", "below"), [
    ("relu(", "rellu(", "line 6: there is no operator 'rellu'; did you mean .*relu", "rellu"),
    ("add.Tensor", "add.Tensr", "line 7: there is no operator 'add.Tensr'; did you mean add.Ten",
     "add.Tensr"),
    ("relu(%linear)", "relu(%linaer)", "line 6: %linaer is not defined above; did you mean "
     "%linear", "%linaer"),
    ("(%add, 2)", "(%add, 2, axis=1)", "it has no argument 'axis'", "mul.Tensor"),
    ("(%add, 2)", "(%add)", "other is not given", "mul.Tensor"),
    ("(%add, 2)", "(%add, other=2, other=3)", "other is given twice", "other"),
    ("(%add, 2)", "(other=2, %add)", "expected an argument by name", "%"),
    ("(%add, 2)", "(%add 2)", "expected ',', found '2\\)'", "2"),
    ("(%add, 2)", "(%add, two)", "expected an argument, found 'two'; nodes are written %two",
     "two"),
    ("(%add, 2) :", "(%add, 2) of", "expected ':', found 'of'", "o"),
    ("%add, 2) : float32[batch, 4]", "%add, 2) : float32[batch, 5]",
     r"line 8: %mul is float32\[batch, 4\]", "float32[batch, 5]"),
    ("%add, 2) : float32[batch, 4]", "%add, 2) : float64[batch, 4]",
     r"line 8: %mul is float32\[batch, 4\]", "float64[batch, 4]"),
    ("%add, 2) : float32[batch, 4]", "%add, 2) : float32[bach, 4]",
     "no input has a length called 'bach'; did you mean batch", "float32[bach, 4]"),
    ("%add, 2) : float32[batch, 4]", "%add, 2) : flaot32[batch, 4]",
     "there is no type 'flaot32'; did you mean float32", "flaot32[batch, 4]"),
    ("weight : float32[4, 4]", "weight : float32[4, 5]", r"%linear_weight is float32\[4, 4\]",
     "float32[4, 5]"),
    ("  @linear.bias :", "  @linear.bais :", "no 'linear.bais'; did you mean linear.bias",
     "@linear.bais"),
    ("linear(%x, @linear.weight", "linear(%x, @linear.bias", "this cannot read float32", "  %lin"),
    ("%relu =", "%linear =", "%linear is defined twice", "%linear"),
    ("%relu = relu(", "relu(", "line 6: expected a line such as", "r"),
    ("output output = %mul\n", "", "expected a line 'output NAME = %node'", " "),
    ("= %mul", "= %mul %add", "expected the end of the line, found '%add'", "%add"),
    ("%x : float32[batch, 4]", "%x : float32", "expected a type such as int64", "f"),
    ("\n}", "", "expected a line with '}'", " "),
    ("graph Small", "grahp Small", "expected 'graph NAME {'", "g"),
    ("relu(%linear)", "call relu(%linear)", "there is no body 'relu'", "relu"),
    ("relu(%linear) : float32[batch, 4]", "`os.system`(%linear)", "is not known", "`os.system`"),
])
def test_errors_point_at_the_place(
    small: Graph, old: str, new: str, message: str, below: str
) -> None:
    assert TEXT.count(old) >= 1
    with pytest.raises(TextError, match=message) as error:
        from_text(TEXT.replace(old, new, 1), small)
    _, line, carets = str(error.value).split("\n")
    start = carets.index("^")
    assert line[start : start + len(below)] in (below, "") and (
        carets.count("^") >= len(below.strip()) or len(below) == 1)


def test_weights_whose_names_hold_two_underscores() -> None:
    weight = torch.randn(4)
    read = from_text("""graph Scaled {
      @a__b.c : float32[4]
      input %x : float32[batch, 4]
      %mul = mul.Tensor(%x, @a__b.c) : float32[batch, 4]
      output output = %mul
    }""", {"a__b.c": weight})
    x = torch.randn(3, 4)
    assert torch.equal(read(x)["output"], x * weight)


def test_an_empty_text(small: Graph) -> None:
    with pytest.raises(TextError, match="the text is empty: expected 'graph NAME"):
        from_text("\n", small)


def test_comments_and_blank_lines_are_left_out(small: Graph) -> None:
    assert to_text(from_text("# a graph\n\n" + TEXT.replace("\n", "\n\n"), small)) == TEXT


def test_guards_choose_the_sizes_that_operators_run_on() -> None:
    graph = GRAPHS[1]
    text = to_text(graph).replace("{\n", "{\n  guard x.shape[0] <= 4\n", 1)
    assert from_text(text, graph).guards == (*graph.guards, "x.shape[0] <= 4")[-1:]
    with pytest.raises(TextError, match=r"no sizes were found that the guards x.shape\[0\] > 9999"):
        from_text(text.replace("<= 4", "> 9999"), graph)


class Block(nn.Module):
    """A norm, two heads of attention, an MLP, and a head over the last axis."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.qkv, self.out = nn.LayerNorm(8), nn.Linear(8, 24), nn.Linear(8, 8)
        self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 8, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        batch, seq, _ = x.shape
        split = self.qkv(self.norm(x)).view(batch, seq, 3, 2, 4).permute(2, 0, 3, 1, 4)
        q, k, v = split.unbind(0)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).reshape(batch, seq, 8))
        return x + self.down(nn.functional.gelu(self.up(x), approximate="tanh"))


COMPONENTS = """\
graph Block {
  input %x : float32[batch, seq, 8]
  %a0_h0 = call a0_h0(%x, %x, %x) : float32[batch, seq, 8]  # member a0.h0
  %a0_h1 = call a0_h1(%x, %x, %x) : float32[batch, seq, 8]  # member a0.h1
  %a0_bias = call a0_bias() : float32[8]  # part a0.bias
  %a0_out = rewrite.total(%a0_h0, %a0_h1, %a0_bias) : float32[batch, seq, 8]  # part a0.out
  %resid0 = add.Tensor(%x, %a0_out) : float32[batch, seq, 8]  # part resid0
  %m0 = call m0(%resid0) : float32[batch, seq, 8]  # part m0
  %resid1 = add.Tensor(%resid0, %m0) : float32[batch, seq, 8]  # part resid1
  output output = %resid1
}
body a0_h0 {
"""


def block() -> Graph:
    """The graph whose text is kept in a file."""
    return rw.trace(Block().eval(), inputs={"x": torch.randn(3, 5, 8)})


def test_golden() -> None:
    """To write the file again: python -m tests.golden.write"""
    assert to_text(block()) + "\n" == (GOLDEN / "block.txt").read_text()
    assert to_text(block().components().as_graph()).startswith(COMPONENTS)
