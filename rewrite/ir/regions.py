"""Edits of several nodes at once: parts put in, exchanged, opened, or taken out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import torch
from torch import fx

from rewrite.errors import SurgeryError, near
from rewrite.ir.edit import ENDS, Edit
from rewrite.ir.flow import Flow
from rewrite.ir.match import module as of_module
from rewrite.ir.selection import Match
from rewrite.ir.size_text import variables_of
from rewrite.ir.sizes import named
from rewrite.ir.values import attribute, fake

if TYPE_CHECKING:
    from rewrite.ir.graph import Graph, InputSpec

aten = torch.ops.aten


def substitute(
    graph: Graph, path: str, by: torch.nn.Module, reads: Sequence[str] | None = None,
    name: str | None = None,
) -> Graph:
    """See `Graph.substitute`."""
    edit = Edit(graph)
    region = _region(edit, edit.some(of_module(path)))
    inside = {node for node in region if node.op != "get_attr"}
    if not inside:
        raise SurgeryError(f"nothing in {graph.name} is computed by the module {path!r}")
    outputs = [n for n in edit.nodes.nodes if n in inside and _outside(n, inside)]
    if len(outputs) != 1:
        names = ", ".join(f"{n.name} (for {', '.join(_outside(n, inside))})" for n in outputs)
        raise SurgeryError(f"{path} writes {len(outputs)} values, and one module call writes one: "
                           f"{names}; substitute a module inside it, or one around it")
    given = [edit.node(r) for r in reads] if reads is not None else _flowing(edit, inside)
    target = edit.place(by, path if name is None else name, gone=region)
    old = outputs[0]
    with edit.nodes.inserting_after(old):
        new = edit.nodes.call_module(target, tuple(given))
    edit.note(new, old)
    try:
        new.meta["val"] = edit.value(new, old)
        edit.fits(new, old)
    except SurgeryError as error:
        known = ", ".join(f"{n.name}: {edit.describe(n)}" for n in _flowing(edit, inside))
        raise SurgeryError(f"{error}; {path} reads {known}: name what the new module is to be "
                           "called with, in its order, by reads=(...)") from error
    edit.takes_place(new, old)
    return edit.done()


def _region(edit: Edit, nodes: Sequence[fx.Node]) -> set[fx.Node]:
    """The nodes, and the weights that they alone read."""
    inside = {node for node in nodes if node.op not in ENDS and node.op != "get_attr"}
    return inside | {w for w in edit.nodes.find_nodes(op="get_attr")
                     if all(user in inside for user in w.users)}


def _outside(node: fx.Node, inside: set[fx.Node]) -> list[str]:
    return [user.name for user in node.users if user not in inside]


def _flowing(edit: Edit, inside: set[fx.Node]) -> list[fx.Node]:
    """What a region reads of values that depend on the inputs; masks and sizes do not."""
    flow = Flow(edit.nodes, [spec.name for spec in edit.graph.inputs])
    return [node for node in edit.nodes.nodes
            if node not in inside and flow.flows(node) and any(u in inside for u in node.users)]


def graft(
    graph: Graph, other: Graph, what: Match | str, names: Mapping[str, str] | None = None
) -> Graph:
    """See `Graph.graft`."""
    edit, ours = Edit(graph), dict(names or {})
    found = Edit(other).graph.expect(what)
    chosen = [n for n in other.module.graph.nodes if n.name in found and n.op not in ENDS]
    moved = [n for n in chosen if n.op != "get_attr"] or chosen
    known = {node.name: node for node in edit.nodes.nodes}
    homes = {n: known[ours.get(n.name, n.name)] for n in moved if ours.get(n.name, n.name) in known}
    gone = _region(edit, list(homes.values())) | set(homes.values())
    copies: dict[fx.Node, fx.Node] = {}
    last = next(reversed(edit.nodes.nodes))

    def own(node: fx.Node) -> fx.Node:
        """What stands for an operand of the other graph."""
        if node in copies:
            return copies[node]
        if node.op == "get_attr":
            return copied(node)
        name = ours.get(node.name, node.name)
        if name not in known:
            raise SurgeryError(f"{other.name} has {node.name!r} in front of what is grafted, and "
                               f"{graph.name} has no such node; {near(name, known)}: say which "
                               f"one it is by names={{{node.name!r}: ...}}, or graft it too")
        return known[name]

    def copied(node: fx.Node) -> fx.Node:
        args, kwargs = fx.map_arg((node.args, dict(node.kwargs)), own)
        target = node.target
        if node.op in ("get_attr", "call_module"):
            target = edit.place(attribute(other.module, str(target)), str(target), exact=False,
                                gone=gone)
        with edit.nodes.inserting_before(last):
            new = edit.nodes.create_node(node.op, target, args, kwargs)
        new.meta = {key: value for key, value in node.meta.items() if key != "val"} | {
            "from": node.name}
        new.meta["val"] = (fake(attribute(edit.module, str(target)), edit.mode)
                           if node.op == "get_attr" else edit.value(new, homes.get(node, node)))
        copies[node] = new
        return new

    for node in moved:
        copied(node)
    for node in moved:
        if node not in homes and (read := _outside(node, set(moved))):
            raise SurgeryError(f"{graph.name} has no node {node.name!r} whose readers could read "
                               f"it ({read[0]} does in {other.name}); {near(node.name, known)}: "
                               f"say which one it replaces by names={{{node.name!r}: ...}}")
    for node, home in homes.items():
        edit.fits(copies[node], home)
        home.replace_all_uses_with(copies[node])
    for home in reversed([n for n in edit.nodes.nodes if n in set(homes.values())]):
        new = next(copies[node] for node, old in homes.items() if old is home)
        edit.takes_place(new, home)
    return edit.done()


def inline(graph: Graph, what: Match | str) -> Graph:
    """See `Graph.inline`."""
    edit = Edit(graph)
    for node in edit.inner(what):
        _inline(edit, node)
    return edit.done()


def _inline(edit: Edit, node: fx.Node) -> None:
    body = edit.module.get_submodule(str(node.target)) if node.op == "call_module" else None
    if not isinstance(body, fx.GraphModule):
        is_ = f"calls a {type(body).__name__}" if body is not None else "is an operator already"
        raise SurgeryError(f"{node.name!r} {is_}: only bodies that are graphs can be inlined; to "
                           "open a module, insert rw.trace(module, inputs=...).module instead")
    places = [place.name for place in body.graph.find_nodes(op="placeholder")]
    given = dict(zip(places, node.args, strict=False)) | dict(node.kwargs)
    unfold(edit, node, body, [given[name] for name in places],
           lambda target: f"{node.target}.{target}")


def unfold(
    edit: Edit, node: fx.Node, body: fx.GraphModule, given: Iterable[Any],
    home: Callable[[str], str],
) -> Any:
    """The nodes of a body, on given values, take the place of a node; returns the last one.

    `home` says where the edited module has what the body calls `target`.
    """
    values = iter(given)
    made: dict[fx.Node, Any] = {}
    result: Any = None
    for inner in body.graph.nodes:
        if inner.op == "placeholder":
            made[inner] = next(values)
            continue
        if inner.op == "output":
            result = fx.map_arg(inner.args[0], made.__getitem__)
            continue
        owns = inner.op in ("get_attr", "call_module")
        target = home(str(inner.target)) if owns else inner.target
        with edit.nodes.inserting_before(node):
            new = made[inner] = edit.nodes.node_copy(inner, made.__getitem__)
        new.target = target
        new._rename(f"{node.name}_{inner.name}")
        new.meta["from"] = inner.meta.get("from", node.name)
        if inner.op == "get_attr":
            new.meta["val"] = fake(attribute(body, str(inner.target)), edit.mode)
        else:
            known = new.meta.pop("whole", None)
            new.meta["val"] = edit.value(new, node) if known is None else known
    if isinstance(result, (tuple, list)):
        for user in list(node.users):
            index: Any = user.args[1] if len(user.args) == 2 else None
            if not isinstance(index, int) or user.op != "call_function":
                raise SurgeryError(f"{node.name!r} returns {len(result)} values, and {user.name!r} "
                                   "reads them all: only items of them can be read")
            user.replace_all_uses_with(result[index])
            edit.nodes.erase_node(user)
        edit.nodes.erase_node(node)
    elif result in made.values() and result not in node.all_input_nodes:
        edit.takes_place(result, node)
    else:
        node.replace_all_uses_with(result)
        edit.nodes.erase_node(node)
    return result


def extract(
    graph: Graph, inputs: str | fx.Node | Sequence[str | fx.Node] | None,
    outputs: str | fx.Node | Sequence[str | fx.Node],
) -> Graph:
    """See `Graph.extract`."""
    from rewrite.ir.graph import OutputSpec

    edit = Edit(graph)
    one = isinstance(outputs, (str, fx.Node))
    inputs = [inputs] if isinstance(inputs, (str, fx.Node)) else inputs
    wanted = [outputs] if one else outputs
    if not all(isinstance(names, Iterable) for names in (wanted, inputs or ())):
        raise SurgeryError("the ends of a part are names of nodes: graph.extract([name], name)")
    inputs = [edit.node(name).name for name in inputs or ()]
    results = [edit.node(name) for name in wanted]
    specs: dict[str, InputSpec] = {spec.name: spec for spec in graph.inputs}
    first = next(iter(edit.nodes.nodes))
    for name in inputs or ():
        node = edit.node(name)
        if node.op == "placeholder":
            continue
        spec = _spec(edit, node)
        with edit.nodes.inserting_before(first):
            new = edit.nodes.placeholder(node.name)
        new.meta = dict(node.meta)
        results = [new if result is node else result for result in results]
        edit.takes_place(new, node)
        specs[spec.name] = spec
    end = edit.nodes.output_node()
    end.args = (tuple(results),)
    _sizes_from(edit, edit.nodes.find_nodes(op="placeholder"))
    edit.sweep()
    for node in edit.nodes.find_nodes(op="placeholder"):
        if not node.users:
            edit.nodes.erase_node(node)
    left = [str(node.target) for node in edit.nodes.find_nodes(op="placeholder")]
    order = [*(edit.node(name).name for name in inputs or ()),
             *(name for name in left if name not in (inputs or ()))]
    kept = tuple(dict.fromkeys(name for name in order if name in left))
    _reorder(edit, kept)
    edit.guards = tuple(guard for guard in graph.guards
                        if {v.rpartition(".")[0] for v in variables_of(guard)} <= set(kept))
    names = tuple(node.name for node in results)
    build = OutputSpec(names, itemgetter(names[0]) if one else dict)
    return replace(edit.done(), inputs=tuple(specs[name] for name in kept), outputs=build)


def _spec(edit: Edit, node: fx.Node) -> InputSpec:
    from rewrite.ir.graph import InputSpec

    sizes = named(node.meta.get("val"), edit.names)
    if sizes is None:
        raise SurgeryError(f"{node.name!r} is {edit.describe(node)}: only tensors can be inputs")
    return InputSpec(node.name, tuple(s if isinstance(s, int) else str(s) for s in sizes),
                     node.meta["val"].dtype)


def _sizes_from(edit: Edit, places: Iterable[fx.Node]) -> None:
    """Sizes are read from the new inputs, so that the old ones are not needed for them."""
    new = [place for place in places if str(place.target) not in
           {spec.name for spec in edit.graph.inputs}]
    axes = {size.node.expr: (place, axis) for place in reversed(new)
            for axis, size in enumerate(place.meta["val"].shape)
            if isinstance(size, torch.SymInt)}
    for node in edit.nodes.find_nodes(op="call_function", target=aten.sym_size.int):
        value = node.meta.get("val")
        if isinstance(value, torch.SymInt) and value.node.expr in axes:
            node.args = axes[value.node.expr]


def _reorder(edit: Edit, names: Sequence[str]) -> None:
    """Placeholders in the order of the inputs."""
    nodes = {str(node.target): node for node in edit.nodes.find_nodes(op="placeholder")}
    for before, after in pairwise(names):
        nodes[before].append(nodes[after])
