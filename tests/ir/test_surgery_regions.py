"""Modules substituted, grafted, inlined and extracted, compared with the eager model."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import rewrite as rw
from rewrite.errors import InputError, MatchError, SurgeryError
from rewrite.ir import match as m
from tests.zoo import logits, tiny, tokens, traced

IDS = tokens(3, 6)


class Shift(nn.Module):
    """A small module in place of an MLP."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.first = nn.Linear(width, 8)
        self.second = nn.Linear(8, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.relu(self.first(x)))


@pytest.mark.parametrize(("family", "path"), [
    ("gpt2", "transformer.h.1.mlp"), ("llama", "model.layers.0.mlp"),
    ("bert", "bert.encoder.layer.1.intermediate"),
])
def test_substitute_equals_setattr(family: str, path: str) -> None:
    torch.manual_seed(0)
    model, new = tiny(family), Shift()
    if family == "bert":
        new.second = nn.Linear(8, 48)
    graph = rw.trace(model)
    edited = graph.substitute(path, new)
    owner, _, leaf = path.rpartition(".")
    setattr(model.get_submodule(owner), leaf, new)
    assert torch.equal(edited(input_ids=IDS).logits, logits(model, input_ids=IDS))
    assert edited.count(m.op(Shift)) == 1
    assert f"{path}.first.weight" in edited.module.state_dict()
    assert not any(path in key and "first" not in key and "second" not in key
                   for key in edited.module.state_dict())
    assert edited.expect(m.module(path), 1)


def test_substitute_the_attention_of_named_inputs() -> None:
    """Where a module reads more than the new one takes, its operands are named."""
    at = traced("gpt2")
    with pytest.raises(SurgeryError, match=r"reads layer_norm: float32 \[batch, seq, 32\]"):
        at.graph.substitute("transformer.h.0.attn", nn.Linear(31, 32))
    edited = at.graph.substitute("transformer.h.0.attn", Shift(), reads=["layer_norm"],
                                 name="instead")
    handle = at.model.transformer.h[0].attn.register_forward_hook(
        lambda module, args, kwargs, out: (edited.module.instead(args[0]), out[1]),
        with_kwargs=True)
    wanted = logits(at.model, input_ids=IDS)
    handle.remove()
    assert torch.equal(edited(input_ids=IDS).logits, wanted)


@pytest.mark.parametrize(("path", "message"), [
    ("transformer.h.7", r"module\('transformer.h.7'\) selects 0 nodes.*did you mean transformer.h"),
    ("transformer.h.0.attn.c_attn", r"view_2' is float32 \[batch, seq, 96\].*\[batch, seq, 5\]; "
                                    r".*c_attn reads layer_norm: .* by reads="),
    ("transformer.wte", r"Linear cannot be called on \(view: int64 \[batch, seq\]\)"),
])
def test_what_cannot_be_substituted(path: str, message: str) -> None:
    with pytest.raises((SurgeryError, MatchError), match=message):
        traced("gpt2").graph.substitute(path, nn.Linear(32, 5))


