"""Everything public, given the wrong kind of thing: it works, or raises an error of the house."""

from __future__ import annotations

import contextlib
import inspect
import pickle
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tomli_w
import torch

import rewrite as rw
from rewrite.errors import ArgumentError, DataError, RewriteError
from tests.surface import NEW, SLOW, Callable_, surface, tried, world, wrong_values
from tests.zoo import tokens

pytestmark = pytest.mark.xdist_group("surface")

VALUES = 6  # of the wrong ones, drawn for each parameter; `python -m tests.surface` tries all
KNOWN_RAW: set[tuple[str, str]] = set()
"""Parameters (of a callable) out of which other errors still come."""


def things(name: str) -> list[Callable_]:
    """What is called so, or belongs to what is."""
    return [thing for thing in surface() if thing.name.split(".")[1] == name]


@pytest.mark.parametrize("name", rw.__all__)
def test_only_errors_of_the_house_come_out(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # a wrong name of a file may be a good one
    rw.save(world()["pairs"], tmp_path / "pairs.json")
    if name == "load_trusted":
        world()["small"].export(tmp_path / "small.pt2")
    values = wrong_values(tmp_path)
    for thing in things(name):
        assert thing.arguments is not NEW, NEW.format(name=thing.name)
        for parameter in thing.signature.parameters if thing.arguments is not None else ():
            if (thing.name, parameter) in KNOWN_RAW:
                continue
            draw = random.Random(f"{thing.name} {parameter}")
            for shown in draw.sample(list(values), VALUES):
                if (thing.name, parameter, shown) in SLOW:
                    continue
                error = tried(thing, parameter, values[shown], tmp_path)
                assert error is None, f"{thing.name}({parameter}={shown}) raises {error!r}"


CASES: dict[str, tuple[str, str]] = {
    "evaluate a text": ("rw.evaluate('a0.h1', pairs, 'logit_diff')",
                        'pass rw.Hypothesis(parts, {"clean": "a0.h1 -> logits"}): write '
                        "rw.evaluate(hypothesis, pairs, metric)"),
    "evaluate a graph": ("rw.evaluate(graph)", "pass rw.Hypothesis(graph.components(), "),
    "no metric": ("rw.evaluate(hypothesis, pairs)", "needs metric"),
    "near miss": ("rw.evaluate(hypothesis, pairs, 'logit_diff', batchsize=3)",
                  "did you mean batch_size?"),
    "sweep a graph": ("rw.sweep(graph, pairs=pairs, metric='logit_diff')",
                      "pass graph.components(): write rw.sweep(parts, pairs=pairs, metric=metric)"),
    "expand parts": ("rw.expand(parts)", "must be a Hypothesis"),
    "load a number": ("rw.load(3)", "must be a path of a file, found the int 3"),
    "a column": ("Sweep.top(1, by='chnge')", "did you mean change?"),
    "a graph for parts": ("rw.Hypothesis(graph, {'clean': 'a0.h1'})", "pass graph.components()"),
    "too many": ("hypothesis.count(3)", "write hypothesis.count()"),
    "no tokens of the model": ("graph(ids + 200)", "a number for which a table of the model has"),
    "no tokens in data": ("rw.evaluate(hypothesis, rw.Pairs.from_tensors({'clean': {'input_ids': "
                          "ids}, 'corrupt': {'input_ids': ids + 200}}), 'kl_divergence')",
                          "a table of the model has no row"),
    "an empty batch": ("graph(ids[:0])", "an input is empty"),
    "ragged positions": ("rw.Pairs.from_tensors(inputs, positions={'END': [[1, [2]], [3]]})",
                         "@END must be given for each example"),
    "one number": ("rw.Pairs.from_tensors({'clean': {'x': torch.tensor(1)}, 'corrupt': {}})",
                   "its first axis must be the example"),
}


@pytest.mark.parametrize("case", CASES)
def test_an_error_says_what_to_write(case: str) -> None:
    call, said = CASES[case]
    with pytest.raises(RewriteError) as caught:
        eval(call, dict(world()))
    assert said in str(caught.value)


def test_what_is_plain_works() -> None:
    """A list of names, two arguments in the other order, one tensor, a node, a function."""
    w = world()
    parts, graph, pairs, ids = w["parts"], w["graph"], w["pairs"], w["ids"]
    both = rw.sweep(parts, "a0.h1 | m0", pairs=pairs, metric="logit_diff").table
    assert rw.sweep(parts, ["a0.h1", "m0"], pairs=pairs, metric=rw.logit_diff).table.equals(both)
    counts = {rw.count_paths(*given) for given in (
        ("a0.h1", parts), (parts, "a0.h1"), (rw.paths("a0.h1"), parts.dag), (parts.dag, "a0.h1"))}
    assert len(counts) == 1
    assert torch.equal(parts(ids).logits, parts(input_ids=ids).logits)
    assert torch.equal(graph(ids).logits, graph(input_ids=ids).logits)
    assert graph.get(graph.get("tanh")) is graph.get("tanh")

    def gap(reference: Any, hypothesis: Any, batch: Any) -> torch.Tensor:
        return (reference.logits - hypothesis.logits).norm(dim=(1, 2))

    found = rw.evaluate(w["hypothesis"], pairs, gap)
    wanted = rw.evaluate(w["hypothesis"], pairs, rw.custom(gap, "gap"))
    assert found.metric == "gap" and (found.effects == wanted.effects).all()


WRONG = [3, 1.5, True, "nonsense", [], [3], {}, {"a": 3}]
KEYS: dict[str, Callable[[Any], dict[str, Any]]] = {
    "hypothesis": lambda value: {"hypothesis": value},
    "hypothesis.1": lambda value: {"hypothesis": {"1": value}},
    "runs": lambda value: {"hypothesis": {"1": {"runs": value}}},
    "a run": lambda value: {"hypothesis": {"1": {"runs": {"clean": value}}}},
    "default": lambda value: whole(default=value),
    "name": lambda value: whole(name=value),
    "model": lambda value: whole() | {"model": value},
    "test": lambda value: whole() | {"test": value},
    "pairs": lambda value: whole() | {"test": {"pairs": value}},
    "metric": lambda value: whole() | {"test": {"metric": value}},
    "name of the metric": lambda value: whole() | {"test": {"metric": {"name": value}}},
    "position": lambda value: whole() | {"test": {"metric": {"name": "logit_diff",
                                                             "position": value}}},
    "absolute": lambda value: whole() | {"test": {"metric": {"name": "logit_diff",
                                                             "absolute": value}}},
}


def whole(**more: Any) -> dict[str, Any]:
    return {"hypothesis": {"1": {"runs": {"clean": "a0.h1"}} | more}}


@pytest.mark.parametrize("key", KEYS)
def test_files_of_wrong_types(key: str, tmp_path: Path) -> None:
    file = tmp_path / "experiment.toml"
    for value in WRONG:
        file.write_text(tomli_w.dumps(KEYS[key](value)), encoding="utf-8")
        with contextlib.suppress(RewriteError):
            rw.load(file, world()["parts"])


def test_the_border_is_not_seen() -> None:
    """Functions ship, say their signatures, and keep their names and examples."""
    assert pickle.loads(pickle.dumps(rw.evaluate)) is rw.evaluate
    assert list(inspect.signature(rw.Graph.find).parameters) == ["self", "what"]
    assert inspect.signature(rw.expand) == inspect.signature(inspect.unwrap(rw.expand))
    assert rw.expand.__doc__ == inspect.unwrap(rw.expand).__doc__
    assert "addmm_1" in rw.Graph.find.__doc__  # doctests are found by the module of a function
    assert rw.Graph.find.__globals__["__name__"] == rw.Graph.find.__module__


def test_what_a_function_raises_is_named() -> None:
    def failing(reference: Any, hypothesis: Any, batch: Any) -> torch.Tensor:
        raise ZeroDivisionError("mine")

    with pytest.raises(DataError, match=r"raises ZeroDivisionError at .*: mine") as at:
        rw.evaluate(world()["hypothesis"], world()["pairs"], failing)
    assert isinstance(at.value.__cause__, ZeroDivisionError)


def test_a_new_callable_needs_arguments() -> None:
    assert NEW.format(name="rw.new") == (
        'no arguments in tests/surface.py, add:  "rw.new": "...",')
    with pytest.raises(ArgumentError):
        rw.paths(tokens(1, 1))
