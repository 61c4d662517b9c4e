"""Known interventions done by hand with forward hooks, against path sets."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from random import Random

import pytest
import torch
from torch import Tensor, nn

import rewrite as rw
from tests.zoo import error, tokens, traced

A, B = tokens(3, 7, seed=3), tokens(3, 7, seed=4)
WRITERS = ["embed", "a0", "m0", "a1", "m1"]
READERS = ["a0", "m0", "a1", "m1", "logits"]  # reader i sees the writers up to i
EDGES = [(s, r) for i, r in enumerate(READERS) for s in WRITERS[: i + 1]]
Bound = pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-4), (torch.float64, 1e-9)])
families = pytest.mark.parametrize("family", ["gpt2", "llama", "qwen3"])


def sites(family: str, model: nn.Module) -> tuple[dict[str, nn.Module], dict[str, nn.Module]]:
    """Modules whose outputs are written to the stream, and whose inputs are read from it."""
    if family == "gpt2":
        body = model.transformer
        writers = {"embed": body.wte}
        readers = {"logits": body.ln_f}
        for index, block in enumerate(body.h):
            writers |= {f"a{index}": block.attn, f"m{index}": block.mlp}
            readers |= {f"a{index}": block.ln_1, f"m{index}": block.ln_2}
        return writers, readers
    body = model.model
    writers, readers = {"embed": body.embed_tokens}, {"logits": body.norm}
    for index, block in enumerate(body.layers):
        writers |= {f"a{index}": block.self_attn, f"m{index}": block.mlp}
        readers |= {f"a{index}": block.input_layernorm, f"m{index}": block.post_attention_layernorm}
    return writers, readers


@contextmanager
def hooked(
    family: str, model: nn.Module, edit: Callable[[str, dict[str, Tensor]], Tensor | float]
) -> Iterator[dict[str, Tensor]]:
    """Run with `edit(reader, values written so far)` added to what each reader reads."""
    written: dict[str, Tensor] = {}
    writers, readers = sites(family, model)

    def write(name: str) -> Callable[..., None]:
        def keep(module: nn.Module, args: object, output: object) -> None:
            written[name] = output[0] if isinstance(output, tuple) else output
        return keep

    def read(name: str) -> Callable[..., tuple[Tensor]]:
        return lambda module, args: (args[0] + edit(name, written),)

    with ExitStack() as stack, torch.no_grad():
        for name, module in writers.items():
            stack.callback(module.register_forward_hook(write(name)).remove)
        for name, module in readers.items():
            stack.callback(module.register_forward_pre_hook(read(name)).remove)
        yield written


def cached(family: str, model: nn.Module, ids: Tensor) -> dict[str, Tensor]:
    """What every writer writes in a plain forward."""
    with hooked(family, model, lambda reader, written: 0.0) as written:
        model(input_ids=ids)
    return dict(written)


def two_passes(
    family: str, model: nn.Module, edges: set[tuple[str, str]], source: Tensor, base: Tensor
) -> Tensor:
    """Edge patching: a reader gets what the writers of its edges wrote in the other run."""
    other = cached(family, model, source)

    def edit(reader: str, written: dict[str, Tensor]) -> Tensor | float:
        return sum((other[s] - written[s] for s, r in edges if r == reader), 0.0)

    with hooked(family, model, edit):
        return model(input_ids=base).logits


def expanded(parts: rw.Components, pattern: str) -> Tensor:
    with torch.no_grad():
        exp = rw.expand(rw.Hypothesis(parts, {"clean": pattern}))
        return exp(clean={"input_ids": A}, corrupt={"input_ids": B}).logits


@families
@Bound
def test_4_one_edge(family: str, dtype: torch.dtype, bound: float) -> None:
    at = traced(family, dtype)
    for writer, reader in [("m0", "m1"), ("m0", "logits"), ("a0", "a1"), ("embed", "m0")]:
        by_hand = two_passes(family, at.model, {(writer, reader)}, A, B)
        assert error(expanded(at.parts, f"{writer} -> {reader}"), by_hand) <= bound


@families
@Bound
def test_4_random_edges_patched_in(family: str, dtype: torch.dtype, bound: float) -> None:
    """Two passes, edges of a random mask from the clean run: paths that contain one of them."""
    at = traced(family, dtype)
    for seed in range(4):
        edges = set(Random(seed).sample(EDGES, 3))
        by_hand = two_passes(family, at.model, edges, A, B)
        pattern = " | ".join(f"{writer} -> {reader}" for writer, reader in sorted(edges))
        assert error(expanded(at.parts, pattern), by_hand) <= bound


@families
@Bound
def test_4_all_other_edges_ablated(family: str, dtype: torch.dtype, bound: float) -> None:
    """A circuit C with the edges outside read from the corrupt run: paths that lie in C."""
    at = traced(family, dtype)
    for seed in range(4):
        outside = set(Random(seed).sample(EDGES, 5))
        by_hand = two_passes(family, at.model, outside, B, A)
        pattern = " | ".join(f"{writer} -> {reader}" for writer, reader in sorted(outside))
        assert error(expanded(at.parts, f"~({pattern})"), by_hand) <= bound


@families
@Bound
def test_node_patching(family: str, dtype: torch.dtype, bound: float) -> None:
    """All edges out of a writer are patched: all paths through it."""
    at = traced(family, dtype)
    for writer in WRITERS:
        edges = {edge for edge in EDGES if edge[0] == writer}
        by_hand = two_passes(family, at.model, edges, A, B)
        assert error(expanded(at.parts, writer), by_hand) <= bound


# The direct effect of a head on the logits.


def read_by(module: nn.Module, model: nn.Module, ids: Tensor) -> Tensor:
    """The input of one module in a plain forward."""
    seen: list[Tensor] = []
    handle = module.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    with torch.no_grad():
        model(input_ids=ids)
    handle.remove()
    return seen[0]


def contribution(family: str, model: nn.Module, layer: int, head: int, ids: Tensor) -> Tensor:
    """What one head adds to the stream: its slice of the output projection's input and weight."""
    if family == "gpt2":
        projection = model.transformer.h[layer].attn.c_proj
        weight = projection.weight
    else:
        projection = model.model.layers[layer].self_attn.o_proj
        weight = projection.weight.T
    size = weight.shape[0] // 4
    part = slice(head * size, (head + 1) * size)
    return (read_by(projection, model, ids)[..., part] @ weight[part]).detach()


@families
@Bound
def test_the_direct_path_of_a_head(family: str, dtype: torch.dtype, bound: float) -> None:
    at = traced(family, dtype)
    norm = sites(family, at.model)[1]["logits"]
    for layer, head in [(0, 1), (1, 2), (1, 3)]:
        stream = read_by(norm, at.model, B)
        clean = contribution(family, at.model, layer, head, A)
        corrupt = contribution(family, at.model, layer, head, B)
        with torch.no_grad():
            by_hand = at.model.lm_head(norm(stream - corrupt + clean))
        found = expanded(at.parts, f"a{layer}.h{head} -> logits")
        assert error(found, by_hand) <= bound
        assert error(found, at.model(input_ids=B).logits) > 1e-3
