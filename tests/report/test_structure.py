"""The structure report against counts that are made from the models and their configurations."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from functools import cache

import pytest
import torch
from hypothesis import given
from torch import Tensor, nn

import rewrite as rw
from rewrite.errors import RewriteError
from rewrite.ir.dag import Dag
from rewrite.report.tally import count_edges
from rewrite.report.unsplit import read
from tests.laws.random_dags import dags
from tests.models.table import TABLE
from tests.paths.dags import transformer_dag
from tests.zoo import FAMILIES, trace, traced


@cache
def reported(family: str) -> tuple[nn.Module, rw.Components, rw.Structure]:
    """A model of the large table with its parts and its report."""
    model = TABLE[family].build()
    parts = trace(model).components()
    return model, parts, rw.structure(parts)


def numbers(model: nn.Module) -> tuple[int, int]:
    """Parameters of a model and their bytes, tied ones once."""
    different = {p.data_ptr(): p for p in model.parameters()}.values()
    return sum(p.numel() for p in different), sum(p.numel() * p.element_size() for p in different)


@pytest.mark.parametrize("family", FAMILIES)
def test_counts_of_families(family: str) -> None:
    at = traced(family)
    report, config = rw.structure(at.parts), at.model.config
    split = report.components
    assert split is not None and report.name == type(at.model).__name__
    assert (report.parameters.count, report.parameters.bytes) == numbers(at.model)
    layers, heads = config.num_hidden_layers, config.num_attention_heads
    assert [layer.name for layer in split.layers] == [f"a{i}" for i in range(layers)]
    assert {layer.heads for layer in split.layers} == {heads}
    keys = getattr(config, "num_key_value_heads", heads)
    assert {layer.key_heads for layer in split.layers} == {keys}
    assert {layer.ports for layer in split.layers} == {("q", "k", "v")}
    assert split.heads == layers * heads == len(at.parts.heads)
    assert split.kinds["attention"] == split.kinds["mlp"] == layers
    assert split.parts == len(at.parts.names) and split.unsplit == ()
    assert split.edges == len(at.parts.edges)
    assert split.paths == rw.count_paths("...", at.parts.dag)
    assert report.outputs == ("logits",) and report.weights
    (item,) = report.inputs
    assert (item.name, item.dtype, item.source) == ("input_ids", "int64", "tokens")
    assert [(dim.size, dim.symbolic, dim.pinned) for dim in item.dims] == [
        ("batch", True, False), ("seq", True, False)]
    assert report.parity is not None and report.export is not None
    assert report.parity.bit_for_bit and report.parity.relative == 0 and report.export.tried == ()
    assert report.versions["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert report.memory is None or 50 < report.memory < 50_000


@pytest.mark.parametrize("family", [*FAMILIES, "t5", "bitnet"])
def test_json_and_text(family: str) -> None:
    report = rw.structure(traced(family).parts) if family in FAMILIES else reported(family)[2]
    assert json.loads(report.to_json()) == report.to_dict()
    text = str(report)
    assert 12 <= len(text.splitlines()) <= 30 and text.startswith(report.name)
    assert "bit for bit" in text and "any batch and seq" in text


def test_an_encoder_decoder() -> None:
    model, parts, report = reported("t5")
    split, config = report.components, model.config
    assert split is not None and report.parameters.count == numbers(model)[0]
    assert split.heads == (config.num_layers + 2 * config.num_decoder_layers) * config.num_heads
    assert split.kinds["cross"] == config.num_decoder_layers
    assert split.edges == len(parts.edges)
    assert [item.source for item in report.inputs] == ["tokens", "decoder_input_ids"]
    assert "enc.a0-enc.a1, dec.a0-dec.a1, dec.x0-dec.x1: 4 heads each" in str(report)


def test_one_key_head_for_all() -> None:
    _, parts, report = reported("falcon_rotary")
    assert report.components is not None
    assert {layer.key_heads for layer in report.components.layers} == {1}
    assert report.components.edges == len(parts.edges)
    assert "a0-a1: 4 heads each, 1 key head" in str(report)


def test_images_have_fixed_sizes_that_are_not_the_fault_of_tracing() -> None:
    report = reported("vit")[2]
    assert [(d.size, d.symbolic, d.pinned) for d in report.inputs[0].dims] == [
        ("batch", True, False), (3, False, False), (16, False, False), (16, False, False)]


class Folded(nn.Module):
    """Attention whose keys cannot be told from its queries: the scores take both as one."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.v, self.o = (nn.Linear(8, 8) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        q = self.q(x)
        scores = torch.tanh(torch.bmm(q, q.transpose(1, 2)).cumsum(-1)).softmax(-1)
        return x + self.o(torch.bmm(scores.cumsum(1), self.v(x)) + q)


