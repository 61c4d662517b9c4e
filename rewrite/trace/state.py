"""What a model holds, kept while it is traced: tracing leaves it as it was found."""

from __future__ import annotations

import random
import types
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode

from rewrite.trace.process import process_kept

DEEPEST = 12
# Objects of these are shared by everybody, and are no state of one model.
SHARED = ("torch", "sympy", "logging", "threading", "concurrent", "multiprocessing")
PLAIN = (str, bytes, int, float, complex, bool, type(None), type, types.ModuleType,
         types.FunctionType, types.BuiltinFunctionType, torch.dtype, torch.device, torch.Size)


@contextmanager
def kept(model: nn.Module) -> Iterator[State]:
    """Put back what the model and the process hold, whatever happens inside.

    Attributes of every module (parameters, buffers, hooks, modes, caches, what lists and
    dictionaries among them hold), values and flags of tensors, random generators, and the
    settings of torch, logging and warnings.
    """
    with process_kept():
        state = State(model)
        try:
            yield state
        finally:
            state.put_back()


class State:
    """The state of a model at one moment.

    Values of buffers and other tensors are copied, those of parameters when something is about
    to write into them inside `watched()`: weights may be too large for a second copy.
    """

    def __init__(self, model: nn.Module) -> None:
        self._undo: list[Callable[[], None]] = []
        self._tensors: list[_Kept] = []
        self._questions: dict[int, Callable[[], bool]] = {}  # whether a value is another by now
        self._seen: dict[int, Any] = {}  # keeps what it saw alive, so that no id is used twice
        self._modules = [(path, module, vars(module) | module._buffers | module._parameters)
                         for path, module in model.named_modules()]
        for module in model.modules():
            self._visit(module, 0)

    def put_back(self) -> None:
        """Make everything what it was."""
        for undo in reversed(self._undo):
            undo()
        for tensor in self._tensors:
            tensor.put_back()

    def changed(self) -> list[str]:
        """Attributes of modules and buffers that are others by now."""
        found: list[str] = []
        for path, module, before in self._modules:
            tables = vars(module) | module._buffers | module._parameters
            found += [f"{path}.{name}" if path else name for name, value in tables.items()
                      if not name.startswith("_") or name not in before
                      if before.get(name, self) is not value or self._moved(value)]
        return found

    def _moved(self, value: Any) -> bool:
        moved = self._questions.get(id(value))
        return moved is not None and moved()

    def watched(self) -> TorchDispatchMode:
        """Where parameters are copied before something writes into them."""
        return _Watch({kept.place: kept for kept in self._tensors if kept.place})

    def _visit(self, value: Any, depth: int) -> None:
        if isinstance(value, PLAIN) or id(value) in self._seen or depth > DEEPEST:
            return
        self._seen[id(value)] = value
        if isinstance(value, Tensor):
            self._tensors.append(_Kept.of(value, isinstance(value, nn.Parameter)))
            self._questions[id(value)] = self._tensors[-1].moved
            if value.is_leaf and value.grad is not None:
                self._tensors.append(_Kept.of(value.grad, True))
        elif isinstance(value, nn.Module):
            self._attributes(value, depth)
        elif isinstance(value, dict):
            self._items(value, depth)
        elif isinstance(value, (list, deque, set)):
            self._members(value, depth)
        elif isinstance(value, (tuple, frozenset)):
            for item in value:
                self._visit(item, depth + 1)
        elif (undo := _generator(value)) is not None:
            self._undo.append(undo)
        elif isinstance(value, types.MethodType):
            self._visit(value.__self__, depth + 1)
        elif type(value).__module__.partition(".")[0] not in SHARED and hasattr(value, "__dict__"):
            self._attributes(value, depth)

    def _attributes(self, owner: Any, depth: int) -> None:
        if isinstance(table := vars(owner), dict):
            self._items(table, depth)
        if isinstance(owner, nn.Module):
            return
        for name in _slots(owner):
            self._visit(getattr(owner, name), depth + 1)

    def _items(self, table: dict[Any, Any], depth: int) -> None:
        kind: Any = OrderedDict if isinstance(table, OrderedDict) else dict
        before = list(kind.items(table))

        def moved() -> bool:
            return not _same(list(kind.items(table)), before)

        def undo() -> None:
            if moved():
                kind.clear(table)
                for key, item in before:
                    kind.__setitem__(table, key, item)

        self._undo.append(undo)
        self._questions[id(table)] = moved
        for _, item in before:
            self._visit(item, depth + 1)
        if type(table) not in (dict, OrderedDict) and hasattr(table, "__dict__"):
            self._items(vars(table), depth)

    def _members(self, held: Any, depth: int) -> None:
        before = list(held)

        def moved() -> bool:
            return not _same(list(held), before)

        def undo() -> None:
            if moved():
                held.clear()
                held.update(before) if isinstance(held, set) else held.extend(before)

        self._undo.append(undo)
        self._questions[id(held)] = moved
        for item in before:
            self._visit(item, depth + 1)


