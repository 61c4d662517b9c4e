"""Models on several devices: what is refused, and what is asked of each device."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import rewrite as rw
from rewrite.errors import BackendError
from rewrite.ir.text import to_text
from rewrite.ir.values import devices
from rewrite.parts.kept import Kept
from rewrite.run import pieces, shipping
from rewrite.run.shipping import portable
from tests.zoo import tokens, traced

META = torch.device("meta")
RUNS = {run: {"input_ids": tokens(2, 5, seed)} for seed, run in enumerate(("clean", "corrupt"))}
CALL: dict[str, Any] = {"pairs": rw.Pairs.from_tensors(RUNS), "metric": "kl_divergence"}


def apart() -> rw.Components:
    """A tiny model whose last weight lies on another device."""
    parts = traced("gpt2").parts
    module = parts.graph.module
    names = [str(node.target) for node in module.graph.find_nodes(op="get_attr")]
    weights: dict[str, Tensor] = {name: module.get_parameter(name) for name in names}
    weights[names[-1]] = nn.Parameter(weights[names[-1]].detach().to(META))
    moved = torch.fx.GraphModule(weights, module.graph)
    return replace(parts, graph=parts.graph.with_module(moved), kept=Kept())


def test_a_worker_holds_one_device() -> None:
    message = (r"the weights of GPT2LMHeadModel are on several devices \(cpu, meta\), and a worker "
               r"of Ray holds one: leave out backend='ray'")
    with pytest.raises(BackendError, match=message):
        rw.sweep(apart(), "a0.h*", **CALL, backend="ray")


def test_the_fullest_device_sets_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    hypothesis = rw.Hypothesis(apart(), {"corrupt": "a0.h1"}, "clean")
    assert devices(hypothesis.parts.graph.module) == (torch.device("cpu"), META)
    asked: list[torch.device] = []

    def free(budget: Any, device: torch.device) -> int:
        asked.append(device)
        return {"cpu": 10**9, "meta": 800}[device.type]

    monkeypatch.setattr(pieces, "as_bytes", free)
    many = [hypothesis] * 2
    made = pieces.Pieces(many, CALL["pairs"], rw.kl_divergence(position=-1), budget=1)
    assert made._memory(rw.expand(many))[1] == 700 and asked == [torch.device("cpu"), META]


def test_graphs_leave_without_the_number_of_their_device(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = traced("gpt2").graph
    assert portable(to_text(graph), graph.module) == to_text(graph)
    monkeypatch.setattr(shipping, "devices", lambda module: (torch.device("cuda:1"),))
    text = "a: float32[3] on cuda:1 = arange(3, device=device('cuda:1'))  # not cuda:10"
    wanted = "a: float32[3] on cuda = arange(3, device=device('cuda'))  # not cuda:10"
    assert portable(text, graph.module) == wanted
