"""What a number depends on, as short texts that can be kept in a file and compared.

Two values have one digest if they compute the same: tensors by their entries, functions by their
code, defaults, and the values that they read from around them.  Devices do not count.
"""

from __future__ import annotations

import copyreg
import dis
import hashlib
import importlib
import inspect
import sys
import sysconfig
import types
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rewrite.errors import DataError

SIZE = 8  # bytes of a digest
ATOMS = (type(None), bool, int, float, complex, str, bytes, type(...), types.NotImplementedType,
         torch.dtype, torch.device, torch.layout, torch.memory_format, range, slice)
LIBRARIES = tuple(str(Path(path).resolve()) for name, path in sysconfig.get_paths().items()
                  if name in ("stdlib", "platstdlib", "purelib", "platlib"))
OURS = str(Path(__file__).resolve().parents[1])


def digest(value: Any, what: str = "the value") -> str:
    """A short text that is equal for values that compute the same.

    >>> digest(lambda x: x + 1) == digest(lambda x: x + 1), digest(lambda x: x + 2) == digest(1)
    (True, False)

    Raises `DataError` that names what in the value cannot be compared: a file that is open, a
    lock, a generator.
    """
    try:
        return Digest().of(value, what).hex()
    except RecursionError:
        raise DataError(f"{what} cannot be compared with that of another session: it is nested "
                        "too deep") from None


class Digest:
    """The digests of all objects that were met, by their identity, so that each is read once."""

    def __init__(self) -> None:
        self.found: dict[int, bytes | int] = {}
        self.met: list[Any] = []  # alive as long as their identities are in use

    def of(self, value: Any, where: str) -> bytes:
        """The digest of a value that is called `where` in errors."""
        if isinstance(value, ATOMS):
            return _hash(type(value).__name__, repr(value))
        if (known := self.found.get(id(value))) is not None:
            return known if isinstance(known, bytes) else _hash("around", str(known))
        self.met.append(value)
        self.found[id(value)] = len(self.found)  # what leads back to itself is told by a number
        made = _hash(*self._pieces(value, where))
        self.found[id(value)] = made
        return made

    def _pieces(self, value: Any, where: str) -> Iterator[bytes | str]:
        match value:
            case Tensor():
                yield from self._tensor(value)
            case np.ndarray() if value.dtype != object:
                yield f"array {value.dtype} {value.shape}"
                yield np.ascontiguousarray(value).tobytes()
            case Enum():
                yield f"enum {type(value).__qualname__}.{value.name}"
            case tuple() | list():
                yield type(value).__qualname__
                yield from (self.of(each, f"[{i}] of {where}") for i, each in enumerate(value))
            case set() | frozenset():
                yield type(value).__qualname__
                yield from sorted(self.of(each, f"an element of {where}") for each in value)
            case dict() | types.MappingProxyType():
                yield type(value).__qualname__
                for key, each in value.items():
                    yield self.of(key, f"a key of {where}")
                    yield self.of(each, f"[{key!r}] of {where}")
            case types.ModuleType():
                yield from _module(value)
            case types.CodeType():
                yield from self._code(value, where)
            case types.FunctionType():
                yield from self._function(value, where)
            case types.MethodType():
                yield "method"
                yield self.of(value.__self__, where)
                yield self.of(value.__func__, where)
            case partial():
                yield "partial"
                yield self.of((value.func, value.args, value.keywords), where)
            case property():
                yield self.of((value.fget, value.fset), where)
            case staticmethod() | classmethod():
                yield type(value).__name__
                yield self.of(value.__func__, where)
            case type():
                yield from self._class(value, where)
            case _ if is_dataclass(value):
                yield self.of(type(value), f"the class of {where}")
                for each in fields(value):
                    yield self.of(getattr(value, each.name, None), f"{each.name} of {where}")
            case _:
                yield from self._object(value, where)

    def _tensor(self, value: Tensor) -> Iterator[bytes | str]:
        yield f"tensor {value.dtype} {tuple(value.shape)}"
        if value.is_meta or not value.numel():
            return
        if value.layout != torch.strided or value.is_quantized:
            value = value.dequantize() if value.is_quantized else value.to_dense()
        flat = value.detach().resolve_conj().resolve_neg().cpu().contiguous().reshape(-1)
        yield hashlib.sha256(flat.view(torch.uint8).numpy().data).digest()

    def _code(self, code: types.CodeType, where: str) -> Iterator[bytes | str]:
        yield code.co_code
        yield code.co_exceptiontable
        yield repr((code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars,
                    code.co_argcount, code.co_kwonlyargcount, code.co_flags))
        yield self.of(code.co_consts, where)

    def _function(self, value: types.FunctionType, where: str) -> Iterator[bytes | str]:
        code = value.__code__
        for name, cell in zip(code.co_freevars, value.__closure__ or (), strict=True):
            yield name
            yield self.of(_inside(cell), f"{name} of {where}")
        yield self.of((value.__defaults__, value.__kwdefaults__), f"a default of {where}")
        if library := _library(code.co_filename, value.__module__):
            yield f"{library} {value.__module__} {code.co_qualname}"
            return
        yield self.of(code, where)
        for name, found in _read(code, value.__globals__):
            yield name
            yield self.of(found, f"{name} of {where}")

    def _class(self, value: type, where: str) -> Iterator[bytes | str]:
        yield f"class {value.__module__ if value.__module__ != '__main__' else ''} " \
              f"{value.__qualname__}"
        if library := _library(_file_of(value), value.__module__):
            yield library
            return
        yield from (self.of(base, f"the class of {where}") for base in value.__bases__)
        for name, each in sorted(vars(value).items()):
            made = isinstance(each, types.FunctionType) and each.__code__.co_filename == "<string>"
            called = isinstance(each, (types.FunctionType, property, staticmethod, classmethod))
            hidden = name.startswith("__") or name == "_abc_impl" or inspect.isdatadescriptor(each)
            if (called and not made) or not (called or hidden):
                yield name
                yield self.of(each, f"{name} of {where}")

    def _object(self, value: Any, where: str) -> Iterator[bytes | str]:
        """Anything else by what its copy would be made of."""
        name = getattr(value, "__qualname__", None) or getattr(value, "__name__", None)
        if isinstance(value, types.BuiltinFunctionType | torch._ops.OpOverload
                      | torch._ops.OpOverloadPacket):
            owner = getattr(value, "__self__", None)
            yield f"built in {getattr(value, '__module__', '')} {name} {value}" \
                if owner is None or isinstance(owner, types.ModuleType) else f"method {name}"
            if owner is not None and not isinstance(owner, types.ModuleType):
                yield self.of(owner, where)
            return
        try:
            copied = copyreg.dispatch_table.get(type(value))
            made = value.__reduce_ex__(4) if copied is None else copied(value)
        except Exception as error:  # whatever an object raises that cannot be copied
            raise _refused(value, where) from error
        if isinstance(made, str):  # what is known by its name alone
            inner = getattr(value, "__wrapped__", None)
            library = next(filter(None, (_library(_file_of(each), each.__module__) for each in (
                type(value), value) if hasattr(each, "__module__"))), "")
            if inner is None and not library:
                raise _refused(value, where)
            yield f"{library} {type(value).__qualname__} {getattr(value, '__module__', '')}"
            yield made if inner is None else self.of(inner, where)
            return
        make, arguments, *rest = made
        yield self.of((make, arguments), where)
        state, items, entries, *_ = (*rest, None, None, None)
        if isinstance(state, dict):
            for key, each in state.items():
                yield str(key)
                yield self.of(each, f"{key} of {where}")
        else:
            yield self.of(state, where)
        yield self.of(None if items is None else list(items), where)
        yield self.of(None if entries is None else list(entries), where)


