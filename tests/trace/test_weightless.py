"""Graphs of models without weights: planned as they are, exact as soon as they get some."""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tf
from torch import Tensor, nn

import rewrite as rw
from rewrite import match, rules
from rewrite.errors import ArgumentError, InputError, TraceError
from rewrite.trace import load
from tests.models.table import TABLE
from tests.models.traced import traced as family_traced
from tests.zoo import error, logits, tiny, tokens, traced


def config(family: str, **changes: Any) -> Any:
    """The tiny configuration of a family, naming its class."""
    found = TABLE[family].configuration(**changes)
    found.architectures = [TABLE[family].model]
    return found


pytestmark = pytest.mark.xdist_group("weightless")


@cache
def empty_graph(family: str) -> rw.Graph:
    """A family traced without weights, once."""
    return rw.trace(config(family))


# They cover rotary buffers, fused projections, experts, an encoder-decoder, constants in the
# code, numbers read from tensors, tables of indices (a buffer, or kept by a function for all
# models), images, constructors that ignore the meta device, and a length that is fixed.
FAMILIES = ["llama", "gpt2", "mixtral", "t5", "gpt_neo", "deberta", "swin", "beit", "wav2vec2",
            "whisper"]


@pytest.mark.parametrize("family", FAMILIES)
def test_weights_make_it_the_model(family: str) -> None:
    empty = empty_graph(family)
    assert empty.weightless and all(p.is_meta for p in empty.module.parameters())
    assert empty.certificate is not None
    assert empty.certificate.difference is None and empty.certificate.scale is None
    assert str(empty.certificate).startswith("parity not measured, there are no weights")

    model = TABLE[family].build()
    graph = empty.with_weights(model)
    assert not graph.weightless and graph.certificate is not None
    assert graph.certificate.difference is not None
    assert graph.certificate.difference <= (1e-6 if family == "beit" else 0)  # as with weights
    own = {id(parameter) for parameter in model.parameters()}
    assert {id(parameter) for parameter in graph.module.parameters()} <= own
    assert empty.weightless and all(p.is_meta for p in empty.module.parameters())


@pytest.mark.parametrize("family", ["llama", "mixtral"])
def test_the_graph_is_that_of_the_loaded_model(family: str) -> None:
    """Not one op differs, so that what is planned without weights is what runs with them."""
    empty, full = empty_graph(family), rw.trace(TABLE[family].build())
    assert empty.code == full.code
    assert empty.inputs == full.inputs and empty.outputs.names == full.outputs.names


def test_everything_but_calls(tmp_path: Path) -> None:
    graph = empty_graph("llama")
    parts, full = graph.components(), family_traced("llama").graph.components()
    assert parts.names == full.names and parts.edges == full.edges and parts.notes == full.notes
    hypothesis = {"clean": "a0.h1 -> ... -> a1.h2.q"}
    exp, wanted = (rw.expand(rw.Hypothesis(p, hypothesis)) for p in (parts, full))
    assert exp.cost.forwards == wanted.cost.forwards and exp.copies == wanted.copies
    assert exp.code == wanted.code and exp.formula() == wanted.formula()
    for thing in (graph, parts, exp):
        thing.draw(tmp_path / "picture.svg")
        assert "parity not measured" in (tmp_path / "picture.svg").read_text().replace("&#45;", "-")
    assert pickle.loads(pickle.dumps(graph.module)).code


def test_calls_are_refused() -> None:
    graph, ids = empty_graph("gpt2"), tokens(2, 5)
    parts = graph.components()
    exp = rw.expand(rw.Hypothesis(parts, {"clean": "a0.h1"}))
    run = {"input_ids": ids}
    for call in (lambda: graph(**run), lambda: parts(**run), lambda: exp(clean=run, corrupt=run),
                 lambda: graph.delete(graph.nodes[-1])(**run)):
        with pytest.raises(InputError, match=r"traced without weights: call graph\.with_weights"):
            call()


def test_what_is_planned_runs_with_weights() -> None:
    model, ids, others = TABLE["llama"].build(), tokens(3, 9, 1), tokens(3, 9, 2)
    parts = empty_graph("llama").with_weights(model).components()
    wanted = rw.trace(model).components()
    runs = {"clean": {"input_ids": ids}, "corrupt": {"input_ids": others}}
    with torch.no_grad():
        found, expected = (
            rw.expand(rw.Hypothesis(p, {"clean": "a0.h1 -> ... -> a1.h2.q"}))(**runs).logits
            for p in (parts, wanted))
    assert torch.equal(found, expected)


def test_other_models_are_left_alone() -> None:
    """A table that a function keeps for all models of a class is not left behind as a fake."""
    with_fakes, model = config("beit"), TABLE["beit"].build()
    image = torch.randn(2, 3, *[TABLE["beit"].configuration().image_size] * 2)
    rw.trace(with_fakes)
    with torch.no_grad():
        assert type(model(pixel_values=image).logits) is Tensor


