"""What a metric reads of what a model returned: logits, rows of them, labels."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rewrite.errors import DataError, near
from rewrite.ir.layout import BATCH, LAST, Layout, Size
from rewrite.ir.nested import unnested

from .axes import SEQ, Axes, axes_of, call_with, remedy
from .batch import Batch

if TYPE_CHECKING:
    from .metrics import Metric


@dataclass(frozen=True)
class Read:
    """Logits as a metric reads them, `[batch, rows, classes]`, and where their axes came from."""

    values: Float[Tensor, "batch rows classes"]
    axes: Axes


def read(metric: Metric, output: object, batch: Batch) -> Read:
    """The logits that a metric reads of an output; half precision becomes float32.

    Raises DataError where it is not plain which tensor that is, or which of its axes.
    """
    found = {name: value for name, value in unnested(output)[1].items()
             if isinstance(value, Tensor)}
    if isinstance(value := getattr(output, "logits", None), Tensor):
        found["logits"] = value
    if not found:
        raise DataError(
            f"no logits in an output of type {type(output).__name__}: return a tensor "
            "[batch, seq, vocab] or something with .logits, or measure with custom(function, name)")
    known = {} if batch.layout is None else batch.layout.outputs
    sizes = {name: known[name] if len(known.get(name, ())) == value.ndim > 0
             else _sizes(metric, value, batch) for name, value in found.items()}
    axes = axes_of(metric, sizes, batch.layout or _layout(batch))
    value = found[axes.output]
    if not value.is_floating_point():
        raise DataError(f"{metric} reads logits, and {axes} is {value.dtype}: "
                        f"{remedy(metric, sizes, axes.output)}")
    if value.shape[axes.batch] != len(batch):
        raise DataError(f"logits [batch, seq, vocab] of {len(batch)} examples are needed, found "
                        f"shape {list(value.shape)}")
    value = value.permute(axes.batch, *axes.rows, axes.classes)
    value = value.flatten(1, -2) if axes.rows else value[:, None]
    value = value.to(torch.promote_types(value.dtype, torch.float32))
    if axes.of_tokens and (real := batch.real(axes.of_tokens)) is not None:
        value = value.masked_fill(~real.to(value.device)[:, None], -inf)
    return Read(value, axes)


def row(metric: Metric, output: object, batch: Batch) -> Float[Tensor, "batch classes"]:
    """The logits at one position of each example.

    Positions are counted over real tokens, so that padding on either side changes nothing.
    Raises DataError for a position that an example does not have.
    """
    found = read(metric, output, batch)
    values, axes, position = found.values, found.axes, metric.position
    if values.shape[1] == 0:
        raise DataError(f"{axes} has no row: the examples have no tokens")
    if not axes.rows:
        if position not in (-1, "all"):
            raise DataError(f"position={position!r} asks for a token, and {axes} has one row for "
                            f"each example: leave it out, as in {call_with(metric, position=-1)}")
        return values[:, 0]
    if [axes.sizes[axis] for axis in axes.rows] == [LAST]:
        return values[:, 0]
    if axes.length is None:
        return _other_row(metric, found, batch)
    if isinstance(position, str):
        where = _labelled(metric, found, batch)
    else:
        where = _counted_position(metric, found, batch)
    return values[torch.arange(len(batch), device=values.device), where]


def _counted_position(metric: Metric, found: Read, batch: Batch) -> Tensor:
    """The column of a token that is counted among the real ones."""
    values, position = found.values, metric.position
    assert isinstance(position, int)
    rows = values.shape[1]
    real = batch.real(found.axes.length)
    ids = batch.ids(found.axes.length)
    asked = real if real is not None else ids
    if asked is not None and asked.shape[1] != rows:
        raise DataError(
            f"position={position!r} needs every row, but the output has {rows} for "
            f"{asked.shape[1]} tokens; ask the model for all logits")
    real = torch.ones(values.shape[:2], dtype=torch.bool) if real is None else real
    real = real.to(values.device)
    count = real.sum(1)
    wanted = count + position if position < 0 else torch.full_like(count, position)
    outside = (wanted < 0) | (wanted >= count)
    if bool(outside.any()):
        first = int(outside.nonzero()[0])
        raise DataError(
            f"position={position} reads a token that example {int(batch.index[first])} does not "
            f"have: it has {int(count[first])} of {rows} columns"
            f"{', the others are padding' if int(count[first]) < rows else ''}")
    return (real & (real.cumsum(1) - 1 == wanted[:, None])).int().argmax(1)


def _labelled(metric: Metric, found: Read, batch: Batch) -> Tensor:
    """The column that a label names for each example."""
    values, position = found.values, str(metric.position)
    rows, where = values.shape[1], label(position, batch).to(values.device)
    if where.shape != (len(batch),) or where.is_floating_point() or where.dtype == torch.bool:
        raise DataError(f"position={position!r} is a label with one column for each example, an "
                        f"integer; found {_kind(where)} in each")
    outside = (where < -rows) | (where >= rows)
    if bool(outside.any()):
        first = int(outside.nonzero()[0])
        raise DataError(f"position={position!r} reads column {int(where[first])} of example "
                        f"{int(batch.index[first])}, but the output has {rows} rows")
    where = where % rows
    real = batch.real(found.axes.length)
    if real is not None:
        padded = ~real.to(values.device).gather(1, where[:, None])[:, 0]
        if bool(padded.any()):
            raise DataError(f"position={position!r} is padding in examples "
                            f"{examples(batch, padded)}: name columns of tokens")
    return where


def _other_row(metric: Metric, found: Read, batch: Batch) -> Tensor:
    """A row where rows are no tokens, or one row that the model computed of all tokens."""
    values, axes, position = found.values, found.axes, metric.position
    rows = values.shape[1]
    if rows == 1 and metric.axes is None:
        if position != -1:
            raise DataError(f"position={position!r} needs every row, but {axes} has one for all "
                            "tokens; ask the model for all logits or use position=-1")
        ends = [real for name in _lengths(batch) if (real := batch.real(name)) is not None]
        padded = [~real[:, -1] for real in ends if not bool(real[:, -1].all())]
        if padded:
            raise DataError(
                f"{axes} is one row, and the last column is padding in examples "
                f"{examples(batch, padded[0])}: pad on the left, let the model return all rows, "
                f"or, if the row is of the whole example, write "
                f"{call_with(metric, axes='batch row classes')}")
        return values[:, 0]
    if rows == 1 and position == -1:
        return values[:, 0]
    if isinstance(position, int) and position != -1 and -rows <= position < rows and (
            len(axes.rows) == 1):
        return values[:, position]
    raise DataError(f"position={position!r} cannot be read: the {rows} rows of {axes} are no "
                    f"tokens; write {call_with(metric, position='all')} for their mean"
                    + (f", or a row from 0 to {rows - 1}" if len(axes.rows) == 1 else ""))


def every_row(
    metric: Metric, output: object, batch: Batch, mask: str | None = None, predicted: bool = False
) -> tuple[Read, Bool[Tensor, "batch rows"]]:
    """All logits, and which of their rows count: tokens that are real and that `mask` names.

    With `predicted`, row i stands for token i + 1, and both must be real.
    Raises DataError for an example of which no row counts.
    """
    found = read(metric, output, batch)
    values = found.values
    shape = [values.shape[0], values.shape[1] - predicted]
    if predicted and not found.axes.length:
        raise DataError(f"loss at every token needs an output of tokens, and {found.axes} has none:"
                        f" for one answer write {call_with(metric, position=-1, mask=None)}")
    if predicted and shape[1] < 1:
        raise DataError("an example of one token has no next token to measure")
    kept = torch.ones(shape, dtype=torch.bool, device=values.device)
    real = batch.real(found.axes.length) if found.axes.length else None
    for each, name in ((real, "the mask of padding"), (mask and label(mask, batch), repr(mask))):
        if not isinstance(each, Tensor):
            continue
        if list(each.shape) != list(values.shape[:2]):
            raise DataError(f"{name} of tokens needs shape {list(values.shape[:2])}, found "
                            f"{list(each.shape)}")
        each = each.to(values.device).bool()
        kept &= each[:, 1:] if predicted else each
        if predicted and each is not None and name == "the mask of padding":
            kept &= each[:, :-1]
    bare = ~kept.any(1)
    if bool(bare.any()):
        raise DataError(f"the mask leaves no token to measure in examples {examples(batch, bare)}")
    return found, kept


def mean_of_rows(
    values: Float[Tensor, "batch rows"], kept: Bool[Tensor, "batch rows"]
) -> Float[Tensor, " batch"]:
    """Mean over the rows that count, in each example."""
    return values.masked_fill(~kept, 0).sum(1) / kept.sum(1)


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


IGNORED = -100
"""A label that is no token: what torch's losses ignore, and what pads labels of unequal number."""


