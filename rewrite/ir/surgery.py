"""Edits of nodes and of edges.  Graph in, new graph out; the original is never touched.

New nodes know their value's shape and type, the module that they belong to, and from which
node they come (`meta["from"]`).  What does not fit is an error before anything runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx

from rewrite.errors import SurgeryError, near
from rewrite.ir.edit import Edit, copy_module
from rewrite.ir.find import get
from rewrite.ir.match import reached
from rewrite.ir.selection import Match

if TYPE_CHECKING:
    from rewrite.ir.graph import Graph

__all__ = ["copy_module", "cut", "delete", "duplicate", "freeze", "get", "insert", "replace",
           "rewire", "splice"]

Function = Callable[..., Any]


def replace(graph: Graph, what: Match | str, by: Function | Tensor) -> Graph:
    """See `Graph.replace`."""
    edit = Edit(graph)
    for node in edit.inner(what):
        with edit.nodes.inserting_after(node):
            if isinstance(by, Tensor):
                new = edit.constant(by, node)
            else:
                new = edit.call(by, node.args, node, node.kwargs)
        edit.takes_place(edit.fits(new, node), node)
    return edit.done()


def insert(
    graph: Graph, after: Match | str, function: Function, name: str | None = None,
    error: bool = False,
) -> Graph:
    """See `Graph.insert`."""
    edit = Edit(graph)
    found = edit.some(after)
    if name is not None and len(found) > 1:
        raise SurgeryError(f"{len(found)} nodes are to be followed by one called {name!r}: leave "
                           "name out, or insert after one node")
    for node in found:
        if node.op == "output":
            raise SurgeryError(f"nothing can be inserted after the output; insert after "
                               f"{node.all_input_nodes[0].name!r} instead")
        readers = list(node.users)
        with edit.nodes.inserting_after(node):
            new = _part(edit.call(function, (node,), node, name=name), name)
            edit.fits(new, node)
            read = _with_error(edit, node, new) if error else new
        for reader in readers:
            reader.replace_input_with(node, read)
    return edit.done()


def _part(new: fx.Node, name: str | None) -> fx.Node:
    """`new`; what is put in under a name is a part of that name."""
    new.meta |= {"added": True} if name is None else {"added": True, "component": name}
    return new


def _with_error(edit: Edit, node: fx.Node, new: fx.Node) -> fx.Node:
    """`new + (node - new)`, where the difference stays as it is when `new` is edited later."""
    again = edit.nodes.node_copy(new)
    again.meta.pop("component", None)
    difference = edit.call(torch.ops.aten.sub.Tensor, (node, again), node,
                           name=f"{new.name}_error")
    return edit.call(torch.ops.aten.add.Tensor, (new, difference), node, name=f"{new.name}_whole")


def delete(graph: Graph, what: Match | str) -> Graph:
    """See `Graph.delete`."""
    edit = Edit(graph)
    for node in edit.inner(what):
        if not node.all_input_nodes:
            raise SurgeryError(f"{node.name!r} has no operand to take its place; "
                               f"use replace({node.name!r}, tensor)")
        first = node.all_input_nodes[0]
        if any(user.op != "output" for user in node.users):  # a caller takes any shape
            edit.fits(first, node, f"use replace({node.name!r}, function or tensor)")
        node.replace_all_uses_with(first)
        edit.nodes.erase_node(node)
    return edit.done()


def freeze(graph: Graph, what: Match | str, value: Tensor | float | Mapping[str, Tensor]) -> Graph:
    """See `Graph.freeze`."""
    edit = Edit(graph)
    nodes = edit.inner(what)
    values: Sequence[Tensor | float] = (
        values_of(graph, [node.name for node in nodes], value) if isinstance(value, Mapping)
        else [value] * len(nodes))
    for node, known in zip(nodes, values, strict=True):
        with edit.nodes.inserting_after(node):
            new = edit.constant(known, node)
        edit.takes_place(new, node)
    return edit.done()


def values_of(graph: Graph, names: Sequence[str], inputs: Mapping[str, Tensor]) -> list[Tensor]:
    """What nodes are worth on given inputs of the graph."""
    from rewrite.ir.regions import extract

    inputs = graph.given(inputs)
    part = extract(graph, None, names)
    with torch.no_grad():
        found = part.flat(**{spec.name: inputs[spec.name] for spec in part.inputs})
    return [value.clone() for value in found]


def rewire(
    graph: Graph, reader: str, old: str, new: str | Tensor | float, operand: int | str | None = None
) -> Graph:
    """See `Graph.rewire`."""
    edit = Edit(graph)
    at, was = edit.node(reader), edit.node(old)
    _read(at, was, was, operand)  # an error if it does not
    if isinstance(new, str):
        now = edit.fits(edit.node(new), was)
    else:
        with edit.nodes.inserting_after(was):
            now = edit.constant(new, was)
    _read(at, was, now, operand)
    return edit.done()


def cut(graph: Graph, writer: str, reader: str, operand: int | str | None = None) -> Graph:
    """See `Graph.cut`."""
    return rewire(graph, reader, writer, 0.0, operand)


def splice(
    graph: Graph, writer: str, reader: str, function: Function, operand: int | str | None = None,
    name: str | None = None,
) -> Graph:
    """See `Graph.splice`."""
    edit = Edit(graph)
    was, at = edit.node(writer), edit.node(reader)
    with edit.nodes.inserting_after(was):
        new = edit.fits(_part(edit.call(function, (was,), was, name=name), name), was)
    _read(at, was, new, operand)
    return edit.done()


def _read(reader: fx.Node, old: fx.Node, new: fx.Node, operand: int | str | None) -> None:
    """`reader` reads `new` where it read `old`, at one of its operands or at all."""
    if old not in reader.all_input_nodes:
        read = ", ".join(node.name for node in reader.all_input_nodes) or "nothing"
        raise SurgeryError(f"{reader.name!r} does not read {old.name!r}; it reads {read}")
    items: list[Any] = list(_operands(reader))

    def swap(node: fx.Node) -> fx.Node:
        return new if node is old else node

    if isinstance(operand, str):
        operand = _port(reader, operand)
    if operand is None:
        reader.args, reader.kwargs = fx.map_arg((reader.args, reader.kwargs), swap)
        return
    holds = [i for i, item in enumerate(items) if old in _within(item)]
    if operand not in holds:
        raise SurgeryError(f"operand {operand} of {reader.name!r} is not {old.name!r}; it is read "
                           f"as operand {', '.join(map(str, holds)) or 'with a name only'}")
    items[operand] = fx.map_arg(items[operand], swap)
    reader.args = (tuple(items),) if reader.op == "output" else tuple(items)


def _port(reader: fx.Node, name: str) -> int:
    """The operand that a body calls by this name: q, k or v of a head."""
    body = reader.graph.owning_module
    assert body is not None
    called = body.get_submodule(str(reader.target)) if reader.op == "call_module" else None
    names = [] if not isinstance(called, fx.GraphModule) else [
        node.name for node in called.graph.find_nodes(op="placeholder")]
    if name not in names:
        told = near(name, names) if names else "say which operand by its number"
        raise SurgeryError(f"{reader.name!r} has no reading called {name!r}; {told}")
    return names.index(name)


def _operands(reader: fx.Node) -> Sequence[Any]:
    """Positional operands; of the output, the values that the graph returns."""
    first: Any = reader.args[0] if reader.args else ()
    return first if reader.op == "output" else reader.args


def _within(item: Any) -> list[fx.Node]:
    found: list[fx.Node] = []
    fx.map_arg(item, lambda node: found.append(node) or node)
    return found


def duplicate(
    graph: Graph, name: str, readers: str | Match | Iterable[str], upto: Match | str | None = None
) -> Graph:
    """See `Graph.duplicate`."""
    edit = Edit(graph)
    node = edit.inner(name)[0]
    own = _chain(edit, node, upto)
    wanted = [readers] if isinstance(readers, (str, Match)) else list(readers)
    reading = list(dict.fromkeys(n for what in wanted for n in edit.some(what)))
    copies: dict[fx.Node, fx.Node] = {}
    for old in [n for n in edit.nodes.nodes if n in own]:
        with edit.nodes.inserting_after(old):
            new = edit.nodes.node_copy(old, lambda operand: copies.get(operand, operand))
        new._rename(f"{old.name}_copy")
        new.meta.pop("component", None)
        new.meta |= {"from": old.name, "added": True}
        copies[old] = new
    for reader in reading:
        _read(reader, node, copies[node], None)
    return edit.done()


def _chain(edit: Edit, node: fx.Node, upto: Match | str | None) -> set[fx.Node]:
    """`node` and what lies between it and the nodes `upto`, which stay shared."""
    if upto is None:
        return {node}
    stops = set(edit.some(upto))
    behind = reached(stops, lambda n: n.users)
    if node not in behind:
        names = ", ".join(sorted(stop.name for stop in stops))
        raise SurgeryError(f"{node.name!r} does not depend on {names}: upto= is where the copy "
                           f"begins, one of {', '.join(o.name for o in node.all_input_nodes)}")
    before = reached([node], lambda n: [o for o in n.all_input_nodes if o not in stops])
    return {node} | (set(before) & set(behind))
