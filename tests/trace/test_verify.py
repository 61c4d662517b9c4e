"""`verify`: a graph beside the model that it was traced from, as that is now."""

from __future__ import annotations

import copy
import gc
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch

import rewrite as rw
from rewrite.errors import InputError, TraceError
from rewrite.trace.live import Live
from tests.run.test_resumption import Net

IDS = {"input_ids": torch.arange(15).reshape(3, 5) % 11}


def exchanged(model: Net) -> None:
    model.load_state_dict(Net(3).state_dict(), assign=True)


def one_weight(model: Net) -> None:
    model.two.weight = torch.nn.Parameter(torch.ones(8, 8))


def another_layer(model: Net) -> None:
    model.one = torch.nn.Linear(8, 8).eval()


def parametrized(model: Net) -> None:
    torch.nn.utils.parametrizations.weight_norm(model.one)


def shifted(module: Any, given: Any, output: Any) -> Any:
    return output + 1


def hooked(model: Net) -> None:
    model.two.register_forward_hook(shifted)


def double(module: Any, given: Any) -> Any:
    return (given[0] * 2,)


def hooked_before(model: Net) -> None:
    model.two.register_forward_pre_hook(double)


def own_forward(model: Net) -> None:
    model.two.forward = lambda x: x  # type: ignore[method-assign]


def another_buffer(model: Net) -> None:
    model.shift = torch.zeros(8)


def training(model: Net) -> None:
    model.two.train()


AT_THE_CALL: dict[Any, str] = {
    exchanged: "parameter embed.weight", one_weight: "parameter two.weight",
    another_layer: "a module above one.", parametrized: "parameter one.weight"}
LATER: dict[Any, str] = {
    hooked: "forward hook .* on two was added", another_buffer: "buffer shift is another",
    hooked_before: "forward pre-hook .* on two was added", training: "two is in training mode",
    own_forward: "own forward .* on two was added"}


@pytest.mark.parametrize("change", [*AT_THE_CALL, *LATER])
def test_what_the_graph_does_not_follow_is_named(change: Callable[[Net], None]) -> None:
    model = Net().eval()
    graph = rw.trace(model, IDS)
    parts, before = graph.components(), graph(**IDS)
    assert graph.verify().difference == parts.verify().difference == 0
    change(model)
    words = (AT_THE_CALL | LATER)[change]
    for thing in (graph, parts):
        with pytest.raises(TraceError, match=words):
            thing.verify()
    if change in AT_THE_CALL:
        assert not torch.equal(model(**IDS), before), "the oracle: it is another model by now"
        for thing in (graph, parts):
            with pytest.raises(InputError, match=words):
                thing(**IDS)
        with pytest.raises(InputError, match=words):
            rw.expand(rw.Hypothesis(parts, {"clean": "m0"}))(clean=IDS, corrupt=IDS)
        if change in (exchanged, one_weight):
            assert torch.equal(graph.with_weights(model)(**IDS), model(**IDS))


def test_what_it_follows_is_right() -> None:
    model = Net().eval()
    graph = rw.trace(model, IDS)
    with torch.no_grad():
        model.one.weight.mul_(2)
        model.load_state_dict(Net(5).state_dict())
    assert torch.equal(graph(**IDS), model(**IDS))
    found = graph.verify({"input_ids": IDS["input_ids"][:2]})
    assert found.difference == 0 and "2x5" in found.shapes[0]
    hook = model.two.register_forward_hook(lambda module, given, output: None)
    assert "forward hook" in str(graph.verify()) and "changes no output here" in str(graph.verify())
    hook.remove()
    assert not any("hook" in note for note in graph.verify().notes)


def test_graphs_that_have_no_model() -> None:
    graph: Any = rw.trace(Net().eval(), IDS)
    gc.collect()
    with pytest.raises(TraceError, match="the model that Net was traced from is gone"):
        graph.verify()
    assert graph(**IDS) is not None
    model = Net().eval()
    graph = rw.trace(model, IDS)
    changed = graph.replace(next(n for n in graph.nodes if "tanh" in n), torch.sin)
    with pytest.raises(TraceError, match="surgery has changed Net"):
        changed.verify()
    for copied in (pickle.loads(pickle.dumps(graph.live)), copy.deepcopy(graph.live)):
        assert isinstance(copied, Live) and copied.model is None and copied.exchanged() is None
