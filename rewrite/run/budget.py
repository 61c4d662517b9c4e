"""How much memory a run will take, and how much it may."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rewrite.errors import DataError
from rewrite.expand import Expansion
from rewrite.kinds import short
from rewrite.symbolic.cost import measured, where

UNITS = {"": 1, "B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
         "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
Budget = int | str | None


def as_bytes(budget: Budget, device: torch.device) -> int:
    """A budget in bytes; None is half of the memory that is free on the device.

    >>> as_bytes("1.5 GB", torch.device("cpu"))
    1500000000

    Raises `DataError` for what is no amount of memory.
    """
    if budget is None:
        return free(device) // 2
    found = re.fullmatch(r"\s*([0-9.]+)\s*([A-Za-z]*)\s*", str(budget))
    unit = next((u for u in UNITS if found and u.lower() == found[2].lower()), None)
    try:
        size = int(float(found[1]) * UNITS[unit]) if found and unit is not None else 0
    except (ValueError, OverflowError):  # no number, or one without end
        size = 0
    if size < 1:
        raise DataError("a budget is a number of bytes or a text such as '2GB', found "
                        f"{short(budget)}")
    return size


def free(device: torch.device) -> int:
    """Bytes that new tensors on a device may still take."""
    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + kept
    found = re.search(r"MemAvailable:\s*(\d+) kB", _read("/proc/meminfo"))
    system = int(found[1]) * 1024 if found else 8 * 10**9  # where the system does not tell
    limit, used = _read("/sys/fs/cgroup/memory.max"), _read("/sys/fs/cgroup/memory.current")
    group = int(limit) - int(used) if limit.isdigit() and used.isdigit() else system
    return max(1, min(system, group))


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="ascii").strip()
    except OSError:
        return ""


def predicted(expansion: Expansion, arguments: list[Any]) -> int:
    """The most bytes that the stacked module holds at once beyond weights and inputs.

    The module is run on tensors that have sizes and no values (`rewrite.symbolic.cost`), so
    nothing is allocated; layers of the same form are run once.
    """
    module = expansion.module if expansion.not_stacked else expansion.together
    tensors = [value for value in arguments if isinstance(value, Tensor)]
    given = [replace(spec, shape=tuple(value.shape))
             for spec, value in zip(expansion.inputs, tensors, strict=True)]
    given += arguments[len(tensors):]  # numbers: where tails start
    return int(measured(module, given, where, {}).peak)


def in_words(size: int) -> str:
    """Bytes for reading.

    >>> in_words(2_500_000)
    '2.5 MB'
    """
    unit = next(u for u in ("TB", "GB", "MB", "kB", "B") if size >= UNITS[u] or u == "B")
    return f"{size / UNITS[unit]:.3g} {unit}"
