"""What surgery makes can be cut, expanded and patched: edits, then paths, against hooks.

Each case edits a graph of operators or of parts, and does the same by hand.  The result is cut
into parts again, and what random path sets give is compared with hooks under the same
intervention, in double precision.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random

import pytest
import torch
from torch import Tensor, nn

import rewrite as rw
from rewrite import match, rules
from rewrite.errors import RewriteError
from tests.laws.hands import Change, Hands, Values
from tests.zoo import error, tiny, tokens, traced

A, B = tokens(2, 7, seed=3), tokens(2, 7, seed=4)
C, D = {"input_ids": A}, {"input_ids": tokens(2, 7, seed=5)}
DTYPE, BOUND, HEADS = torch.float64, 1e-10, 4
FAMILIES = ("gpt2", "llama", pytest.param("qwen3", marks=pytest.mark.slow))


@dataclass(frozen=True)
class Case:
    """An edited graph, the interventions that do the same, and what it puts in or takes away."""

    graph: rw.Graph
    change: Mapping[str, Change]
    new: tuple[str, ...] = ()  # parts that are sites of the same name
    gone: tuple[str, ...] = ()  # parts that are constants, or that no direct edge leaves


def ops(family: str) -> rw.Graph:
    return traced(family, DTYPE).graph


def heads(family: str) -> rw.Graph:
    return traced(family, DTYPE).parts.as_graph()


def hands(family: str, change: Mapping[str, Change] = {}) -> Hands:
    return Hands(traced(family, DTYPE).model, HEADS, change)


def module(family: str, name: str) -> str:
    """The path of a module that `hands` knows."""
    wanted = hands(family).at[name]
    return next(path for path, m in traced(family, DTYPE).model.named_modules() if m is wanted)


def without(family: str, layer: int, head: int, by: Tensor | float = 0.0) -> Change:
    """What a layer writes, with a constant in place of one head."""
    at = hands(family)

    def change(value: Tensor, seen: Values) -> Tensor:
        return value - at.written(f"a{layer}.h{head}", seen) + by

    return change


def seeded(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=DTYPE, generator=torch.Generator().manual_seed(0))


class Probe(nn.Module):
    """A bottleneck with an activation, as autoencoders are."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.down, self.up = nn.Linear(32, 5, dtype=DTYPE), nn.Linear(5, 32, dtype=DTYPE)

    def forward(self, x: Tensor) -> Tensor:
        return self.up(torch.relu(self.down(x)))


def stream(family: str, layer: int) -> str:
    """The operator that writes the stream in front of a layer."""
    reads = match.read_by(match.module(module(family, f"na{layer}")))
    return ops(family).expect(match.op("add") & match.shape("batch", "seq", 32) & reads, 1)[0]


# --- cases: edits of operators ----------------------------------------------------------------


def frozen_last_norm(family: str) -> Case:
    """As the recipe: the scale of the last norm is what it is on other inputs."""
    graph = ops(family)
    if family == "gpt2":
        graph = graph.rewrite(rules.split_norm, at=match.module(module(family, "norm")))
    scale = graph.find(match.op("rsqrt") & match.module(module(family, "norm")))[-1]
    model = hands(family)
    norm, theirs = model.at["norm"], model.run(D["input_ids"])[1][">norm"]

    def change(value: Tensor, seen: Values) -> Tensor:
        x = seen[">norm"]
        if family != "gpt2":  # in single precision, as the model has it
            scale = (theirs.float().pow(2).mean(-1, keepdim=True) + norm.variance_epsilon).rsqrt()
            return norm.weight * (x.float() * scale).to(DTYPE)
        x = x - x.mean(-1, keepdim=True)
        return norm.weight * x / (theirs.var(-1, keepdim=True, unbiased=False)
                                  + norm.eps).sqrt() + norm.bias

    return Case(graph.freeze(scale, D), {"norm": change})


def probe_in_the_stream(family: str) -> Case:
    probe = Probe()
    return Case(ops(family).insert(stream(family, 1), probe, name="probe"),
                {"block1": lambda x, seen: probe(x)}, ("block1",))


def probe_with_error(family: str) -> Case:
    return Case(ops(family).insert(stream(family, 1), Probe(), name="probe", error=True), {})


def function_in_the_stream(family: str) -> Case:
    """A function without a name, which writes in place and reads sizes."""
    def function(x: Tensor) -> Tensor:
        x = x.clone()
        x[:, -1] = 0.5
        x[..., 3:9] *= x.shape[1]
        return x

    return Case(ops(family).insert(stream(family, 1), function),
                {"block1": lambda x, seen: function(x)})


