"""The ladder: what is tried, what is left out, and in-place ops as functions."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import rewrite as rw
from rewrite.errors import TraceError
from rewrite.trace.functional import mutates
from rewrite.trace.support import experts
from tests.models.table import TABLE
from tests.zoo import tiny


class Op(nn.Module):
    """Any function of one tensor."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def in_place(x: Tensor) -> Tensor:
    y = x * 2
    y += x
    y.mul_(3).sub_(1)
    return y.relu() + y


def through_a_view(x: Tensor) -> Tensor:
    y = (x * 2).view(-1)
    y.add_(1)
    return y.sin()


def read_by_another_view(x: Tensor) -> Tensor:
    y = x * 2
    first = y[:, :1]
    y.add_(1)
    return y + first  # `first` sees the change


def written_by_a_view(x: Tensor) -> Tensor:
    y = x * 2
    y[:, 0].add_(1)
    return y


def whole_numbers(x: Tensor) -> Tensor:
    y = (x * 4).to(torch.int64)
    y += 1
    return y


def scaled_half(x: Tensor) -> Tensor:
    y = x.to(torch.bfloat16)
    y.mul_(x)  # stays in bfloat16, which a function of both would not
    return y


def copied(x: Tensor) -> Tensor:
    y = torch.zeros_like(x)
    y.copy_(x)
    y[:, 1:] = 0
    return y


@pytest.mark.parametrize("function", [
    in_place, through_a_view, read_by_another_view, written_by_a_view, whole_numbers, scaled_half,
    copied])
def test_writes_into_operands(function: Callable[[Tensor], Tensor]) -> None:
    torch.manual_seed(0)
    graph = rw.trace(Op(function).eval(), inputs={"x": torch.randn(3, 4)})
    assert not mutates(graph.module.graph)
    x = torch.randn(5, 4)
    kept = x.clone()
    assert torch.equal(graph(x=x), function(x)) and torch.equal(x, kept)


@pytest.mark.parametrize("function", [in_place, through_a_view, whole_numbers])
def test_plain_writes_need_no_decomposition(
    function: Callable[[Tensor], Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("decomposed")

    monkeypatch.setattr(torch.export.ExportedProgram, "run_decompositions", never)
    rw.trace(Op(function).eval(), inputs={"x": torch.randn(3, 4)})


def test_a_model_with_writes_keeps_its_ops(monkeypatch: pytest.MonkeyPatch) -> None:
    """T5 adds its position bias in place; decomposing it took as long as exporting it."""
    monkeypatch.delattr(torch.export.ExportedProgram, "run_decompositions")
    graph = rw.trace(TABLE["t5"].build())
    assert graph.certificate is not None and graph.certificate.difference == 0.0


def attempts(model: nn.Module, inputs: dict[str, Tensor] | None = None) -> list[str]:
    """The rungs that were tried in vain, from the notes or from the error."""
    try:
        certificate = rw.trace(model, inputs).certificate
    except TraceError as error:
        return [line.strip().split(": ")[0] for line in str(error).splitlines()[1:-1]]
    assert certificate is not None
    return [note.split(": ")[1] for note in certificate.notes if note.startswith("tried before")]


PLAIN = "torch.export, batch and length dynamic"


def test_a_fixed_size_is_not_asked_for_again() -> None:
    """The model was followed to its end: neither experts nor torch's own choice change it."""
    certificate = rw.trace(TABLE["cpmant"].build()).certificate
    assert certificate is not None
    (note,) = [note for note in certificate.notes if note.startswith("tried before")]
    assert f"tried before: {PLAIN}: UserError: a size that should vary is fixed at 11" in note


def test_patches_of_what_the_model_uses_are_tried() -> None:
    """The caches of its sliding windows fix the length; transformers knows how to do without."""
    half = TABLE["t5gemma"].options["encoder"] | {"num_hidden_layers": 1}
    graph = rw.trace(TABLE["t5gemma"].build(encoder=half, decoder=half))
    assert graph.certificate is not None and graph.certificate.difference == 0.0
    assert graph.certificate.method == "torch.export under the export patches of transformers"


class Counter(nn.Module):
    """Counts its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x * self.calls


def test_a_model_that_changes_itself() -> None:
    """Its next call would differ from this one, which no graph can promise to repeat."""
    with pytest.raises(TraceError, match=r"two calls of Counter .* differ by 1(.|\n)*\(calls\)"):
        rw.trace(Counter().eval(), inputs={"x": torch.ones(3, 4)})


class Branch(nn.Module):
    """Asks for the value of a tensor."""

    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if x.sum() > 0 else x - 1


def test_what_depends_on_values_is_tried_once_for_each_length() -> None:
    ids = torch.arange(33).reshape(3, 11)
    assert attempts(Branch().eval(), {"x": ids}) == [
        PLAIN, "torch.export, batch dynamic, length fixed"]


def test_torch_prints_nothing() -> None:
    """Torch prints what it has of the graph, and logs it, when it cannot go on."""
    printed = io.StringIO()
    with contextlib.redirect_stderr(printed), pytest.raises(TraceError, match="cannot be traced"):
        rw.trace(Branch().eval(), inputs={"x": torch.ones(3, 2)})
    assert printed.getvalue() == ""


def test_experts_are_known_by_their_class() -> None:
    assert len(experts(TABLE["mixtral"].build())) == 2
    assert tiny("llama").config._experts_implementation and not experts(tiny("llama"))


def test_settings_are_put_back() -> None:
    """Whatever a rung changes in the model, the model has it again afterwards."""
    model: Any = TABLE["mixtral"].build(num_hidden_layers=1)
    model.set_experts_implementation("eager")  # a loop over the experts that are needed
    graph = rw.trace(model)
    assert graph.certificate is not None
    assert graph.certificate.method == "torch.export, experts in batches"
    assert "experts are computed by batched products instead of eager" in graph.certificate.notes
    assert model.get_experts_implementation()[""] == "eager"
    assert not any("to" in vars(module) or "forward" in vars(module) for module in model.modules())


class Casts(nn.Module):
    """Converts its weights in forward to the type that they have."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        self.linear = self.linear.to(x.dtype)
        return self.linear(x)


def test_conversions_in_forward() -> None:
    model, x = Casts().eval(), torch.randn(5, 4)
    graph = rw.trace(model, inputs={"x": torch.ones(3, 4)})
    assert torch.equal(graph(x=x), model(x))
    assert graph.certificate is not None and "have the type already" in str(graph.certificate)
    assert graph.module.get_parameter("linear.weight") is model.linear.weight


def test_a_router_that_converts_itself() -> None:
    """Its conversion is not in the way any more; its choice of experts by values still is."""
    family = TABLE["switch_transformers"]
    with pytest.raises(TraceError, match="weights not converted: GuardOnDataDependentSymNode"):
        rw.trace(family.build(), inputs=dict(family.inputs))
