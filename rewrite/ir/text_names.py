"""How functions that graphs call are spelt in texts, and found again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import fx

from rewrite.errors import near
from rewrite.ir.clauses import OWN, PLAIN

KNOWN: dict[str, Any] = {
    **{f"rewrite.{function.__name__}": function for function in OWN},
    **{f"{function.__module__.strip('_')}.{function.__name__}": function
       for function in PLAIN if function.__module__},
}
SPELT = {function: name for name, function in KNOWN.items()}


def name_of(target: Any) -> str:
    """The spelling of a function: `linear`, `add.Tensor`, `rewrite.take`, `operator.getitem`.

    Operators of ATen have no prefix, and no overload where it is the default one.  Functions
    of the user stand between backquotes.

    >>> name_of(torch.ops.aten.linear.default), name_of(torch.ops.aten.add.Tensor)
    ('linear', 'add.Tensor')
    """
    if isinstance(target, torch._ops.OpOverload):
        space, _, name = target._schema.name.partition("::")
        overload = f".{target._schema.overload_name}" if target._schema.overload_name else ""
        return f"{name}{overload}" if space == "aten" else f"{space}::{name}{overload}"
    if target in SPELT:
        return SPELT[target]
    plain = getattr(target, "__name__", "")
    if plain and getattr(torch, plain, None) is target:
        return f"`torch.{plain}`"
    name = getattr(target, "__qualname__", type(target).__qualname__)
    return f"`{getattr(target, '__module__', None) or 'builtins'}.{name}`"


def functions_of(graph: fx.Graph) -> dict[str, Any]:
    """The functions of the user that a graph calls, by their spelling."""
    targets = (node.target for node in graph.nodes if node.op == "call_function")
    return {name: target for target in targets if (name := name_of(target)).startswith("`")}


def target_of(name: str, functions: Mapping[str, Any]) -> Any:
    """The function with this spelling, or a phrase that says why there is none."""
    if name in KNOWN or name in functions:
        return KNOWN.get(name) or functions[name]
    if name.startswith("`"):
        found: Any = torch if name.startswith("`torch.") else None
        for part in name.strip("`").split(".")[1:] if found else ():
            found = getattr(found, part, None)
        return found if callable(found) else (
            f"the function {name} is not known; give the graph that calls it as `weights`")
    space, _, rest = name.rpartition("::")
    packet, _, overload = rest.partition(".")
    try:
        found = getattr(getattr(torch.ops, space or "aten"), packet)
        return getattr(found, overload or "default")
    except (AttributeError, RuntimeError):
        known = [n.removeprefix("aten::") for n in torch._C._dispatch_get_all_op_names()]
        return f"there is no operator {name!r}; {near(name, [*known, *KNOWN], 3)}"
