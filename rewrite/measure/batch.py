"""Examples of equal length, stacked: what a model runs and a metric reads."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Int64
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Batch:
    """Examples of equal length, ready for a model.

    `inputs[run][name]` is `[batch, ...]`, `index` says where in the data set each example
    stands, `labels[name]` is `[batch]` (or `[batch, seq]`, say for a mask of tokens).
    `positions[name]` says where a named position is: `[batch]`, `[batch, n]`, or a mask.
    """

    inputs: dict[str, dict[str, Tensor]]
    index: Int64[Tensor, " batch"]
    labels: dict[str, Tensor]
    reference: str
    positions: dict[str, Tensor] = field(default_factory=dict)

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

    @property
    def tokens(self) -> Tensor | None:
        """Token ids `[batch, seq]` that the logits belong to: the decoder's, if it has its own."""
        values = self.inputs[self.reference]
        return values.get("decoder_input_ids", values.get("input_ids"))

    @property
    def mask(self) -> Tensor | None:
        """True at tokens, False at padding, `[batch, seq]`; None if there is no such mask."""
        values = self.inputs[self.reference]
        decoder = "decoder_" if "decoder_input_ids" in values else ""
        mask = values.get(f"{decoder}attention_mask")
        return mask.bool() if mask is not None and mask.ndim == 2 else None
