"""Graphs as .pt2 files: what `torch.export.save` writes, and beside it what a `Graph` knows.

`torch.export.load` reads such a file without this package.
"""

from __future__ import annotations

import importlib
import json
import re
import sys
from collections.abc import Mapping
from dataclasses import asdict, fields, is_dataclass, replace
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import torch
from torch import Tensor, fx

from rewrite import disk
from rewrite.errors import FileError, SurgeryError
from rewrite.files.sizes import writable
from rewrite.ir.buffers import leave_out, transient
from rewrite.ir.certificate import certificate_from
from rewrite.ir.graph import Graph, InputSpec, OutputSpec
from rewrite.ir.nested import Place
from rewrite.ir.sizes import fitting
from rewrite.ir.values import attribute
from rewrite.parts.operators import written_out
from rewrite.trace.cleanup import clean

EXTRA = "rewrite.json"
KEPT = ("module", "component", "part", "own", "added")  # what nodes say of themselves
# Packages whose classes a file may name without that they are loaded already.
KNOWN = ("builtins", "collections", "torch", "transformers")


def save_graph(graph: Graph, path: Path) -> Path:
    """Export the module, with its interface as a note.  Raises `FileError` if it cannot be."""
    if graph.weightless:
        raise FileError(f"{graph.name} has no weights to save: give it some by "
                        "graph.with_weights(model), and save the graph that it returns")
    from torch._export.serde.serialize import SerializeError  # takes a second

    try:
        graph = written_out(graph, whole=False)  # the same additions: loaded, it is bit for bit
    except SurgeryError as error:
        raise FileError(f"{graph.name} cannot be exported: {error}; functions that were put in "
                        "must be made of tensor operators, without looking at values") from error
    graph = replace(graph, module=writable(graph.module))
    note = json.dumps(_note(graph), indent=1)
    inputs = _examples(graph)
    fixed = _fixed(graph)
    shapes = tuple({axis: torch.export.Dim.DYNAMIC for axis, dim in enumerate(spec.shape)
                    if isinstance(dim, str) and dim not in fixed} for spec in graph.inputs)
    try:
        with torch.no_grad():
            program = torch.export.export(graph.module, inputs, dynamic_shapes=shapes,
                                          strict=False)
    except Exception as error:  # of many kinds; what the user can change is the same for all
        reason = str(error).strip().splitlines()[0]
        raise FileError(f"{graph.name} cannot be exported: {reason}; functions that were put in "
                        "must be made of tensor operators, without looking at values") from error
    try:
        whole = BytesIO()  # torch aborts the process where its own writer finds a full disk
        torch.export.save(program, whole, extra_files={EXTRA: note})
    except SerializeError as error:
        reason = " ".join(str(error).split())[:200]
        raise FileError(f"{graph.name} has an operator that torch cannot write to a file: "
                        f"{reason}; keep graph.text(), and read it by rw.from_text(text, "
                        "model)") from error
    return disk.write(path, whole.getbuffer())


def load_graph(path: Path) -> Graph | torch.nn.Module:
    """What `save_graph` wrote; of a file without its note, the exported module."""
    extra = {EXTRA: ""}
    try:
        program = torch.export.load(path, extra_files=extra)
    except (OSError, RuntimeError, ValueError, BadZipFile) as error:
        raise FileError(f"{path} cannot be read as an exported module: {error}") from error
    if not extra[EXTRA]:
        return program.module()
    note = json.loads(extra[EXTRA])
    module = _plain(program.module(check_guards=False), note)
    inputs = tuple(InputSpec(name, tuple(shape), getattr(torch, dtype))
                   for name, shape, dtype in note["inputs"])
    outputs = OutputSpec(tuple(note["outputs"]), partial(_build, _shell(note["returns"], path)))
    measured = note["certificate"]
    certificate = measured and certificate_from(measured | {
        "notes": [*measured["notes"], f"measured before it was saved as {path.name}"]})
    return Graph(module, inputs, outputs, note["name"], certificate, note["origin"],
                 tuple(note["guards"]), constants=note.get("constants", {}))


def _note(graph: Graph) -> dict[str, Any]:
    names = graph.outputs.names
    # None of these tensors has entries; the model's own class is filled with them.
    markers = {name: torch.empty(0) for name in names}
    returned = graph.outputs(tuple(markers.values()))
    return {
        "name": graph.name, "origin": graph.origin, "guards": graph.guards,
        "constants": {name: value for name, value in graph.constants.items()
                      if isinstance(value, (bool, int, float, str, type(None)))},
        "inputs": [(s.name, s.shape, str(s.dtype).removeprefix("torch.")) for s in graph.inputs],
        "outputs": names,
        "returns": _described(returned, {id(tensor): name for name, tensor in markers.items()}),
        "certificate": asdict(graph.certificate) if graph.certificate else None,
        "nodes": [(node.name, str(node.target), {k: node.meta[k] for k in KEPT if k in node.meta})
                  for node in graph.module.graph.nodes if node.op == "call_function"],
    }


