"""`Code`: the graph module of this package.  It travels as data, and its source goes with it.

torch keeps the source of every graph module that it compiles, for tracebacks, as long as the
process runs: 35 kB for each expansion.  It is forgotten here together with its module.
"""

from __future__ import annotations

import copy
import linecache
import weakref
from typing import Any

from torch import fx
from torch.fx import graph_module

from rewrite.ir.pack import Pack


class Code(fx.GraphModule):
    """The graph module that this package makes.

    >>> import linecache
    >>> graph = fx.Graph()
    >>> _ = graph.output(graph.placeholder("x"))
    >>> code = Code({}, graph)
    >>> place = code.forward.__code__.co_filename
    >>> linecache.getline(place, 4).strip()
    'def forward(self, x):'
    >>> del code, graph, _
    >>> import gc; collected = gc.collect()
    >>> place in linecache.cache
    False
    """

    def recompile(self) -> Any:
        """As in torch; the source of the code before is forgotten."""
        before = self.__dict__.get("_source")
        made = super().recompile()
        if before is not None:
            before()
        place = type(self).forward.__code__.co_filename
        self.__dict__["_source"] = weakref.finalize(self, _forget, place)
        self.__dict__["_source"].atexit = False
        return made

    def __reduce__(self) -> Any:
        return Pack.module, (Pack.of(self),)

    def __deepcopy__(self, memo: dict[int, Any]) -> fx.GraphModule:
        return copy.deepcopy(Pack.of(self), memo).module()


def _forget(place: str) -> None:
    """Drop the source of code that is gone; a name that torch gives to equal codes alike stays."""
    loader: Any = getattr(graph_module, "_loader", None)
    if place.startswith("<eval_with_key>"):
        linecache.cache.pop(place, None)
        getattr(loader, "eval_cache", {}).pop(place, None)
