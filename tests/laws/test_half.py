"""Half precision: copies that read equal values are equal bits, and errors are those of hooks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from random import Random
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

import rewrite as rw
from tests.models.table import TABLE
from tests.zoo import tiny, tokens, trace

BF16, FP16 = torch.bfloat16, torch.float16
Effects = dict[str, Tensor]  # of a hypothesis by its paths, for each example


# equal readings, equal bits


def drawn(parts: rw.Components, chance: Random) -> str:
    """Paths by nodes and edges, at positions and by hops."""
    symbols = [s for s in parts.dag.symbols if s not in parts.dag.sources]
    head, symbol = chance.choice(parts.heads), chance.choice(symbols)
    window = f"{head}.{chance.choice('kv')}{chance.choice(['[-1]', '[0]', '[-2:0]'])}"
    return chance.choice([
        " -> ".join(chance.choice(parts.edges)), symbol, window if "dec." not in window else head,
        symbol + chance.choice(["@END", "@[3]", "@[-2:]"])])


def hypothesis(parts: rw.Components, chance: Random) -> rw.Hypothesis:
    """Some of them together; asked again where a part has no positions."""
    while True:
        paths = " | ".join(drawn(parts, chance) for _ in range(chance.randint(1, 3)))
        found = rw.Hypothesis(parts, {"corrupt": paths}, "clean")
        try:
            _ = rw.expand(found).places
        except rw.RewriteError:
            continue
        return found


def same_prompt(parts: rw.Components, batch: int, seed: int) -> dict[str, Tensor]:
    return {spec.name: tokens(batch, 6, seed) if "ids" in spec.name and "type" not in spec.name
            else torch.full((batch, 6), int("mask" in spec.name)) for spec in parts.graph.inputs}


@pytest.mark.parametrize(("family", "dtype"), [
    ("gpt2", BF16), ("llama", BF16), ("gemma2", FP16), ("bert", BF16), ("t5", BF16),
    ("mixtral", BF16)])
def test_a_prompt_patched_with_itself(family: str, dtype: torch.dtype, draws: int = 3) -> None:
    """By any paths, alone and with others: not one bit is another."""
    parts = trace(TABLE[family].build(dtype)).components()
    chance = Random(family)
    for seed in range(draws):
        made = [hypothesis(parts, chance) for _ in range(chance.randint(1, 4))]
        null, batch = rw.Hypothesis(parts, {"corrupt": rw.PathSet.none()}, "clean"), seed % 3 + 1
        exp = rw.expand([null, *made], last=chance.random() < 0.5)
        inputs = same_prompt(parts, batch, seed)
        runs, at = dict.fromkeys(exp.runs, inputs), {"END": [chance.randrange(6)] * batch}
        with torch.no_grad():
            first, *others = (each[0] for each in exp.module(*exp.arguments(runs, at)))
            reference, *stacked = exp.together(*exp.all_arguments(runs, at))[0].split(batch)
            alone = tree_leaves(rw.expand(made[0])(at, **runs))[0]
            plain = tree_leaves(parts.graph.flat(**inputs))[0]
        assert all(torch.equal(value, first) for value in others), made
        assert all(torch.equal(value, reference) for value in stacked), made
        assert torch.equal(alone, plain), made[0]


@pytest.mark.parametrize("metric", ["logit_diff", "kl_divergence"])
def test_effects_of_every_edge_are_zero(metric: str) -> None:
    parts = trace(tiny("llama", BF16)).components()
    inputs = {"input_ids": tokens(3, 6)}
    pairs = rw.Pairs.from_tensors({"clean": inputs, "corrupt": inputs}, labels={
        "correct": torch.arange(3), "wrong": torch.arange(3) + 9})
    for chunk in (300, 41):
        found = rw.sweep(parts, "*", "*", each=True, pairs=pairs, metric=metric, chunk=chunk)
        assert (found.table["effect"] == 0).all()


# effects beside those of hooks


class Hooks:
    """Patching by forward hooks on the modules of a model."""

    def __init__(self, family: str, model: nn.Module) -> None:
        self.model, self.width = model, 8
        if family == "gpt2":
            blocks = model.transformer.h
            self.joins = [b.attn.c_proj for b in blocks]
            self.queries, self.mlps = [b.attn.c_attn for b in blocks], [b.mlp for b in blocks]
        elif family == "llama":
            blocks = model.model.layers
            self.joins = [b.self_attn.o_proj for b in blocks]
            self.queries = [b.self_attn.q_proj for b in blocks]
            self.mlps = [b.mlp for b in blocks]
        else:
            self.joins = [b.attention.output.dense for b in model.bert.encoder.layer]
            self.queries = self.mlps = []

    def features(self, head: int) -> slice:
        return slice(head * self.width, (head + 1) * self.width)

    @contextmanager
    def hooked(self, hooks: list[tuple[nn.Module, bool, Callable[..., Any]]]) -> Iterator[None]:
        with ExitStack() as stack, torch.no_grad():
            for module, before, hook in hooks:
                register = module.register_forward_pre_hook if before else (
                    module.register_forward_hook)
                stack.callback(register(hook).remove)
            yield

    def plain(self, ids: Tensor) -> tuple[Tensor, dict[nn.Module, Tensor], dict[nn.Module, Tensor]]:
        """Logits at the end, and what each module reads and writes."""
        reads: dict[nn.Module, Tensor] = {}
        writes: dict[nn.Module, Tensor] = {}

        def keep(module: nn.Module, args: Any, output: Any) -> None:
            reads[module], writes[module] = args[0], output

        modules = {*self.joins, *self.mlps, *self.queries}
        with self.hooked([(module, False, keep) for module in modules]):
            return self.model(input_ids=ids).logits[:, -1], reads, writes

    def put(self, head: int, other: Tensor) -> Callable[..., Any]:
        """Before a projection: the features of a head as they are in the other run."""
        def hook(module: nn.Module, args: Any) -> tuple[Tensor]:
            value = args[0].clone()
            value[..., self.features(head)] = other[..., self.features(head)]
            return (value,)
        return hook

    def node(self, ids: Tensor, layer: int, head: int, other: Tensor) -> Tensor:
        """All paths through a head."""
        with self.hooked([(self.joins[layer], True, self.put(head, other))]):
            return self.model(input_ids=ids).logits[:, -1]

    def direct(
        self, ids: Tensor, layer: int, head: int, other: Tensor, writes: dict[nn.Module, Tensor]
    ) -> tuple[Tensor, dict[nn.Module, Tensor]]:
        """Its direct paths: all that others write is frozen; and what queries then are."""
        found: dict[nn.Module, Tensor] = {}
        frozen = [module for module in (*self.joins, *self.mlps) if module != self.joins[layer]]
        hooks = [(module, False, lambda module, args, output: writes[module])
                 for module in frozen]
        hooks += [(module, False, lambda module, args, output: found.update({module: output}))
                  for module in self.queries]
        hooks.append((self.joins[layer], True, self.put(head, other)))
        with self.hooked(hooks):
            return self.model(input_ids=ids).logits[:, -1], found

    def query(self, ids: Tensor, layer: int, head: int, other: Tensor) -> Tensor:
        """All paths through a query."""
        def hook(module: nn.Module, args: Any, output: Tensor) -> Tensor:
            value = output.clone()
            value[..., self.features(head)] = other[..., self.features(head)]
            return value
        with self.hooked([(self.queries[layer], False, hook)]):
            return self.model(input_ids=ids).logits[:, -1]


def difference(logits: Tensor) -> Tensor:
    return (logits[:, 1::2].double() - logits[:, :-1:2].double()).flatten()


def by_hooks(family: str, model: nn.Module, a: Tensor, b: Tensor) -> Effects:
    hooks = Hooks(family, model)
    clean, _, writes = hooks.plain(a)
    _, other, _ = hooks.plain(b)
    found: dict[str, Tensor] = {}
    for layer, head in [(i, h) for i in range(2) for h in range(4)]:
        z, name = other[hooks.joins[layer]], f"a{layer}.h{head}"
        found[name] = hooks.node(a, layer, head, z)
        if family == "bert":  # its stream passes a norm behind every head
            continue
        found[f"{name} -> logits"], queries = hooks.direct(a, layer, head, z, writes)
        if layer == 0:
            for h in range(4):
                found[f"{name} -> a1.h{h}.q"] = hooks.query(
                    a, 1, h, queries[hooks.queries[1]])
    return {paths: difference(value) - difference(clean) for paths, value in found.items()}


def by_paths(model: nn.Module, a: Tensor, b: Tensor, wanted: list[str], how: str) -> Effects:
    parts = trace(model).components()
    exp = rw.expand([rw.Hypothesis(parts, {"corrupt": paths or rw.PathSet.none()}, "clean")
                     for paths in (None, *wanted)], last=True)
    runs = {run: same_prompt(parts, 1, 0) | {"input_ids": ids}
            for run, ids in (("clean", a), ("corrupt", b))}
    for given in runs.values():
        given.update({name: value[:1].expand(len(a), -1).contiguous()
                      for name, value in given.items() if name != "input_ids"})
    with torch.no_grad():
        clean, *others = (each.logits[:, -1] for each in (
            exp(**runs) if how == "literal" else exp.run(**runs)))
    return {paths: difference(value) - difference(clean)
            for paths, value in zip(wanted, others, strict=True)}


@pytest.mark.parametrize("family", ["gpt2", "llama", "bert"])
def test_errors_are_those_of_hooks(family: str, examples: int = 16) -> None:
    """Against the same weights in double precision; one token differs, and effects are small."""
    model = tiny(family, BF16)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.mul_(0.3)
    a, b = tokens(examples, 6, 1), tokens(examples, 6, 1)
    b[:, 2] = tokens(examples, 1, 2)[:, 0]
    exact = by_hooks(family, deepcopy(model).double(), a, b)
    hooks = by_hooks(family, model, a, b)
    for how in ("stacked", "literal"):
        found = by_paths(model, a, b, list(exact), how)
        for kind in ("", "-> logits", ".q"):
            names = [n for n in exact if n.endswith(kind) and (kind or "->" not in n)]
            errors = [torch.cat([each[n] - exact[n] for n in names]).abs().mean() if names else 0
                      for each in (found, hooks)]
            assert errors[0] <= 1.2 * errors[1], (how, kind)
