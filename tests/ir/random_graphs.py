"""Random graphs of additions and products, to try selections and edits on."""

from __future__ import annotations

from random import Random

import torch
from hypothesis import strategies as st
from torch import Tensor, fx

import rewrite as rw
from rewrite.ir.graph import InputSpec, OutputSpec

FUNCTIONS = (torch.add, torch.sub, torch.maximum, torch.tanh, torch.neg)


def random_graph(seed: int, size: int) -> rw.Graph:
    """A graph of up to `size` nodes over two inputs and a weight, all `[batch, 3]`."""
    random, graph = Random(seed), fx.Graph()
    nodes = [graph.placeholder("x"), graph.placeholder("y"), graph.get_attr("w")]
    for _ in range(size):
        function = random.choice(FUNCTIONS)
        count = 1 if function in (torch.tanh, torch.neg) else 2
        nodes.append(graph.call_function(function, tuple(random.choices(nodes[-6:], k=count))))
        nodes[-1].meta["module"] = random.choice(["a", "a.b", "a.b.c", "d"])
    graph.output(tuple(nodes[-2:]))
    weight = torch.randn(3, generator=torch.Generator().manual_seed(seed))
    module = fx.GraphModule({"w": weight}, graph)
    specs = tuple(InputSpec(name, ("batch", 3), torch.float32) for name in "xy")
    return rw.Graph(module, specs, OutputSpec(("u", "v"), dict[str, Tensor]))


graphs = st.builds(random_graph, st.integers(0, 2**32 - 1), st.integers(1, 14))
