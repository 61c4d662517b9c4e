"""Graphs as files that are data: the text of a graph, notes, tensors, and a checksum over all.

    graph.txt              the operators, as `graph.text()` has them, and how values lie in memory
    notes.json             schema and version, and what the text does not say
    tensors.safetensors    weights and other tensors

Nothing in such a file is executed or imported.  What it may call is listed in
`rewrite.ir.text_names`, which classes of return values it may name in `rewrite.files.returns`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import IO, Any, get_type_hints

import torch
from torch import Tensor

from rewrite.errors import FileError, SurgeryError, TextError
from rewrite.files.archive import read_archive, write_archive
from rewrite.files.returns import described, outputs_of
from rewrite.files.tensors import Stored, Tensors, read_tensors
from rewrite.ir.buffers import leave_out, transient
from rewrite.ir.certificate import Certificate, certificate_from, tuples
from rewrite.ir.graph import Graph
from rewrite.ir.text import to_text
from rewrite.ir.text_names import SPELT, computes, name_of
from rewrite.ir.text_read import read
from rewrite.ir.values import attribute
from rewrite.kinds import short
from rewrite.parts.operators import written_out
from rewrite.trace.live import bind
from rewrite.world import check_table, reading, table_of

SCHEMA, VERSION = "rewrite.graph", 1
TEXT, NOTES, TENSORS = MEMBERS = ("graph.txt", "notes.json", "tensors.safetensors")
# What nodes say of themselves.
KEPT = {"module": str, "component": str, "part": str, "own": str, "added": bool, "from": str}
CONSTANTS = (bool, int, float, str, type(None))
ADVICE = "or write it for other programs: graph.export('graph.pt2')"
SAID: Mapping[str, Any] = {
    "schema": str, "version": int, "torch": str, "origin": str | None, "weightless": bool,
    "traced": bool, "constants": dict[str, bool | int | float | str | None],
    "returns": dict | str | None, "certificate": dict | None, "transient": list[str],
    "tensors": dict[str, dict], "nodes": dict[str, dict],
}


def save_graph(graph: Graph, path: Path) -> Path:
    """Write a graph.  Raises `FileError` for what cannot be data, with what to do."""
    try:
        graph = written_out(graph, whole=False)  # the same additions: loaded, it is bit for bit
    except SurgeryError as error:
        raise FileError(f"{graph.name} cannot be saved: {error}; functions that were put in "
                        "must be made of tensor operators, without looking at values") from error
    for node in graph.module.graph.nodes:
        if node.op == "call_function" and not computes(node.target) and node.target not in SPELT:
            raise FileError(f"{graph.name} cannot be saved: {node.name!r} calls "
                            f"{name_of(node.target)}, and a file may call operators of ATen that "
                            f"change nothing; write it with those, {ADVICE}")
    tensors = {str(node.target): attribute(graph.module, str(node.target))
               for node in graph.module.graph.find_nodes(op="get_attr")}
    stored = Tensors(tensors)
    text = to_text(graph, strides=True)
    notes = _notes(graph, stored)
    _try(graph, text, notes, tensors)
    return write_archive(path, {
        TEXT: lambda file: _write(file, text),
        NOTES: lambda file: _write(file, json.dumps(notes, indent=1)),
        TENSORS: stored.write})


def _write(file: IO[bytes], text: str) -> None:
    file.write(text.encode())


def _notes(graph: Graph, tensors: Tensors) -> dict[str, Any]:
    for name, value in graph.constants.items():
        if not isinstance(value, CONSTANTS):
            raise FileError(f"{graph.name} cannot be saved: its constant {name!r} is "
                            f"{short(value)}, which a file cannot hold")
    return {
        "schema": SCHEMA, "version": VERSION, "torch": torch.__version__,
        "origin": graph.origin, "weightless": graph.weightless, "traced": graph.bind is not None,
        "constants": dict(graph.constants), "returns": described(graph.outputs),
        "certificate": asdict(graph.certificate) if graph.certificate else None,
        "transient": sorted(transient(graph.module) & set(tensors.stored)),
        "tensors": tensors.notes,
        "nodes": {node.name: {key: node.meta[key] for key in KEPT if key in node.meta}
                  for node in graph.module.graph.nodes if node.op != "output"},
    }


def _try(
    graph: Graph, text: str, notes: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> None:
    """Make sure that what is written is what will be read: an error now, and not later."""
    try:
        again = read(text, tensors, {}, checked=False)
        outputs_of(again.outputs.names, notes["returns"])
    except (TextError, ValueError) as error:
        raise FileError(f"{graph.name} cannot be saved, it has something that a file cannot hold; "
                        f"{ADVICE}: {error}") from error
    same = again.inputs == graph.inputs and again.guards == graph.guards
    if not same or to_text(again, strides=True) != text:
        raise FileError(f"{graph.name} cannot be saved, it would be read as another graph; "
                        f"{ADVICE}")


def load_graph(path: Path) -> Graph:
    """What `save_graph` wrote; raises `FileError` for everything else."""
    with reading(path), read_archive(path, MEMBERS) as archive:
        notes = table_of(archive.read(NOTES).decode(), f"{NOTES} of {path}")
        _check(notes, path)
        stored = {name: _stored(said) for name, said in notes["tensors"].items()}
        with archive.open(TENSORS) as file:
            tensors = read_tensors(file, archive.getinfo(TENSORS).file_size, stored)
        try:
            graph = read(archive.read(TEXT).decode(), tensors, {}, checked=False)
        except TextError as error:
            raise FileError(f"{path} cannot be read as a graph: {error}") from error
        return _with(graph, notes, tensors, path)


def _check(notes: Mapping[str, Any], path: Path) -> None:
    """Raise `FileError` unless notes are of this schema and version, and of the right types."""
    if notes.get("schema") != SCHEMA:
        raise FileError(f"{path} cannot be read: its schema is {short(notes.get('schema'))}, and "
                        f"should be {SCHEMA!r}")
    if notes.get("version") != VERSION:
        raise FileError(f"{path} cannot be read: it is of version {notes.get('version')!r}, and "
                        f"this version of rewrite reads {VERSION}: trace the model, and save it "
                        "again")
    check_table(notes, f"{NOTES} of {path}", SAID)
    for name, said in notes["nodes"].items():
        check_table(said, f"the note of {name[:40]}", {}, KEPT)


def _stored(said: Mapping[str, Any]) -> Stored:
    hints = {"entry": str | None, "dtype": str, "shape": list[int], "strides": list[int],
             "offset": int, "device": str, "parameter": bool, "trained": bool, "same": str | None}
    check_table(said, "what is said of a tensor", {}, hints)
    held: Any = {key: tuple(value) if isinstance(value, list) else value
                 for key, value in said.items()}
    return Stored(**held)


def _certificate(said: Mapping[str, Any] | None, path: Path) -> Certificate | None:
    if said is None:
        return None
    needed = get_type_hints(Certificate)
    check_table({key: tuples(value) for key, value in said.items()}, "the certificate", needed)
    made = certificate_from(said)
    return replace(made, notes=(*made.notes, f"measured before it was saved as {path.name}"))


def _with(
    graph: Graph, notes: Mapping[str, Any], tensors: Mapping[str, Tensor], path: Path
) -> Graph:
    """The graph with all that the notes say."""
    nodes = {node.name: node for node in graph.module.graph.nodes if node.op != "output"}
    if nodes.keys() != notes["nodes"].keys():
        raise ValueError("the notes are about other nodes than the text")
    used = {str(node.target) for node in nodes.values() if node.op == "get_attr"}
    if used != tensors.keys():
        raise ValueError("the text reads other tensors than there are")
    for name, node in nodes.items():
        for key in KEPT:
            node.meta.pop(key, None)
        node.meta |= notes["nodes"][name]
    leave_out(graph.module, set(notes["transient"]))
    return replace(
        graph, outputs=outputs_of(graph.outputs.names, notes["returns"]),
        certificate=_certificate(notes["certificate"], path), origin=notes["origin"],
        weightless=notes["weightless"], bind=bind if notes["traced"] else None,
        constants=notes["constants"])