@dataclass
class _Kept:
    """A tensor, its memory, and a copy of its values if there is one."""

    tensor: Tensor
    memory: Tensor | None  # an alias, or None for a tensor without values
    values: Tensor | None
    place: int  # of the memory of a parameter or its gradient, 0 for others
    requires_grad: bool
    grad: Tensor | None

    @staticmethod
    def of(tensor: Tensor, large: bool) -> _Kept:
        plain = not (isinstance(tensor, FakeTensor) or tensor.is_meta or tensor.is_nested
                     or tensor.layout != torch.strided or nn.parameter.is_lazy(tensor))
        grad = tensor.grad if tensor.is_leaf else None
        if not plain:
            return _Kept(tensor, None, None, 0, tensor.requires_grad, grad)
        return _Kept(tensor, tensor.detach(), None if large else tensor.detach().clone(),
                     tensor.untyped_storage().data_ptr() if large else 0,
                     tensor.requires_grad, grad)

    def moved(self) -> bool:
        """Whether it has other values by now."""
        return self.memory is not None and (
            _lies(self.tensor) != _lies(self.memory)
            or (self.values is not None and not torch.equal(self.memory, self.values)))

    def put_back(self) -> None:
        tensor, memory = self.tensor, self.memory
        if memory is not None and self.moved():
            if _lies(tensor) != _lies(memory):
                tensor.data = memory
            if self.values is not None:
                memory.data.copy_(self.values)
        if tensor.is_leaf and tensor.requires_grad != self.requires_grad:
            tensor.requires_grad_(self.requires_grad)
        if tensor.is_leaf and tensor.grad is not self.grad:
            tensor.grad = self.grad


class _Watch(TorchDispatchMode):
    """Copies a parameter when an operator is about to write into its memory."""

    def __init__(self, kept: dict[int, _Kept]) -> None:
        super().__init__()
        self._kept = kept

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        for index, argument in enumerate(func._schema.arguments):
            info = argument.alias_info
            if info is not None and info.is_write:
                value = args[index] if index < len(args) else kwargs.get(argument.name)
                for tensor in value if isinstance(value, (list, tuple)) else (value,):
                    self._keep(tensor)
        return func(*args, **kwargs)

    def _keep(self, tensor: Any) -> None:
        if not isinstance(tensor, Tensor) or not self._kept:
            return
        found = self._kept.get(tensor.untyped_storage().data_ptr())
        if found is not None and found.values is None and found.memory is not None:
            found.values = found.memory.clone()


def _lies(tensor: Tensor) -> tuple[Any, ...]:
    return (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype, tensor.device)


def _same(now: list[Any], before: list[Any]) -> bool:
    """Whether two lists hold the very same objects (a tensor has no plain equality)."""
    if len(now) != len(before):
        return False
    pairs = zip(now, before, strict=True)
    return all(a is b or (isinstance(a, tuple) and isinstance(b, tuple) and len(a) == len(b)
                          and all(x is y for x, y in zip(a, b, strict=True)))
               for a, b in pairs)


def _generator(value: Any) -> Callable[[], None] | None:
    """How to put a generator of random numbers, or an array, back to where it is now."""
    if isinstance(value, torch.Generator):
        state = value.get_state()
        return lambda: value.set_state(state) and None
    if isinstance(value, random.Random):
        numbers = value.getstate()
        return lambda: value.setstate(numbers)
    if isinstance(value, np.random.Generator):
        bits = value.bit_generator.state
        return lambda: setattr(value.bit_generator, "state", bits)
    if isinstance(value, np.random.RandomState):
        legacy = value.get_state()
        return lambda: value.set_state(legacy)
    if isinstance(value, np.ndarray) and value.dtype != object:
        copied = value.copy()
        return lambda: np.copyto(value, copied) if value.flags.writeable else None
    return None


def _slots(owner: Any) -> list[str]:
    names = (name for kind in type(owner).__mro__ for name in getattr(kind, "__slots__", ()))
    return [name for name in names if name != "__dict__" and hasattr(owner, name)]
