"""Any module becomes a graph that equals it, or one clear error."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import rewrite as rw
from rewrite.errors import InputError, TraceError
from tests.zoo import FAMILIES, error, logits, tiny, tokens, traced


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 2)).eval()


class Outputs(nn.Module):
    """Returns what it is told to."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.linear, self.kind = nn.Linear(4, 4), kind

    def forward(self, x: Tensor) -> Any:
        y = self.linear(x)
        return {
            "tuple": (y, x.sum(-1)), "list": [y, y.relu()], "dict": {"a": y, "b": y * 2, "c": None},
            "string": "nothing", "number in a dict": {"a": y, "b": 3}, "nested": [[y], y],
            "nothing": {}, "none": None,
        }[self.kind]


def test_a_plain_module() -> None:
    model = mlp()
    graph = rw.trace(model, inputs={"input": torch.ones(3, 4)})
    for batch in (1, 2, 7):
        x = torch.randn(batch, 4)
        assert torch.equal(graph(input=x), model(x))
    assert graph.certificate is not None and graph.certificate.difference == 0.0
    assert "bit for bit" in str(graph.certificate)
    assert graph.inputs[0].describe() == "input: float32 [batch, 4]"
    assert graph.name == "Sequential" and graph.origin is None
    assert graph.nodes == ("linear", "gelu", "linear_1") and "gelu" in graph.code


def test_parameters_are_shared() -> None:
    model = mlp()
    graph = rw.trace(model, inputs={"input": torch.ones(3, 4)})
    assert graph.module.get_parameter("0.weight") is model[0].weight
    own = {id(parameter) for parameter in model.parameters()}
    assert {id(parameter) for parameter in graph.module.parameters()} == own
    with torch.no_grad():
        model[2].bias += 1
    assert torch.equal(graph(input=torch.ones(2, 4)), model(torch.ones(2, 4)))


def test_convolutions() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(),
                          nn.Dropout(), nn.Linear(108, 2)).eval()
    graph = rw.trace(model, inputs={"input": torch.randn(3, 1, 8, 8)})
    x = torch.randn(5, 1, 8, 8)
    assert torch.equal(graph(input=x), model(x))
    assert not any("dropout" in name for name in graph.nodes)


@pytest.mark.parametrize("kind", ["tuple", "list", "dict"])
def test_outputs_are_of_the_models_own_type(kind: str) -> None:
    model = Outputs(kind).eval()
    graph = rw.trace(model, inputs={"x": torch.ones(3, 4)})
    x = torch.randn(5, 4)
    found, wanted = graph(x=x), model(x)
    assert type(found) is type(wanted)
    if isinstance(wanted, Mapping):
        assert list(found) == list(wanted)
        found, wanted = list(found.values()), list(wanted.values())
    for a, b in zip(found, wanted, strict=True):
        assert a is b is None or torch.equal(a, b)


@pytest.mark.parametrize(("kind", "message"), [
    ("string", "unsupported output of type str"),
    ("none", "the model returns NoneType without any tensor"),
    ("number in a dict", "unsupported output 'b' of type int: only tensors"),
    ("nothing", "the model returns dict without any tensor"),
])
def test_unsupported_outputs(kind: str, message: str) -> None:
    with pytest.raises(TraceError, match=message):
        rw.trace(Outputs(kind).eval(), inputs={"x": torch.ones(3, 4)})


def test_training_mode() -> None:
    with pytest.raises(TraceError, match=r"Linear is in training mode(.|\n)*model.eval\(\)"):
        rw.trace(nn.Linear(2, 2), inputs={"input": torch.ones(3, 2)})


def test_example_inputs_are_needed() -> None:
    asked = re.escape("Linear needs example inputs: rw.trace(model, inputs={'input': tensor})")
    with pytest.raises(TraceError, match=asked):
        rw.trace(nn.Linear(2, 2).eval())


def test_inputs_that_the_model_does_not_take() -> None:
    with pytest.raises(InputError, match="Linear does not accept the inputs x"):
        rw.trace(nn.Linear(2, 2).eval(), inputs={"x": torch.ones(3, 2)})


def test_no_model_at_all() -> None:
    with pytest.raises(TraceError, match=r"cannot trace a int: pass an nn\.Module"):
        rw.trace(3)


class Branch(nn.Module):
    """Asks for the value of a tensor."""

    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if x.sum() > 0 else x - 1


