"""nnsight: one trace per edge, with the query of the receiver written by hand."""

from __future__ import annotations

import torch
from given import Edge, Given, Head, serve
from nnsight import NNsight
from torch import Tensor
from torch.nn.functional import layer_norm


class Traces:
    """nnsight leaves heads to its user: columns of the fused projection are recomputed."""

    def __init__(self, given: Given) -> None:
        self.given, self.model = given, NNsight(given.model)
        config = given.model.config
        self.size, self.width = config.n_embd // config.n_head, config.n_embd
        self.weights = [(b.ln_1.weight, b.ln_1.bias, b.ln_1.eps, b.attn.c_attn.weight,
                         b.attn.c_attn.bias, b.attn.c_proj.weight)
                        for b in given.model.transformer.h]

    def keep(self) -> Tensor:
        self.runs = [self._heads(ids) for ids in (self.given.patch, self.given.base)]
        return torch.empty(0)

    def forward(self) -> Tensor:
        model, base = self.model, self.given.base
        with model.trace(base):
            logits = model.output.logits.save()
        return self.given.metric(logits)[None]

    def edges(self, which: list[Edge]) -> Tensor:
        model, base, blocks, found = self.model, self.given.base, self.model.transformer.h, []
        width = self.width
        for sender, (layer, head) in which:
            difference = self._difference(sender)
            columns = slice(head * self.size, (head + 1) * self.size)
            scale, shift, eps, weight, bias, _ = self.weights[layer]
            weight, bias = weight[:, columns], bias[columns]
            with model.trace(base, logits_to_keep=1):
                stream = blocks[layer].ln_1.input + difference
                query = layer_norm(stream, (width,), scale, shift, eps) @ weight + bias
                blocks[layer].attn.c_attn.output[:, :, columns] = query
                logits = model.output.logits.save()
            found.append(self.given.metric(logits))
        return torch.stack(found)

    def direct(self, which: list[Head]) -> Tensor:
        model, base, found = self.model, self.given.base, []
        for sender in which:
            difference = self._difference(sender)
            with model.trace(base, logits_to_keep=1):
                model.transformer.ln_f.input = model.transformer.ln_f.input + difference
                logits = model.output.logits.save()
            found.append(self.given.metric(logits))
        return torch.stack(found)

    def _heads(self, ids: Tensor) -> list[Tensor]:
        model, blocks, found = self.model, self.model.transformer.h, []
        with model.trace(ids):
            found = [block.attn.c_proj.input for block in blocks].save()
        return found

    def _difference(self, sender: Head) -> Tensor:
        layer, head = sender
        rows = slice(head * self.size, (head + 1) * self.size)
        patch, base = (run[layer][..., rows] for run in self.runs)
        return (patch - base) @ self.weights[layer][-1][rows]


if __name__ == "__main__":
    serve(Traces)
