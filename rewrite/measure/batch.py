"""Examples of equal length, stacked: what a model runs and a metric reads."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from rewrite.ir.layout import Layout


@dataclass(frozen=True, eq=False)
class Batch:
    """Examples of equal length, ready for a model.

    `inputs[run][name]` is `[batch, ...]`, `index` says where in the data set each example
    stands, `labels[name]` is `[batch]` (or `[batch, seq]`, say for a mask of tokens).
    `positions[name]` says where a named position is: `[batch]`, `[batch, n]`, or a mask.
    `layout` says what is known of the axes of the outputs, and of padding; without one,
    `attention_mask` is 1 at tokens.
    """

    inputs: dict[str, dict[str, Tensor]]
    index: Int64[Tensor, " batch"]
    labels: dict[str, Tensor]
    reference: str
    positions: dict[str, Tensor] = field(default_factory=dict)
    layout: Layout | None = None

    def __len__(self) -> int:
        return len(self.index)

    def to(self, device: torch.device | str) -> Batch:
        """The same batch with all but `index` on `device`."""
        inputs = {
            run: {name: value.to(device) for name, value in values.items()}
            for run, values in self.inputs.items()
        }
        labels = {name: value.to(device) for name, value in self.labels.items()}
        places = {name: value.to(device) for name, value in self.positions.items()}
        return replace(self, inputs=inputs, labels=labels, positions=places)

    def copied(self) -> Batch:
        """The same batch over copies of all tensors, which may be written to."""
        inputs = {run: {name: value.clone() for name, value in values.items()}
                  for run, values in self.inputs.items()}
        labels = {name: value.clone() for name, value in self.labels.items()}
        places = {name: value.clone() for name, value in self.positions.items()}
        return replace(self, inputs=inputs, index=self.index.clone(), labels=labels,
                       positions=places)

    def ids(self, length: str | None) -> Tensor | None:
        """Token ids `[batch, positions]` of a length that the layout names."""
        if self.layout is None:
            return self.tokens
        return self.inputs[self.reference].get(self.layout.tokens.get(length or "", ""))

    def real(self, length: str | None) -> Bool[Tensor, "batch seq"] | None:
        """True at tokens, False at padding, of a length that the layout names; None without any."""
        if self.layout is None:
            return self.mask
        return self.layout.real(self.inputs[self.reference]).get(length or "")

    @property
    def tokens(self) -> Tensor | None:
        """Token ids `[batch, seq]` that the logits belong to: the decoder's, if it has its own."""
        values = self.inputs[self.reference]
        return values.get("decoder_input_ids", values.get("input_ids"))

    @property
    def mask(self) -> Bool[Tensor, "batch seq"] | None:
        """True at tokens, False at padding, `[batch, seq]`; None if there is no such mask."""
        if self.layout is not None and (found := self.layout.real(self.inputs[self.reference])):
            own = [length for length in self.layout.tokens if length in found] or list(found)
            return found[own[-1]]
        values = self.inputs[self.reference]
        decoder = "decoder_" if "decoder_input_ids" in values else ""
        mask = values.get(f"{decoder}attention_mask")
        return mask.bool() if mask is not None and mask.ndim == 2 else None