def test_control_flow_on_values() -> None:
    with pytest.raises(TraceError, match=r"cannot be traced:(.|\n)*value of a tensor") as caught:
        rw.trace(Branch().eval(), inputs={"x": torch.ones(3, 2)})
    assert "torch.export" in str(caught.value)


class FixedLength(nn.Module):
    """Has a weight for every position, so its length cannot vary."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Parameter(torch.randn(7, 7))

    def forward(self, x: Tensor) -> Tensor:
        return self.mix @ x


def test_a_fixed_length() -> None:
    torch.manual_seed(0)
    model = FixedLength().eval()
    graph = rw.trace(model, inputs={"x": torch.randn(3, 7, 2)})
    assert graph.inputs[0].describe() == "x: float32 [batch, 7, 2]"
    x = torch.randn(5, 7, 2)
    assert torch.equal(graph(x=x), model(x))
    assert graph.certificate is not None
    assert "length fixed" in graph.certificate.method
    assert "tried before: torch.export, batch and length dynamic" in str(graph.certificate)
    with pytest.raises(InputError, match="fixed when the model was traced"):
        graph(x=torch.randn(3, 8, 2))


class Counts(nn.Module):
    """Reads the batch as a Python number in a way that a trace could burn in."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.tensor(float(len(x.tolist())))


def test_what_would_hold_for_one_batch_only_is_refused() -> None:
    with pytest.raises(TraceError):
        rw.trace(Counts().eval(), inputs={"x": torch.ones(3, 2)})


def test_a_trace_that_differs_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever goes wrong in export, the comparison with the model finds it."""
    capture = sys.modules["rewrite.trace.capture"]
    plain = capture._plain

    def wrong(*args: Any) -> Any:
        module = plain(*args)
        weight = next(n for n in module.graph.nodes if n.op == "get_attr")
        with module.graph.inserting_after(weight):
            changed = module.graph.call_function(torch.mul, (weight, 1.001))
        weight.replace_all_uses_with(changed, delete_user_cb=lambda user: user is not changed)
        module.recompile()
        return module

    monkeypatch.setattr(capture, "_plain", wrong)
    with pytest.raises(TraceError, match=r"runs on 3x4 but differs from the model by"):
        rw.trace(mlp(), inputs={"input": torch.ones(3, 4)})


def test_inputs_of_one_row_still_leave_the_batch_free() -> None:
    model = mlp()
    graph = rw.trace(model, inputs={"input": torch.ones(1, 4)})
    assert torch.equal(graph(input=torch.ones(6, 4)), model(torch.ones(6, 4)))


def test_a_model_that_writes_into_its_input_leaves_it_alone() -> None:
    class InPlace(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            y = x.clone()
            y[:, 0] = 0
            y += 1
            return y

    graph = rw.trace(InPlace().eval(), inputs={"x": torch.ones(3, 2)})
    x = torch.randn(4, 2)
    kept = x.clone()
    assert torch.equal(graph(x=x), InPlace()(x)) and torch.equal(x, kept)


@pytest.mark.parametrize("family", FAMILIES)
def test_families_share_their_parameters(family: str) -> None:
    at = traced(family)
    mine = dict(at.model.named_parameters())
    assert len(mine) > 10
    for node in at.graph.module.graph.find_nodes(op="get_attr"):
        if node.target in mine:
            assert at.graph.module.get_parameter(node.target) is mine[node.target]


@pytest.mark.parametrize("family", ["gpt2", "llama", "bert"])
def test_left_padding(family: str) -> None:
    model = tiny(family)
    ids, mask = tokens(3, 11), torch.ones(3, 11, dtype=torch.int64)
    mask[0, :4] = 0
    graph = rw.trace(model, inputs={"input_ids": ids, "attention_mask": mask})
    ids, mask = tokens(2, 7), torch.ones(2, 7, dtype=torch.int64)
    for pad in (0, 3):
        mask[1, :pad] = 0
        found = graph(input_ids=ids, attention_mask=mask).logits
        assert torch.equal(found, logits(model, input_ids=ids, attention_mask=mask))
    parts = graph.components()
    assert parts.names[0] == "tokens" and "attention_mask" not in parts.names
    split = parts(input_ids=ids, attention_mask=mask).logits
    assert error(split[mask.bool()], found[mask.bool()]) < 1e-5
    exp = rw.expand(rw.Hypothesis(parts, {"clean": "..."}))
    run = {"input_ids": ids, "attention_mask": mask}
    assert torch.equal(exp(clean=run, corrupt=run).logits, found)