def test_a_model_on_the_meta_device() -> None:
    with torch.device("meta"):
        model = tf.LlamaForCausalLM(config("llama")).eval()
    graph = rw.trace(model)
    assert graph.weightless and graph.name == "LlamaForCausalLM"
    assert all(parameter.is_meta for parameter in model.parameters())  # it is left alone
    assert graph.with_weights(TABLE["llama"].build()).certificate.difference == 0.0  # type: ignore


def test_a_plain_module_on_the_meta_device() -> None:
    def build() -> nn.Module:
        return nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 2)).eval()

    with torch.device("meta"):
        empty, example = build(), torch.ones(3, 4)
    graph = rw.trace(empty, inputs={"input": example})
    model, x = build(), torch.randn(5, 4)
    with pytest.raises(TraceError, match=re.escape("graph.with_weights(model, inputs={'input'")):
        graph.with_weights(model, inputs={"x": x})
    full = graph.with_weights(model, inputs={"input": torch.ones(3, 4)})
    assert torch.equal(full(input=x), model(x))


def test_a_model_that_is_loaded_in_part() -> None:
    model = tiny("llama")
    model.lm_head.to("meta")
    with pytest.raises(TraceError, match=r"loaded in part: 1 of \d+ parameters(.|\n)*lm_head"):
        rw.trace(model)


