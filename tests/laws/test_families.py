"""Laws on six families of transformers, in single and double precision."""

from __future__ import annotations

import copy
import io
import itertools
import pickle
import warnings

import pytest
import torch
from torch import fx

import rewrite as rw
from rewrite.parts.assemble import context_module
from tests.zoo import FAMILIES, Traced, error, logits, tokens, traced

DTYPES = [torch.float32, torch.float64]
A, B = tokens(3, 9, seed=1), tokens(3, 9, seed=2)
every = pytest.mark.parametrize("family", FAMILIES)
both = pytest.mark.parametrize("dtype", DTYPES, ids=str)
MIXED = {"clean": "a0.h1 -> a1.h{0,2}.{q,v} | m0 -> logits"}


def run(exp: rw.Expansion, clean: torch.Tensor = A, corrupt: torch.Tensor = B) -> torch.Tensor:
    with torch.no_grad():
        return exp(clean={"input_ids": clean}, corrupt={"input_ids": corrupt}).logits


def bound(dtype: torch.dtype) -> float:
    return 1e-5 if dtype == torch.float32 else 1e-10


@both
@every
def test_the_trace_is_the_model_bit_for_bit(family: str, dtype: torch.dtype) -> None:
    at = traced(family, dtype)
    assert at.graph.certificate is not None and at.graph.certificate.difference == 0.0
    for ids in (tokens(1, 2), tokens(5, 23), tokens(1, 13)):
        found = at.graph(input_ids=ids)
        assert type(found) is type(at.model(input_ids=ids))
        assert torch.equal(found.logits, logits(at.model, input_ids=ids))


@both
@every
def test_components_are_the_model(family: str, dtype: torch.dtype) -> None:
    at = traced(family, dtype)
    for ids in (A, tokens(1, 2), tokens(5, 23), tokens(1, 13)):
        with torch.no_grad():
            found = at.parts(input_ids=ids).logits
        assert error(found, logits(at.model, input_ids=ids)) <= bound(dtype)


@both
@every
def test_3_one_run_is_the_model_bit_for_bit(family: str, dtype: torch.dtype) -> None:
    at = traced(family, dtype)
    whole = sum(component.region is not None for component in at.parts.components.values())
    for text, ids in (("...", A), ("~(...)", B)):
        paths = rw.PathSet.none() if text == "~(...)" else text
        exp = rw.expand(rw.Hypothesis(at.parts, {"clean": paths}))
        assert torch.equal(run(exp), logits(at.model, input_ids=ids))
        assert exp.cost.calls == len(calls(exp)) == whole
        assert set(exp.copies.values()) == {1}
        assert exp.cost.forwards == pytest.approx(1)


@both
@every
def test_equal_inputs_give_the_model_whatever_the_paths(family: str, dtype: torch.dtype) -> None:
    at = traced(family, dtype)
    exp = rw.expand(rw.Hypothesis(at.parts, MIXED if family != "bert" else {"clean": "a0.h1.q"}))
    assert error(run(exp, A, A), logits(at.model, input_ids=A)) <= bound(dtype)


def calls(exp: rw.Expansion) -> list[str]:
    """Names of the calls of bodies: not of the context, nor of the biases beside split heads."""
    return [node.name for node in exp.module.graph.nodes if node.op == "call_module"
            and node.target != "context" and not node.name.endswith("_bias")]


@every
def test_6_only_what_the_hypothesis_distinguishes_is_split(family: str) -> None:
    parts = traced(family).parts
    whole = len(calls(rw.expand(rw.Hypothesis(parts, {"clean": "..."}))))

    def of_layer(text: str, layer: str) -> list[str]:
        found = calls(rw.expand(rw.Hypothesis(parts, {"clean": text})))
        return [name for name in found if name == layer or name.startswith(f"{layer}_")]

    # Heads 0 and 2 read the clean stream, heads 1 and 3 the corrupt one.
    assert len(of_layer("a1.h{0,2}", "a1")) == 2
    # Layer 0 is a plain forward of each run.
    assert len(of_layer("a1.h{0,2}", "a0")) == 2
    # All heads of the layer alike: the layer is one call.
    assert len(of_layer("a1", "a1")) == len(of_layer("a1.h*.q", "a1")) == 1
    # Only head 3 is apart, and only by its keys.
    assert len(of_layer("a1.h3.k", "a1")) == 2
    # Each head by itself, each of them in one kind of copy.
    assert len(of_layer("a1.h0.q | a1.h1.k | a1.h2.v", "a1")) == 4
    last = calls(rw.expand(rw.Hypothesis(parts, {"clean": "a1.h{0,2}"})))
    # Two plain forwards of all that comes before, one mixture of the rest.
    before = [c.short for c in parts.components.values() if c.region].index("a1")
    assert len(last) == 2 * before + 2 + (whole - before - 1)


