"""Graphs as files and as modules: the same numbers, bit for bit, at other sizes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import transformers as tf
from torch import Tensor, nn

import rewrite as rw
from rewrite.errors import FileError, InputError
from rewrite.ir import match as m
from rewrite.ir.ablate import noised
from tests.zoo import GPT2, logits, tiny, tokens, traced

IDS = tokens(3, 7)


class Pair(NamedTuple):
    left: Tensor
    right: dict[str, tuple[Tensor, Tensor]]


class Returns(nn.Module):
    def forward(self, x: Tensor) -> Pair:
        return Pair(x + 1, {"both": (x * 2, -x)})


def edits() -> dict[str, Callable[[rw.Graph], rw.Graph]]:
    return {
        "traced": lambda g: g,
        "module": lambda g: g.substitute("transformer.h.1.mlp", nn.Linear(32, 32)),
        "function": lambda g: g.insert("add_4", lambda x: x * 0.5),
        "constant": lambda g: g.freeze("add_7", 0.5),
        "noise": lambda g: g.ablate("add_4", "noise", at=(slice(None), -1)),
        "shuffled": lambda g: g.ablate("add_4", "resample", seed=4),
    }


@pytest.mark.parametrize("edit", edits())
def test_saved_graphs_are_the_same(edit: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    graph = edits()[edit](traced("gpt2").graph)
    again = rw.load(rw.save(graph, tmp_path / "g.graph"))
    assert isinstance(again, rw.Graph)
    assert again.inputs == graph.inputs and again.outputs.names == graph.outputs.names
    assert again.name == graph.name and again.guards == graph.guards
    for ids in (IDS, tokens(2, 4), tokens(5, 1)):
        found, wanted = again(input_ids=ids), graph(input_ids=ids)
        assert type(found) is type(wanted) and torch.equal(found.logits, wanted.logits)
    plain = torch.export.load(graph.export(tmp_path / "g.pt2")).module()
    assert torch.equal(plain(IDS)[0], graph(input_ids=IDS).logits)
    with pytest.raises(InputError, match=r"input_ids: int64 \[batch, seq\]"):
        again(input_ids=IDS[0])


def test_what_a_loaded_graph_knows(tmp_path: Path) -> None:
    graph = traced("gpt2").graph
    again = rw.load(rw.save(graph, tmp_path / "g.graph"))
    assert again.nodes == graph.nodes
    assert again.certificate.difference == 0.0
    assert "measured before it was saved as g.graph" in str(again.certificate)
    assert again.find(m.module("transformer.h.1.mlp")) and again.find(
        m.shape("batch", "seq", 32)) == graph.find(m.shape("batch", "seq", 32))
    assert again.components().names == graph.components().names
    edited = again.ablate("add_4").insert("add_7", torch.neg)
    assert torch.equal(edited(input_ids=IDS).logits,
                       graph.ablate("add_4").insert("add_7", torch.neg)(input_ids=IDS).logits)
    assert set(again.as_module().state_dict()) == set(graph.as_module().state_dict())


def test_component_graphs_and_frozen_sizes_are_saved(tmp_path: Path) -> None:
    split = traced("llama").parts.as_graph()
    again = rw.load(rw.save(split, tmp_path / "s.graph"))
    assert torch.equal(again(input_ids=IDS).logits, split(input_ids=IDS).logits)
    frozen = split.freeze("m0", {"input_ids": IDS})
    again = rw.load(rw.save(frozen, tmp_path / "f.graph"))
    other = tokens(3, 7, seed=5)
    assert torch.equal(again(input_ids=other).logits, frozen(input_ids=other).logits)
    with pytest.raises(InputError, match=r"input_ids.shape\[0\] == 3"):
        again(input_ids=tokens(2, 7))


def test_outputs_of_any_nesting(tmp_path: Path) -> None:
    graph = rw.trace(Returns().eval(), inputs={"x": torch.ones(3, 2)})
    found = rw.load(rw.save(graph, tmp_path / "r.graph"))(x=torch.full((2, 2), 3.0))
    assert type(found).__name__ == "Pair" and found.left.tolist() == [[4.0] * 2] * 2
    assert found.right["both"][1].tolist() == [[-3.0] * 2] * 2


def test_files_that_are_no_graphs(tmp_path: Path) -> None:
    program = torch.export.export(nn.Linear(2, 2), (torch.ones(3, 2),))
    torch.export.save(program, tmp_path / "plain.pt2")
    module = rw.load_trusted(tmp_path / "plain.pt2")
    assert isinstance(module, nn.Module) and module(torch.ones(3, 2)).shape == (3, 2)
    with pytest.raises(FileError, match=r"would run what it says.*rw\.load_trusted\("):
        rw.load(tmp_path / "plain.pt2")
    (tmp_path / "broken.pt2").write_bytes(b"no archive")
    with pytest.raises(FileError, match=r"broken\.pt2 cannot be read as an exported module"):
        rw.load_trusted(tmp_path / "broken.pt2")
    (tmp_path / "broken.graph").write_bytes(b"no archive")
    with pytest.raises(FileError, match=r"broken\.graph is no graph that rw.save wrote"):
        rw.load(tmp_path / "broken.graph")
    graph = traced("gpt2").graph
    with pytest.raises(FileError, match=r"a graph is saved as \.graph"):
        rw.save(graph, tmp_path / "g.toml")
    with pytest.raises(FileError, match=r"graph\.export\('.*g\.pt2'\)"):
        rw.save(graph, tmp_path / "g.pt2")
    with pytest.raises(FileError, match=r"exported as \.pt2"):
        graph.export(tmp_path / "g.graph")
    with pytest.raises(FileError, match="cannot be written"):
        rw.save(graph, tmp_path / "broken.graph" / "g.graph")


def test_graphs_that_cannot_be_saved(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"has no weights to export: .*with_weights"):
        rw.trace(tf.GPT2Config(**GPT2)).export(tmp_path / "g.pt2")
    asks = traced("gpt2").graph.insert("add_4", lambda x: x if x.sum() > 0 else -x)
    with pytest.raises(FileError, match=r"cannot be saved: .*without looking at values"):
        rw.save(asks, tmp_path / "g.graph")
    with pytest.raises(FileError, match=r"cannot be exported: .*without looking at values"):
        asks.export(tmp_path / "g.pt2")

    class Local(NamedTuple):
        x: Tensor

    class Net(nn.Module):
        def forward(self, x: Tensor) -> Local:
            return Local(x + 1)

    with pytest.raises(FileError, match=r"Local, which is defined in .*define it in a module"):
        rw.save(rw.trace(Net().eval(), inputs={"x": torch.ones(3, 2)}), tmp_path / "l.graph")


def test_graphs_without_weights_are_saved(tmp_path: Path) -> None:
    """And with them: what was loaded takes the weights of a model, as what was traced does."""
    model = tiny("gpt2")
    for graph in (rw.trace(tf.GPT2Config(**GPT2)), traced("gpt2").graph):
        again = rw.load(rw.save(graph, tmp_path / "g.graph"))
        assert again.weightless == graph.weightless and again.text() == graph.text()
        assert again.components().names == graph.components().names
        full = again.with_weights(model)
        assert full.certificate.difference == 0.0
        assert torch.equal(full(input_ids=IDS).logits, logits(model, input_ids=IDS))


def test_gradients_and_types_of_loaded_graphs(tmp_path: Path) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        graph = rw.trace(tiny("llama", dtype))
        again = rw.load(rw.save(graph, tmp_path / "g.graph"))
        for one in (graph, again):
            one(input_ids=IDS).logits.float().square().mean().backward()
        wanted = dict(graph.as_module().named_parameters())
        found = dict(again.as_module().named_parameters())
        assert found.keys() == wanted.keys() and len(found) > 10
        assert all(torch.equal(found[n].grad, wanted[n].grad) for n in found)
        assert again.dtype == dtype
        paths = rw.Hypothesis(again.components(), {"clean": "a0.h1 -> ... -> a1.h2.q"})
        same = rw.Hypothesis(graph.components(), {"clean": "a0.h1 -> ... -> a1.h2.q"})
        runs = {"clean": {"input_ids": IDS}, "corrupt": {"input_ids": tokens(3, 7, seed=9)}}
        one, other = (rw.expand(h)(**runs).logits for h in (paths, same))
        assert torch.equal(one, other)


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma3"])
def test_as_module_is_like_the_model(family: str) -> None:
    model = tiny(family)
    module = rw.trace(model).as_module()
    found = module(input_ids=IDS)
    assert type(found) is type(model(IDS)) and torch.equal(
        found.logits, logits(model, input_ids=IDS))
    assert torch.equal(module(IDS).logits, found.logits)
    known = dict(model.named_parameters(remove_duplicate=False))
    assert set(module.state_dict()) <= set(model.state_dict())
    assert {id(p) for p in module.parameters()} == {id(p) for p in model.parameters()}
    assert all(known[name] is parameter for name, parameter in module.named_parameters())
    with pytest.raises(InputError, match="has no input 'ids'"):
        module(ids=IDS)


def test_as_module_after_surgery_trains_and_loads() -> None:
    torch.manual_seed(0)
    model = tiny("gpt2")
    graph = rw.trace(model).splice("add_4", "layer_norm_1", nn.Linear(32, 32), name="adapter")
    module = graph.as_module()
    new = set(module.state_dict()) - set(model.state_dict())
    assert new == {"adapter.weight", "adapter.bias"}
    module(IDS).logits.square().mean().backward()
    assert module.get_parameter("adapter.weight").grad is not None
    other = rw.trace(tiny("gpt2")).splice(
        "add_4", "layer_norm_1", nn.Linear(32, 32), name="adapter").as_module()
    with torch.no_grad():
        other.get_parameter("adapter.weight").mul_(2)
    assert not torch.equal(other(IDS).logits, module(IDS).logits)
    other.load_state_dict(module.state_dict())
    assert torch.equal(other(IDS).logits, module(IDS).logits)


def test_modules_compile() -> None:
    graph = traced("gpt2").graph.insert("add_4", lambda x: noised(x, 0.1, 3))
    wanted = graph(input_ids=IDS).logits
    compiled: Any = torch.compile(graph.module, backend="eager")
    assert torch.equal(compiled(IDS)[0], wanted)
    assert "noised" in graph.insert("add_7", noised_once).code
    whole: Any = torch.compile(graph.as_module(), backend="eager", fullgraph=True)
    assert torch.equal(whole(input_ids=IDS).logits, wanted)


def noised_once(x: Tensor) -> Tensor:
    return noised(x, 1.0, 0)