def tokens(
    name: str, values: Float[Tensor, "batch classes"], batch: Batch
) -> tuple[Tensor, Bool[Tensor, "batch k"]]:
    """A label that holds token ids (classes), `[batch, k]`, and which of them are no padding.

    Raises DataError for ids outside of the vocabulary, and for an example without any.
    """
    ids = label(name, batch).to(values.device)
    vocab = values.shape[-1]
    if ids.ndim not in (1, 2) or ids.is_floating_point() or ids.dtype == torch.bool:
        raise DataError(f"label {name!r} must hold one token id (or class) per example, or a list "
                        f"of them; found {_kind(ids)} in example {int(batch.index[0])}")
    ids = ids.reshape(len(batch), -1).long()
    kept = ids != IGNORED
    outside = kept & ((ids < 0) | (ids >= vocab))
    if bool(outside.any()):
        i, j = outside.nonzero()[0].tolist()
        raise DataError(f"label {name!r} of example {int(batch.index[i])} is {int(ids[i, j])}, "
                        f"outside of 0..{vocab - 1}, the {vocab} tokens or classes of the output")
    if bool((bare := ~kept.any(1)).any()):
        raise DataError(f"label {name!r} is empty in examples {examples(batch, bare)}")
    return ids, kept


def mean_at(
    values: Float[Tensor, "batch classes"], ids: Tensor, kept: Bool[Tensor, "batch k"]
) -> Float[Tensor, " batch"]:
    """Mean of the values at some classes of each example."""
    found = values.gather(1, ids.masked_fill(~kept, 0))
    return found.masked_fill(~kept, 0).sum(1) / kept.sum(1)


