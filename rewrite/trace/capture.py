"""From a module to an `fx.GraphModule` by `torch.export`, with a ladder of fallbacks."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import Dim, ExportedProgram

from rewrite.errors import TraceError
from rewrite.ir.buffers import leave_out, transient
from rewrite.ir.clauses import legal_target
from rewrite.ir.code import Code
from rewrite.ir.graph import InputSpec
from rewrite.ir.nested import Place, plain_path
from rewrite.ir.size_text import unmet
from rewrite.ir.values import attribute
from rewrite.trace.axes import Named, check_labels, fixed_by_model
from rewrite.trace.cause import ELSE, Spot, place_of, place_of_node
from rewrite.trace.cleanup import clean, is_region, sweep
from rewrite.trace.flat import Flat
from rewrite.trace.functional import lasting, make_functional, mutates
from rewrite.trace.ladder import LADDER, WRITES, Change, Failure, Rung
from rewrite.trace.state import kept
from rewrite.trace.support import quiet, remedy

LONGEST = 400  # characters of a reason


@dataclass(frozen=True)
class Capture:
    """What export made of a model, and how."""

    module: fx.GraphModule
    inputs: tuple[InputSpec, ...]
    axes: dict[str, tuple[int, ...]]
    method: str
    notes: tuple[str, ...]
    guards: tuple[str, ...]  # conditions on the shapes of the inputs, as Python expressions
    length: bool = True  # whether the length varies
    said: bool = False  # whether the user said which axes vary

    def failure(self, reason: str) -> Failure:
        """What is noted if the trace turns out not to be the model."""
        return Failure(self.method, reason[:LONGEST], length=self.length, traced=True)

    def holds(self, inputs: Mapping[str, Tensor]) -> bool:
        """Whether the trace claims to be right at the sizes of `inputs`."""
        return unmet(self.guards, {n: tuple(v.shape) for n, v in inputs.items()}) is None


def capture(
    flat: Flat, inputs: Mapping[str, Tensor], failures: list[Failure], named: Named | None = None
) -> Iterator[Capture]:
    """What each rung of the ladder makes of `flat`, best first; raises when none is left.

    `failures` collects why rungs did not work, so that nothing is tried silently.  A rung
    that cannot help against the failures so far is left out, and so is one that would fix an
    axis of `named`, those that the user wants to vary.
    """
    hint = ""
    for rung in LADDER:
        axes = rung.axes(inputs, failures) if named is None else {
            name: tuple(dims) for name, dims in named.items()}
        if (rung.named or not rung.length) and (
                named is not None or axes == LADDER[0].axes(inputs)):
            continue  # nothing to fix: the inputs have no length
        if not rung.may_help(flat.model, failures, flat.fake):
            continue
        with rung.setting(flat.model) as change:
            if change is None:
                continue
            try:
                with kept(flat.model):
                    _call_once(flat, inputs)
                    made = _export(flat, inputs, axes, rung, named)
            except Exception as error:  # each failure is reported, none is swallowed
                place = getattr(error, "place", None) or place_of(error, flat.model)
                failures.append(Failure.of(rung, error, place))
                hint = hint or remedy(flat.model, error)
                continue
        yield replace(made, notes=change.notes, guards=made.guards + _limits(change, made))
    said = "".join(f"\n  {failure}" for failure in failures)
    if named is not None:
        said += fixed_by_model(named, [place for failure in failures for place in failure.fixed])
    raise TraceError(f"{type(flat.model).__name__} cannot be traced:{said}\n"
                     f"{failures[0].remedy if failures else ELSE}{hint}")


def _call_once(flat: Flat, inputs: Mapping[str, Tensor]) -> None:
    """Tables that a model makes when it is first called shall hold numbers, not export's fakes."""
    with torch.no_grad(), quiet(), flat.eagerly():
        given = flat.given(inputs)
        flat(*(given[name].clone() for name in flat.names))


def _limits(change: Change, made: Capture) -> tuple[str, ...]:
    if change.limit is None:
        return ()
    return tuple(f"{name}.shape[1] <= {change.limit}" for name, axes in made.axes.items()
                 if 1 in axes)


def _export(
    flat: Flat, inputs: Mapping[str, Tensor], axes: Mapping[str, tuple[int, ...]], rung: Rung,
    named: Named | None = None,
) -> Capture:
    dim = Dim.AUTO if rung.automatic else Dim.DYNAMIC
    shapes = tuple(dict.fromkeys(axes[name], dim) for name in flat.names)
    with torch.no_grad(), quiet():
        given = flat.given(inputs)
        program = torch.export.export(
            flat, tuple(given[name] for name in flat.names), strict=False,
            dynamic_shapes={"tensors": shapes},
        )
        _rename(program, flat)
        guards = _readable(getattr(program, "_guards_code", ()) or (), flat.names)
        exported = program.module(check_guards=False)
        _check_sizes(exported.graph, flat, axes)
        clean(exported.graph)
        make_functional(exported.graph)
        sweep(exported.graph)
        if kept := lasting(exported.graph):
            raise PlacedError(f"{WRITES} a weight or a buffer", place_of_node(kept[0], flat.model))
        if mutates(exported.graph) or any(map(is_region, exported.graph.nodes)):
            with warnings.catch_warnings():  # torch copies a class of its own that it deprecates
                warnings.filterwarnings("ignore", "`isinstance.treespec, LeafSpec", FutureWarning)
                exported = program.run_decompositions({}).module(check_guards=False)
            clean(exported.graph)
    if left := mutates(exported.graph):
        raise PlacedError("it writes into an operand", place_of_node(left[0], flat.model))
    _check_calls(exported.graph, flat)
    module = _plain(exported, flat)
    name = rung.name if named is None else rung.name.replace(", batch and length dynamic", "")
    return Capture(module, _input_specs(module, inputs, named or {}), dict(axes), name, (),
                   guards, rung.length, named is not None)


