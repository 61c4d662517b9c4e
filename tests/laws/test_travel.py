"""Values travel: pickled, cloudpickled, deep-copied, to other processes, among threads."""

from __future__ import annotations

import copy
import gc
import importlib
import inspect
import linecache
import pickle
import pkgutil
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from random import Random
from typing import Any

import pytest
import torch
import transformers as tf
from ray import cloudpickle
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

import rewrite as rw
from rewrite.errors import RuleError
from rewrite.paths import wiring
from tests.zoo import GQA, tiny, tokens, traced

A, B = tokens(2, 6, seed=1), tokens(2, 6, seed=2)
RUNS = {"clean": {"input_ids": A}, "corrupt": {"input_ids": B}}
PATHS = "a0.h1@[2] -> ... -> logits | a1.h0.k"
WAYS: dict[str, Callable[[Any], Any]] = {
    "pickle": lambda value: pickle.loads(pickle.dumps(value)),
    "cloudpickle": lambda value: pickle.loads(cloudpickle.dumps(value)),
    "deepcopy": copy.deepcopy,
}
ways = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)


def hypothesis(parts: rw.Components) -> rw.Hypothesis:
    return rw.Hypothesis(parts, {"clean": PATHS}, name="a name")


def numbers(value: Any) -> list[Tensor]:
    """What a value computes."""
    if isinstance(value, rw.Hypothesis):
        return []
    return [value(A).logits] if not isinstance(value, rw.Expansion) else [
        value(**RUNS).logits, value.run(**RUNS).logits]


@ways
def test_what_computes(way: Callable[[Any], Any]) -> None:
    parts = traced("llama").parts
    before = [parts.graph, parts, hypothesis(parts), rw.expand(hypothesis(parts)),
              parts.as_graph()]
    after = way(before)
    for old, new in zip(before, after, strict=True):
        assert new is not old
        assert all(map(torch.equal, numbers(old), numbers(new)))
    graph, again, claim, expansion, of_parts = after
    assert graph is again.graph and claim.parts is again and expansion.parts is again
    assert (again.names, again.edges, again.notes) == (parts.names, parts.edges, parts.notes)
    for old, new in ((parts.graph, graph), (before[-1], of_parts)):
        assert (new.code, new.text(), new.inputs, new.guards, new.certificate, str(new.trail)) == (
            old.code, old.text(), old.inputs, old.guards, old.certificate, str(old.trail))
    assert (claim.runs, claim.name, claim.count()) == (
        before[2].runs, before[2].name, before[2].count())
    assert (expansion.code, expansion.copies) == (before[3].code, before[3].copies)


def test_experts_and_sizes_that_depend_on_data() -> None:
    config = tf.MixtralConfig(**{**GQA, "num_hidden_layers": 1}, num_local_experts=3)
    torch.manual_seed(0)
    parts = rw.trace(tf.MixtralForCausalLM(config).eval()).components()
    expansion = rw.expand(rw.Hypothesis(parts, {"clean": "a0.h1 -> m0.e1 -> logits"}))
    for way in WAYS.values():
        again = way(expansion)
        assert all(map(torch.equal, numbers(expansion), numbers(again)))
        assert again.parts.names == parts.names


@ways
def test_what_has_travelled_is_edited_cut_and_expanded(way: Callable[[Any], Any]) -> None:
    parts = traced("llama").parts

    def edited(of_parts: rw.Graph) -> list[Tensor]:
        cut = of_parts.ablate("a0.h1").components()
        assert cut.names == tuple(name for name in parts.names if name != "a0.h1")
        return numbers(rw.Hypothesis(cut, {"clean": "a0.h0 -> m1"}))

    here, there = edited(parts.as_graph()), edited(way(parts.as_graph()))
    assert all(map(torch.equal, here, there))
    graph = traced("llama").graph
    opened = way(graph).rewrite(rw.rules.open_attention)
    assert opened.code == graph.rewrite(rw.rules.open_attention).code


@ways
def test_weights_are_copied_and_what_is_one_stays_one(way: Callable[[Any], Any]) -> None:
    model = tiny("gpt2")
    graph = rw.trace(model)
    again, moved = way((graph, model))
    own, named = model.transformer.wte.weight, dict(again.module.named_parameters())
    weight = named[next(n for n, held in graph.module.named_parameters() if held is own)]
    assert weight.data_ptr() != own.data_ptr() and torch.equal(weight, own)
    assert weight is moved.transformer.wte.weight is moved.lm_head.weight
    assert set(again.module.state_dict()) == set(graph.module.state_dict())
    before = graph(A).logits
    with torch.no_grad():
        weight.zero_()
    assert torch.equal(graph(A).logits, before) and not again(A).logits.any()
    assert copy.copy(graph).module is graph.module


