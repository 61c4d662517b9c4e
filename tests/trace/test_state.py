"""Tracing leaves a model, and the process, as they were found; hooks are named."""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import logging
import pickle
import random
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import rewrite as rw
from rewrite.errors import TraceError
from tests.models.table import TABLE


def digest(tensor: Tensor) -> str:
    plain = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
    return hashlib.sha256(plain.numpy().tobytes()).hexdigest()


def held(value: Any) -> Any:
    """Anything that a model may hold, as something that can be compared."""
    if isinstance(value, Tensor):
        return (id(value), digest(value), value.requires_grad, id(value.grad), value.data_ptr())
    if isinstance(value, dict):
        return [(key, id(item), held(item)) for key, item in value.items()]
    if isinstance(value, (list, tuple, set)):
        return [held(item) for item in value]
    return id(value) if not isinstance(value, (int, float, str, bool)) else value


def of_model(model: nn.Module) -> Any:
    return {path: {name: held(value) for name, value in vars(module).items()}
            for path, module in model.named_modules()}


def of_process() -> Any:
    loggers = [logging.root, *(log for log in logging.root.manager.loggerDict.values()
                               if isinstance(log, logging.Logger))]
    return {
        "torch": digest(torch.get_rng_state()), "numpy": pickle.dumps(np.random.get_state()),
        "python": random.getstate(), "dtype": torch.get_default_dtype(),
        "grad": torch.is_grad_enabled(), "threads": torch.get_num_threads(),
        "deterministic": torch.get_deterministic_debug_mode(),
        "autocast": (torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")),
        "fast": torch.backends.mha.get_fastpath_enabled(),
        "matmul": torch.get_float32_matmul_precision(), "device": str(torch.get_default_device()),
        "warnings": list(warnings.filters),
        "levels": {log.name: (log.level, log.disabled) for log in loggers},
    }


def unchanged(now: dict[str, Any], before: dict[str, Any]) -> bool:
    """Loggers of what was imported meanwhile do not count."""
    levels = {name: now["levels"][name] for name in before["levels"]}
    return now | {"levels": levels} == before


class Changing(nn.Module):
    """Does something to itself, or to the process, whenever it is called."""

    def __init__(self, change: Callable[[Any, Tensor], Tensor | None]) -> None:
        super().__init__()
        self.change, self.linear = change, nn.Linear(4, 4)
        self.register_buffer("calls", torch.zeros(()))
        self.seen: list[Any] = []
        self.table: dict[str, Any] = {"nested": {"count": [0]}}
        self.last: Any = None
        self.draw = torch.Generator()

    def forward(self, x: Tensor) -> Tensor:
        found = self.change(self, x)
        return self.linear(x) if found is None else found


def counts(model: Any, x: Tensor) -> None:
    model.calls += 1


def replaces(model: Any, x: Tensor) -> None:
    model.calls = model.calls + 1


def remembers(model: Any, x: Tensor) -> None:
    model.seen.append(x)
    model.last, model.table["nested"]["count"][0] = x, len(model.seen)
    model.new = x


def feeds_back(model: Any, x: Tensor) -> Tensor:
    before = 0 if model.last is None else model.last
    model.last = model.linear(x).sum() + before
    return x + model.last


def scales_weights(model: Any, x: Tensor) -> None:
    with torch.no_grad():
        model.linear.weight.data.mul_(0.5)


def swaps_data(model: Any, x: Tensor) -> None:
    model.linear.weight.data = model.linear.weight.data.clamp(-0.1, 0.1)


def freezes(model: Any, x: Tensor) -> None:
    model.linear.weight.requires_grad_(False)
    model.eval() if model.training else model.train()


def draws(model: Any, x: Tensor) -> Tensor:
    np.random.rand()
    random.random()
    return x + torch.randn_like(x)


def draws_by_itself(model: Any, x: Tensor) -> Tensor:
    return x + torch.rand(x.shape, generator=model.draw)


def hooks_itself(model: Any, x: Tensor) -> None:
    model.linear.register_forward_hook(lambda *args: None)


def sets_the_process(model: Any, x: Tensor) -> None:
    torch.set_default_dtype(torch.float64)
    torch.use_deterministic_algorithms(True)
    logging.getLogger("transformers").setLevel(logging.CRITICAL)
    warnings.simplefilter("ignore")
    torch.set_grad_enabled(False)
    torch.manual_seed(3)


def fails(model: Any, x: Tensor) -> None:
    remembers(model, x)
    sets_the_process(model, x)
    if len(model.seen) > 2:
        raise ZeroDivisionError("in the middle")


def interrupts(model: Any, x: Tensor) -> None:
    remembers(model, x)
    sets_the_process(model, x)
    if len(model.seen) > 1:
        raise KeyboardInterrupt


def asks(model: Any, x: Tensor) -> Tensor:
    counts(model, x)
    return x * 2 if x.sum() > 0 else x


CHANGES = [counts, replaces, remembers, feeds_back, scales_weights, swaps_data, freezes, draws,
           draws_by_itself, hooks_itself, sets_the_process, fails, interrupts, asks]


def training(*layers: nn.Module) -> nn.Module:
    """In eval mode, but for its last layer."""
    model = nn.Sequential(nn.Linear(4, 4), *layers).eval()
    layers[-1].train()
    return model


MODELS: dict[str, Callable[[], nn.Module]] = {
    **{change.__name__: lambda c=change: Changing(c).eval() for change in CHANGES},
    "batch norm": lambda: training(nn.BatchNorm1d(4)), "dropout": lambda: training(nn.Dropout()),
    "weight norm": lambda: nn.Sequential(
        nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))).eval(),
    "spectral norm": lambda: nn.Sequential(
        nn.utils.parametrizations.spectral_norm(nn.Linear(4, 4))).eval(),
    "max norm": lambda: nn.Embedding(9, 4, max_norm=0.1).eval(),
    "encoder": lambda: nn.TransformerEncoderLayer(4, 2, 8, batch_first=True).eval(),
}