def frozen_stream(family: str) -> Case:
    """At one token the stream is that of another sentence."""
    theirs = hands(family).run(D["input_ids"])[1]["block1"]

    def change(x: Tensor, seen: Values) -> Tensor:
        x = x.clone()
        x[:, 3] = theirs[:, 3]
        return x

    at = (slice(None), 3)
    return Case(ops(family).ablate(stream(family, 1), "resample", at=at, inputs=D),
                {"block1": change})


def other_mlp(family: str) -> Case:
    probe = Probe()
    return Case(ops(family).substitute(module(family, "m0"), probe),
                {"m0": lambda value, seen: probe(seen[">m0"])})


def grafted(family: str) -> Case:
    """MLPs of another checkpoint, which lives in the same graph."""
    torch.manual_seed(7)
    other = tiny(family, DTYPE)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1.1)
    theirs = Hands(other, HEADS, {}).at["m1"]
    edited = ops(family).graft(ops(family).with_weights(other), match.module(module(family, "m1")))
    return Case(edited, {"m1": lambda value, seen: theirs(seen[">m1"])})


def other_activation(family: str) -> Case:
    """Rules of one's own, on operators."""
    if family == "gpt2":
        rule = rw.rule("half", "tanh(x) = tanh(x) * 0.5", examples="x: b s d", once=True)
        edited = ops(family).rewrite(rule)

        def act(x: Tensor) -> Tensor:
            inner = 0.7978845608028654 * (x + 0.044715 * x.pow(3))
            return 0.5 * x * (1 + 0.5 * torch.tanh(inner))

        def change(layer: int) -> Change:
            mlp = hands(family).at[f"m{layer}"]
            return lambda value, seen: mlp.c_proj(act(mlp.c_fc(seen[f">m{layer}"])))
    else:
        rule = rw.rule("open", "silu(x) = x * sigmoid(x)", examples="x: b s d")
        edited = ops(family).rewrite(rule)

        def change(layer: int) -> Change:
            return lambda value, seen: value
    return Case(edited, {f"m{layer}": change(layer) for layer in (0, 1)})