class TwoFolded(nn.Module):
    """Two such layers."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([Folded(), Folded()])

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


def test_heads_that_are_not_split_are_named_with_op_and_reason() -> None:
    parts = rw.trace(TwoFolded().eval(), inputs={"x": torch.randn(3, 11, 8)}).components()
    report = rw.structure(parts)
    split = report.components
    assert split is not None and len(split.unsplit) == len(parts.notes) == 2
    for entry, layer in zip(split.unsplit, (0, 1), strict=True):
        assert entry.effect == "not split" and entry.note in parts.notes
        assert entry.reason and entry.reason in entry.note
        named = [op for op in entry.ops if op.target.startswith("aten.softmax")]
        assert named and named[0].module == f"layers.{layer}"
        region = parts.component(entry.component or "").region
        assert region is not None
        assert named[0].name in {node.name for node in region.nodes}
    last = [text for label, text in report.rows() if label == "not split"]
    first = split.unsplit[0]
    assert first.ops[0].name in last[0] and "layers.0" in last[0]


def test_whatever_the_parts_note_is_in_the_report() -> None:
    parts = rw.trace(Folded().eval(), inputs={"x": torch.randn(3, 11, 8)}).components()
    split = rw.structure(parts).components
    assert split is not None and parts.notes
    assert [entry.note for entry in split.unsplit] == list(parts.notes)
    entry = split.unsplit[0]
    region = parts.component(entry.component or "").region
    assert entry.ops[0].name == "softmax" and region is not None
    assert "softmax" in {node.name for node in region.nodes}


@pytest.mark.parametrize(("note", "component", "effect", "ops"), [
    ("a0: heads not split: the slice of heads [0] stops at view_1, linear_1",
     "a0", "not split", ("view_1", "linear_1")),
    ("a1: slices stay below linear: exact, but slower", "a1", "slower", ("linear",)),
    ("a0: heads not split: the slice of heads [0] stops at the order of its features",
     "a0", "not split", ()),
    ("heads not split: linear_1 also contains no_such_op", "?", "not split", ("linear_1",)),
    ("something that nobody knows: linear_1", "?", "other", ("linear_1",)),
    ("something else", None, "other", ()),
])
def test_notes_are_read(
    note: str, component: str | None, effect: str, ops: tuple[str, ...]
) -> None:
    parts = traced("llama").parts
    nodes = {node.name: node for node in parts.cut.flow.graph.nodes}
    entry = read(note, parts, nodes)
    assert entry.effect == effect and entry.note == note
    assert tuple(op.name for op in entry.ops) == tuple(op for op in ops if op in nodes)
    if component == "?":
        assert entry.component in parts.components, "the one that holds the op"
    else:
        assert entry.component == component


class FixedLength(nn.Module):
    """Has a weight for every position, so its length cannot vary."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Parameter(torch.randn(7, 7))

    def forward(self, x: Tensor) -> Tensor:
        return self.mix @ x


