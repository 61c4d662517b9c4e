"""Sides of the comparison that run in this process: ours, and hooks written by hand."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import layer_norm

import rewrite as rw
from benchmarks.peers.given import Edge, Given, Head


@dataclass
class Ours:
    """All edges that are asked for are one expansion; it is made once for each set of edges."""

    given: Given
    made: dict[tuple[str, ...], rw.Expansion] = field(default_factory=dict)

    @cached_property
    def parts(self) -> rw.Components:
        """The component graph of the model."""
        return rw.trace(self.given.model).components()

    def keep(self) -> Tensor:
        """Nothing: both runs are part of the expansion."""
        return torch.empty(0)

    def forward(self) -> Tensor:
        """One hook-free forward pass of the traced components."""
        return self.given.metric(self.parts.module(self.given.base)[0])[None]

    @property
    def runs(self) -> dict[str, dict[str, Tensor]]:
        """The inputs of both runs."""
        return {"patch": {"input_ids": self.given.patch}, "base": {"input_ids": self.given.base}}

    def edges(self, which: list[Edge]) -> Tensor:
        """All edges in one run."""
        return self._metrics(self.edge_expansion(which))

    def direct(self, which: list[Head]) -> Tensor:
        """All direct paths in one run."""
        return self._metrics(self.expansion(*(f"a{a}.h{b} -> logits" for a, b in which)))

    def identity(self) -> rw.Expansion:
        """The model itself: all paths read one run."""
        return rw.expand(rw.Hypothesis(self.parts, {"base": rw.PathSet.all()}, "patch"))

    def edge_expansion(self, which: list[Edge]) -> rw.Expansion:
        """One output for each edge."""
        return self.expansion(*(f"a{a}.h{b} -> a{c}.h{d}.q" for (a, b), (c, d) in which))

    def expansion(self, *paths: str) -> rw.Expansion:
        """One output for each set of paths that reads the run `patch`."""
        if paths not in self.made:
            hypotheses = [rw.Hypothesis(self.parts, {"patch": p}, "base") for p in paths]
            self.made[paths] = rw.expand(hypotheses, last=True, columns=self.given.tokens)
        return self.made[paths]

    def _metrics(self, exp: rw.Expansion) -> Tensor:
        found = exp.run(**self.runs)
        return torch.stack([o.logits[:, 0, 0] - o.logits[:, 0, 1] for o in found])


@dataclass
class Hooks:
    """A forward pass of the Hugging Face model for each edge, logits at the last position."""

    given: Given
    patch: list[Tensor] = field(default_factory=list)  # what heads compute before c_proj
    base: list[Tensor] = field(default_factory=list)
    streams: list[Tensor] = field(default_factory=list)  # what layers and the last norm read

    def keep(self) -> Tensor:
        """The values of heads in both runs, and the stream of the run `base`."""
        model = self.given.model.transformer
        asked = [*(block.attn.c_proj for block in model.h), *(block.ln_1 for block in model.h),
                 model.ln_f]
        self.patch, base = (inputs(self.given.model, ids, asked)
                            for ids in (self.given.patch, self.given.base))
        self.base, self.streams = base[:len(model.h)], base[len(model.h):]
        return torch.empty(0)

    def forward(self) -> Tensor:
        """An ordinary forward pass."""
        return self.given.metric(self.given.model(self.given.base).logits)[None]

    def edges(self, which: list[Edge]) -> Tensor:
        """One pass for each edge, in which a hook writes the query of the receiver."""
        found = []
        for sender, (layer, head) in which:
            with self._query(layer, head, self.difference(sender)):
                found.append(self.metric(layer))
        return torch.stack(found)

    def direct(self, which: list[Head]) -> Tensor:
        """One pass for each head, in which a hook changes what the last norm reads."""
        found, norm = [], self.given.model.transformer.ln_f
        for sender in which:
            difference = self.difference(sender)
            with hooked(norm, lambda _, args, d=difference: (args[0] + d,)):
                found.append(self.metric(len(self.given.model.transformer.h)))
        return torch.stack(found)

    def metric(self, receiver: int) -> Tensor:
        """The metric of the run `base`; nothing differs before the layer of the receiver."""
        return self.given.metric(self.given.model(self.given.base, logits_to_keep=1).logits)

    def difference(self, sender: Head) -> Tensor:
        """What a head writes in the run `patch`, less what it writes in `base`."""
        layer, head = sender
        weight = self.given.model.transformer.h[layer].attn.c_proj.weight
        rows = self._columns(head)
        patch, base = (run[layer][..., rows] for run in (self.patch, self.base))
        return (patch - base) @ weight[rows]

    @contextmanager
    def _query(self, layer: int, head: int, difference: Tensor) -> Iterator[None]:
        block, columns, seen = self.given.model.transformer.h[layer], self._columns(head), []

        def rewritten(module: Any, args: Any, output: Tensor) -> Tensor:
            norm = block.ln_1
            normed = layer_norm(seen[0] + difference, norm.normalized_shape, norm.weight,
                                norm.bias, norm.eps)
            output[..., columns] = normed @ module.weight[:, columns] + module.bias[columns]
            return output

        handle = block.attn.c_attn.register_forward_hook(rewritten)
        with hooked(block.ln_1, lambda _, args: seen.append(args[0])):
            yield
        handle.remove()

    def _columns(self, head: int) -> slice:
        size = self.given.model.config.n_embd // self.given.model.config.n_head
        return slice(head * size, (head + 1) * size)


@dataclass
class Resumed(Hooks):
    """The same hooks, with everything before the receiver kept from the run `base`.

    This is as far as a loop over edges goes: half the model for an edge, and for a direct path
    nothing but the last norm and two rows of the unembedding.
    """

    def metric(self, receiver: int) -> Tensor:
        """The metric, from the stream that the layer of the receiver reads."""
        model, (first, second) = self.given.model, self.given.tokens
        stream, unembed = self.streams[receiver], model.lm_head.weight
        for block in model.transformer.h[receiver:]:
            stream = block(stream)
        return model.transformer.ln_f(stream)[:, -1] @ (unembed[first] - unembed[second])


@contextmanager
def hooked(module: Any, before: Any) -> Iterator[None]:
    """Call `before` with the arguments of a module each time it runs."""
    handle = module.register_forward_pre_hook(before)
    yield
    handle.remove()


def inputs(model: Any, ids: Tensor, modules: list[Any]) -> list[Tensor]:
    """What modules read in one forward pass."""
    found: dict[Any, Tensor] = {}
    with ExitStack() as stack:
        for module in modules:
            stack.enter_context(hooked(module, lambda m, args: found.update({m: args[0]})))
        model(ids, logits_to_keep=1)
    return [found[module] for module in modules]
