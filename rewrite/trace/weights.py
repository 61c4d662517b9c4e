"""Weights for a graph that was traced without them, or others for one that has some."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_aggregate

from rewrite.errors import InputError, TraceError
from rewrite.ir.certificate import Certificate
from rewrite.ir.code import Code
from rewrite.ir.graph import Graph
from rewrite.ir.nested import plain_paths
from rewrite.ir.values import attribute
from rewrite.trace.arguments import Arguments
from rewrite.trace.capture import Capture
from rewrite.trace.examples import default_inputs, fresh
from rewrite.trace.fake import has_no_weights
from rewrite.trace.flat import Flat
from rewrite.trace.parity import certificate_of, compare
from rewrite.trace.state import kept
from rewrite.trace.support import check_supported
from rewrite.turn import alone
from rewrite.world import safe

SHOWN = 8
LATER = "weights bound by name, from no model that they could be compared with"


@alone
def with_weights(
    graph: Graph, weights: nn.Module | Mapping[str, Tensor],
    inputs: Mapping[str, Any] | None = None,
) -> Graph:
    """See `Graph.with_weights`."""
    module = weights if isinstance(weights, nn.Module) else None
    if module is not None:
        check_supported(module)
        if has_no_weights(module):
            raise TraceError(f"{type(module).__name__} has no weights either, it is on the meta "
                             "device: pass a model that is loaded")
    elif not isinstance(weights, Mapping):
        raise TraceError(f"weights come from a model or a state dict, found "
                         f"{type(weights).__name__}: graph.with_weights(model)")
    full = replace(graph, module=_bound(graph, _finder(weights)), weightless=False)
    if not is_whole(graph):
        return full
    if module is None:
        return replace(full, certificate=Certificate(None, None, (), LATER, 0.0))
    return measured(full, module, inputs)


def is_whole(graph: Graph) -> bool:
    """Whether a graph should compute what its model does: rules keep that, surgery does not."""
    while graph.certificate is None and graph.trail is not None:
        graph = graph.trail.start
    return graph.certificate is not None


def _finder(weights: nn.Module | Mapping[str, Tensor]) -> Callable[[str], Any]:
    if isinstance(weights, Mapping):
        names = plain_paths(weights)

        def held(name: str) -> Any:
            return weights.get(names.get(name, name))

        return safe(held, "the dict of weights", TraceError)

    def find(name: str) -> Any:
        try:
            return attribute(weights, name)
        except AttributeError:
            return None

    return find


def _bound(graph: Graph, find: Callable[[str], Any]) -> fx.GraphModule:
    """The graph over the tensors that `find` gives for its names."""
    tensors: dict[str, Tensor] = {}
    wrong: dict[str, str] = {}
    missing: dict[str, str] = {}
    for name, now in _weights(graph.module, graph.weightless):
        new = find(name)
        if not isinstance(new, Tensor):
            missing |= {name: f"{name} is missing"} if now.is_meta else {}
        elif new.shape != now.shape or new.dtype != now.dtype:
            wrong[name] = f"{name} is {_kind(new)}, the graph needs {_kind(now)}"
        else:
            tensors[name] = new
    if said := [*missing.values(), *wrong.values()]:
        more = f"\n  and {len(said) - SHOWN} more" if len(said) > SHOWN else ""
        shown = "".join(f"\n  {line}" for line in said[:SHOWN])
        raise TraceError(f"{graph.name} cannot take these weights:{shown}{more}\n"
                         f"{_advice(bool(wrong))}")
    return _over(graph.module, tensors, graph.weightless, _place(tensors))


def _weights(module: fx.GraphModule, weightless: bool) -> Iterator[tuple[str, Tensor]]:
    """What a graph, and the bodies that it calls, hold by name and can be given anew.

    In a graph without weights what has values stays: surgery has put it in, or the graph made it.
    """
    for node in module.graph.nodes:
        if node.op == "get_attr":
            now = attribute(module, str(node.target))
            if isinstance(now, Tensor) and (now.is_meta or not weightless):
                yield str(node.target), now
        elif body := _body(module, node):
            yield from _weights(body, weightless)


def _body(module: fx.GraphModule, node: fx.Node) -> fx.GraphModule | None:
    """The graph that a node of a component graph calls; a module of the user's is left alone."""
    found = module.get_submodule(str(node.target)) if node.op == "call_module" else None
    return found if isinstance(found, fx.GraphModule) else None


