"""Values that are known only by shape and type: inferred node by node, and compared."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import sympy
import torch
from torch import Tensor, fx
from torch._dispatch.python import enable_python_dispatcher
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from rewrite.ir.nested import children

Value = Any  # a fake tensor, a size, or a tuple or list of them


def expression(size: Any) -> Any:
    """A size as an integer or a sympy expression."""
    return size.node.expr if isinstance(size, (torch.SymInt, torch.SymFloat)) else size


def mode_of(graph: fx.Graph) -> FakeTensorMode | None:
    """The mode that the values of a graph belong to, in which further ones can be inferred."""
    for node in graph.nodes:
        value = node.meta.get("val")
        for item in value if isinstance(value, (tuple, list)) else (value,):
            if isinstance(item, FakeTensor):
                return item.fake_mode
    return None


@contextmanager
def inferring(mode: FakeTensorMode | None) -> Iterator[None]:
    """Where operators on fake tensors make fake tensors, without gradients."""
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        if mode is not None:
            stack.enter_context(mode)
            # As export does: operators that are composed in Python then keep sizes that vary.
            stack.enter_context(enable_python_dispatcher())
            if mode.shape_env is not None:
                stack.enter_context(mode.shape_env.ignore_fresh_unbacked_symbols())
        yield


def infer(
    node: fx.Node, mode: FakeTensorMode | None, owner: torch.nn.Module | None = None
) -> Value:
    """What `node` computes from the values (`meta["val"]`) of its operands.

    A body that is called is followed node by node.  Raises `KeyError` where an operand has no
    value, and whatever the operator itself raises for operands that do not fit.
    """
    args, kwargs = fx.map_arg((node.args, dict(node.kwargs)), lambda n: n.meta["val"])
    with inferring(mode):
        if callable(node.target):
            return node.target(*args, **kwargs)
        assert owner is not None
        return _through(owner.get_submodule(str(node.target)), args, mode)


def needs_numbers(error: Exception) -> bool:
    """Whether inference failed only since torch's kernel for shapes takes no sizes that vary.

    That of `baddbmm`, for one, cannot broadcast its first operand to such a shape.
    """
    return "expected to contain only concrete integers" in str(error)


def _through(
    body: torch.nn.Module, values: tuple[Value, ...], mode: FakeTensorMode | None
) -> Value:
    assert isinstance(body, fx.GraphModule)
    known: dict[fx.Node, Value] = {}
    given = iter(values)
    for node in body.graph.nodes:
        args, kwargs = fx.map_arg((node.args, dict(node.kwargs)), known.__getitem__)
        if node.op == "placeholder":
            known[node] = next(given)
        elif node.op == "get_attr":
            known[node] = fake(attribute(body, str(node.target)), mode)
        elif node.op == "output":
            return args[0]
        elif callable(node.target):
            known[node] = node.target(*args, **kwargs)
    raise AssertionError("a graph ends with its output")


def fake(tensor: Any, mode: FakeTensorMode | None) -> Value:
    """A tensor of the same shape and type without values; anything else as it is."""
    if not isinstance(tensor, Tensor) or mode is None:
        return tensor
    device = "cpu" if tensor.is_meta else tensor.device  # of a graph without weights
    with inferring(mode):
        return torch.empty_strided(tensor.size(), tensor.stride(), dtype=tensor.dtype,
                                   device=device)


def devices(module: fx.GraphModule) -> tuple[torch.device, ...]:
    """The devices of a module: first the one of its inputs, then those of its weights.

    Weights on one device say where inputs go.  Where there are several, the graph was traced
    with weights on them, and the values of its inputs lie where they then were.

    >>> devices(parts.graph.module)
    (device(type='cpu'),)
    """
    found = [weight.device for weight in module.parameters()] or [torch.device("cpu")]
    if len(set(found)) > 1:
        values = (node.meta.get("val") for node in module.graph.find_nodes(op="placeholder"))
        found = [value.device for value in values if isinstance(value, Tensor)][:1] + found
    return tuple(dict.fromkeys(found))


def attribute(owner: Any, name: str) -> Any:
    """The attribute with a dotted name, of modules in plain names (see `rewrite.ir.nested`).

    Raises `AttributeError` if there is none.
    """
    for part in name.split("."):
        if not hasattr(owner, part):
            part = next((own for own, plain in children(owner).items() if plain == part), part)
        owner = getattr(owner, part)
    return owner


def alike(found: Value, wanted: Value, hints: Mapping[Any, Any] | None = None) -> bool:
    """Whether two values have the same shape and type (a size: the same value).

    Sizes that vary are compared as expressions.  Those that depend on data, such as how many
    entries are not zero, are new at every inference, and equal any size.
    """
    if isinstance(wanted, (tuple, list)):
        return isinstance(found, (tuple, list)) and len(found) == len(wanted) and all(
            alike(a, b, hints) for a, b in zip(found, wanted, strict=True))
    if isinstance(wanted, Tensor):
        return isinstance(found, Tensor) and found.dtype == wanted.dtype and (
            found.ndim == wanted.ndim) and all(
            same_size(a, b, hints) for a, b in zip(found.shape, wanted.shape, strict=True))
    if wanted is None or found is None:
        return wanted is found
    return not isinstance(found, (Tensor, tuple, list)) and same_size(found, wanted, hints)


def same_size(a: Any, b: Any, hints: Mapping[Any, Any] | None = None) -> bool:
    """Whether two sizes are equal, as expressions in the sizes that vary."""
    if isinstance(a, torch.SymBool) or isinstance(b, torch.SymBool):
        return True
    a, b = sympy.sympify(expression(a)), sympy.sympify(expression(b))
    free = a.free_symbols | b.free_symbols
    if a == b or any(str(symbol).startswith(("u", "zuf")) for symbol in free):
        return True
    if sympy.expand(a - b) == 0:
        return True
    # Forms that only guards make equal (Max(1, seq) and seq) agree wherever they are evaluated.
    multiples = {s: 2520 * (2 * i + 3) for i, s in enumerate(sorted(free, key=str))}
    points = [multiples]
    if hints and free <= set(hints):
        points.append({symbol: hints[symbol] for symbol in free})
    return bool(free) and all(a.xreplace(point) == b.xreplace(point) for point in points)


def hints_of(mode: FakeTensorMode | None) -> Mapping[Any, Any]:
    """The sizes of the example that a graph was traced with, by symbol."""
    environment = None if mode is None else mode.shape_env
    return {} if environment is None else environment.backed_var_to_val