def uniform_pattern(family: str) -> Case:
    """Attention opened, and a function put behind the pattern of one head."""
    def uniform(pattern: Tensor) -> Tensor:
        flat = torch.ones_like(pattern).tril()
        this = torch.arange(pattern.shape[1])[:, None, None] == 2
        return torch.where(this, flat / flat.sum(-1, keepdim=True), pattern)

    layer = match.module(module(family, "a1") + ".*") | match.module(module(family, "a1"))
    opened = ops(family).rewrite(rules.open_attention, at=layer)
    edited = opened.insert((match.op("_safe_softmax") | match.op("softmax")) & layer, uniform)
    at = hands(family)

    def change(value: Tensor, seen: Values) -> Tensor:
        x, attention = seen["na1"], at.at["a1"]
        v = at.at["q1"](x)[..., 64:] if family == "gpt2" else attention.v_proj(x)
        v = v.unflatten(-1, (-1, 8)).repeat_interleave(32 // v.shape[-1], 2)[:, :, 2]
        count = torch.arange(1, x.shape[1] + 1, dtype=DTYPE)[:, None]
        value = value.clone()
        value[..., at.share(1, 2)] = v.cumsum(1) / count
        return value

    return Case(edited, {"z1": change})


# --- cases: edits of parts --------------------------------------------------------------------


def ablated_head(family: str) -> Case:
    return Case(heads(family).ablate("a0.h1"), {"a0": without(family, 0, 1)}, gone=("a0.h1",))


def mean_heads(family: str) -> Case:
    """All heads of a layer at their mean over some inputs."""
    at, change = hands(family), {}
    seen = at.run(A)[1]
    means = [at.written(f"a1.h{h}", seen).mean((0, 1)) for h in range(HEADS)]
    bias = getattr(at.at["o1"], "bias", None)
    change = {"a1": lambda value, seen: (sum(means) + (0 if bias is None else bias)).expand_as(
        value)}
    return Case(heads(family).ablate("a1.h*", "mean", inputs=C), change,
                gone=tuple(f"a1.h{h}" for h in range(HEADS)))


def resampled_head(family: str) -> Case:
    at = hands(family)
    theirs = at.written("a1.h3", at.run(D["input_ids"])[1])
    return Case(heads(family).ablate("a1.h3", "resample", inputs=D),
                {"a1": without(family, 1, 3, theirs)}, gone=("a1.h3",))


def head_at_one_position(family: str) -> Case:
    """Noise at the last position: what is left of the head is a part still."""
    at = hands(family)
    edited = heads(family).ablate("a0.h2", 0.25, at=(slice(None), -1))

    def change(value: Tensor, seen: Values) -> Tensor:
        value = value.clone()
        value[:, -1] += 0.25 - at.written("a0.h2", seen)[:, -1]
        return value

    return Case(edited, {"a0": change})


def other_query(family: str) -> Case:
    """The queries of one head read through an adapter."""
    probe, at = Probe(), hands(family)

    def change(value: Tensor, seen: Values) -> Tensor:
        value = value.clone()
        queries = at.at["q1"](at.at["na1"](probe(seen["block1"])))
        value[..., at.share(1, 2)] = queries[..., at.share(1, 2)]
        return value

    reads = "resid2" if family == "gpt2" else "resid1"
    edited = heads(family).splice(reads, "a1.h2", probe, "q", name="adapter")
    return Case(edited, {"q1": _alone(change)})


def early_query(family: str) -> Case:
    """One head asks what it would have asked in front of the first layer."""
    at = hands(family)

    def change(value: Tensor, seen: Values) -> Tensor:
        value = value.clone()
        queries = at.at["q1"](at.at["na1"](seen["block0"]))
        value[..., at.share(1, 1)] = queries[..., at.share(1, 1)]
        return value

    first = "resid0" if family == "gpt2" else "embed"
    second = "resid2" if family == "gpt2" else "resid1"
    return Case(heads(family).rewire("a1.h1", second, first, "q"), {"q1": _alone(change)})


def _alone(change: Change) -> Change:
    """A change that may call modules with hooks: while it does, it is off."""
    busy = False

    def once(value: Tensor, seen: Values) -> Tensor:
        nonlocal busy
        if busy:
            return value
        busy, kept = True, dict(seen)
        try:
            return change(value, seen)
        finally:
            busy = False
            seen.clear()
            seen.update(kept)

    return once


def halved_head(family: str) -> Case:
    """A function behind one head."""
    at = hands(family)
    return Case(heads(family).insert("a1.h2", lambda value: value / 2, name="half"),
                {"a1": lambda value, seen: value - at.written("a1.h2", seen) / 2})


def tanh_mlp(family: str) -> Case:
    """A function in place of an MLP and its norm."""
    return Case(heads(family).replace("m1", torch.tanh),
                {"m1": lambda value, seen: torch.tanh(seen[">nm1"])})


def deleted_mlp(family: str) -> Case:
    """An MLP hands on what it reads, as one more term of the stream."""
    return Case(heads(family).delete("m0"), {"m0": lambda value, seen: seen[">nm0"]}, gone=("m0",))


def opened_mlp(family: str) -> Case:
    return Case(heads(family).inline("m0").inline("a1.h1"), {})


def direct_path_cut(family: str) -> Case:
    """The logits get sums of their own, in which a head is missing."""
    parts = match.kind("head") | match.kind("mlp")
    last = heads(family).get("logits").args[0].name
    own = heads(family).duplicate(last, readers="logits", upto=parts)
    edited = own.cut("a0.h3", "a0.out_copy")
    at = hands(family)
    return Case(edited, {">norm": lambda x, seen: x - at.written("a0.h3", seen)})


def probe_among_parts(family: str) -> Case:
    probe = Probe()
    at = "resid2" if family == "gpt2" else "resid1"
    return Case(heads(family).insert(at, probe, name="probe"),
                {"block1": lambda x, seen: probe(x)}, ("block1",))


def edited_twice(family: str) -> Case:
    """Surgery, parts, surgery on these, parts."""
    once = heads(family).ablate("a0.h1").components().as_graph()
    twice = once.ablate("a1.h0", 0.5).replace("m1", torch.tanh)
    return Case(twice, {"a0": without(family, 0, 1), "a1": without(family, 1, 0, 0.5),
                        "m1": lambda value, seen: torch.tanh(seen[">nm1"])},
                gone=("a0.h1", "a1.h0"))


CASES = (frozen_last_norm, probe_in_the_stream, probe_with_error, function_in_the_stream,
         frozen_stream, other_mlp, grafted, other_activation, uniform_pattern, ablated_head,
         mean_heads, resampled_head, head_at_one_position, other_query, early_query, halved_head,
         tanh_mlp, deleted_mlp, opened_mlp, direct_path_cut, probe_among_parts, edited_twice)


@cache
def case(make: Callable[[str], Case], family: str) -> Case:
    return make(family)


def written(at: Case) -> list[str]:
    """Parts whose writing can be patched by hand."""
    return [name for name in ("embed", "m0", "m1", *(
        f"a{i}.h{j}" for i in (0, 1) for j in range(HEADS))) if name not in at.gone]


def expanded(parts: rw.Components, pattern: str) -> tuple[Tensor, Tensor]:
    """Logits of the expansion, one copy after the other and stacked."""
    exp = rw.expand(rw.Hypothesis(parts, {"clean": pattern}))
    with torch.no_grad():
        return tuple(call(clean={"input_ids": A}, corrupt={"input_ids": B}).logits
                     for call in (exp, exp.run))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("make", CASES)
def test_surgery_then_paths(make: Callable[[str], Case], family: str) -> None:
    at = case(make, family)
    by_hand, parts = hands(family, at.change), at.graph.components()
    plain = by_hand.run(B)[0]
    assert error(at.graph(input_ids=B).logits, plain) <= BOUND
    assert error(parts(input_ids=B).logits, plain) <= BOUND
    draw = Random(f"{make.__name__} {family}")
    for name in draw.sample(written(at), 2):
        for found in expanded(parts, name):
            assert error(found, by_hand.node(name, A, B)) <= BOUND, name
    for site in at.new:
        for found in expanded(parts, "probe"):
            assert error(found, by_hand.node(site, A, B)) <= BOUND


@pytest.mark.parametrize("family", ["gpt2", "bert", "gpt_neox"])
def test_parts_of_a_graph_of_parts_are_the_same(family: str) -> None:
    parts = traced(family, DTYPE).parts
    again = parts.as_graph().components()
    assert again.names == parts.names and set(again.edges) == set(parts.edges)


def test_constants_are_told_and_names_stay() -> None:
    parts = traced("llama", DTYPE).parts
    edited = parts.as_graph().ablate("a0.h1").insert("resid1", Probe(), name="m1_probe")
    cut = edited.components()
    assert [n for n in cut.names if n != "m1_probe"] == [n for n in parts.names if n != "a0.h1"]
    assert "a0.h1 is a constant: no path runs through it" in cut.notes
    taken = ops("llama").insert(stream("llama", 1), Probe(), name="m1").components()
    assert set(taken.names) == {*parts.names, "m1.1"}  # m1 is still the model's own


def test_saved_loaded_and_cut(tmp_path: Path) -> None:
    edited = heads("llama").ablate("a0.h1").insert("resid1", Probe(), name="probe")
    loaded, cut = rw.load(rw.save(edited, tmp_path / "g.graph")), edited.components()
    again = loaded.components()
    assert again.names == cut.names and set(again.edges) == set(cut.edges)
    assert error(again(input_ids=B).logits, edited(input_ids=B).logits) <= BOUND


@pytest.mark.parametrize("function", [
    lambda x: x - x.mean(0, keepdim=True), lambda x: x.roll(1, 0), lambda x: x[:1].expand_as(x)])
def test_what_mixes_examples_is_not_stacked(function: Callable[[Tensor], Tensor]) -> None:
    parts = ops("llama").insert(stream("llama", 1), function).components()
    several = rw.expand([rw.Hypothesis(parts, {"clean": name}) for name in ("m0", "a0.h1")])
    runs = {"clean": {"input_ids": A}, "corrupt": {"input_ids": B}}
    assert several.not_stacked
    with torch.no_grad():
        for one, other in zip(several(**runs), several.run(**runs), strict=True):
            assert error(one.logits, other.logits) <= BOUND


QUESTIONS: dict[str, Callable[[Tensor], bool]] = {
    "input_ids.shape[1] > 3": lambda x: x.shape[1] > 3,
    "input_ids.shape[1] >= 4": lambda x: x.shape[1] >= 4,
    "input_ids.shape[0] + input_ids.shape[1] > 4": lambda x: x.shape[0] + x.shape[1] > 4,
}


@pytest.mark.parametrize("guard", QUESTIONS)
def test_a_question_is_answered_each_time(guard: str) -> None:
    """What a function learned about sizes is not known to the next: each has its condition."""
    at, ask = stream("llama", 1), QUESTIONS[guard]
    for _ in range(3):
        cut = ops("llama").insert(at, lambda x: x * 2 if ask(x) else x).components()
        assert cut.graph.guards == (*ops("llama").guards, guard)


def test_functions_that_ask() -> None:
    """Of sizes: a condition on the inputs.  Of values: an error."""
    at = stream("llama", 1)
    cut = ops("llama").insert(at, lambda x: x * 2 if x.shape[1] > 3 else x).components()
    assert "input_ids.shape[1] > 3" in cut.graph.guards
    with pytest.raises(RewriteError, match=r"shape\[1\] > 3"):
        cut(input_ids=tokens(2, 3))
    with pytest.raises(RewriteError, match=r"not look at values: torch.where"):
        ops("llama").insert(at, lambda x: x * 2 if x.sum() > 0 else x).components()
