"""Where a rule looks, and the pen with which it writes."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import sympy
import torch
from torch import Tensor, fx

from rewrite.errors import RuleError
from rewrite.ir.flow import args
from rewrite.ir.sizes import described
from rewrite.ir.values import alike as values_alike
from rewrite.ir.values import fake, hints_of, infer, mode_of
from rewrite.kinds import short
from rewrite.rules.matching import called
from rewrite.rules.terms import Call, Hole, Listed, Literal, Rest, Term, operators, read

Names = dict[Any, sympy.Symbol]  # of sizes that vary, as inputs call them


@dataclass(frozen=True)
class Miss:
    """Why a rule does not apply.  It is falsy, so `return Miss("...")` means no.

    >>> bool(Miss("the bias flows"))
    False
    """

    reason: str

    def __bool__(self) -> bool:
        return False


class Site:
    """A node of a graph that is being rewritten.

    `node` is the node that a rule may replace.  What the rule writes comes in front of it,
    and knows its value's shape and type.
    """

    def __init__(
        self, module: fx.GraphModule, node: fx.Node, rule: str = "", names: Names | None = None
    ) -> None:
        self.module, self.node, self.rule = module, node, rule
        self.names: Names = names or {}  # of the sizes that vary
        self.made: list[fx.Node] = []

    @property
    def args(self) -> tuple[Any, ...]:
        """Positional arguments of the node."""
        return args(self.node)

    def call(self, target: Any, *operands: Any) -> fx.Node:
        """A new node that calls `target` on operands in the order of its schema."""
        return self.call_with(target, *called(target, operands))

    def call_with(self, target: Any, positional: tuple[Any, ...], named: dict[str, Any]) -> fx.Node:
        """A new node that calls `target` on positional and keyword operands."""
        if not hasattr(target, "__name__"):
            raise RuleError(f"{self.rule or 'a rule'} writes a call of {short(target)}: give an "
                            "operator, such as torch.ops.aten.relu.default")
        if not isinstance(positional, tuple):
            raise RuleError(f"{self.rule or 'a rule'} gives {short(positional)} by position: "
                            "write a tuple, as in site.call_with(target, (x,), {})")
        made = self.module.graph.call_function(target, positional, named)
        made.meta = {k: v for k, v in self.node.meta.items() if k in KEPT}
        self.made.append(made)
        try:
            made.meta["val"] = infer(made, mode_of(self.module.graph))
        except (RuntimeError, TypeError, ValueError, IndexError) as error:
            known = {str(symbol): str(name) for symbol, name in self.names.items()}
            shown = ", ".join(map(self._shown, (*positional, *named.values())))
            why = re.sub(r"\b[su]\d+\b", lambda found: known.get(found[0], found[0]), first(error))
            raise RuleError(f"{self.rule or 'a rule'} at {self.node.name!r} writes {target} on "
                            f"({shown}), which fails: {why}") from None
        return made

    def write(self, term: str | Term, **held: Any) -> Any:
        """The nodes that a term describes, with the holes as given.

        >>> from rewrite.rules.site import Site
        >>> graph = rw.trace(torch.nn.GELU().eval(), inputs={"input": torch.ones(3, 2)})
        >>> gelu = graph.get("gelu")
        >>> Site(graph.module, gelu).write("x + 1", x=gelu.args[0]).target
        <OpOverload(op='aten.add', overload='Tensor')>
        """
        match read(term) if isinstance(term, str) else term:
            case Hole(name=name) | Rest(name=name):
                if name not in held:
                    raise RuleError(f"{self.rule or 'a rule'}: there is nothing called {name!r}")
                return held[name]
            case Literal(value=value):
                return value
            case Listed(items=items):
                return [self.write(item, **held) for item in items]
            case Call(name=name, operands=operands):
                given: list[Any] = []
                for operand in operands:
                    value = self.write(operand, **held)
                    given.extend(value if isinstance(operand, Rest) else (value,))
                return self.call(operators(name)[0], *given)
        raise TypeError(term)

    def constant(self, value: Tensor, wish: str = "constant") -> fx.Node:
        """A node that holds a tensor; it is a buffer of the new graph's module."""
        if not wish.isidentifier():
            raise RuleError(f"a constant is named like a Python variable, found {wish!r}")
        name, count = wish, 0
        while hasattr(self.module, name):
            count += 1
            name = f"{wish}_{count}"
        self.module.register_buffer(name, value, persistent=True)
        made = self.module.graph.get_attr(name)
        made.meta = {"val": fake(value, mode_of(self.module.graph))}
        self.made.append(made)
        return made

    def again(self, node: fx.Node, change: Callable[[fx.Node], Any]) -> fx.Node:
        """A copy of `node` whose operands are changed by `change`."""
        made = self.module.graph.node_copy(node, lambda n: n)
        made.args, made.kwargs = fx.map_arg((node.args, node.kwargs), change)
        self.made.append(made)
        return made

    def size(self, x: fx.Node, axis: int) -> Any:
        """A size as an argument: a number if it is fixed, else a node."""
        known = x.meta["val"].shape
        if not -len(known) <= axis < len(known):
            raise RuleError(f"{x.name!r} has {len(known)} axes, asked for the size of axis {axis}")
        value = known[axis]
        return value if isinstance(value, int) else self.call(
            torch.ops.aten.sym_size.int, x, axis)

    def _shown(self, operand: Any) -> str:
        return f"{operand.name}: {described(operand, self.names)}" if (
            isinstance(operand, fx.Node)) else repr(operand)


KEPT = ("module", "nn_module_stack", "stack_trace", "component", "own")


def alike(a: fx.Node, b: fx.Node) -> bool:
    """Whether two nodes hold values of one shape and type."""
    one, other = a.meta.get("val"), b.meta.get("val")
    return one is not None and values_alike(other, one, hints_of(mode_of(a.graph)))


def first(error: BaseException) -> str:
    """The first line of an error's message."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