def finite(metric: str, values: object, batch: Batch) -> Float[Tensor, " batch"]:
    """`values`, if they are one finite number per example; a DataError that says where not."""
    if not isinstance(values, Tensor):
        raise DataError(f"metric {metric!r} must return a tensor of one number per example, shape "
                        f"[{len(batch)}]; found {type(values).__name__}")
    if values.shape != (len(batch),):
        raise DataError(
            f"metric {metric!r} must give one number per example, shape [{len(batch)}]; "
            f"found {list(values.shape)}"
        )
    if values.is_complex() or values.layout != torch.strided or values.is_meta:
        what = ("complex numbers" if values.is_complex() else "no values, it is on the meta device"
                if values.is_meta else f"a layout of its own, {values.layout}")
        raise DataError(f"metric {metric!r} must return an ordinary tensor of numbers; the one "
                        f"found has {what}")
    bad = ~torch.isfinite(values.detach())
    if bool(bad.any()):
        raise DataError(
            f"metric {metric!r} is not finite in examples {examples(batch, bad)}: "
            f"{values.detach()[bad][:8].tolist()}; look for NaN or infinite logits there"
        )
    return values


def examples(batch: Batch, where: Tensor) -> list[int]:
    """The examples at which something is true, each once, at most eight."""
    return sorted(set(batch.index[where.cpu()].tolist()))[:8]


def _sizes(metric: Metric, value: Tensor, batch: Batch) -> tuple[Size, ...]:
    """The axes of a tensor of which only the shape is known."""
    found: list[Size] = list(value.shape)
    if value.ndim > 1 and len(value) != len(batch) and metric.axes is None:
        raise DataError(f"logits [batch, seq, vocab] of {len(batch)} examples are needed, found "
                        f"shape {list(value.shape)}")
    if found[:1] == [len(batch)]:
        found[0] = BATCH
    if len(found) == 3 and (batch.tokens is None or found[1] == batch.tokens.shape[1]
                            or found[1] != 1):
        found[1] = SEQ
    return tuple(found)


def _layout(batch: Batch) -> Layout:
    """What is known of outputs without a graph: the number of tokens."""
    tokens = batch.tokens
    return Layout({}, (SEQ,), {}, {} if tokens is None else {SEQ: tokens.shape[1]})


def _lengths(batch: Batch) -> tuple[str, ...]:
    return (SEQ,) if batch.layout is None else batch.layout.lengths


def _kind(value: Tensor) -> str:
    sizes = list(value.shape[1:])
    return str(value.dtype).removeprefix("torch.") + (f" {sizes}" if sizes else "")