def test_the_file_of_a_configuration(tmp_path: Path) -> None:
    model = tiny("gpt2")
    model.config.save_pretrained(tmp_path)
    graph = rw.trace(tmp_path / "config.json")
    assert graph.weightless and graph.name == "GPT2LMHeadModel"
    assert graph.origin == str(tmp_path / "config.json")
    with pytest.raises(TraceError, match=r"its config\.json alone is traced without weights"):
        rw.trace(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(TraceError, match=r"no configuration of a model(.|\n)*model_type"):
        rw.trace(tmp_path / "config.json")


@pytest.mark.parametrize(("family", "name"), [
    ("llama", "LlamaForCausalLM"), ("bert", "BertForMaskedLM"),
    ("t5", "T5ForConditionalGeneration"), ("vit", "ViTModel"),
])
def test_a_configuration_without_a_class(family: str, name: str) -> None:
    found = TABLE[family].configuration()
    assert not found.architectures
    model = load(found)
    assert type(model).__name__ == name and not model.training
    assert all(parameter.is_meta for parameter in model.parameters())


def test_a_class_that_does_not_exist() -> None:
    found = config("llama")
    found.architectures = ["NoSuchModel"]
    with pytest.raises(TraceError, match="NoSuchModel, which is no model of this version"):
        rw.trace(found)


def test_the_type_of_a_configuration() -> None:
    found = config("llama", dtype="bfloat16")
    assert load(found).dtype == torch.bfloat16 and load(config("llama")).dtype == torch.float32
    assert load(found, torch.float64).dtype == torch.float64
    graph = rw.trace(found)
    assert graph.dtype == torch.bfloat16
    model = tf.AutoModelForCausalLM.from_config(config("llama"), dtype=torch.bfloat16).eval()
    assert graph.with_weights(model).certificate.difference == 0.0  # type: ignore
    with pytest.raises(TraceError, match=re.escape(
            "model.embed_tokens.weight is float32 [97, 32], the graph needs bfloat16 [97, 32]")):
        graph.with_weights(TABLE["llama"].build())
    with pytest.raises(TraceError, match=r"inv_freq is bfloat16(.|\n)*model\.to\(dtype\) converts"):
        graph.with_weights(TABLE["llama"].build(torch.bfloat16))  # converts its buffers as well


def test_weights_by_name() -> None:
    model = TABLE["llama"].build()
    graph = empty_graph("llama")
    with pytest.raises(TraceError, match=r"inv_freq is missing\npass the model itself: buffers"):
        graph.with_weights(model.state_dict())
    named = dict(model.named_parameters()) | dict(model.named_buffers())
    full = graph.with_weights(named)
    assert full.certificate is not None and full.certificate.difference is None
    assert "parity not measured" in str(full.certificate)
    assert "from no model that they could be compared with" in str(full.certificate)
    ids = tokens(2, 9)
    assert torch.equal(full(input_ids=ids).logits, logits(model, input_ids=ids))
    named.pop("lm_head.weight")
    named["model.norm.weight"] = torch.ones(7)
    with pytest.raises(TraceError) as caught:
        graph.with_weights(named)
    assert "lm_head.weight is missing" in str(caught.value)
    assert "model.norm.weight is float32 [7], the graph needs float32 [32]" in str(caught.value)


def test_weights_that_are_none() -> None:
    graph = empty_graph("gpt2")
    with pytest.raises(ArgumentError, match=r"found the int 3; write graph\.with_weights"):
        graph.with_weights(3)  # type: ignore[arg-type]
    with pytest.raises(TraceError, match="GPT2LMHeadModel has no weights either"):
        graph.with_weights(load(config("gpt2")))
    with pytest.raises(TraceError, match="training mode"):
        graph.with_weights(TABLE["gpt2"].build().train())


def test_a_graph_that_was_not_traced() -> None:
    graph = replace(traced("gpt2").graph, bind=None)
    with pytest.raises(InputError, match="was not traced from a model"):
        graph.with_weights(tiny("gpt2"))


def test_weights_of_a_model_that_computes_something_else() -> None:
    """Same names and shapes, another activation: the comparison with the model finds it."""
    other = TABLE["llama"].build(hidden_act="relu")
    with pytest.raises(TraceError, match=r"is not LlamaForCausalLM, it runs(.|\n)*rw\.trace"):
        empty_graph("llama").with_weights(other)


def test_other_weights_for_a_graph_that_has_some() -> None:
    at, other = traced("llama"), tiny("llama")
    with torch.no_grad():
        other.lm_head.weight.mul_(2)
    graph = at.graph.with_weights(other)
    ids = tokens(2, 9)
    assert torch.equal(graph(input_ids=ids).logits, logits(other, input_ids=ids))
    assert error(graph(input_ids=ids).logits, at.graph(input_ids=ids).logits) > 0.1


@cache
def llama() -> tuple[Any, rw.Graph]:
    """A model, and the graph that was traced from it."""
    model = TABLE["llama"].build()
    return model, rw.trace(model)


def grafted(graph: rw.Graph) -> rw.Graph:
    """The MLP of another model, which has the names of this one's."""
    model, full = llama()
    other = full.with_weights({name: 1.5 * value for name, value in named(model).items()})
    return graph.graft(other, match.module("model.layers.0.mlp"))


def named(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers, the latter also if they are in no state dict."""
    return dict(model.named_parameters()) | dict(model.named_buffers())


def projected(graph: rw.Graph) -> rw.Graph:
    """A module with weights of its own."""
    own = nn.Linear(48, 48)
    with torch.no_grad():
        for weight in own.parameters():
            weight.fill_(0.01)
    return graph.insert("silu", own)


EDITS: dict[str, Callable[[rw.Graph], rw.Graph]] = {
    "function": lambda graph: graph.replace("silu", torch.tanh),
    "module": projected,
    "frozen": lambda graph: graph.freeze("silu_1", 0.5),
    "two": lambda graph: graph.delete("silu").ablate("silu_1"),
    "grafted": grafted,
    "a head": lambda graph: graph.components().as_graph().insert("a0.h1", torch.zeros_like),
    "rules": lambda graph: graph.rewrite(rules.open_attention),
    "rules behind an edit": lambda graph: graph.delete("silu").rewrite(rules.open_attention),
}


@pytest.mark.parametrize("name", EDITS)
def test_edits_before_weights_are_those_after(name: str) -> None:
    (model, full), ids = llama(), tokens(2, 7)
    wanted, edited = EDITS[name](full), EDITS[name](empty_graph("llama"))
    with pytest.raises(InputError, match="traced without weights"):
        edited(input_ids=ids)
    for weights in (model, named(model)):
        found = edited.with_weights(weights)
        assert torch.equal(found(input_ids=ids).logits, wanted(input_ids=ids).logits)
        assert not found.weightless and edited.weightless and found.code == wanted.code
        assert (found.certificate is None) == (name != "rules"), "what was edited has no parity"


def test_a_part_that_was_cut_out_takes_weights() -> None:
    (model, full), ids = llama(), tokens(2, 7)
    found, wanted = (g.extract(None, ["silu"]) for g in (empty_graph("llama"), full))
    assert torch.equal(found.with_weights(model)(input_ids=ids)["silu"],
                       wanted(input_ids=ids)["silu"])


def test_weights_that_an_edited_graph_cannot_take() -> None:
    heads = empty_graph("llama").components().as_graph().insert("a0.h1", torch.zeros_like)
    with pytest.raises(TraceError, match=r"cannot take these weights:\n  model\.\S+ is missing"):
        heads.with_weights({})


class Branch(nn.Module):
    """Asks for the value of a tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) if x.sum() > 0 else x


def test_what_needs_values_is_refused() -> None:
    with torch.device("meta"):
        model = Branch().eval()
    with pytest.raises(TraceError, match=r"Branch itself fails on x \[3, 2\], without weights"):
        rw.trace(model, inputs={"x": torch.ones(3, 2)})
