"""Tensors as safetensors, and beside it what that format does not say of them.

Memory that several tensors share is written once.  A tensor that is more than its entry (a view
with other strides, a part of shared memory, a type that the format lacks) is described as a view
of an entry; `Stored` is what the notes of a file say of each tensor.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import IO, Any

import torch
from torch import Tensor, nn

from rewrite.errors import FileError
from rewrite.ir.text_sizes import dtype_of

BYTES = torch.uint8
LARGEST_HEADER, LARGEST_SIZE, MOST_AXES = 100_000_000, 2**62, 64
KINDS = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8,
    "U64": torch.uint64, "U32": torch.uint32, "U16": torch.uint16, "U8": torch.uint8,
    "BOOL": torch.bool,
}
LABELS = {dtype: label for label, dtype in KINDS.items()}
PLAIN = (Tensor, nn.Parameter, nn.Buffer)


@dataclass(frozen=True)
class Stored:
    """A tensor: its entry (None without weights), how it is laid out there, and what it is.

    `offset` and `strides` count entries of `dtype`; a tensor that is the `same` as an earlier one
    has nothing else of its own.
    """

    entry: str | None = None
    dtype: str = "float32"
    shape: tuple[int, ...] = ()
    strides: tuple[int, ...] = ()
    offset: int = 0
    device: str = "cpu"
    parameter: bool = False
    trained: bool = False
    same: str | None = None


@dataclass(frozen=True)
class Entry:
    """What the header of a safetensors file says of one tensor."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    begin: int
    end: int


