"""How functions that graphs call are spelt in texts, and found again."""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from functools import cache
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
SPACES = ("aten", "prims")
READING_FILES = ("aten::from_file",)
# Operators of other libraries that compute and do nothing else, and what registers them.
OTHERS = {"transformers::grouped_mm_fallback": "transformers.integrations.moe"}
_INNER: Any = torch._C
PLACES: dict[str, Any] = {
    "torch": torch, "torch.nn.functional": torch.nn.functional, "torch.special": torch.special,
    "torch.linalg": torch.linalg, "torch.fft": torch.fft, "torch._C._nn": _INNER._nn,
    "torch._C._special": _INNER._special, "torch._C._linalg": _INNER._linalg,
    "torch._C._fft": _INNER._fft}
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
    """The function with this spelling, or a phrase that says why there is none.

    Known are the table above, operators that compute, and torch's functions that are one.
    Nothing else is looked up: a text may come from anywhere.

    >>> target_of("linear", {}), target_of("`torch.os.system`", {})[:15]
    (<OpOverload(op='aten.linear', overload='default')>, 'the function `t')
    """
    if name in KNOWN or name in functions:
        return KNOWN.get(name) or functions[name]
    if name.startswith("`"):
        return _of_torch(name.strip("`")) or (
            f"the function {name} is not known; give the graph that calls it as `weights`")
    space, _, rest = name.rpartition("::")
    packet, _, overload = rest.partition(".")
    found = _operator(space or "aten", packet, overload or "default")
    if found is not None and computes(found):
        return found
    if found is not None:
        return (f"{name!r} is no operator that a text may call: those of aten and prims that "
                "return something, change nothing and read no file")
    known = [n.removeprefix("aten::") for n in torch._C._dispatch_get_all_op_names()]
    return f"there is no operator {name!r}; {near(name, [*known, *KNOWN], 3)}"


def computes(target: Any) -> bool:
    """Whether an operator does nothing but compute its result.

    >>> computes(torch.ops.aten.add.Tensor), computes(torch.ops.aten.from_file.default)
    (True, False)
    """
    if not isinstance(target, torch._ops.OpOverload):
        return False
    schema = target._schema
    if schema.name in OTHERS:
        return True
    return (schema.name.partition("::")[0] in SPACES and schema.name not in READING_FILES
            and schema.name in _operators() and not schema.is_mutable and bool(schema.returns))


@cache
def _operators() -> frozenset[str]:
    """Operators on tensors; `torch.ops` has those of TorchScript too, which do anything."""
    return frozenset(name.partition(".")[0] for name in torch._C._dispatch_get_all_op_names())


def _operator(space: str, packet: str, overload: str) -> Any:
    if not all(re.fullmatch(r"\w+", part, re.ASCII) for part in (space, packet, overload)):
        return None
    name = f"{space}::{packet}"
    if name in OTHERS:
        importlib.import_module(OTHERS[name])
    elif name not in _operators():
        return None
    return getattr(getattr(getattr(torch.ops, space), packet), overload, None)


def _of_torch(name: str) -> Any:
    """A function of torch that is an operator under its own name: `torch.tanh`."""
    place, _, last = name.rpartition(".")
    known: Any = getattr(torch.ops.aten, last, None) if (
        place in PLACES and last in vars(PLACES[place])) else None
    if isinstance(known, torch._ops.OpOverloadPacket) and any(
            computes(getattr(known, overload)) for overload in known.overloads()):
        return vars(PLACES[place])[last]
    return None