def _over(
    module: fx.GraphModule, tensors: Mapping[str, Tensor], weightless: bool,
    device: torch.device | None,
) -> fx.GraphModule:
    """The same graph over other tensors; all else that it holds is kept, on `device`."""
    new = {name: tensors[name] for name, _ in _weights(module, weightless) if name in tensors}
    held: dict[str, Any] = {}
    for node in module.graph.nodes:
        name = str(node.target)
        if name in new:
            held[name] = new[name]
        elif node.op == "get_attr":
            now = attribute(module, name)
            held[name] = now.to(device) if device and isinstance(now, Tensor) else now
        elif body := _body(module, node):
            held[name] = _over(body, tensors, weightless, device)
        elif node.op == "call_module":
            held[name] = module.get_submodule(name)
    copied = _copy(module.graph, device)
    return Code(held, copied, class_name=type(module).__name__)


def _advice(wrong: bool) -> str:
    if wrong:
        return ("pass weights of the model that was traced, in its type: from_pretrained(..., "
                "dtype=...), or trace again with dtype=...; model.to(dtype) converts buffers that "
                "from_pretrained keeps in float32, so trace such a model itself: rw.trace(model)")
    return ("pass the model itself: buffers such as rotary frequencies are not in its state dict; "
            "dict(model.named_parameters()) | dict(model.named_buffers()) has them")


def _place(tensors: Mapping[str, Tensor]) -> torch.device | None:
    """The device of the weights.  The graph creates its masks and positions there."""
    places = {tensor.device for tensor in tensors.values()}
    if len(places) > 1:
        found = ", ".join(sorted(map(str, places)))
        raise TraceError(f"the weights are on several devices ({found}), and a graph that was "
                         "traced without weights knows one only: trace the loaded model itself, "
                         "rw.trace(model)")
    return next(iter(places), None)


def _copy(graph: fx.Graph, device: torch.device | None) -> fx.Graph:
    """The same nodes with the same names and notes, creating tensors on `device`."""
    made, values = fx.Graph(), {}

    def moved(value: Any) -> Any:
        return device if isinstance(value, torch.device) and device is not None else value

    for node in graph.nodes:
        values[node] = made.node_copy(node, values.__getitem__)
        values[node].args = map_aggregate(values[node].args, moved)
        values[node].kwargs = map_aggregate(values[node].kwargs, moved)
    made.lint()
    return made


@alone
def measured(graph: Graph, model: nn.Module, inputs: Mapping[str, Any] | None) -> Graph:
    """The graph with a new certificate, compared with a model on `inputs` and at other sizes."""
    names = [spec.name for spec in graph.inputs]
    wanted = {**default_inputs(model), **graph.constants} if inputs is None else inputs
    call = ", ".join(f"{name!r}: tensor" for name in names)
    needs = TraceError(f"to measure parity {graph.name} needs the inputs {', '.join(names)}, found "
                       f"{', '.join(wanted)}: graph.with_weights(model, inputs={{{call}}})")
    try:
        arguments = Arguments.of(model, wanted)
    except InputError as error:
        raise needs from error
    given = dict(arguments.tensors)
    examples = fresh(given)
    if set(examples) != set(names):
        raise needs
    flat = Flat(model, tuple(names), arguments)
    flat.outputs = graph.outputs
    old = graph.certificate
    method, notes = (old.method, old.notes) if old else ("weights bound by name", ())
    captured = Capture(graph.module, graph.inputs, {}, method, notes, graph.guards)
    try:
        with kept(model) as state:
            captured, parity = compare(captured, flat, given, examples, state)
    except TraceError as error:
        raise TraceError(f"with these weights the graph is not {type(model).__name__}, {error}: "
                         "was it traced from the same configuration?  Trace the loaded model "
                         "itself: rw.trace(model)") from error
    certificate = certificate_of(parity, method, old.seconds if old else 0.0, notes,
                                 old.varying if old else "")
    return replace(graph, guards=captured.guards, certificate=certificate)


def _kind(value: Tensor) -> str:
    return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