def test_a_graph_without_weights_travels_light() -> None:
    model = tiny("gpt2")
    light = rw.trace(model.config)
    again = pickle.loads(pickle.dumps(light))
    assert torch.equal(again.with_weights(model)(A).logits, light.with_weights(model)(A).logits)
    assert again.components().names == light.components().names


class Doubled(nn.Module):
    def forward(self, x: Tensor, nothing: Tensor) -> dict[str, Any]:
        return {"twice": (2 * x, [x + nothing.sum()]), "none": None}


@ways
def test_nested_outputs(way: Callable[[Any], Any]) -> None:
    graph = rw.trace(Doubled().eval(), {"x": torch.ones(3, 2), "nothing": torch.zeros(4)},
                     dynamic={"x": {0: "rows"}})
    given = {"x": torch.rand(5, 2), "nothing": torch.ones(4)}
    old, new = graph(given), way(graph)(given)
    assert torch.equal(old["twice"][1][0], new["twice"][1][0])
    assert (type(new["twice"]), new["none"], list(new)) == (tuple, None, list(old))


@ways
def test_what_was_measured(way: Callable[[Any], Any]) -> None:
    parts = traced("gpt2").parts
    ids = tokens(8, 6, seed=3), tokens(8, 6, seed=4)
    runs = {"clean": {"input_ids": ids[0]}, "corrupt": {"input_ids": ids[1]}}
    pairs = rw.Pairs.from_tensors(runs, labels={"correct": ids[0][:, 0], "wrong": ids[1][:, 0]},
                                  positions={"P": [1] * 8})
    claim = hypothesis(parts)
    values = [
        rw.evaluate(claim, pairs, rw.logit_diff()), pairs,
        rw.sweep(parts, "a0.h*", pairs=pairs, metric="kl_divergence"),
        rw.refine(claim, pairs, "kl_divergence", steps=1),
        rw.minimality(claim, pairs, "kl_divergence"),
        rw.completeness(claim, pairs, "kl_divergence")]
    for old, new in zip(values, way(values), strict=True):
        assert type(new) is type(old)
        if hasattr(old, "to_dict"):
            assert str(new.to_dict()) == str(old.to_dict())
        assert str(new) == str(old)
    equal = [rw.paths(PATHS), rw.logit_diff(position="P"), rw.kl_divergence(), parts.graph.inputs,
             parts.graph.certificate, rw.match.op("linear") & rw.match.name("a*"),
             rw.cost(parts.graph).flops, parts.components["a0"].name, rw.custom(shift, "shift")]
    for old, new in zip(equal, way(equal), strict=True):
        assert new == old and hash(new) == hash(old)


def shift(reference: Any, output: Any, batch: Any) -> Tensor:
    return (reference.logits - output.logits).abs().sum((1, 2))


@ways
def test_a_trail_tells_what_did_not_travel(way: Callable[[Any], Any]) -> None:
    swish = rw.rule("swish", "silu(x) = x * sigmoid(x)")
    graph = traced("llama").graph.rewrite([swish, rw.rules.fold_scale])
    again = way(graph).trail
    assert list(again) == list(graph.trail) and [r.name for r in again.rules] == [
        "swish", "fold_scale"]
    assert again.rules[1] is rw.rules.fold_scale
    if way is not copy.deepcopy:
        with pytest.raises(RuleError, match="'swish' does not travel"):
            again.graph(1)


def errors() -> list[type[BaseException]]:
    modules = [importlib.import_module(module.name) for module in
               pkgutil.walk_packages(rw.__path__, "rewrite.") if "__main__" not in module.name]
    found = {thing for module in modules for thing in vars(module).values()
             if isinstance(thing, type) and issubclass(thing, BaseException)
             and thing.__module__.startswith("rewrite.")}
    return sorted(found, key=str)


@ways
@pytest.mark.parametrize("kind", errors(), ids=lambda kind: kind.__name__)
def test_errors(kind: type[BaseException], way: Callable[[Any], Any]) -> None:
    own = "__init__" in vars(kind)
    error = kind(*list(inspect.signature(kind).parameters)) if own else kind("what", "why")
    error.__cause__ = ValueError("cause")
    again = way(error)
    assert (type(again), str(again), vars(again)) == (kind, str(error), vars(error))