def _check_calls(graph: fx.Graph, flat: Flat) -> None:
    """Raise `TraceError` for what is neither an operator nor arithmetic of sizes."""
    for node in graph.nodes:
        if node.op not in ("placeholder", "get_attr", "output") and not (
                node.op == "call_function" and legal_target(node.target, "traced")):
            raise PlacedError(f"it calls {node.target}", place_of_node(node, flat.model))


class PlacedError(TraceError):
    """A trace that failed at a known place of the user's code."""

    def __init__(self, message: str, place: Spot) -> None:
        super().__init__(message, place)
        self.message, self.place = message, place

    def __str__(self) -> str:
        return self.message


def _check_sizes(
    graph: fx.Graph, flat: Flat, axes: Mapping[str, tuple[int, ...]]
) -> None:
    """Raise `TraceError` if a size that should vary was taken as fixed."""
    places = (node for node in graph.nodes if node.op == "placeholder")
    for name, node in zip(flat.names, places, strict=True):
        sizes = node.meta["val"].shape
        fixed = [axis for axis in axes[name] if isinstance(sizes[axis], int)]
        if fixed:
            raise TraceError(f"axis {fixed[0]} of {name} turned out to be fixed at "
                             f"{sizes[fixed[0]]}")


def _readable(guards: Iterable[str], names: Sequence[str]) -> tuple[str, ...]:
    """Conditions under which the trace holds, in terms of the inputs' shapes."""
    def named(match: re.Match[str]) -> str:
        return f"{names[int(match[1])]}.shape[{match[2]}]"

    return tuple(
        re.sub(r"L\['tensors'\]\[(\d+)\]\.size\(\)\[(\d+)\]", named, guard)
        for guard in guards
    )


def _plain(exported: fx.GraphModule, flat: Flat) -> fx.GraphModule:
    """A GraphModule without pytrees and hooks, over the model's own parameters."""
    graph, values = fx.Graph(), {}
    names = iter(flat.names)
    tensors: dict[str, Any] = {}
    for node in exported.graph.nodes:
        if node.op == "placeholder":
            copied = graph.placeholder(Place(next(names)))
            copied.meta = dict(node.meta)
        elif node.op == "get_attr":
            target = node.target.removeprefix("model.")
            tensors[target] = _own(flat.model, target, exported, node.target)
            copied = graph.get_attr(target)
            copied.meta = dict(node.meta)
        elif node.op == "output":
            copied = graph.output(fx.map_arg(tuple(node.args[0]), values.__getitem__))
        else:
            copied = graph.node_copy(node, values.__getitem__)
            copied.meta["module"] = _module_path(node, flat.model)
        values[node] = copied
    graph.lint()
    module = Code(tensors, graph, class_name=type(flat.model).__name__)
    leave_out(module, transient(flat.model))
    return module


def _module_path(node: fx.Node, model: nn.Module) -> str:
    """Dotted path of the innermost module that made this node."""
    stack = node.meta.get("nn_module_stack") or {"": ("", None)}
    path, _ = list(stack.values())[-1]
    return plain_path(model, path.removeprefix("model").removeprefix("."))


def _rename(program: ExportedProgram, flat: Flat) -> None:
    """Give weights names that code can write: torch would write `self.model.class.weight`."""
    signature = program.graph_signature
    specs = [*signature.input_specs, *signature.output_specs]
    held: list[dict[str, Any]] = [program.state_dict, program.constants]
    known = {spec.target for spec in specs if spec.target} | {n for table in held for n in table}
    names = {name: plain_path(flat, name) for name in known}
    if all(name == made for name, made in names.items()):
        return
    for spec in specs:
        spec.target = names.get(spec.target or "", spec.target)
    for table in held:
        entries = {names[name]: value for name, value in table.items()}
        table.clear()
        table.update(entries)


def _own(model: nn.Module, name: str, exported: nn.Module, fallback: str) -> Any:
    with suppress(AttributeError):
        if isinstance(found := attribute(model, name), Tensor):
            return found
    return attribute(exported, fallback)


def _input_specs(
    module: fx.GraphModule, inputs: Mapping[str, Tensor], named: Named
) -> tuple[InputSpec, ...]:
    labels: dict[str, str] = {}
    specs = []
    for node in module.graph.nodes:
        if node.op != "placeholder":
            continue
        value = node.meta["val"]
        shape: list[int | str] = []
        for axis, size in enumerate(value.shape):
            if isinstance(size, int):
                shape.append(size)
                continue
            if label := named.get(str(node.target), {}).get(axis):
                check_labels(labels, str(size), label)
                shape.append(labels.setdefault(str(size), label))
                continue
            plain = ("batch", "seq")[axis] if axis < 2 else f"dim{axis}"
            taken = plain in labels.values() and str(size) not in labels
            label = f"{node.target!s}.{plain}" if taken else plain
            shape.append(labels.setdefault(str(size), label))
        specs.append(InputSpec(str(node.target), tuple(shape), inputs[node.target].dtype))
    return tuple(specs)
