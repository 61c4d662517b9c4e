"""What functions of the user do wrong is an error of this package that says where."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch

import rewrite as rw
from rewrite.errors import RewriteError
from tests.fuzz.formats import hypothesis, pairs, parts
from tests.zoo import tiny


class Mute(Exception):
    """An error that fails to say what it is."""

    def __str__(self) -> str:
        raise KeyError("nothing to say")


def fail(*_: Any, **__: Any) -> Any:
    raise ValueError("boom")


def fail_mutely(*_: Any) -> Any:
    raise Mute


def recurse(*values: Any) -> Any:
    return recurse(*values)


def full(value: Any, **options: Any) -> Callable[..., Any]:
    return lambda *given: torch.full((len(given[-1]),), value, **options)


METRICS: dict[str, Callable[..., Any]] = {
    "a list": lambda *given: [1.0] * len(given[-1]),
    "NumPy": lambda *given: np.zeros(len(given[-1])),
    "another shape": lambda *_: torch.zeros(17), "one number": lambda *_: torch.tensor(0.0),
    "nan": full(float("nan")), "infinity": full(float("inf")), "a text": lambda *_: "good",
    "complex": full(1, dtype=torch.complex64), "on meta": full(0.0, device="meta"),
    "sparse": lambda *given: torch.zeros(len(given[-1])).to_sparse(), "a generator": lambda *_: (
        each for each in ()), "an error": fail, "a mute error": fail_mutely, "no end": recurse,
    "what is not there": lambda *given: given[0].nothing, "stop": lambda *_: next(iter(())),
    "no memory": lambda *_: bytearray(2**62),
}


@pytest.mark.parametrize("name", METRICS)
def test_metrics(name: str) -> None:
    wrong = METRICS[name]
    scored = rw.custom(lambda *given: torch.zeros(len(given[-1])), "scored", scores=wrong)
    for metric in (wrong, scored):
        with pytest.raises(RewriteError) as error:
            rw.evaluate(hypothesis(), pairs(), metric)
        if wrong is fail:
            assert "raises ValueError at test_functions.py:" in str(error.value)
            assert isinstance(error.value.__cause__, ValueError), "the error itself is kept"
    with pytest.raises(RewriteError):
        rw.sweep(parts(), "a0.h*", pairs=pairs(), metric=wrong)


def test_no_number_is_no_metric_and_no_score() -> None:
    with pytest.raises(RewriteError, match="NoneType"):
        rw.evaluate(hypothesis(), pairs(), lambda *_: None)


@pytest.mark.parametrize("wrong", [fail, fail_mutely, recurse])
def test_listeners(wrong: Callable[..., Any]) -> None:
    with pytest.raises(RewriteError, match="the function progress raises"):
        rw.evaluate(hypothesis(), pairs(), "logit_diff", progress=wrong)
    with pytest.raises(RewriteError, match=r"rw\.sweep: the function progress raises"):
        rw.sweep(parts(), "a0.h*", pairs=pairs(), metric="logit_diff", progress=wrong)


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_what_ends_a_program_does(kind: type[BaseException]) -> None:
    def end(*_: Any) -> Any:
        raise kind

    for options in ({"metric": "logit_diff", "progress": end}, {"metric": end}):
        with pytest.raises(kind):
            rw.evaluate(hypothesis(), pairs(), **options)


@pytest.mark.parametrize("wrong", [
    fail, fail_mutely, recurse, lambda *_: None, lambda *_: [1], lambda *_: "text",
    lambda value: value[0], lambda value: torch.zeros(3, device="meta"),
    lambda value: value.numpy()])
def test_functions_of_surgery(wrong: Callable[..., Any]) -> None:
    graph = parts().graph
    (node, *_) = graph.find(rw.match.op("tanh"))
    for edit in (graph.replace, graph.insert):
        with pytest.raises(RewriteError):
            edit(node, wrong)
    with pytest.raises(RewriteError):
        parts().as_graph().ablate("a1.h3", wrong)


def test_functions_that_fail_later() -> None:
    graph, wrong = parts().graph, []

    def flaky(value: torch.Tensor) -> torch.Tensor:
        if wrong:
            raise KeyError("later")
        return value.clone()

    (node, *_) = graph.find(rw.match.op("tanh"))
    edited = graph.replace(node, flaky)
    wrong.append(True)
    with pytest.raises(RewriteError, match=r"fails on .*KeyError: it has no 'later'"):
        edited(input_ids=torch.ones(1, 4, dtype=torch.int64))


@pytest.mark.parametrize("wrong", [fail, fail_mutely, recurse, lambda node: torch.zeros(3)])
def test_predicates(wrong: Callable[..., Any]) -> None:
    with pytest.raises(RewriteError, match="the function of where"):
        parts().graph.find(rw.match.where(wrong))


class Model(torch.nn.Module):
    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function, self.linear = function, torch.nn.Linear(3, 3)

    def forward(self, x: torch.Tensor) -> Any:
        return self.function(self.linear(x))


def endless(x: torch.Tensor) -> Any:
    found: list[Any] = [x]
    found.append(found)
    return found


@pytest.mark.parametrize("wrong", [
    fail, fail_mutely, recurse, endless, lambda x: None, lambda x: [1], lambda x: {x},
    lambda x: x.detach().numpy(), lambda x: (each for each in x), lambda x: "text"])
def test_models(wrong: Callable[..., Any]) -> None:
    with pytest.raises(RewriteError):
        rw.trace(Model(wrong).eval(), {"x": torch.ones(2, 3)})


class Tokenizer:
    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function

    def __call__(self, text: str, **_: Any) -> Any:
        return self.function(text)

    def convert_ids_to_tokens(self, ids: list[int]) -> list[str]:
        return list(map(str, ids))


@pytest.mark.parametrize("wrong", [
    fail, fail_mutely, lambda text: None, lambda text: {}, *(
        lambda text, ids=ids: {"input_ids": ids} for ids in (
            [[1, 2]], "ab", [1.5], [2**70], [-1, 5], [], [None], 3))])
def test_tokenizers(wrong: Callable[..., Any]) -> None:
    with pytest.raises(RewriteError):
        rw.Pairs.from_text(Tokenizer(wrong), {"clean": ["a b"], "corrupt": ["a c"]})


class Backend:
    def __init__(self, run: Callable[..., Any]) -> None:
        self.run = run


@pytest.mark.parametrize("wrong", [
    fail, lambda *_: None, lambda *_: iter(()), lambda *_: iter([3]),
    lambda task, numbers, *_: iter([*task.run(numbers[:1], task.pieces())] * 2)])
def test_backends(wrong: Callable[..., Any]) -> None:
    with pytest.raises(RewriteError, match="the backend"):
        rw.sweep(parts(), "a0.h*", pairs=pairs(), metric="logit_diff", backend=Backend(wrong))


@pytest.mark.parametrize("ids", [
    [[1, 2, 3], [1, 2, 5_000]], [[1, -1, 3], [1, 2, 3]], [list(range(90))] * 2])
def test_tokens_that_the_model_does_not_have(ids: list[list[int]]) -> None:
    tokens = torch.tensor(ids)
    runs = {run: {"input_ids": tokens} for run in ("clean", "corrupt")}
    found = rw.Pairs.from_tensors(runs)
    with pytest.raises(RewriteError, match=r"fails on|traced for inputs with"):
        rw.evaluate(hypothesis(), found, "kl_divergence")
    with pytest.raises(RewriteError, match=r"fails on|traced for inputs with"):
        parts().graph(input_ids=tokens)
    with pytest.raises(RewriteError, match=r"fails on|traced for inputs with"):
        rw.expand(hypothesis())(**runs)


def test_what_is_nested_without_end() -> None:
    deep: Any = torch.ones(2, 3)
    for _ in range(3_000):
        deep = [deep]
    with pytest.raises(RewriteError, match="nested too deeply"):
        rw.trace(Model(lambda x: x).eval(), {"x": deep})
    with pytest.raises(RewriteError, match="nested too deeply"):
        rw.count_paths(parts(), "..." + " - m0" * 3_000)


@contextmanager
def default_device(name: str) -> Iterator[None]:
    torch.set_default_device(name)
    try:
        yield
    finally:
        torch.set_default_device(None)


@pytest.mark.parametrize("without_values", [default_device, torch.device])
def test_a_default_device_without_values_changes_nothing(without_values: Any) -> None:
    model, given = tiny("gpt2", n_layer=1), pairs()
    ids = given.runs["clean"][0]["input_ids"][None]
    with torch.no_grad():
        wanted = model(input_ids=ids).logits

    def measured() -> tuple[torch.Tensor, np.ndarray, np.ndarray]:
        graph = rw.trace(model)
        found = rw.Hypothesis(graph.components(), {"clean": "a0.h1 | m0@[-1]"})
        effects = rw.evaluate(found, given, "kl_divergence").effects
        swept = rw.sweep(graph.components(), "a0.h*", pairs=given, metric="logit_diff",
                         budget="50MB").table["effect"].to_numpy()
        return graph(input_ids=ids).logits, effects, swept

    usual = measured()
    with without_values("meta"):
        logits, effects, swept = measured()
    assert torch.equal(logits, wanted), "the model's own, by no code of this package"
    assert np.array_equal(effects, usual[1]) and np.array_equal(swept, usual[2])
