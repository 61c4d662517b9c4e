"""Counts and sizes for the report, none of which needs memory that grows with what is counted."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from torch import Tensor

from rewrite.ir.dag import Constant, Dag, Join, Part


@dataclass(frozen=True)
class Size:
    """How many numbers there are, and how many bytes they take."""

    count: int
    bytes: int


def size_of(tensors: Iterable[Tensor]) -> Size:
    """The size of tensors, where one that occurs twice (tied weights) counts once.

    Tensors are the same if they are the same entries of the same memory.  Tensors on the
    meta device have sizes too: those that their values would have.

    >>> import torch
    >>> weight = torch.ones(2, 3)
    >>> size_of([weight, weight.detach(), torch.ones(4, device="meta")])
    Size(count=10, bytes=40)
    """
    kept = list(tensors)  # alive until the end, so that no memory is used again
    different = {
        (tensor.untyped_storage()._cdata, tensor.storage_offset(), tensor.shape, tensor.stride()):
        tensor for tensor in kept
    }
    return Size(sum(t.numel() for t in different.values()),
                sum(t.numel() * t.element_size() for t in different.values()))


def count_edges(dag: Dag) -> int:
    """The number of direct edges, `len(dag.edges)`, without listing them.

    The writers that a value adds up are kept as the bits of one integer, so that a sum
    costs one operation; a model with 5,120 heads has some forty million edges.

    >>> from rewrite.ir.dag import Port, Source
    >>> dag = Dag((Source("x"), Part("m0", (Port("m0", "x"),)), Join("r", ("x", "m0")),
    ...            Part("y", (Port("y", "r"),))), ("y",))
    >>> count_edges(dag), len(dag.edges)
    (3, 3)
    """
    writers: dict[str, int] = {}
    edges = 0
    for index, node in enumerate(dag.nodes):
        if isinstance(node, Join):
            merged = 0
            for term in node.terms:
                merged |= writers[term]
            writers[node.name] = merged
            continue
        writers[node.name] = 0 if isinstance(node, Constant) else 1 << index
        if isinstance(node, Part):
            edges += sum(writers[port.reads].bit_count() for port in node.ports)
    return edges


def peak_memory() -> float | None:
    """The most memory that this process has held so far, in MB; None where nobody counts it."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, Linux kilobytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def versions(packages: Iterable[str] = ("torch", "transformers")) -> dict[str, str]:
    """Versions of the installed ones of `packages`.

    >>> list(versions(["torch", "no-such-package"]))
    ['torch']
    """
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
