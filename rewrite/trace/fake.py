"""Models without weights: fake tensors that know their shape, type and device, and no values."""

from __future__ import annotations

import copy
import functools
import gc
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from rewrite.errors import TraceError

LRU_CACHE = type(functools.lru_cache(lambda: None))


def fake_mode(model: nn.Module) -> FakeTensorMode | None:
    """The mode to which the tensors of a model belong, None for an ordinary model."""
    fakes = (t for _, _, t in _tensors(model) if isinstance(t, FakeTensor))
    first = next(fakes, None)
    return None if first is None else first.fake_mode


def inside(mode: FakeTensorMode | None) -> AbstractContextManager[Any]:
    """Where tensors that a model creates on its way are fake if its weights are."""
    return nullcontext() if mode is None else mode


def has_no_weights(model: nn.Module) -> bool:
    """Whether all parameters are on the meta device.

    Raises `TraceError` if only some of them are: such a model is half loaded.
    """
    where = {name: parameter.is_meta for name, parameter in model.named_parameters()}
    if not any(where.values()):
        return False
    if all(where.values()):
        return True
    empty = [name for name, is_meta in where.items() if is_meta]
    raise TraceError(f"{type(model).__name__} is loaded in part: {len(empty)} of {len(where)} "
                     f"parameters have no values (on the meta device), {empty[0]} among them; load "
                     "them all, or trace without weights: rw.trace(model.to('meta'))")


@contextmanager
def forgotten(model: nn.Module) -> Iterator[None]:
    """Clear caches of functions that hold fake tensors of `model` afterwards.

    Some models keep tables of indices in a `functools.lru_cache` that all of their instances
    share: a fake table would be read by the next model that has weights.
    """
    mode = fake_mode(model)
    try:
        yield
    finally:
        for cache in gc.get_objects() if mode is not None else ():
            if type(cache) is LRU_CACHE and any(
                    isinstance(held, FakeTensor) and held.fake_mode is mode
                    for held in gc.get_referents(cache)):
                cache.cache_clear()


def faked(model: nn.Module) -> nn.Module:
    """A copy of a model without weights in which every tensor is a fake one on the cpu.

    Export of tensors on the meta device itself would record that device in every constant.
    """
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    made: dict[int, Tensor] = {}
    result = copy.deepcopy(model)  # there are no values, so there is next to nothing to copy
    for module, name, tensor in list(_tensors(result)):
        if id(tensor) not in made:  # tied weights stay tied
            made[id(tensor)] = _like(tensor, "cpu", mode)
        _put(module, name, made[id(tensor)])
    return result


def emptied(module: fx.GraphModule) -> fx.GraphModule:
    """The same graph over tensors on the meta device, which can be printed, copied and pickled."""
    made: dict[int, Tensor] = {}
    for owner, name, tensor in list(_tensors(module)):
        if isinstance(tensor, FakeTensor):
            known = getattr(tensor, "constant", None)
            if id(tensor) not in made:
                made[id(tensor)] = _like(tensor, "meta", None) if known is None else known
            _put(owner, name, made[id(tensor)])
    return module


def _like(tensor: Tensor, device: str, mode: FakeTensorMode | None) -> Tensor:
    with inside(mode), torch.no_grad():
        empty = torch.empty_strided(tensor.size(), tensor.stride(), dtype=tensor.dtype,
                                    device=device)
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(empty, requires_grad=tensor.requires_grad)
    return empty


def _tensors(model: nn.Module) -> Iterator[tuple[nn.Module, str, Tensor]]:
    """Every tensor of a model with its owner: parameters, buffers, plain attributes."""
    for module in model.modules():
        for table in (module._parameters, module._buffers, vars(module)):
            for name, value in table.items():
                if isinstance(value, Tensor):
                    yield module, name, value


def _put(module: nn.Module, name: str, value: Tensor) -> None:
    if name in module._parameters:
        module._parameters[name] = value  # pyright: ignore[reportArgumentType]
    elif name in module._buffers:
        module._buffers[name] = value
    else:
        module.__dict__[name] = value
