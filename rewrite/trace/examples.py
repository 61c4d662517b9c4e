"""Example inputs: made for models that name their inputs, resized for the parity check."""

from __future__ import annotations

import inspect
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from rewrite.errors import TraceError

# Different from each other and unlikely to be a number of the model's configuration.
BATCH, LENGTH = 3, 11


def default_inputs(model: nn.Module) -> dict[str, Tensor]:
    """Random tokens of shape [3, 11] for a model whose forward takes `input_ids`.

    Raises `TraceError` that shows the call to write for every other model.
    """
    parameters = inspect.signature(model.forward).parameters
    embed = getattr(model, "get_input_embeddings", lambda: None)()
    if "input_ids" not in parameters or not isinstance(embed, nn.Embedding):
        names = [name for name in parameters if name not in {"self", "args", "kwargs"}]
        shown = ", ".join(f"{name!r}: tensor" for name in names[:3])
        raise TraceError(f"{type(model).__name__} needs example inputs: "
                         f"rw.trace(model, inputs={{{shown}}})")
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(0, embed.num_embeddings, (BATCH, LENGTH), generator=draw)
    return {"input_ids": ids.to(embed.weight.device)}


def fresh(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous copies, with a batch of one tiled: export takes a size of 1 as fixed."""
    batch = {value.shape[0] for value in inputs.values() if value.ndim}
    times = BATCH if batch == {1} else 1
    return {name: torch.cat([v.detach()] * times).contiguous().clone() if v.ndim else v.clone()
            for name, v in inputs.items()}


def dynamic_axes(value: Tensor, length: bool) -> tuple[int, ...]:
    """Which axes of an input vary from call to call: batch, and length where there is one."""
    if value.ndim == 0:
        return ()
    tokens = not value.is_floating_point() and value.ndim == 2
    embedded = value.is_floating_point() and value.ndim == 3
    return (0, 1) if length and (tokens or embedded) else (0,)


def resized(
    inputs: Mapping[str, Tensor], axes: Mapping[str, tuple[int, ...]], batch: int, length: int
) -> dict[str, Tensor]:
    """Inputs of another batch size and length, with rows drawn from the given ones."""
    draw = torch.Generator().manual_seed(1)

    def pick(value: Tensor, axis: int, size: int) -> Tensor:
        index = torch.randint(0, value.shape[axis], (size,), generator=draw)
        return value.index_select(axis, index.to(value.device)).contiguous()

    result = dict(inputs)
    for name, dims in axes.items():
        for axis in dims:
            result[name] = pick(result[name], axis, (batch, length)[axis])
    return result
