"""From a module to an `fx.GraphModule` by `torch.export`, with a ladder of fallbacks."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import Dim

from rewrite.errors import TraceError
from rewrite.ir.graph import InputSpec, OutputSpec
from rewrite.trace.cleanup import clean, mutates
from rewrite.trace.examples import dynamic_axes


@dataclass(frozen=True)
class Capture:
    """What export made of a model, and how."""

    module: fx.GraphModule
    inputs: tuple[InputSpec, ...]
    axes: dict[str, tuple[int, ...]]
    method: str
    notes: tuple[str, ...]


class Flat(nn.Module):
    """The model as a function of tensors in a fixed order to a tuple of tensors."""

    def __init__(self, model: nn.Module, names: tuple[str, ...], outputs: OutputSpec | None):
        super().__init__()
        self.model = model
        self.names = names
        self.outputs = outputs

    def call(self, *tensors: Tensor) -> Any:
        """The model's own return value."""
        config = getattr(self.model, "config", None)
        options: dict[str, Any] = {}
        if config is not None and hasattr(self.model, "get_input_embeddings"):
            options["return_dict"] = True
            if hasattr(config, "use_cache"):
                options["use_cache"] = False
        return self.model(**dict(zip(self.names, tensors, strict=True)), **options)

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        assert self.outputs is not None
        found = named_outputs(self.call(*tensors))
        return tuple(found[name] for name in self.outputs.names)


def output_spec(value: Any) -> OutputSpec:
    """How to rebuild `value` from its tensors; raises `TraceError` for what is no tensor."""
    names = tuple(named_outputs(value))
    if isinstance(value, Tensor):
        return OutputSpec(names, lambda found: found["output"])
    if isinstance(value, (tuple, list)):
        return OutputSpec(names, lambda found: type(value)(found.values()))
    kind = type(value)
    return OutputSpec(names, lambda found: kind(**found))


def named_outputs(value: Any) -> dict[str, Tensor]:
    """The tensors of a model's return value by name."""
    if isinstance(value, Tensor):
        return {"output": value}
    if isinstance(value, (tuple, list)) and not hasattr(value, "_fields"):
        value = {f"output{index}": item for index, item in enumerate(value)}
    if not isinstance(value, Mapping):
        raise TraceError(f"unsupported output of type {type(value).__name__}: a model must "
                         "return a tensor, a tuple of tensors, or a dict of tensors")
    found = {name: item for name, item in value.items() if item is not None}
    for name, item in found.items():
        if not isinstance(item, Tensor):
            raise TraceError(f"unsupported output {name!r} of type {type(item).__name__}: only "
                             "tensors can be outputs of a graph; wrap the model in a module "
                             "that returns the tensors that you need")
    if not found:
        raise TraceError("the model returns nothing: its output holds no tensor")
    return {str(name): item for name, item in found.items()}


def capture(flat: Flat, inputs: Mapping[str, Tensor]) -> Capture:
    """Export `flat` with the first method that works; each failure is kept for the report."""
    failures: list[str] = []
    for method, length in (
        ("torch.export, batch and length dynamic", True),
        ("torch.export, batch dynamic, length fixed", False),
    ):
        axes = {name: dynamic_axes(value, length) for name, value in inputs.items()}
        if not length and axes == {n: dynamic_axes(v, True) for n, v in inputs.items()}:
            continue  # nothing to fix: the inputs have no length
        try:
            module = _export(flat, inputs, axes)
        except Exception as error:  # each method's failure is reported, none is swallowed
            failures.append(f"{method}: {_reason(error)}")
            continue
        specs = _input_specs(module, inputs)
        notes = tuple(f"tried before: {failure}" for failure in failures)
        return Capture(module, specs, axes, method, notes)
    tried = "\n  ".join(failures)
    raise TraceError(f"{type(flat.model).__name__} cannot be traced:\n  {tried}\n"
                     "Look for control flow that depends on tensor values, or trace the "
                     "submodule that you need")


def _export(
    flat: Flat, inputs: Mapping[str, Tensor], axes: Mapping[str, tuple[int, ...]]
) -> fx.GraphModule:
    shapes = tuple(dict.fromkeys(axes[name], Dim.DYNAMIC) for name in flat.names)
    with torch.no_grad():
        program = torch.export.export(
            flat, tuple(inputs[name] for name in flat.names), strict=False,
            dynamic_shapes={"tensors": shapes},
        )
    exported = program.module(check_guards=False)
    clean(exported.graph)
    if mutates(exported.graph):
        with warnings.catch_warnings():  # torch copies a class of its own that it deprecates
            warnings.filterwarnings("ignore", "`isinstance.treespec, LeafSpec", FutureWarning)
            exported = program.run_decompositions({}).module(check_guards=False)
        clean(exported.graph)
    if left := mutates(exported.graph):
        raise TraceError(f"{left[0].format_node()} writes into its operand")
    return _plain(exported, flat)


def _plain(exported: fx.GraphModule, flat: Flat) -> fx.GraphModule:
    """A GraphModule without pytrees and hooks, over the model's own parameters."""
    graph, values = fx.Graph(), {}
    names = iter(flat.names)
    tensors: dict[str, Any] = {}
    for node in exported.graph.nodes:
        if node.op == "placeholder":
            copied = graph.placeholder(next(names))
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
            copied.meta["module"] = _module_path(node)
        values[node] = copied
    graph.lint()
    return fx.GraphModule(tensors, graph, class_name=type(flat.model).__name__)


def _module_path(node: fx.Node) -> str:
    """Dotted path of the innermost module that made this node."""
    stack = node.meta.get("nn_module_stack") or {"": ("", None)}
    path, _ = list(stack.values())[-1]
    return path.removeprefix("model").removeprefix(".")


def _own(model: nn.Module, name: str, exported: nn.Module, fallback: str) -> Any:
    owner_name, _, leaf = name.rpartition(".")
    try:
        owner = model.get_submodule(owner_name)
    except AttributeError:
        owner = None
    if owner is not None and isinstance(getattr(owner, leaf, None), Tensor):
        return getattr(owner, leaf)
    found: Any = exported
    for part in fallback.split("."):
        found = getattr(found, part)
    return found


def _input_specs(module: fx.GraphModule, inputs: Mapping[str, Tensor]) -> tuple[InputSpec, ...]:
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
            plain = ("batch", "seq")[axis] if axis < 2 else f"dim{axis}"
            taken = plain in labels.values() and str(size) not in labels
            label = f"{node.target}.{plain}" if taken else plain
            shape.append(labels.setdefault(str(size), label))
        specs.append(InputSpec(node.target, tuple(shape), inputs[node.target].dtype))
    return tuple(specs)


def _reason(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:300] if lines else ''}"
