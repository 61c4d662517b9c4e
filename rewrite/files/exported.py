"""Graphs as .pt2 files, for other programs: what `torch.export.save` writes, and our notes.

`torch.export.load` reads such a file without this package.  It unpickles, and evaluates texts
that stand in the file, so reading one is running it: `load_trusted` is for files of one's own.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, replace
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx

from rewrite import disk
from rewrite.errors import FileError, SurgeryError
from rewrite.files.returns import described, outputs_of
from rewrite.files.sizes import writable
from rewrite.ir.buffers import leave_out, transient
from rewrite.ir.certificate import certificate_from
from rewrite.ir.code import Code
from rewrite.ir.graph import Graph, InputSpec
from rewrite.ir.nested import Place
from rewrite.ir.sizes import fitting
from rewrite.ir.text_sizes import dtype_of
from rewrite.ir.values import attribute
from rewrite.parts.operators import written_out
from rewrite.trace.cleanup import clean
from rewrite.turn import alone
from rewrite.world import check_is_file, turned

EXTRA = "rewrite.json"
KEPT = ("module", "component", "part", "own", "added")  # what nodes say of themselves


@alone
def export(graph: Graph, path: Path) -> Path:
    """Export the module, with its interface as a note.  Raises `FileError` if it cannot be."""
    if path.suffix != ".pt2":
        raise FileError(f"a graph is exported as .pt2, found {path.name!r}: write "
                        f"{(path.stem or 'name') + '.pt2'!r}")
    if graph.weightless:
        raise FileError(f"{graph.name} has no weights to export: give it some by "
                        "graph.with_weights(model), and export the graph that it returns")
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
                        f"{reason}; rw.save(graph, '{path.stem}.graph') can") from error
    return disk.write(path, whole.getbuffer())


@alone
def load_trusted(path: str | Path) -> Graph | torch.nn.Module:
    """Read a .pt2 file that you trust as much as a program: reading it runs what it says.

    A graph, of a file that `graph.export` wrote; the exported module, of one by
    `torch.export.save`.  Files of others are read by `rw.load`, which runs nothing, if they are
    .graph files.  Raises `FileError` for other files.

    >>> rw.load_trusted("weights.safetensors")
    Traceback (most recent call last):
    ...
    rewrite.errors.FileError: 'weights.safetensors' is no .pt2: other files are read by rw.load
    """
    path = Path(path)
    if path.suffix != ".pt2":
        raise FileError(f"{path.name!r} is no .pt2: other files are read by rw.load")
    check_is_file(path)
    with turned(FileError, lambda why: f"{path} cannot be read as an exported module: {why}"):
        return _trusted(path)


def _trusted(path: Path) -> Graph | torch.nn.Module:
    extra = {EXTRA: ""}
    program = torch.export.load(path, extra_files=extra)
    if not extra[EXTRA]:
        return program.module()
    note = json.loads(extra[EXTRA])
    module = _plain(program.module(check_guards=False), note)
    inputs = tuple(InputSpec(name, tuple(shape), dtype_of(dtype))
                   for name, shape, dtype in note["inputs"])
    outputs = outputs_of(tuple(note["outputs"]), _renamed(note["returns"]))
    measured = note["certificate"]
    certificate = measured and certificate_from(measured | {
        "notes": [*measured["notes"], f"measured before it was saved as {path.name}"]})
    return Graph(module, inputs, outputs, note["name"], certificate, note["origin"],
                 tuple(note["guards"]), constants=note.get("constants", {}))


def _renamed(said: Any) -> Any:
    """What a graph returns, as files say it that were written before .graph files."""
    match said:
        case {"class": str(label), "keys": dict(inside)}:
            held: Any = {key: _renamed(item) for key, item in inside.items()}
        case {"class": str(label), "items": list(inside)}:
            held = [_renamed(item) for item in inside]
        case _:
            return said
    place, _, name = label.partition(":")
    return {"class": name if place in ("builtins", "collections") else label, "holds": held}


def _note(graph: Graph) -> dict[str, Any]:
    return {
        "name": graph.name, "origin": graph.origin, "guards": graph.guards,
        "constants": {name: value for name, value in graph.constants.items()
                      if isinstance(value, (bool, int, float, str, type(None)))},
        "inputs": [(s.name, s.shape, str(s.dtype).removeprefix("torch.")) for s in graph.inputs],
        "outputs": graph.outputs.names, "returns": described(graph.outputs),
        "certificate": asdict(graph.certificate) if graph.certificate else None,
        "nodes": [(node.name, str(node.target), {k: node.meta[k] for k in KEPT if k in node.meta})
                  for node in graph.module.graph.nodes if node.op == "call_function"],
    }


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
    module = Code(used, graph, class_name=note["name"])
    leave_out(module, transient(exported))
    module.graph.lint()
    return module
