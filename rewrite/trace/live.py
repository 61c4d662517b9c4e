"""The model that a graph was traced from, while it lives: what has changed in it since."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any
from weakref import ReferenceType, ref

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import is_fake

from rewrite.errors import TraceError
from rewrite.ir.certificate import Certificate
from rewrite.ir.graph import Graph
from rewrite.ir.values import attribute
from rewrite.trace.hooks import hook_notes
from rewrite.trace.weights import is_whole, measured, with_weights


@dataclass(frozen=True, eq=False)
class Slot:
    """Who holds something, in which table, by what name, what it was, and what it is called.

    `weights` are those of the graph that are reached through it.
    """

    owner: ReferenceType[nn.Module]
    table: str
    name: str
    was: ReferenceType[Any]
    what: str
    weights: list[ReferenceType[Tensor]]


AGAIN = ("trace the model again, or take the graph over the weights that it has now: "
         "graph.with_weights(model)")


@dataclass(frozen=True, eq=False)
class Live:
    """A model, and what it held when its graph was made; a copy of a graph knows of none.

    Every call of the graph asks for `exchanged`, which takes less than a microsecond for each
    module and parameter.
    """

    model: ReferenceType[nn.Module] | None = None
    slots: tuple[Slot, ...] = ()
    buffers: tuple[Slot, ...] = ()
    hooks: tuple[str, ...] = ()
    inputs: Mapping[str, Any] | None = None

    @classmethod
    def of(cls, model: nn.Module, graph: Graph, inputs: Mapping[str, Any] | None = None) -> Live:
        """The state of a model of which a graph has the weights."""
        slots: dict[tuple[int, str], Slot] = {}
        buffers: list[Slot] = []
        for node in graph.module.graph.find_nodes(op="get_attr"):
            path = str(node.target)
            try:
                chain = list(_owners(model, path))
            except AttributeError:  # a constant of the graph
                continue
            owner, name, tensor = chain[-1]
            if tensor is not attribute(graph.module, path) or not isinstance(tensor, Tensor):
                continue
            for module, key, child in chain[:-1]:
                above = Slot(ref(module), "_modules", key, ref(child), f"a module above {path}", [])
                slots.setdefault((id(module), key), above).weights.append(ref(tensor))
            if isinstance(tensor, nn.Parameter):
                slots[id(owner), name] = Slot(ref(owner), "_parameters", name, ref(tensor),
                                              f"parameter {path}", [ref(tensor)])
            elif name in owner._buffers:
                buffers.append(Slot(ref(owner), "_buffers", name, ref(tensor), f"buffer {path}",
                                    [ref(tensor)]))
        return cls(ref(model), tuple(slots.values()), tuple(buffers), hook_notes(model), inputs)

    def __reduce__(self) -> tuple[Any, ...]:
        return Live, ()

    def followed(self, graph: Graph) -> Live:
        """The same, of what a graph reads still: surgery may have put others in place of some."""
        read = {id(attribute(graph.module, str(node.target)))
                for node in graph.module.graph.find_nodes(op="get_attr")}
        return replace(self, slots=tuple(
            slot for slot in self.slots if any(id(weight()) in read for weight in slot.weights)))

    def exchanged(self) -> str | None:
        """What is wrong if a parameter of the model is not that of the graph any more."""
        return next((f"{what} in the model than when it was traced, and the graph has the old one: "
                     f"{AGAIN}" for what in _others(self.slots)), None)

    def verify(self, graph: Graph, inputs: Mapping[str, Any] | None) -> Certificate:
        """See `Graph.verify`."""
        model = self.model and self.model()
        if model is None:
            raise TraceError(f"the model that {graph.name} was traced from is gone, so nothing can "
                             "have changed in it: to compare the graph with another one, use "
                             "graph.with_weights(model)")
        if not is_whole(graph):
            raise TraceError(f"surgery has changed {graph.name}, so it is not the model any more: "
                             "verify the graph that rw.trace returned")
        training = [name or type(model).__name__ for name, module in model.named_modules()
                    if module.training]
        now = hook_notes(model)
        fatal = [*_others(self.slots), *(f"{name} is in training mode" for name in training[:1])]
        hooks = [*(f"{note.partition(' is ')[0]} was added" for note in now
                   if note not in self.hooks),
                 *(f"{note.partition(' is ')[0]} is gone" for note in self.hooks
                   if note not in now)]
        changes = [*hooks, *_others(self.buffers)]
        if fatal:
            raise TraceError(f"{type(model).__name__} has changed since it was traced: "
                             f"{'; '.join([*fatal, *changes])}: {AGAIN}")
        try:
            found = measured(graph, model, self.inputs if inputs is None else inputs).certificate
        except TraceError as error:
            why = "; ".join(changes) or "what its forward does or reads is another"
            apart = str(error.__cause__ or error).removeprefix("it ")
            raise TraceError(f"{type(model).__name__} has changed since it was traced: {why}; the "
                             f"graph {apart}: trace the model again, or undo the change"
                             ) from error
        assert found is not None
        notes = tuple(f"{change} since it was traced, which changes no output here"
                      for change in changes)
        return replace(found, notes=(*notes, *found.notes))


def bind(
    graph: Graph, weights: nn.Module | Mapping[str, Tensor],
    inputs: Mapping[str, Any] | None = None,
) -> Graph:
    """See `Graph.with_weights`."""
    if inputs is None and graph.live is not None:
        inputs = graph.live.inputs
    found = with_weights(graph, weights, inputs)
    return replace(found, live=Live.of(weights, found, inputs)
                   if isinstance(weights, nn.Module) else None)


def not_finite(model: nn.Module) -> tuple[str, ...]:
    """A note on parameters that hold nan or infinity, and buffers that hold nan."""
    found = [name for name, value in model.named_parameters() if not _ends(value).isfinite().all()]
    found += [name for name, value in model.named_buffers() if _ends(value).isnan().any()]
    shown = ", ".join(found[:8]) + (f" and {len(found) - 8} more" if len(found) > 8 else "")
    return (f"weights that are not finite: {shown}",) if found else ()


def _ends(value: Tensor) -> Tensor:
    """The least and the greatest entry, both nan if one is."""
    if not value.is_floating_point() or not value.numel() or value.is_meta or value.is_quantized \
            or value.layout != torch.strided or is_fake(value):
        return torch.zeros(2)
    value = value.detach()
    value = value.float() if value.dtype.itemsize == 1 else value
    return torch.stack(torch.aminmax(value))


def _owners(model: nn.Module, path: str) -> Iterator[tuple[nn.Module, str, Any]]:
    """The steps from a model to what `path` names: who holds the next one, by which name."""
    for name in path.split("."):
        child = getattr(model, name)
        yield model, name, child
        model = child


def _others(slots: tuple[Slot, ...]) -> Iterator[str]:
    """What is not held any more; of a holder that is gone itself, nothing is said."""
    for slot in slots:
        holder = slot.owner()
        if holder is not None and vars(holder)[slot.table].get(slot.name) is not slot.was():
            yield f"{slot.what} is another one"