def _refused(value: Any, where: str) -> DataError:
    return DataError(f"{where} is a {type(value).__qualname__}, which cannot be compared with that "
                     "of another session")


def _hash(*pieces: bytes | str) -> bytes:
    made = hashlib.blake2b(digest_size=SIZE)
    for piece in pieces:
        data = piece.encode() if isinstance(piece, str) else piece
        made.update(len(data).to_bytes(8, "little"))
        made.update(data)
    return made.digest()


def _inside(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        return ...  # not set yet: a function that names itself


def _read(code: types.CodeType, around: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Names that code reads from its module, with their values; of a module, what is read of it."""
    steps = [step for step in dis.get_instructions(code)
             if step.opname not in ("CACHE", "PUSH_NULL", "EXTENDED_ARG")]
    source: Any = ...  # of `from source import name`
    for i, step in enumerate(steps):
        match step.opname:
            case "LOAD_GLOBAL" | "LOAD_NAME":
                name, found = str(step.argval), around.get(step.argval, ...)
            case "IMPORT_NAME":
                name, found = str(step.argval), _imported(step.argval, around)
                if steps[i + 1].opname == "IMPORT_FROM":
                    source, found = found, ...
            case "IMPORT_FROM":
                name, found = str(step.argval), getattr(source, step.argval, ...)
            case _:
                continue
        for after in steps[i + 1:]:
            if not isinstance(found, types.ModuleType) or after.opname not in (
                    "LOAD_ATTR", "LOAD_METHOD"):
                break
            name, found = f"{name}.{after.argval}", getattr(found, after.argval, ...)
        if found is not ...:
            yield name, found
    for inner in code.co_consts:
        if isinstance(inner, types.CodeType):
            yield from _read(inner, around)


def _imported(name: str, around: Mapping[str, Any]) -> Any:
    for package in (name, f"{around.get('__package__')}.{name}"):
        try:
            return importlib.import_module(package)
        except ImportError:
            continue
    return ...


def _module(value: types.ModuleType) -> Iterator[bytes | str]:
    """A module that is handed about: a library by its version, another one by its source."""
    yield f"module {value.__name__}"
    file = getattr(value, "__file__", None)
    if library := _library(file or "", value.__name__):
        yield library
    elif file is not None:
        yield Path(file).read_bytes()


def _library(file: str, name: str | None) -> str:
    """The package behind a file and its version; nothing for what a user writes."""
    top = (name or "").partition(".")[0]
    if file and not file.startswith("<frozen"):
        inside = not file.startswith("<") and str(Path(file).resolve()).startswith(
            (*LIBRARIES, OURS))
    else:
        inside = bool(file) or top in sys.builtin_module_names
    return f"{top} {getattr(sys.modules.get(top), '__version__', '')}" if inside else ""


def _file_of(value: Any) -> str:
    return getattr(sys.modules.get(value.__module__), "__file__", None) or ""


