"""Path patching by hand, on the module in which every head is a call of its own.

It knows calls, operands and sums, and nothing of automata, copies or bodies of several heads:
a path `a -> b.k -> c` is patched by adding the change of `a` to what `b` reads as keys, the
change of `b` to what `c` reads, and so on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx

import rewrite as rw
from rewrite.ir.dag import Constant, Join, Part, Source

Inputs = Mapping[str, Tensor]


class Hand:
    """The values of every part on two runs, and patches from one into the other."""

    def __init__(self, parts: rw.Components, clean: Inputs, corrupt: Inputs) -> None:
        self.parts, self.dag = parts, parts.dag
        self.order = [spec.name for spec in parts.graph.inputs]
        self.calls = {node.meta["component"]: node for node in parts.module.graph.nodes
                      if node.op == "call_module" and node.target != "context"}
        self.clean, self.corrupt = self._values(clean), self._values(corrupt)
        self.given = corrupt

    def through(self, name: str) -> list[Tensor]:
        """Outputs of the corrupt run with one part's value taken from the clean run."""
        return self._rest({name: self.clean[self.calls[name]]})

    def along(self, path: Sequence[str], ports: Sequence[str]) -> list[Tensor]:
        """Outputs with the direct edges of one path patched, and all that follows its end.

        `path` are parts, `ports[i]` the symbol by which `path[i + 1]` is entered.
        """
        change = self.clean[self._value(path[0])] - self.corrupt[self._value(path[0])]
        value = None
        for before, name, symbol in zip(path, path[1:], ports, strict=False):
            value = self._called(before, name, symbol, change)
            change = value - self.corrupt[self.calls[name]]
        assert value is not None
        return self._rest({path[-1]: value})

    def _value(self, name: str) -> fx.Node:
        """The node that holds the value of a part or a source."""
        if name in self.calls:
            return self.calls[name]
        target = "input_ids" if name == "tokens" else name
        return next(n for n in self.parts.module.graph.nodes if n.target == target)

    def _called(self, before: str, name: str, symbol: str, change: Tensor) -> Tensor:
        """A part on corrupt operands, of which those that `before` writes to are changed."""
        node, part = self.calls[name], self.dag[name]
        assert isinstance(part, Part)
        read = {port.reads for port in part.ports
                if port.symbol == symbol and before in self.dag.writers(port.reads)}
        operands = [self.corrupt[o] if isinstance(o, fx.Node) else o for o in node.args]
        body = self.parts.module.get_submodule(str(node.target))
        holders = [str(n.target) for n in body.graph.nodes if n.op == "placeholder"]
        letter = symbol.rpartition(".")[2] if symbol != name else None
        letter = "x" if letter == "gate" else letter  # what enters beside q, k and v
        for index, (holder, operand) in enumerate(zip(holders, node.args, strict=True)):
            entered = letter in (None, holder.partition("_")[0])
            if entered and not holder.startswith("given_") and self._name(operand) in read:
                start = self._value(before)
                operands[index] = self._summed(operand, start, self.corrupt[start] + change)
        with torch.no_grad():
            return body(*operands)

    def _summed(self, node: fx.Node, start: fx.Node, value: Tensor) -> object:
        """A sum of the stream, which may scale its terms, with another value of `start`."""
        if node is start:
            return value
        if node.op != "call_function":
            return self.corrupt[node]
        given, named = fx.map_arg(
            (node.args, dict(node.kwargs)), lambda o: self._summed(o, start, value))
        function: Any = node.target
        return function(*given, **named)

    def _name(self, node: fx.Node) -> str:
        """The value of the wiring that a node of the module holds."""
        if node.op == "placeholder":
            return "tokens" if node.target == "input_ids" else str(node.target)
        return node.meta.get("component", "")

    def _values(self, inputs: Inputs, fixed: Mapping[str, Tensor] | None = None) -> dict:
        seen: dict[fx.Node, object] = {}
        fixed = fixed or {}

        class Keep(fx.Interpreter):
            def run_node(self, n: fx.Node) -> object:
                name = n.meta.get("component") if n.op == "call_module" else None
                seen[n] = fixed[name] if name in fixed else super().run_node(n)
                return seen[n]

        with torch.no_grad():
            self.outputs = Keep(self.parts.module).run(*(inputs[name] for name in self.order))
        return seen

    def _rest(self, fixed: Mapping[str, Tensor]) -> list[Tensor]:
        self._values(self.given, fixed)
        return list(self.outputs)


def copies_of_node_patching(parts: rw.Components, patched: str) -> dict[str, int]:
    """How often each part is needed if all paths through one part read another run.

    What comes before it is needed for both runs if it also reaches an output past it; what
    reaches no output (an input that the model ignores) is not needed at all.
    """
    def behind(ends: Sequence[str], without: str | None) -> set[str]:
        found: set[str] = set()
        stack = list(ends)
        while stack:
            name = stack.pop()
            if name in found or name == without:
                continue
            found.add(name)
            stack += parts.dag[name].reads
        return found

    past = behind(parts.dag.outputs, patched)
    all_of = behind(parts.dag.outputs, None)
    before = behind(list(parts.dag[patched].reads), None)
    return {
        node.name: 2 if node.name in before and node.name in past else int(node.name in all_of)
        for node in parts.dag.nodes
        if isinstance(node, (Source, Part)) and not isinstance(node, (Join, Constant))
    }