@pytest.fixture(autouse=True)
def _no_traces_left() -> Iterator[None]:
    yield
    torch.set_default_dtype(torch.float32)
    torch.use_deterministic_algorithms(False)
    torch.set_grad_enabled(True)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", MODELS)
def test_models_stay_as_they_were(name: str) -> None:
    model, x = MODELS[name](), torch.randn(3, 5, 4)
    if isinstance(model, nn.Embedding):
        x = torch.tensor([[1, 2, 3], [3, 4, 0]])
    source = next(iter(inspect.signature(model.forward).parameters))
    kept, before, process = x.clone(), of_model(model), of_process()
    with contextlib.suppress(TraceError, KeyboardInterrupt):
        rw.trace(model, inputs={source: x})
    assert unchanged(of_process(), process)
    assert of_model(model) == before
    assert torch.equal(x, kept)


@pytest.mark.parametrize("name", ["gpt2", "t5", "mixtral", "whisper"])
def test_families_stay_as_they_were(name: str) -> None:
    model = TABLE[name].build()
    before, process, modules = of_model(model), of_process(), dict(sys.modules)
    rw.trace(model)
    assert of_model(model) == before and unchanged(of_process(), process)
    assert all(sys.modules[name] is module for name, module in modules.items())


@pytest.mark.parametrize(("change", "message"), [
    (draws, "it draws random numbers in forward"),
    (draws_by_itself, "it keeps something from call to call"),
    (feeds_back, r"it keeps something from call to call \(last"),
])
def test_what_is_no_function_is_refused(change: Any, message: str) -> None:
    with pytest.raises(TraceError, match=message):
        rw.trace(Changing(change).eval(), inputs={"x": torch.randn(3, 4)})


def test_dropout_in_training_mode_is_named() -> None:
    with pytest.raises(TraceError, match=r"'1' is in training mode, so call model\.eval\(\) first"):
        rw.trace(training(nn.Dropout()), inputs={"input": torch.randn(3, 4)})


def doubles(module: nn.Module, args: Any, output: Tensor) -> Tensor:
    return output * 2


def clips(module: nn.Module, grad_input: Any, grad_output: Any) -> Any:
    return tuple(grad * 0 for grad in grad_input)


def test_hooks_are_named() -> None:
    """A hook on the forward is part of the graph, one on the backward is not."""
    model = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)), nn.ReLU()).eval()
    certificate = rw.trace(model, inputs={"input": torch.randn(3, 4)}).certificate
    assert certificate is not None and "hook" not in str(certificate)
    model[0].register_forward_hook(doubles)
    model[1].register_full_backward_hook(clips)
    x = torch.randn(5, 4)
    graph = rw.trace(model, inputs={"input": torch.randn(3, 4)})
    assert torch.equal(graph(input=x), model(x))
    assert graph.certificate is not None and graph.certificate.gradients_agree is False
    notes = graph.certificate.notes
    assert "forward hook doubles on 0 is part of the graph" in notes
    assert "backward hook clips on 1 is not in the graph, which has plain gradients" in notes
