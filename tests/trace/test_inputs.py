"""Inputs that are nested or no tensors, and the ways a forward takes them, against the model."""

from __future__ import annotations

import re
from collections import UserDict, namedtuple
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch import Tensor, nn

import rewrite as rw
from rewrite.errors import InputError, RewriteError, TraceError
from tests.zoo import tiny

Two = namedtuple("Two", ["left", "right"])


@dataclass
class Batch:
    """Inputs as a dataclass."""

    ids: Tensor
    weight: float = 2.0


class Layered(nn.Module):
    """A layer, for forwards of every kind."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)


class Pair(Layered):
    def forward(self, pair: Any, flag: bool = True, *, scale: float = 2.0) -> Tensor:
        left, right = pair
        return self.layer(left) * scale + (right if flag else -right)


class Features(Layered):
    def forward(self, features: Mapping[str, Any]) -> dict[str, Any]:
        return {**features, "embedding": self.layer(features["x"])}


class OfBatch(Layered):
    def forward(self, batch: Batch) -> Batch:
        return Batch(self.layer(batch.ids) * batch.weight, batch.weight)


class Positional(Layered):
    def forward(self, x: Tensor, y: Tensor, /, z: Tensor | None = None) -> Tensor:
        return self.layer(x) - (y if z is None else y * z)


class Star(Layered):
    def forward(self, x: Tensor, *more: Tensor, **named: Any) -> Tensor:
        return self.layer(x) + sum(i * m for i, m in enumerate(more)) * named.get("by", 1)


class Deep(Layered):
    def forward(self, tree: Any) -> Tensor:
        return self.layer(tree["a"][0]["b"]) - tree["a"][1][0] * tree["c"]


def x(rows: int = 3) -> Tensor:
    return torch.randn(rows, 5, 4)


def swapped(value: Any) -> Any:
    """The same nesting with other tensors, of another batch size."""
    return torch.utils._pytree.tree_map_only(Tensor, lambda t: torch.randn(7, *t.shape[1:]), value)


NESTED: dict[str, tuple[type[nn.Module], dict[str, Any], tuple[str, ...], dict[str, Any]]] = {
    "tuple": (Pair, {"pair": (x(), x())}, ("pair.0", "pair.1"), {}),
    "list": (Pair, {"pair": [x(), x()], "flag": False}, ("pair.0", "pair.1"), {"flag": False}),
    "named tuple": (Pair, {"pair": Two(x(), x()), "scale": 3}, ("pair.left", "pair.right"),
                    {"scale": 3}),
    "number in it": (Pair, {"pair": (x(), 2.5)}, ("pair.0",), {"pair.1": 2.5}),
    "dict": (Positional, {"x": x(), "y": x(), "z": None}, ("x", "y"), {"z": None}),
    "positional only": (Positional, {"x": x(), "y": x(), "z": x()}, ("x", "y", "z"), {}),
    "deep": (Deep, {"tree": {"a": [{"b": x()}, (x(),)], "c": 2}}, ("tree.a.0.b", "tree.a.1.0"),
             {"tree.c": 2}),
    "starred": (Star, {"x": x(), "more": (x(), x()), "by": 2}, ("x", "more.0", "more.1"),
                {"by": 2}),
}


@pytest.mark.parametrize("name", NESTED)
def test_nested_inputs(name: str) -> None:
    kind, inputs, names, constants = NESTED[name]
    torch.manual_seed(0)
    model = kind().eval()
    graph = rw.trace(model, inputs=inputs)
    assert tuple(spec.name for spec in graph.inputs) == names and graph.constants == constants
    assert graph.certificate is not None
    assert all(f"input {key}={value!r} is a constant" in graph.certificate.notes
               for key, value in constants.items())
    others = swapped(inputs)
    want = _called(model, others)
    flat = dict(zip(names, _tensors(others), strict=True))
    for given in (others, flat, flat | constants):
        assert torch.equal(graph(**given), want)
        assert torch.equal(graph(given), want)  # one dict, as a tokenizer makes it
    assert torch.equal(graph.as_module()(**others), want)
    assert torch.equal(graph.components()(**others), want)
    again = rw.from_text(graph.text(), graph)
    assert again.text() == graph.text() and torch.equal(again(**others), want)


def _tensors(value: Any) -> list[Tensor]:
    return [leaf for leaf in torch.utils._pytree.tree_leaves(value) if isinstance(leaf, Tensor)]


def _called(model: nn.Module, inputs: dict[str, Any]) -> Tensor:
    """The model on inputs by name, where some of them can only be given by position."""
    given = dict(inputs)
    if isinstance(model, Positional):
        return model(given.pop("x"), given.pop("y"), **given)
    if isinstance(model, Star):
        return model(given.pop("x"), *given.pop("more"), **given)
    return model(**given)


def test_paths_of_nested_inputs() -> None:
    """An input called pair.1 can be written in a path: only it reads the other run."""
    torch.manual_seed(0)
    model = Pair().eval()
    parts = rw.trace(model, inputs={"pair": (x(), x())}).components()
    hypothesis = rw.Hypothesis(parts, {"clean": "pair.1 -> ..."}, default="corrupt")
    clean, corrupt = {"pair": (x(), x())}, {"pair": (x(), x())}
    found = rw.expand(hypothesis)(clean=clean, corrupt=corrupt)
    assert torch.equal(found, model((corrupt["pair"][0], clean["pair"][1])))


def test_inputs_by_position() -> None:
    model = nn.Bilinear(4, 4, 2).eval()
    graph = rw.trace(model, (torch.randn(3, 4), torch.randn(3, 4)))
    a, b = torch.randn(5, 4), torch.randn(5, 4)
    assert [spec.name for spec in graph.inputs] == ["input1", "input2"]
    assert torch.equal(graph(a, b), model(a, b)) and torch.equal(graph(a, input2=b), model(a, b))
    assert rw.trace(nn.Linear(4, 2).eval(), torch.randn(3, 4)).inputs[0].name == "input"


def test_what_a_tokenizer_returns() -> None:
    """A BatchEncoding is a dict; a mask that was not traced is never dropped in silence."""
    model = tiny("gpt2")
    ids = torch.randint(1, 50, (3, 7))
    batch = transformers.BatchEncoding({"input_ids": ids, "attention_mask": torch.ones_like(ids)})
    graph = rw.trace(model, batch)
    assert torch.equal(graph(batch).logits, model(**batch).logits)
    assert torch.equal(graph(**batch).logits, model(**batch).logits)
    plain = rw.trace(model)
    with pytest.raises(InputError, match="traced with input_ids: leave 'attention_mask' out"):
        plain(batch)
    with pytest.raises(InputError, match="'attention_mask'"):
        rw.expand(rw.Hypothesis(plain.components(), {"clean": "..."}))(clean=batch, corrupt=batch)
    assert torch.equal(plain(ids).logits, model(ids).logits)
    features = rw.trace(Features().eval(), {"features": UserDict(x=x())})
    assert isinstance(features(features={"x": x(2)}), dict)


def test_constants() -> None:
    """Given again with the same value they are accepted, with another one refused."""
    graph = rw.trace(Pair().eval(), {"pair": (x(), x()), "flag": True})
    pair = (x(2), x(2))
    assert torch.equal(graph(pair=pair), graph(pair=pair, flag=True))
    for other in (False, 1, None, torch.tensor(True)):
        with pytest.raises(InputError, match=r"traced with flag=True, which is a constant"):
            graph(pair=pair, flag=other)
    model = tiny("gpt2")
    ids = torch.randint(1, 50, (3, 7))
    assert rw.trace(model, {"input_ids": ids, "past_key_values": None, "use_cache": True,
                            "output_hidden_states": True})(ids).hidden_states is not None


@pytest.mark.parametrize(("inputs", "words"), [
    ({"pair": (x(), np.ones(3))}, r"'pair.1' is a ndarray: give torch.from_numpy"),
    ({"pair": transformers.DynamicCache()}, r"'pair' is a DynamicCache, a cache.*leave it out"),
    ({"pair": (x(), {1, 2})}, r"'pair.1' is a set, which is neither a tensor nor a constant"),
    ({"pair": (x(), x().to_sparse())}, r"sparse_coo tensor.*x.to_dense\(\)"),
    ({"pair": (1, 2)}, r"needs an input that is a tensor, found pair.0=1, pair.1=2"),
    ({}, r"rw.trace\(model, inputs=\{'pair': tensor\}\)"),
    ({"pairs": (x(), x())}, r"does not accept the inputs pairs.*'pair'"),
    ("pair", r"found str: rw.trace\(model, inputs=\{'pair': tensor\}\)"),
    ({0: x()}, r"found the key 0"),
    ((x(), x(), x()), r"takes no 3 inputs by position"),
])
def test_wrong_inputs(inputs: Any, words: str) -> None:
    with pytest.raises(RewriteError, match=re.compile(words, re.DOTALL)):
        rw.trace(Pair().eval(), inputs=inputs)


def test_lists_of_numbers_are_no_tensors() -> None:
    with pytest.raises(TraceError, match=r"x is a list of numbers: give torch.tensor\(x\)"):
        rw.trace(Positional().eval(), {"x": [[1.0, 2.0, 3.0, 4.0]], "y": x()})


def test_an_output_that_is_called_like_an_input() -> None:
    """The input keeps its name in paths; the output is called sample_out there."""

    class Denoiser(Layered):
        def forward(self, sample: Tensor, tokens: Tensor) -> dict[str, Any]:
            return {"sample": self.layer(sample), "more": {"tokens": tokens + 1}}

    model = Denoiser().eval()
    graph = rw.trace(model, {"sample": x(), "tokens": x()})
    parts = graph.components()
    given = {"sample": x(2), "tokens": x(2)}
    assert graph.outputs.names == ("sample_out", "more.tokens")
    assert torch.equal(parts(**given)["sample"], model(**given)["sample"])
    assert rw.count_paths("sample -> ... -> sample_out", parts.dag) == 1
    assert set(graph(**given)) == {"sample", "more"}


def test_inputs_that_are_called_like_parts() -> None:
    """Inputs keep their names; parts, sums and constants of the same name step aside."""
    names = ("embed", "m0", "n0_a", "pos", "resid0", "a0", "lambda_", "output", "tokens")

    class Named(Layered):
        def forward(self, **inputs: Tensor) -> Tensor:
            return sum((self.layer(v).relu() + v for v in inputs.values()), torch.zeros(4))

    model = Named().eval()
    given = {name: x() for name in names}
    parts = rw.trace(model, given).components()
    assert set(names) <= set(parts.names) and len(set(parts.names)) == len(parts.names)
    assert torch.allclose(parts(**given), model(**given), atol=1e-5)