def _described(value: Any, names: Mapping[int, str]) -> Any:
    """The nesting of a return value, with its classes by name."""
    if value is None:
        return None
    if isinstance(value, Tensor):
        return names[id(value)]
    kind = type(value)
    if "<locals>" in kind.__qualname__ or kind.__module__ == "__main__":
        raise FileError(f"the graph returns a {kind.__qualname__}, which is defined in "
                        f"{kind.__module__} and cannot be found by name when the file is read: "
                        "define it in a module")
    label = f"{kind.__module__}:{kind.__qualname__}"
    if isinstance(value, Mapping):
        return {"class": label, "keys": {k: _described(v, names) for k, v in value.items()}}
    if is_dataclass(value):
        return {"class": label,
                "keys": {f.name: _described(getattr(value, f.name), names) for f in fields(value)}}
    return {"class": label, "items": [_described(item, names) for item in value]}


def _shell(described: Any, path: Path) -> Any:
    """The same with the classes themselves, so that what is missing is told on loading."""
    if not isinstance(described, dict):
        return described
    place, _, name = described["class"].partition(":")
    if place not in sys.modules and place.partition(".")[0] not in KNOWN:
        raise FileError(f"{path} returns a {name} of {place}: import {place} before it is loaded")
    try:
        kind = attribute(importlib.import_module(place), name)
    except (ImportError, AttributeError) as error:
        raise FileError(f"{path} returns a {name} of {place}, which cannot be found: "
                        f"{error}") from error
    if not (is_dataclass(kind) or issubclass(kind, (Mapping, tuple, list))):
        raise FileError(f"{path} returns a {name}, which is no container")
    if "keys" in described:
        return kind, {key: _shell(item, path) for key, item in described["keys"].items()}
    return kind, [_shell(item, path) for item in described["items"]]


def _build(shell: Any, found: Mapping[str, Tensor]) -> Any:
    if shell is None:
        return None
    if isinstance(shell, str):
        return found[shell]
    kind, inside = shell
    rebuild: Any = kind
    if isinstance(inside, dict):
        made = {key: _build(item, found) for key, item in inside.items()}
        return rebuild(**made) if is_dataclass(kind) else rebuild(made)
    items = [_build(item, found) for item in inside]
    return kind(*items) if hasattr(kind, "_fields") else kind(items)


def _examples(graph: Graph) -> tuple[Tensor, ...]:
    """Inputs to export with, of sizes that the graph accepts."""
    sizes = next(fitting(graph.inputs, graph.guards, _fixed(graph)), None)
    if sizes is not None:
        devices = {str(node.target): node.meta["val"].device for node in
                   graph.module.graph.find_nodes(op="placeholder") if "val" in node.meta}
        return tuple(torch.ones([sizes[d] if isinstance(d, str) else d for d in spec.shape],
                                dtype=spec.dtype, device=devices.get(spec.name))
                     for spec in graph.inputs)
    raise FileError(f"no sizes were found at which {graph.name} can be exported: its conditions "
                    f"are {', '.join(graph.guards)}")


def _fixed(graph: Graph) -> dict[str, int]:
    """Sizes that vary by their name, but that a condition fixes (since a value was frozen)."""
    dims = {spec.name: spec.shape for spec in graph.inputs}
    found = {}
    for guard in graph.guards:
        for name, axis, size in re.findall(r"^(.+)\.shape\[(\d+)\] == (\d+)$", guard):
            found[str(dims[name][int(axis)])] = int(size)
    return found


def _is_kept(target: str) -> bool:
    return target.startswith("aten.") and not target.startswith("aten.sym_")


def _plain(exported: fx.GraphModule, note: Mapping[str, Any]) -> fx.GraphModule:
    """A module without pytrees and hooks, with the names of inputs (and nodes) as saved."""
    clean(exported.graph)
    graph, values = fx.Graph(), dict[fx.Node, fx.Node]()
    inputs = iter(note["inputs"])
    calls = [node for node in exported.graph.nodes if node.op == "call_function"]
    noted: dict[fx.Node, Any] = {}
    # Operators of the saved graph are found again one by one; sizes may have been merged.
    for kept in (str, _is_kept):
        found = [node for node in calls if kept(str(node.target))]
        wanted = [each for each in note["nodes"] if kept(each[1])]
        if not noted and [str(node.target) for node in found] == [each[1] for each in wanted]:
            noted = dict(zip(found, wanted, strict=True))
    taken = {name for name, *_ in noted.values()}
    for node in exported.graph.nodes:
        if node.op == "placeholder":
            made = graph.placeholder(Place(next(inputs)[0]))
            made.meta = dict(node.meta)
        elif node.op == "output":
            made = graph.output(fx.map_arg(tuple(node.args[0]), values.__getitem__))
        else:
            made = graph.node_copy(node, values.__getitem__)
            while node not in noted and made.name in taken:
                made.name += "_"
        if node in noted:
            made.name, _, known = noted[node]
            made.meta |= {"module": known} if isinstance(known, str) else known
        values[node] = made
    used = {str(node.target): attribute(exported, str(node.target))
            for node in graph.find_nodes(op="get_attr")}
    module = fx.GraphModule(used, graph, class_name=note["name"])
    leave_out(module, transient(exported))
    module.graph.lint()
    return module
