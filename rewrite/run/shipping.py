"""A component graph as plain data, for processes that do not share memory with this one.

The graph (operators only, as all that is cut into parts) goes as its text, the weights as
arrays of bytes: readers that have them in common memory, as workers of Ray on one machine do,
use them where they are.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from rewrite.errors import BackendError
from rewrite.ir.code import Code
from rewrite.ir.graph import OutputSpec
from rewrite.ir.text import to_text
from rewrite.ir.text_read import from_text
from rewrite.ir.values import attribute, devices
from rewrite.parts import Components


@dataclass(frozen=True)
class Weight:
    """A tensor: bytes, which several weights may have in common, and how to read them."""

    data: np.ndarray
    dtype: torch.dtype
    shape: tuple[int, ...]
    trained: bool

    @classmethod
    def of(cls, tensor: Tensor, seen: dict[Any, np.ndarray]) -> Weight:
        """Pack a tensor; `seen` holds the arrays that are packed already."""
        place = (tensor.device, tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
        if place not in seen or not tensor.numel():
            flat = tensor.detach().cpu().contiguous().reshape(-1)
            seen[place] = flat.view(torch.uint8).numpy()
        return cls(seen[place], tensor.dtype, tuple(tensor.shape), isinstance(tensor, nn.Parameter))

    def tensor(self, device: torch.device) -> Tensor:
        """The tensor; on the CPU it shares memory with the array."""
        with warnings.catch_warnings():  # the memory of Ray is for reading, and so are weights
            warnings.filterwarnings("ignore", message="The given NumPy array is not writ")
            flat = torch.from_numpy(self.data)
        made = flat.view(self.dtype).reshape(self.shape).to(device)
        return nn.Parameter(made, requires_grad=False) if self.trained else made


@dataclass(frozen=True)
class Shipment:
    """A component graph on its way.

    >>> again = Shipment.of(parts).parts(torch.device("cpu"))
    >>> again.names == parts.names, again is parts
    (True, False)
    """

    text: str
    weights: Mapping[str, Weight]
    outputs: OutputSpec
    sources: tuple[str, ...]
    granularity: str | None
    names: tuple[str, ...]
    edges: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, parts: Components) -> Shipment:
        """Pack a component graph; weights on the CPU are not copied."""
        graph = parts.graph
        sources = tuple(str(node.target) for node in parts.cut.flow.sources)
        names = (str(node.target) for node in graph.module.graph.find_nodes(op="get_attr"))
        seen: dict[Any, np.ndarray] = {}
        weights = {name: Weight.of(attribute(graph.module, name), seen) for name in names}
        text = portable(to_text(graph), graph.module)
        return cls(text, weights, graph.outputs, sources, parts.granularity, parts.names,
                   parts.edges)

    def parts(self, device: torch.device) -> Components:
        """The component graph, on a device.  Raises `BackendError` if it is another one here."""
        owner, graph = {n: held.tensor(device) for n, held in self.weights.items()}, fx.Graph()
        for name in owner:
            graph.get_attr(name)
        graph.output(())
        read = from_text(self.text, Code(owner, graph))
        found = replace(read, outputs=self.outputs).components(self.sources, self.granularity)
        if (found.names, found.edges) != (self.names, self.edges):
            raise BackendError(f"{read.name} has other parts here than where it came from: "
                               "install the same versions of rewrite and torch everywhere")
        return found


def portable(text: str, module: fx.GraphModule) -> str:
    """The text of a graph on one device without its number: a worker sees its own GPU alone."""
    device, *_ = devices(module)
    return re.sub(rf"\b{device}\b", device.type, text)
