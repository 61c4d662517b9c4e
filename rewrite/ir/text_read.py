"""Texts read back into graphs; `rewrite.ir.text` says how they look."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor, fx, nn

from rewrite.errors import TextError, near
from rewrite.ir.clauses import unbound
from rewrite.ir.code import Code
from rewrite.ir.graph import Graph, InputSpec, OutputSpec
from rewrite.ir.nested import Place
from rewrite.ir.notes import WORDS
from rewrite.ir.size_text import unmet
from rewrite.ir.sizes import FIRST_SIZE, fitting
from rewrite.ir.text import plain_name
from rewrite.ir.text_names import functions_of, target_of
from rewrite.ir.text_parse import WORD, Line, arguments, value
from rewrite.ir.text_sizes import Shapes, Sizes, dims_of, dtype_of, symbol
from rewrite.ir.values import alike, attribute, fake, hints_of, infer, needs_numbers
from rewrite.turn import alone

DOTTED = r"\w+(\.\w+)*"
RESERVED = {"self", "torch", "device", "inf", "nan", "NoneType", "fx_pytree", "pytree"}


@alone
def from_text(text: str, weights: Graph | nn.Module) -> Graph:
    """The graph that a text describes, over the weights of a model or of another graph.

    If `weights` is a graph, functions of the user, modules and what the graph returns are its
    own too; for a model, the result returns a dict of tensors by name.  Every line that says a
    shape is checked by running its operator on shapes.

    Raises `TextError` with the line and place, what was expected, and near misses.

    >>> import torch
    >>> from rewrite.ir.text import to_text
    >>> graph = rw.trace(torch.nn.Linear(2, 3).eval(), inputs={"input": torch.ones(3, 2)})
    >>> again = from_text(to_text(graph).replace("@bias)", "@bais)"), graph)
    Traceback (most recent call last):
        ...
    rewrite.errors.TextError: line 5: @bais is not defined above; did you mean @bias?
          %linear = linear(%input_1, @weight, @bais) : float32[batch, 3]
                                              ^^^^^
    """
    owner = weights.module if isinstance(weights, Graph) else weights
    functions = functions_of(owner.graph) if isinstance(owner, fx.GraphModule) else {}
    made = read(text, owner, functions)
    if not isinstance(weights, Graph):
        return made
    same = weights.outputs.names == made.outputs.names
    return replace(weights, module=made.module, inputs=made.inputs, name=made.name,
                   outputs=weights.outputs if same else made.outputs, guards=made.guards,
                   certificate=None)


def read(
    text: str, owner: nn.Module | Mapping[str, Tensor], functions: Mapping[str, Any],
    checked: bool = True,
) -> Graph:
    """The graph that a text describes, over the tensors of an owner; it returns a dict.

    If not `checked`, the types that lines say are taken as they are.
    """
    head, *others = _blocks(text)
    if head.kind != "graph":
        head.head.fail(f"expected a graph, found a {head.kind}: only graphs are read", 0,
                       len(head.kind))
    interface = _interface(head)
    shapes = Shapes(_hints(interface.inputs, interface.guards))
    bodies: dict[str, nn.Module] = {}
    for block in others:
        if block.kind != "body" or block.name in bodies:
            block.head.fail("expected bodies with names of their own behind the graph")
        own = None if isinstance(owner, Mapping) else getattr(owner, block.name, None)
        bodies[block.name] = _Builder(
            shapes, (own, owner) if isinstance(own, fx.GraphModule) else (owner,), {}, functions,
            checked).build(block, "GraphModule")
    builder = _Builder(shapes, (owner,), bodies, functions, checked, interface)
    module = builder.build(head, head.name)
    empty = any(isinstance(held, Tensor) and held.is_meta for held in builder.root.values())
    return Graph(module, interface.inputs, OutputSpec(tuple(interface.outputs), dict), head.name,
                 guards=interface.guards, weightless=empty)


@dataclass
class Block:
    """What stands between braces, and the line in front of them."""

    kind: str
    name: str
    head: Line
    lines: list[Line] = field(default_factory=list)


@dataclass
class Interface:
    """What the lines of a graph say about its inputs and outputs."""

    inputs: tuple[InputSpec, ...]
    guards: tuple[str, ...]
    outputs: dict[str, Any] = field(default_factory=dict)


def _blocks(text: str) -> list[Block]:
    blocks: list[Block] = []
    inside = False
    for number, raw in enumerate(text.splitlines(), 1):
        line = Line(number, raw.rstrip())
        line.spaces()
        if not line.text.strip() or line.text.lstrip().startswith("#"):
            continue
        if inside and line.text.strip() == "}":
            inside = False
        elif inside:
            blocks[-1].lines.append(line)
        else:
            if (kind := line.match("graph|body|module")) is None:
                line.fail(f"expected 'graph NAME {{' or 'body NAME {{', found {line.rest()}")
            start, name = line.at + 1, line.word(f"the name of the {kind}")
            if kind == "body" and not re.fullmatch(DOTTED, name):
                line.fail("bodies have names of letters and digits", start, line.at - start)
            line.need("{")
            blocks.append(Block(kind, name, line))
            inside = True
    if inside:
        blocks[-1].head.fail("expected a line with '}' that ends this block")
    if not blocks:
        raise TextError("the text is empty: expected 'graph NAME {'")
    return blocks


def _interface(block: Block) -> Interface:
    specs, guards = [], list[Line]()
    for line in block.lines:
        if line.match(r"guard\b"):
            line.spaces()
            guards.append(replace(line))
        elif line.match(r"input\b"):
            node = line.match(r"%\w+") or line.fail(f"expected %name, found {line.rest()}")
            start = line.at + 1
            name = line.word("the name of the input") if line.sees("=") else node[1:]
            if not re.fullmatch(DOTTED, name):
                line.fail("inputs have names of letters and digits, such as x or pair.0", start,
                          line.at - start)
            line.need(":")
            line.spaces()
            kind = re.fullmatch(r"(\w+)\[(.*)\]", line.text[line.at :])
            if kind is None:
                line.fail(f"expected a type such as int64[batch, seq], found {line.rest()}")
            try:
                specs.append(InputSpec(name, dims_of(kind[2]), dtype_of(kind[1])))
            except ValueError as error:
                line.fail(str(error), width=len(kind[1]))
        line.at = len(line.text) - len(line.text.lstrip())
    shapes = {spec.name: spec.shape for spec in specs}
    for line in guards:
        try:
            _check_guard(line.text[line.at :], shapes)
        except ValueError as error:
            line.fail(f"expected a condition on sizes of the inputs: {error}",
                      width=len(line.text) - line.at)
    return Interface(tuple(specs), tuple(line.text[line.at :] for line in guards))


def _check_guard(guard: str, shapes: Mapping[str, tuple[int | str, ...]]) -> None:
    """Raise `ValueError` unless it asks about sizes that the inputs have, and can be computed."""
    unmet((guard,), {name: tuple(d if isinstance(d, int) else FIRST_SIZE for d in shape)
                     for name, shape in shapes.items()})


def _hints(specs: tuple[InputSpec, ...], guards: tuple[str, ...]) -> dict[str, int]:
    """Sizes that the guards allow, different for each name, to run operators on."""
    if (hints := next(fitting(specs, guards), None)) is not None:
        return hints
    raise TextError(f"no sizes were found that the guards {', '.join(guards)} allow")


class _Builder:
    """Makes the nodes of one block."""

    def __init__(
        self, shapes: Shapes, owners: tuple[nn.Module | Mapping[str, Tensor], ...],
        bodies: Mapping[str, nn.Module], functions: Mapping[str, Any], checked: bool,
        interface: Interface | None = None,
    ) -> None:
        self.shapes, self.owners, self.functions = shapes, owners, functions
        self.checked, self.interface = checked, interface
        self.graph = fx.Graph()
        self.nodes: dict[str, fx.Node] = {}
        self.root: dict[str, Any] = dict(bodies)
        self.returned: Any = None

    def build(self, block: Block, kind: str) -> fx.GraphModule:
        """The module of the block."""
        for line in block.lines:
            self._line(line)
        if self.interface is not None and self.interface.outputs:
            self.returned = tuple(self.interface.outputs.values())
        if self.returned is None:
            block.head.fail("expected a line 'output NAME = %node' in this block")
        self.graph.output(self.returned)
        self._code_names(block)
        return Code(self.root, self.graph, class_name=kind)

    def _code_names(self, block: Block) -> None:
        """In code an input has the name of its own, which no other value may have there."""
        places = self.graph.find_nodes(op="placeholder")
        taken = {node.name for node in self.graph.nodes if node not in places} | RESERVED
        for node in places:
            name = format(Place(node.target))
            if name in taken:
                block.head.fail(f"the input {node.target!r} would be called {name} in code, as "
                                "something else is: give it another name")
            taken.add(name)

    def _line(self, line: Line) -> None:
        if line.match(r"guard\b"):
            return
        if self.interface is not None and line.match(r"output\b"):
            start, name = line.at + 1, line.word("the name of the output")
            if name in self.interface.outputs:
                line.fail(f"the output {name} is given twice", start, len(name))
            line.need("=")
            self.interface.outputs[name] = value(line, self._lookup)
            line.end()
        elif self.interface is None and line.match(r"return\b"):
            self.returned = value(line, self._lookup)
            line.end()
        elif line.match(r"input\b"):
            name = self._new(line)
            target = line.word("the name of the input") if line.sees("=") else name
            self._typed(line, self._add("placeholder", Place(target), name))
        elif line.sees("@"):
            self._weight(line, None)
        else:
            name = self._new(line)
            line.need("=")
            if line.sees("@"):
                self._weight(line, name)
            else:
                self._call(line, name)

    def _new(self, line: Line) -> str:
        line.spaces()
        start, name = line.at, line.match(r"%\w+")
        if name is None:
            line.fail("expected a line such as '%name = operator(...)', '@weight', 'input %x', "
                      f"or 'output name = %x', found {line.rest()}")
        if name in self.nodes:
            line.fail(f"{name} is defined twice", start, len(name))
        if not _is_plain(name[1:]):
            line.fail(f"{name} is no name that code can have: letters, digits and _", start,
                      len(name))
        return name[1:]

    def _add(
        self, op: str, target: Any, name: str, args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None, reference: str | None = None,
    ) -> fx.Node:
        made = self.graph.create_node(op, target, args, kwargs or {}, name=name)
        made.name = name
        self.nodes[reference or f"%{name}"] = made
        return made

    def _weight(self, line: Line, name: str | None) -> None:
        start = line.at - 1
        target = line.match(r"\w+(\.\w+)*") or line.fail("expected the name of a weight")
        tensor = _found(self.owners, target, Tensor)
        if tensor is None:
            owner = self.owners[-1]
            known = list(owner) if isinstance(owner, Mapping) else [
                n for n, _ in (*owner.named_parameters(), *owner.named_buffers())]
            line.fail(f"the weights have no {target!r}; {near(target, known)}", start,
                      len(target) + 1)
        self.root[target] = tensor
        made = self._add("get_attr", target, name or plain_name(target),
                         reference=None if name else f"@{target}")
        self._typed(line, made, fake(tensor, self.shapes.mode))

    def _call(self, line: Line, name: str) -> None:
        line.spaces()
        start = line.at
        if line.match(r"call\b"):
            line.spaces()
            start = line.at
            op, target = "call_module", line.word("the name of a body")
            if target not in self.root and (
                    held := _found(self.owners, target, nn.Module)) is not None:
                self.root[target] = held
            if not isinstance(self.root.get(target), nn.Module):
                known = [k for k, v in self.root.items() if isinstance(v, nn.Module)]
                line.fail(f"there is no body {target!r}; {near(target, known)}", start, len(target))
        else:
            op, spelt = "call_function", line.match(rf"`[^`]*`|{WORD}")
            if spelt is None:
                line.fail(f"expected an operator, found {line.rest()}")
            target = target_of(spelt, self.functions)
            if isinstance(target, str):
                line.fail(target, start, len(spelt))
        width = line.at - start
        line.need("(")
        given, named = arguments(line, self._lookup)
        made = self._add(op, target, name, given, named)
        if op == "call_module" and named:
            line.fail("a body is given its arguments in order, without names", start, width)
        if op == "call_function" and (wrong := unbound(made)):
            line.fail(wrong, start, width)
        self._typed(line, made)

    def _lookup(self, line: Line, name: str, at: int) -> fx.Node:
        if name not in self.nodes:
            line.fail(f"{name} is not defined above; {near(name, self.nodes)}", at, len(name))
        return self.nodes[name]

    def _typed(self, line: Line, node: fx.Node, known: Any = None) -> None:
        """Read the type and the note behind a line, and compare the type with what is known."""
        written, mark, note = line.text[line.at :].partition("  # ")
        word, space, name = note.partition(" ")
        if mark and space and word in ("part", *WORDS):
            node.meta["component"] = name
            node.meta |= {"part": word} if word in WORDS else {}
        elif mark:
            node.meta["module"] = note
        if not written.strip():
            return
        line.need(":")
        line.spaces()
        text = written.strip().removeprefix(":").strip()
        try:
            said = self.shapes.value(text)
        except (ValueError, RuntimeError, TypeError) as error:
            line.fail(f"{text!r} is no type: {error}", width=len(text))
        node.meta["val"] = said
        if not self.checked:
            return
        found = self._infer(line, node, known)
        if found is None:
            return
        sizes = Sizes((), (), " by [" in text)
        sizes.named = {held: symbol(name) for name, held in self.shapes.symbols.items()}
        if not alike(found, said, hints_of(self.shapes.mode)):
            line.fail(f"%{node.name} is {sizes.type(found)}", width=len(text))
        if sizes.type(found) == text:
            node.meta["val"] = found  # laid out in memory as the operator has it

    def _infer(self, line: Line, node: fx.Node, known: Any) -> Any:
        values = [operand.meta.get("val") for operand in node.all_input_nodes]
        if known is not None or not node.op.startswith("call_") or any(
                value is None for value in values):
            return known
        holder = nn.Module()
        if node.op == "call_module":
            holder.add_module(str(node.target), self.root[str(node.target)])
            if not isinstance(self.root[str(node.target)], fx.GraphModule):
                return None
        try:
            return infer(node, self.shapes.mode, holder)
        except Exception as error:  # operators raise errors of many kinds
            said = ", ".join(map(Sizes((), ()).type, values))
            if needs_numbers(error) or "u0" in said:  # a size that depends on data fits any
                return None
            line.fail(f"this cannot read {said}: {str(error).splitlines()[0]}", 0,
                      len(line.text))


def _found(
    owners: tuple[nn.Module | Mapping[str, Tensor], ...], name: str, kind: type
) -> Any:
    """The weight or module with a dotted name, of the first owner that has it."""
    if any(part.startswith("__") and part.endswith("__") for part in name.split(".")):
        return None  # what Python itself gives to objects
    for owner in owners:
        try:
            held = owner.get(name) if isinstance(owner, Mapping) else attribute(owner, name)
        except AttributeError:
            continue
        if isinstance(held, kind):
            return held
    return None


def _is_plain(name: str) -> bool:
    """Whether code can write a name as it is."""
    return name.isascii() and name.isidentifier()