@both
@every
def test_several_hypotheses_together_are_those_apart(family: str, dtype: torch.dtype) -> None:
    parts = traced(family, dtype).parts
    texts = ["a0.h1", "a1.h2.k", "m0 -> ... -> a1.h0", "a0.h1 -> ... -> logits", "m0 | a0"]
    hypotheses = [rw.Hypothesis(parts, {"clean": text}) for text in texts]
    with torch.no_grad():
        exp = rw.expand(hypotheses)
        together = exp(clean={"input_ids": A}, corrupt={"input_ids": B})
    assert len(together) == len(texts)
    apart = [rw.expand(hypothesis) for hypothesis in hypotheses]
    for found, alone in zip(together, apart, strict=True):
        assert error(found.logits, run(alone)) <= bound(dtype)
    assert exp.cost.copies < sum(alone.cost.copies for alone in apart)


@both
@every
def test_the_last_position_alone(family: str, dtype: torch.dtype) -> None:
    parts = traced(family, dtype).parts
    for text in ("a0.h1", "a1.h2.q", "a1.h3.v | m0", "m1", "...", "a1 -> ... -> logits"):
        hypothesis = rw.Hypothesis(parts, {"clean": text})
        full = run(rw.expand(hypothesis))
        last = run(rw.expand(hypothesis, last=True))
        assert last.shape == (3, 1, 97)
        assert error(last, full[:, -1:]) <= bound(dtype)
        some = run(rw.expand(hypothesis, last=True, columns=(5, 3, 96)))
        assert error(some, full[:, -1:, [5, 3, 96]]) <= bound(dtype)


def test_the_last_position_saves_calls_and_not_runs() -> None:
    """Several hypotheses at the last position, against the full ones."""
    parts = traced("llama").parts
    hypotheses = [rw.Hypothesis(parts, {"clean": t}) for t in ("a1.h0", "a0.h1.k -> m0")]
    with torch.no_grad():
        given = {"clean": {"input_ids": A}, "corrupt": {"input_ids": B}}
        full, last = rw.expand(hypotheses)(**given), rw.expand(hypotheses, last=True)(**given)
    for one, other in zip(full, last, strict=True):
        assert error(other.logits, one.logits[:, -1:]) <= 1e-5


# Heads of a layer, against the values that the model itself computes.


class Values(fx.Interpreter):
    """All values of an op graph."""

    def __init__(self, at: Traced, ids: torch.Tensor) -> None:
        super().__init__(at.parts.graph.module)
        self.seen: dict[fx.Node, object] = {}
        with torch.no_grad():
            self.run(ids)

    def run_node(self, n: fx.Node) -> object:
        value = super().run_node(n)
        self.seen[n] = value
        return value


ALIKE = [("q", "k", "v"), ("qk", "qk", "v"), ("qv", "k", "qv"), ("q", "kv", "kv"), ("x", "x", "x")]
SUBSETS = [c for n in range(1, 5) for c in itertools.combinations(range(4), n)]


def partitions(heads: tuple[int, ...]) -> list[list[tuple[int, ...]]]:
    """All ways to divide heads into groups."""
    if not heads:
        return [[]]
    first, *rest = heads
    found = []
    for size in range(len(rest) + 1):
        for others in itertools.combinations(rest, size):
            left = tuple(head for head in rest if head not in others)
            found += [[(first, *others), *more] for more in partitions(left)]
    return found