def test_a_fixed_length_says_so_and_what_was_tried() -> None:
    report = rw.structure(rw.trace(FixedLength().eval(), inputs={"x": torch.randn(3, 7, 2)}))
    assert [(d.size, d.symbolic, d.pinned) for d in report.inputs[0].dims] == [
        ("batch", True, False), (7, False, True), (2, False, False)]
    assert report.export is not None and "length fixed" in report.export.method
    assert report.export.tried[0].method == "torch.export, batch and length dynamic"
    assert report.export.tried[0].reason
    text = str(report)
    assert "x to 7 along axis 1: for another size, trace again" in text
    assert "tried before  torch.export, batch and length dynamic: " in text
    assert report.parameters.count == 49


class Tied(nn.Module):
    """One weight under two names, and as two parameters over one memory."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Linear(4, 4, bias=False) for _ in range(3))
        self.b.weight = self.a.weight
        self.c.weight = nn.Parameter(self.a.weight.data)
        self.register_buffer("shift", torch.ones(3, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.b(self.a(x))) + self.shift.sum()


def test_shared_parameters_count_once() -> None:
    report = rw.structure(rw.trace(Tied().eval(), inputs={"x": torch.randn(3, 4)}))
    assert (report.parameters.count, report.parameters.bytes) == (16, 64)
    assert (report.buffers.count, report.buffers.bytes) == (3, 24)


def test_without_components() -> None:
    report = rw.structure(traced("gpt2").graph, parts=False)
    assert report.components is None and "not asked for" in str(report)
    assert report.nodes == len(traced("gpt2").graph.nodes)
    assert json.loads(report.to_json())["components"] is None


def test_without_certificate() -> None:
    graph = traced("gpt2").graph
    report = rw.structure(graph.with_module(graph.module), parts=False)
    assert report.parity is None and report.export is None and report.seconds is None
    assert "not known" in str(report)


def test_parity_that_is_not_bit_for_bit_or_not_measured() -> None:
    graph = traced("gpt2").graph
    assert graph.certificate is not None
    near = replace(graph.certificate, difference=2e-6, scale=4.0)
    report = rw.structure(replace(graph, certificate=near), parts=False)
    assert report.parity is not None
    assert report.parity.relative == 5e-7 and not report.parity.bit_for_bit
    assert "at most 2.0e-06, 5.0e-07 of the largest output" in str(report)
    unknown = replace(graph.certificate, difference=None, scale=None)
    report = rw.structure(replace(graph, certificate=unknown), parts=False)
    assert report.parity is not None and report.parity.bit_for_bit is None
    assert "not measured, there are no weights" in str(report)


def test_without_weights() -> None:
    """A model on the meta device has the same structure as one with weights."""
    whole = rw.structure(traced("llama").parts)
    empty = rw.structure(rw.trace(traced("llama").model.__class__(
        traced("llama").model.config).to("meta").eval()))
    assert whole.weights and not empty.weights
    assert empty.parameters == whole.parameters
    assert whole.components is not None and empty.components is not None
    assert replace(empty.components, seconds=None) == whole.components
    assert empty.parity is not None and empty.parity.difference is None
    assert "not loaded" in str(empty) and "not measured" in str(empty)


@given(dag=dags())
def test_edges_are_counted_as_they_are_listed(dag: Dag) -> None:
    assert count_edges(dag) == len(dag.edges)


def test_the_edges_of_a_large_model_are_counted_at_once() -> None:
    layers, heads = 80, 64
    small = transformer_dag(3, 4)
    assert count_edges(small) == len(small.edges) == edges_of(3, 4)
    dag = transformer_dag(layers, heads)
    start = time.perf_counter()
    assert count_edges(dag) == edges_of(layers, heads) > 39_000_000
    assert time.perf_counter() - start < 5


def edges_of(layers: int, heads: int) -> int:
    """Each head reads all writers before it by three ports, each MLP and the output by one."""
    before = [1 + layer * (heads + 1) for layer in range(layers + 1)]
    attention = sum(3 * heads * writers for writers in before[:-1])
    return 1 + attention + sum(writers + heads for writers in before[:-1]) + before[-1]


def test_other_things_have_no_structure() -> None:
    with pytest.raises(RewriteError, match=r"found a Linear; pass rw\.trace\(model\)"):
        rw.structure(nn.Linear(2, 2))  # type: ignore[arg-type]