class Two(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x + 1, x * 2


class Outer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.two = Two()
        self.tied = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.two(x)
        return a * b @ self.tied.weight + self.tied(x)


def test_regions_with_several_outputs_or_weights_in_use() -> None:
    graph = rw.trace(Outer().eval(), inputs={"x": torch.ones(4, 3)})
    with pytest.raises(SurgeryError, match=r"two writes 2 values, .*: add \(for mul_1\), mul"):
        graph.substitute("two", nn.Linear(3, 3))
    with pytest.raises(SurgeryError, match=r"uses a module or weight called 'tied'.*name="):
        graph.substitute("tied", nn.Linear(3, 3))
    new = nn.Linear(3, 3)
    x = torch.randn(2, 3)
    named = graph.substitute("tied", new, name="fresh")
    weight = graph.module.get_parameter("tied.weight")
    assert torch.equal(named(x=x), ((x + 1) * (x * 2)) @ weight + new(x))


def test_graft_swaps_a_module_of_two_checkpoints() -> None:
    ours, theirs = tiny("llama"), tiny("llama")
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.mul_(0.7)
    path = "model.layers.1.mlp"
    grafted = rw.trace(ours).graft(rw.trace(theirs), m.module(path))
    assert grafted.nodes == rw.trace(ours).nodes
    assert set(grafted.module.state_dict()) == set(rw.trace(ours).module.state_dict())
    before = logits(ours, input_ids=IDS)
    ours.get_submodule("model.layers.1").mlp = theirs.get_submodule(path)
    wanted = logits(ours, input_ids=IDS)
    assert torch.equal(grafted(input_ids=IDS).logits, wanted) and not torch.equal(wanted, before)


def test_graft_of_a_head_and_of_a_weight() -> None:
    other = tiny("gpt2")
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(0.7)
    at, theirs = traced("gpt2"), rw.trace(other)
    donor = theirs.components().as_graph()
    grafted = at.parts.as_graph().graft(donor, "a1.h2")
    inside = {"resid2": torch.randn(3, 6, 32), "input_ids": IDS}
    heads = [graph.extract(["resid2"], "a1.h2")(**inside)
             for graph in (grafted, donor, at.parts.as_graph())]
    assert torch.equal(heads[0], heads[1]) and not torch.equal(heads[0], heads[2])
    for name in ("a1.h1", "m1", "logits"):
        assert _same_weights(grafted, at.parts.as_graph(), name)
    model = tiny("gpt2")
    weight = at.graph.graft(theirs, "transformer_ln_f_weight")
    model.transformer.ln_f.weight = other.transformer.ln_f.weight
    assert torch.equal(weight(input_ids=IDS).logits, logits(model, input_ids=IDS))


def _same_weights(one: rw.Graph, other: rw.Graph, name: str) -> bool:
    bodies = [graph.module.get_submodule(str(graph.get(name).target)) for graph in (one, other)]
    pairs = zip(*(body.state_dict().values() for body in bodies), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def test_graft_errors() -> None:
    at = traced("gpt2")
    small = rw.trace(tiny("gpt2", n_embd=16))
    with pytest.raises(SurgeryError, match=r"is float32 \[batch, seq, 32\]|cannot be called on"):
        at.graph.graft(small, m.module("transformer.h.1.mlp"))
    with pytest.raises(SurgeryError, match="GPT2LMHeadModel has no such node"):
        at.graph.graft(at.parts.as_graph(), "m0")
    with pytest.raises(MatchError, match="selects 0 nodes"):
        at.graph.graft(small, m.op("softmax"))


def test_graft_under_other_names() -> None:
    """The first layer's MLP in place of the second's."""
    at, model = traced("gpt2"), tiny("gpt2")
    parts = at.parts.as_graph()
    moved = parts.graft(parts, "m0", names={"m0": "m1", "resid1": "resid3"})
    block = model.transformer.h[1]
    block.ln_2, block.mlp = model.transformer.h[0].ln_2, model.transformer.h[0].mlp
    found = moved(input_ids=IDS).logits
    assert torch.allclose(found, logits(model, input_ids=IDS), atol=1e-4)


def test_inline_changes_no_bit_and_opens_the_head() -> None:
    for family in ("gpt2", "llama"):
        at = traced(family)
        graph = at.parts.as_graph()
        wanted = graph(input_ids=IDS).logits
        one = graph.inline("a1.h2")
        assert torch.equal(one(input_ids=IDS).logits, wanted)
        attention = m.op("scaled_dot_product_attention")
        assert one.count(attention) == 1 and graph.count(attention) == 0
        assert all("val" in one.get(n).meta for n in one.nodes if n.startswith("a1_h2"))
        every = graph.inline(m.op(torch.fx.GraphModule))
        assert torch.equal(every(input_ids=IDS).logits, wanted)
        assert every.count(m.op(torch.fx.GraphModule)) == 0
        assert every.get("a1.h2").name == "a1_h2"
        again = every.insert("a1.h2", torch.zeros_like)
        assert torch.equal(again(input_ids=IDS).logits,
                           graph.insert("a1.h2", torch.zeros_like)(input_ids=IDS).logits)


def test_inline_errors() -> None:
    at = traced("gpt2")
    with pytest.raises(SurgeryError, match="'resid1' is an operator already: only bodies"):
        at.parts.as_graph().inline("resid1")
    with pytest.raises(SurgeryError, match=r"'m1' calls a Linear: .*rw.trace"):
        at.parts.as_graph().replace("m1", nn.Linear(32, 32)).inline("m1")


def test_extract() -> None:
    at = traced("gpt2")
    mlp = at.graph.extract(["add_4"], "view_11")
    block = at.model.transformer.h[0]
    stream = torch.randn(2, 5, 32)
    assert mlp.inputs[0].describe() == "add_4: float32 [batch, seq, 32]" and len(mlp.inputs) == 1
    with torch.no_grad():
        assert torch.equal(mlp(add_4=stream), block.mlp(block.ln_2(stream)))
    both = at.graph.extract(None, ["add_4", "add_7"])
    states = at.model(IDS, output_hidden_states=True).hidden_states
    assert list(both(input_ids=IDS)) == ["add_4", "add_7"]
    assert torch.equal(both(input_ids=IDS)["add_7"], states[1])
    tail = at.graph.extract(["add_7"], "linear")
    needs = {spec.name: spec for spec in tail.inputs}
    assert list(needs) in (["add_7"], ["add_7", "input_ids"])
    given: dict[str, Any] = {"add_7": states[1]} | ({"input_ids": IDS} if len(needs) > 1 else {})
    assert torch.equal(tail(**given), logits(at.model, input_ids=IDS))
    with pytest.raises(InputError, match=r"add_4: float32 \[batch, seq, 32\]"):
        mlp(add_4=stream[0])
    with pytest.raises(SurgeryError, match="only tensors can be inputs"):
        at.graph.extract(["split"], "linear")
    assert at.graph.extract(["add_4"], "add_4")(add_4=stream) is stream


def test_the_original_is_untouched() -> None:
    at = traced("gpt2")
    before, keys = at.graph.code, list(at.graph.module.state_dict())
    at.graph.substitute("transformer.h.0.mlp", Shift())
    at.graph.graft(rw.trace(tiny("gpt2")), m.module("transformer.h.0"))
    at.graph.extract(["add_4"], "view_11")
    parts = at.parts.as_graph()
    code = parts.code
    parts.inline("m0")
    assert at.graph.code == before and list(at.graph.module.state_dict()) == keys
    assert parts.code == code
    assert at.graph.module.get_parameter("transformer.h.0.mlp.c_fc.weight") is (
        at.model.transformer.h[0].mlp.c_fc.weight)