class Effects(Dataset[Tensor]):
    def __init__(self, expansion: rw.Expansion) -> None:
        self.expansion = expansion
        self.paths = rw.paths(PATHS)

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Tensor:
        assert {self.paths} == {rw.paths(PATHS)}  # hashes are those of the process
        ids = {run: {"input_ids": tokens(1, 6, seed=seed + index)}
               for run, seed in (("clean", 0), ("corrupt", 50))}
        again = rw.expand(rw.Hypothesis(self.expansion.parts, {"clean": "a0.h1 -> logits"}))
        return torch.cat([self.expansion(**ids).logits[0], again.run(**ids).logits[0]]).detach()


@pytest.mark.parametrize("how", ["fork", "spawn"])
def test_workers_of_a_data_loader(how: str) -> None:
    effects = Effects(rw.expand(hypothesis(traced("gpt2").parts)))
    loader = DataLoader(effects, batch_size=1, num_workers=1, multiprocessing_context=how)
    assert all(torch.equal(found[0], effects[i]) for i, found in enumerate(loader))


def test_four_threads_trace_at_once() -> None:
    models = [tiny(family) for family in ("gpt2", "llama", "gpt2", "llama")]
    with ThreadPoolExecutor(4) as pool:
        graphs = list(pool.map(rw.trace, models))
    for graph, model in zip(graphs, models, strict=True):
        assert graph.certificate.difference == 0
        assert torch.equal(graph(A).logits, model(A).logits)


def test_threads_share_a_model() -> None:
    """Bound, expanded, cut, edited and run by eight threads: as by one."""
    graph = rw.trace(tiny("llama"))
    parts, random = graph.components(), Random(0)
    claims = [f"({' | '.join(random.sample(parts.heads[:4], 2))}) -> ...{more} -> logits"
              for more in ("", "[-2:0]", " -> m1", " -> a1.h1.k") for _ in range(2)]

    def found(cut: rw.Components, claim: str) -> tuple[Any, ...]:
        value = rw.Hypothesis(cut, {"clean": claim})
        expansion = rw.expand(value)
        ablated = cut.as_graph().ablate("a1.h2")
        return (value.count(), expansion.copies, expansion(**RUNS).logits,
                expansion.run(**RUNS).logits, ablated(A).logits)

    alone = [found(parts, claim) for claim in claims]
    fresh = graph.components()
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)  # so that threads meet
    try:
        with ThreadPoolExecutor(8) as pool:
            together = list(pool.map(lambda claim: found(fresh, claim), claims))
    finally:
        sys.setswitchinterval(before)
    for one, other in zip(alone, together, strict=True):
        assert one[:2] == other[:2] and all(map(torch.equal, one[2:], other[2:]))


def test_nothing_is_left_of_an_expansion() -> None:
    parts, random = traced("gpt2").parts, Random(1)
    pairs = [random.sample(parts.heads, 2) for _ in range(5)]

    def left() -> tuple[int, int]:
        for one, other in pairs:
            claim = rw.Hypothesis(parts, {"clean": f"{one} -> logits | {other}.v -> ..."})
            made = rw.expand(claim)
            assert made.module.code and made.together.code and made.run(**RUNS)
        del made
        gc.collect()
        graphs = (thing for thing in gc.get_objects() if isinstance(thing, torch.fx.Graph))
        return len(linecache.cache), sum(1 for _ in graphs)

    before = left(), left()
    assert left() == left() == before[1]


def test_states_of_patterns_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """The store of expressions stays small, and counts of paths are what they were."""
    parts, random = traced("gpt2").parts, Random(2)
    claims = [" | ".join(random.sample(parts.heads, 3)) + " -> ... -> logits" for _ in range(60)]
    wanted = [rw.count_paths(claim, parts) for claim in claims]
    monkeypatch.setattr(wiring, "MOST", 500)
    fresh = traced("gpt2").graph.components()
    kept = [rw.Hypothesis(fresh, {"clean": claim}) for claim in claims]
    found = wiring.Wiring.of(fresh.dag)
    assert sum(map(len, found._stores.values())) < 2000
    assert [rw.count_paths(claim, fresh) for claim in claims] == wanted
    assert [each.count()["clean"] for each in kept] == wanted
    assert [rw.expand(each).copies for each in kept] == [
        rw.expand(rw.Hypothesis(parts, {"clean": claim})).copies for claim in claims]
