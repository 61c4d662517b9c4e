"""Devices that are not there: tensors say where they lie, and no operator may mix places.

The host is "cpu"; "cpu:1" and "cpu:2" stand for two accelerators.  A model is traced over fake
weights, as accelerate spreads it over them, and run over weights whose values are on the host
and which only claim to lie there.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import accelerate
import torch
from torch import Tensor, fx, nn
from torch._guards import active_fake_mode
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

import rewrite as rw
from rewrite.ir.values import attribute

HOST, FIRST, SECOND = torch.device("cpu"), torch.device("cpu:1"), torch.device("cpu:2")
MOVES = {torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default}
IDS = torch.ones(3, 11, dtype=torch.long)


class Placed(Tensor):
    """Values on the host that claim to lie on a device."""

    value: Tensor

    @staticmethod
    def __new__(cls, value: Tensor, device: torch.device) -> Placed:
        made = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, value.shape, strides=value.stride(), storage_offset=value.storage_offset(),
            dtype=value.dtype, device=device)
        made.value = value
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class _Operators(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class _Constants(TorchFunctionMode):
    """Torch makes constants without any operator: here on the host, and then they are moved."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        options = dict(kwargs or {})
        if func is Tensor.new_tensor:
            like, *args = args
            func, options = torch.tensor, {"device": like.device} | options
        place = options.pop("device", None) if func in (torch.tensor, torch.as_tensor) else None
        made = func(*args, **options)
        return made if place is None else made.to(place)


@contextmanager
def machines() -> Iterator[None]:
    """Where tensors are made on the devices that they are asked for."""
    with _Operators(), _Constants():
        yield


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """An operator, on the host.  Numbers (no axes) on the host may meet any, as for CUDA."""
    if active_fake_mode() is not None:
        return func(*args, **kwargs)
    tensors = [t for t in tree_flatten((args, kwargs))[0] if isinstance(t, Tensor)]
    places = {t.device for t in tensors if t.ndim or t.device != HOST} or {HOST}
    if len(places) > 1 and func not in MOVES:
        raise RuntimeError(f"{func} has operands on {', '.join(sorted(map(str, places)))}")
    place = kwargs.get("device") or (tensors[0].device if func in MOVES else places.pop())
    here = kwargs | ({"device": HOST} if kwargs.get("device") else {})
    found = func(*tree_map(_value, args), **tree_map(_value, here))
    if func._schema.is_mutable:
        return args[0]
    return tree_map(lambda item: placed(item, torch.device(place)), found)


def _value(item: Any) -> Any:
    return item.value if isinstance(item, Placed) else item


def placed(item: Any, device: torch.device) -> Any:
    """A tensor as one on a device; anything else as it is."""
    return Placed(item, device) if isinstance(item, Tensor) and device != HOST else item


def dispatched(model: Any, device_map: dict[str, Any]) -> rw.Graph:
    """The graph of a model over fake weights, as accelerate spreads it over devices."""
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    with mode, torch.no_grad():
        for path, module in model.named_modules():
            place = next((d for n, d in device_map.items() if f"{path}.".startswith(f"{n}.")), HOST)
            for table in (module._parameters, module._buffers):
                for name, tensor in table.items():
                    if tensor is not None:
                        made = torch.empty_like(tensor, device=place)
                        trained = table is module._parameters
                        table[name] = nn.Parameter(made, False) if trained else made
        with warnings.catch_warnings():  # accelerate knows tied weights by their memory
            warnings.filterwarnings("ignore", "Accessing the data pointer of FakeTensor")
            accelerate.dispatch_model(
                model, device_map, skip_keys=model._skip_keys_device_placement)
    return rw.trace(model, {"input_ids": IDS})


def weighted(graph: rw.Graph, model: nn.Module) -> rw.Graph:
    """The same graph over the weights of `model`, which claim to lie where the graph has them."""
    weights: dict[str, Tensor] = {}
    for node in graph.module.graph.find_nodes(op="get_attr"):
        name = str(node.target)
        fake, real = attribute(graph.module, name), attribute(model, name)
        made = placed(real.detach(), fake.device)
        weights[name] = nn.Parameter(made, False) if isinstance(fake, nn.Parameter) else made
    return replace(graph, module=fx.GraphModule(weights, graph.module.graph))


def from_first(graph: rw.Graph) -> rw.Graph:
    """The graph as it would be had the inputs been on the first device, and not on the host.

    Export takes fake inputs on the host only.
    """
    (ids,) = graph.module.graph.find_nodes(op="placeholder")
    move = next(user for user in ids.users if user.kwargs.get("device") == FIRST)
    ids.meta["val"] = move.meta["val"]
    move.replace_all_uses_with(ids)
    graph.module.graph.erase_node(move)
    for node in graph.module.graph.nodes:
        if node.kwargs.get("device") == HOST:
            node.kwargs = {**node.kwargs, "device": FIRST}
    graph.module.recompile()
    return graph