class Tensors:
    """Tensors by name, ready to be written."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self.stored: dict[str, Stored] = {}
        self.entries: dict[str, tuple[Entry, Tensor]] = {}
        self._at = 0
        tensors = {name: _plain(name, tensor) for name, tensor in tensors.items()}
        first: dict[int, str] = {}
        shared: dict[Any, list[str]] = {}
        for name, tensor in tensors.items():
            if (same := first.setdefault(id(tensor), name)) != name:
                self.stored[name] = Stored(same=same)
            else:
                memory = name if tensor.is_meta else tensor.untyped_storage()._cdata
                shared.setdefault(memory, []).append(name)
        for names in shared.values():
            self._add({name: tensors[name] for name in names})
        self.stored = {name: self.stored[name] for name in tensors}

    def _add(self, tensors: Mapping[str, Tensor]) -> None:
        """Tensors that lie in one piece of memory."""
        name, tensor = next(iter(tensors.items()))
        if tensor.is_meta:
            self.stored[name] = _stored(tensor, None, 0)
            return
        low = min(map(_begin, tensors.values()))
        high = max(map(_end, tensors.values()))
        whole = tensor.is_contiguous() and (low, high) == (_begin(tensor), _end(tensor))
        if whole and tensor.dtype in LABELS:
            dtype, shape = tensor.dtype, tuple(tensor.shape)
        else:
            low -= low % 16  # of whatever type, entries begin between two of the first
            dtype, shape = BYTES, (high - low,)
        held = torch.empty(0, dtype=BYTES, device=tensor.device).set_(
            tensor.untyped_storage(), low, (high - low,), (1,))
        entry = Entry(dtype, shape, self._at, self._at + high - low)
        self.entries[name] = entry, held
        self._at = entry.end
        for other, view in tensors.items():
            self.stored[other] = _stored(view, name, (_begin(view) - low) // view.element_size())

    @property
    def notes(self) -> dict[str, dict[str, Any]]:
        """What `read_tensors` is given, without what goes without saying."""
        usual = asdict(Stored())
        return {name: {key: value for key, value in asdict(stored).items() if value != usual[key]}
                for name, stored in self.stored.items()}

    def write(self, file: IO[bytes]) -> None:
        """Write the safetensors."""
        header = json.dumps({name: {
            "dtype": LABELS[entry.dtype], "shape": entry.shape,
            "data_offsets": [entry.begin, entry.end],
        } for name, (entry, _) in self.entries.items()}).encode()
        header += b" " * (-len(header) % 8)
        file.write(len(header).to_bytes(8, "little") + header)
        for _, held in self.entries.values():
            file.write(_memory(held.cpu()))


def _plain(name: str, tensor: Tensor) -> Tensor:
    """The tensor, if it is nothing but numbers in memory; `FileError` for other kinds."""
    what = ("quantized" if tensor.is_quantized else "sparse" if tensor.layout != torch.strided
            else "nested" if tensor.is_nested
            else f"a {type(tensor).__name__}" if type(tensor) not in PLAIN else "")
    if what:
        raise FileError(f"{name} is {what}, which a file cannot hold: graphs are saved with "
                        "ordinary tensors; make it one, with tensor.dequantize() or "
                        "tensor.to_dense(), and trace the model again")
    return tensor.resolve_conj().resolve_neg() if tensor.is_conj() or tensor.is_neg() else tensor


def _memory(tensor: Tensor) -> memoryview:
    held: Any = tensor.numpy()
    return memoryview(held)


def _begin(tensor: Tensor) -> int:
    """Its first byte in memory."""
    return int(tensor.storage_offset()) * tensor.element_size() if tensor.numel() else 0


def _end(tensor: Tensor) -> int:
    """The byte behind its last one."""
    return _begin(tensor) + _span(tensor.shape, tensor.stride()) * tensor.element_size()


def _span(shape: Iterable[int], strides: Iterable[int]) -> int:
    """How many entries of memory lie between the first and the last, with these."""
    shape = tuple(shape)
    if 0 in shape:
        return 0
    return 1 + sum((size - 1) * step for size, step in zip(shape, strides, strict=True))


def _stored(tensor: Tensor, entry: str | None, offset: int) -> Stored:
    return Stored(
        entry, str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape),
        () if tensor.is_contiguous() else tuple(tensor.stride()), offset, str(tensor.device),
        isinstance(tensor, nn.Parameter), tensor.requires_grad)


def read_tensors(
    file: IO[bytes], size: int, stored: Mapping[str, Stored]
) -> dict[str, Tensor]:
    """The tensors of safetensors, as they are described; raises `ValueError` where they differ."""
    entries = _header(file, size)
    held: dict[str, Tensor] = {}
    for name, entry in entries.items():
        memory = torch.empty(entry.end - entry.begin, dtype=BYTES)
        if _fill(file, _memory(memory)) < entry.end - entry.begin:
            raise ValueError(f"the tensor {name!r} is cut off")
        held[name] = memory
    if unused := held.keys() - {one.entry for one in stored.values()}:
        raise ValueError(f"nothing is said of the tensor {min(unused)!r}")
    moved = dict[tuple[str, str], Tensor]()  # memory that is shared is so on its device too
    found: dict[str, Tensor] = {}
    for name, one in stored.items():
        try:
            if one.same is None:
                found[name] = _view(one, held, moved)
        except (RuntimeError, KeyError, AssertionError, ImportError) as error:
            raise ValueError(f"the tensor {name!r} cannot be made on {one.device}: {error}; save a "
                             "graph that was traced on a device that is here") from error
    for name, one in stored.items():
        if one.same is not None and one.same not in found:
            raise ValueError(f"{name!r} is the same as {one.same!r}, which is not there")
    return {name: found[one.same or name] for name, one in stored.items()}


def _fill(file: IO[bytes], view: memoryview) -> int:
    at = 0
    while at < len(view) and (got := file.readinto(view[at:])):  # pyright: ignore
        at += got
    return at


def _header(file: IO[bytes], size: int) -> dict[str, Entry]:
    """The entries in the order in which they lie, one right behind the other up to the end."""
    length = int.from_bytes(file.read(8), "little")
    if length > min(size - 8, LARGEST_HEADER):
        raise ValueError("the header of the tensors is longer than they are")
    table = json.loads(file.read(length))
    if not isinstance(table, dict):
        raise ValueError("the header of the tensors is no table")
    found = {name: _entry(name, said) for name, said in table.items() if name != "__metadata__"}
    found = dict(sorted(found.items(), key=lambda item: (item[1].begin, item[1].end)))
    at = 0
    for name, entry in found.items():
        if entry.begin != at:
            raise ValueError(f"the tensor {name!r} does not begin where the one before it ends")
        at = entry.end
    if at != size - 8 - length:
        raise ValueError(f"the tensors have {size - 8 - length} bytes, the header says {at}")
    return found


def _entry(name: str, said: Any) -> Entry:
    match said:
        case {"dtype": str(label), "shape": [*shape], "data_offsets": [int(begin), int(end)]} if (
                label in KINDS and len(shape) <= MOST_AXES and all(
                    type(n) is int and 0 <= n < LARGEST_SIZE for n in shape)):
            dtype = KINDS[label]
            if 0 <= begin <= end and math.prod(shape) * dtype.itemsize == end - begin:
                return Entry(dtype, tuple(shape), begin, end)
    raise ValueError(f"the header of the tensors does not say type, shape and place of {name!r}")


def _view(one: Stored, held: Mapping[str, Tensor], moved: dict[tuple[str, str], Tensor]) -> Tensor:
    dtype = dtype_of(one.dtype)
    numbers = (*one.shape, *one.strides, one.offset)
    if any(not 0 <= n < LARGEST_SIZE for n in numbers):
        raise ValueError(f"{max(numbers)} or {min(numbers)} is no size")
    strides = one.strides or torch.empty(one.shape, device="meta").stride()
    if len(strides) != len(one.shape):
        raise ValueError(f"there are {len(one.shape)} sizes and {len(strides)} strides")
    if one.entry is None:
        made = torch.empty_strided(one.shape, strides, dtype=dtype, device="meta")
    else:
        memory = held[one.entry]
        if (one.offset + _span(one.shape, strides)) * dtype.itemsize > memory.numel():
            raise ValueError(f"it is larger than {one.entry!r}, in which it lies")
        if (place := (one.entry, one.device)) not in moved:
            moved[place] = memory.to(torch.device(one.device))
        made = torch.empty(0, dtype=dtype, device=one.device).set_(
            moved[place].untyped_storage(), one.offset, one.shape, strides)
    if one.parameter:
        return nn.Parameter(made, requires_grad=one.trained)
    return made.requires_grad_(one.trained)