def bodies(
    at: Traced, layer: str, heads: tuple[int, ...] | None, alike: tuple[str, str, str],
    readings: dict[str, torch.Tensor],
) -> torch.Tensor:
    """A body of some heads on one reading for each name, with the context of `A`."""
    body = at.parts.body(layer, heads, dict(zip("qkv", alike, strict=True)))
    assert body.stuck == ()
    context = context_module(at.parts, body.context)(A) if body.context else ()
    with torch.no_grad():
        return body.module(*(readings[port] for port, _ in body.slots), *context)


@every
def test_heads_add_up_to_their_layer(family: str) -> None:
    at = traced(family, torch.float64)
    draw = torch.Generator().manual_seed(0)
    layer = at.parts.component("a1")
    assert layer.region is not None and layer.region.layer is not None
    readings = {name: torch.randn(3, 9, 32, generator=draw, dtype=torch.float64)
                for name in ("q", "k", "v", "qk", "qv", "kv", "x")}
    for alike in ALIKE:
        whole = bodies(at, "a1", None, alike, readings)
        constant = at.parts.bias("a1")
        bias = constant.module() if constant is not None else torch.zeros(())
        assert (constant is None) == (family in {"llama", "qwen3", "gemma3"})
        subsets = SUBSETS if alike == ALIKE[0] else [(0, 1, 2), (3,), (1, 2), (0, 3)]
        value = {heads: bodies(at, "a1", heads, alike, readings) for heads in subsets}
        for groups in partitions((0, 1, 2, 3)):
            if set(groups) <= set(value):
                assert error(sum(value[group] for group in groups) + bias, whole) < 1e-12


@every
def test_a_layer_is_what_the_model_computes(family: str) -> None:
    at = traced(family, torch.float64)
    seen = Values(at, A).seen
    for layer in ("a0", "a1"):
        region = at.parts.component(layer).region
        assert region is not None
        readings = {port: seen[node] for port, node in region.slots}
        found = bodies(at, layer, None, ("q", "k", "v"), readings)
        assert error(found, seen[region.output]) < 1e-12


@every
def test_a_head_costs_a_head(family: str) -> None:
    """Slices land on weights: nothing is stuck, and heads share out the weights of a layer."""
    parts = traced(family).parts
    grouped = family in {"llama", "qwen3", "gemma3"}
    for layer in ("a0", "a1"):
        for alike in ALIKE:
            names = dict(zip("qkv", alike, strict=True))
            whole = parts.body(layer, None, names)
            assert whole.stuck == ()
            heads = [parts.body(layer, (head,), names) for head in range(4)]
            assert len({head.weights for head in heads}) == 1
            model, size = 32, 8
            assert heads[0].weights == 4 * model * size
            assert whole.weights == (2 * 4 + 2 * (2 if grouped else 4)) * model * size
            if not grouped:
                assert sum(head.weights for head in heads) == whole.weights
    for component in parts.components.values():
        if component.region and not component.heads:
            assert parts.body(component.short).stuck == ()


# The result is an ordinary module.


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_an_ordinary_module(family: str) -> None:
    at = traced(family)
    exp = rw.expand(rw.Hypothesis(at.parts, {"clean": "a0.h1 -> a1.h2.k"}))
    wanted = run(exp)
    assert "a1" in exp.code and exp.code == exp.module.code
    assert "def forward" in str(exp.module) + exp.code
    own = {id(parameter) for parameter in at.model.parameters()}
    assert {id(parameter) for parameter in exp.module.parameters()} <= own
    with torch.no_grad():
        (copied,) = copy.deepcopy(exp.module)(A, B)
        (read,) = pickle.loads(pickle.dumps(exp.module))(A, B)
        torch.compiler.reset()
        (compiled,) = torch.compile(exp.module, backend="eager")(A, B)
    assert torch.equal(copied, wanted)
    assert torch.equal(read, wanted)
    assert torch.equal(compiled, wanted)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_exported_and_read_back(family: str) -> None:
    exp = rw.expand(rw.Hypothesis(traced(family).parts, {"clean": "a0.h1 -> a1.h2.k"}))
    file = io.BytesIO()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # export on views of parameters
        torch.export.save(torch.export.export(exp.module, (A, B)), file)
        file.seek(0)
        (found,) = torch.export.load(file).module()(A, B)
    assert torch.equal(found, run(exp))
