"""Models in wrappers are traced as they are, and what is no model is told what to pass."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import rewrite as rw
from rewrite.errors import TraceError


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x).relu()


class Adapted(nn.Module):
    """As the models of peft are: adapters are inside of what they hold, learned prompts are not."""

    def __init__(self, model: nn.Module, prompts: bool) -> None:
        super().__init__()
        self.base, self.prompts = model, prompts
        self.active_peft_config = SimpleNamespace(is_prompt_learning=prompts)

    def get_base_model(self) -> nn.Module:
        return self.base

    def forward(self, *args: Tensor, **kwargs: Tensor) -> Tensor:
        return self.base(*args, **kwargs) + self.prompts


WRAPPED: dict[str, Any] = {
    "compiled": torch.compile,
    "data parallel": nn.DataParallel,
    "both": lambda model: torch.compile(nn.DataParallel(model)),
    "adapted": lambda model: Adapted(model, False).eval(),
    "pipeline": lambda model: SimpleNamespace(model=model, tokenizer=None),
}


@pytest.mark.parametrize("name", WRAPPED)
def test_wrappers_are_taken_off(name: str) -> None:
    model = Small().eval()
    graph = rw.trace(WRAPPED[name](model), {"x": torch.randn(3, 4)})
    x = torch.randn(5, 4)
    assert graph.name == "Small" and torch.equal(graph(x=x), model(x))
    assert dict(graph.module.named_parameters())["layer.weight"] is model.layer.weight


def test_learned_prompts_are_not_lost() -> None:
    model = Adapted(Small(), True).eval()
    x = torch.randn(5, 4)
    assert torch.equal(rw.trace(model, {"args": (torch.randn(3, 4),)})(args=(x,)), model(x))


@pytest.mark.parametrize(("model", "words"), [
    (torch.relu, "wrap a function in a module"), (lambda x: x, "wrap a function in a module"),
    (Small().forward, "method of a Small: pass the module itself"),
    (Small, r"rw.trace\(Small\(\.\.\.\).eval\(\)\)"),
    (Small().state_dict(), "a state dict has weights and no code"),
    ((Small(), "tokenizer"), "pass the Small alone"), (3, "cannot trace a int: pass"),
    (rw.trace(Small().eval(), torch.ones(3, 4)), "a graph already"),
])
def test_what_is_no_model(model: Any, words: str) -> None:
    with pytest.raises(TraceError, match=words):
        rw.trace(model, {"x": torch.randn(3, 4)})


def test_code_that_is_hidden() -> None:
    module: Any = torch.jit.ScriptModule()
    with pytest.raises(TraceError, match=r"pass the module that torch\.jit\.script"):
        rw.trace(module, {"x": torch.randn(3, 4)})
