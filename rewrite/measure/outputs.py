"""Where the logits are in what a model returned, and which of their rows a metric reads."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rewrite.errors import DataError, near

from .batch import Batch

Position = int | str | None
"""A row of the logits: counted from either end, a label with one per example, "all" or None."""


def logits(output: object, batch: Batch) -> Float[Tensor, "batch seq vocab"]:
    """Logits of a tensor, of a Hugging Face output, of a mapping, or of a tuple.

    Logits without a sequence axis (`[batch, classes]`) get one of length 1.  Half precision
    is read as float32.  Raises DataError if there are none or the batch is of another size.
    """
    found = _find(output)
    if found is None:
        raise DataError(
            f"no logits in an output of type {type(output).__name__}: return a tensor "
            "[batch, seq, vocab] or something with .logits, or measure with custom(function, name)"
        )
    if found.ndim not in (2, 3) or len(found) != len(batch):
        raise DataError(
            f"logits [batch, seq, vocab] of {len(batch)} examples are needed, "
            f"found shape {list(found.shape)}"
        )
    found = found if found.ndim == 3 else found[:, None]
    return found.to(torch.promote_types(found.dtype, torch.float32))


def row(output: object, position: Position, batch: Batch) -> Float[Tensor, "batch vocab"]:
    """The logits at one position of each example.

    Raises DataError for a position outside of the output, and for -1 where that is padding.
    """
    values = logits(output, batch)
    rows = values.shape[1]
    if position == -1:
        if rows > 1 and batch.mask is not None and not bool(batch.mask[:, -1].all()):
            raise DataError(
                "position=-1 is padding in some examples: pad on the left, or give their "
                "positions as a label and write its name: position='end'"
            )
        return values[:, -1]
    if batch.tokens is not None and rows < batch.tokens.shape[1]:
        raise DataError(
            f"position={position!r} needs every row, but the output has {rows} for "
            f"{batch.tokens.shape[1]} tokens; ask the model for all logits or use position=-1"
        )
    where = label(position, batch) if isinstance(position, str) else torch.tensor(position)
    where = where.to(values.device).expand(len(batch))
    if bool(((where < -rows) | (where >= rows)).any()):
        raise DataError(
            f"position={position!r} reads {where.tolist()}, but the output has {rows} rows"
        )
    return values[torch.arange(len(batch), device=values.device), where]


def every_row(
    reference: object, hypothesis: object, batch: Batch
) -> tuple[Float[Tensor, "batch seq vocab"], Float[Tensor, "batch seq vocab"]]:
    """All logits of both outputs; DataError if they are not of one shape."""
    left, right = logits(reference, batch), logits(hypothesis, batch)
    if left.shape != right.shape:
        raise DataError(
            f"both outputs must have the same rows, found {list(left.shape)} of the reference and "
            f"{list(right.shape)} of the hypothesis"
        )
    return left, right


def label(name: str, batch: Batch) -> Tensor:
    """A label of the batch; DataError says which there are."""
    if name not in batch.labels:
        raise DataError(
            f"this metric reads the label {name!r} and the data has no such label; "
            f"{near(name, batch.labels)}. Give it with the data: "
            f"Pairs.from_text(..., answers={{{name!r}: [...]}}) or "
            f"Pairs.from_tensors(..., labels={{{name!r}: ...}})"
        )
    return batch.labels[name]


def token(name: str, values: Float[Tensor, "batch vocab"], batch: Batch) -> Tensor:
    """A label that holds one token id per example, `[batch, 1]`, checked against the vocabulary."""
    ids = label(name, batch).to(values.device)
    vocab = values.shape[-1]
    if ids.shape != (len(batch),) or ids.is_floating_point() or ids.dtype == torch.bool:
        raise DataError(
            f"label {name!r} must be one token id per example, found {ids.dtype}{list(ids.shape)}"
        )
    if bool(((ids < 0) | (ids >= vocab)).any()):
        raise DataError(f"label {name!r} has token ids outside of 0..{vocab - 1}: {ids.tolist()}")
    return ids[:, None].long()


def mean_of_tokens(
    values: Float[Tensor, "batch seq"], mask: Tensor | None, batch: Batch, skip: int = 0
) -> Float[Tensor, " batch"]:
    """Mean over the positions where `mask` is True (None: all of them); see `counted`."""
    kept = counted(values, mask, batch, skip)
    return values.masked_fill(~kept, 0).sum(1) / kept.sum(1)


def counted(
    values: Float[Tensor, "batch seq"], mask: Tensor | None, batch: Batch, skip: int = 0
) -> Bool[Tensor, "batch seq"]:
    """Which `values` count: those where `mask` is True (None: all of them), some per example.

    The mask speaks of tokens; `values` are of all but the first `skip` tokens.
    """
    if mask is None:
        if values.shape[1] == 0:
            raise DataError("an example of one token has no next token to measure")
        return torch.ones_like(values, dtype=torch.bool)
    needed = [values.shape[0], values.shape[1] + skip]
    if list(mask.shape) != needed:
        raise DataError(f"a mask of tokens needs shape {needed}, found {list(mask.shape)}")
    mask = mask[:, skip:].to(values.device).bool()
    count = mask.sum(1)
    if bool((count == 0).any()):
        bare = batch.index[(count == 0).cpu()].tolist()
        raise DataError(f"the mask leaves no token to measure in examples {bare}")
    return mask


def finite(metric: str, values: Tensor, batch: Batch) -> Float[Tensor, " batch"]:
    """`values`, if they are one finite number per example; a DataError that says where not."""
    if values.shape != (len(batch),):
        raise DataError(
            f"metric {metric!r} must give one number per example, shape [{len(batch)}]; "
            f"found {list(values.shape)}"
        )
    bad = ~torch.isfinite(values.detach()).cpu()
    if bool(bad.any()):
        raise DataError(
            f"metric {metric!r} is not finite in examples {batch.index[bad].tolist()}: "
            f"{values.detach().cpu()[bad].tolist()}; look for NaN or infinite logits there"
        )
    return values


def _find(output: object) -> Tensor | None:
    if isinstance(output, Tensor):
        return output
    candidates: list[object] = [getattr(output, "logits", None)]
    if isinstance(output, Mapping):
        candidates.append(output.get("logits"))
    elif isinstance(output, tuple):
        candidates += list(output)  # Hugging Face: (loss, logits, ...); a loss has no axes
    for value in candidates:
        if isinstance(value, Tensor) and value.ndim >= 2:
            return value
    return None
