"""A graph as an ordinary `nn.Module`, called like the model that it was traced from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rewrite.ir.edit import copy_module

if TYPE_CHECKING:
    from rewrite.ir.graph import Graph


class GraphModel(torch.nn.Module):
    """What `Graph.as_module` returns: the model's inputs by name, the model's own outputs.

    Parameters have the names that they have in the model.
    """

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        module = copy_module(graph.module)
        self._graph = graph.with_module(module)
        # The same dictionaries, so that both see it when a parameter is exchanged.
        self._parameters, self._buffers, self._modules = (
            module._parameters, module._buffers, module._modules)
        self._non_persistent_buffers_set = module._non_persistent_buffers_set

    def forward(self, *args: Tensor, **inputs: Tensor) -> Any:
        graph = self._graph
        if args and not isinstance(args[0], Tensor):
            return graph(*args, **inputs)
        given = dict(zip((spec.name for spec in graph.inputs), args, strict=False)) | inputs
        if torch.compiler.is_compiling():
            return graph.outputs(graph.module(*(given[spec.name] for spec in graph.inputs)))
        return graph(**given)
