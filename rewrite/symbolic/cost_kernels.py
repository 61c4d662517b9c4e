"""What single ATen kernels do: multiplications of matrices, and memory that they use inside.

Sizes are sympy expressions.  Every formula stands beside the operators that it holds for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from sympy import Expr, Function, Integer

aten = torch.ops.aten


@dataclass(frozen=True)
class Operand:
    """A tensor that a kernel reads or writes, as far as its cost depends on it."""

    shape: tuple[Expr, ...]
    itemsize: int
    distinct: Expr  # entries in memory: an expanded axis counts once
    contiguous: bool

    @property
    def entries(self) -> Expr:
        """How many entries it has."""
        return prod(self.shape, start=Integer(1))

    @property
    def bytes(self) -> Expr:
        """What reading or writing it moves."""
        return self.distinct * self.itemsize


Read = Sequence[Operand | None]  # the positional arguments; None where there is no tensor
Formula = Callable[[Read, Operand], Expr]


def _matrix(read: Read, out: Operand) -> Expr:
    """[.., m, k] x [.., k, n] -> [.., m, n]: 2 m n k for each of the batch."""
    a = _tensor(read, 0)
    return 2 * out.entries * a.shape[-1]


def _added(read: Read, out: Operand) -> Expr:
    """c + a b."""
    return _matrix(read[1:], out)


def _groups(read: Read, out: Operand) -> Expr:
    """Rows of groups, each by the matrix of its group; or columns of groups, summed apart."""
    a, b = _tensor(read, 0), _tensor(read, 1)
    if len(a.shape) == len(b.shape) == 2:  # the contracted axis is what is divided
        return 2 * a.shape[0] * a.shape[1] * b.shape[1]
    return 2 * out.entries * a.shape[-1]


def _convolution(read: Read, out: Operand) -> Expr:
    """Each entry of the output: one product for each entry of a filter."""
    return 2 * out.entries * prod(_tensor(read, 1).shape[1:], start=Integer(1))


def _transposed_convolution(read: Read, out: Operand) -> Expr:
    """Each entry of the input goes to all entries of a filter."""
    return 2 * _tensor(read, 0).entries * prod(_tensor(read, 1).shape[1:], start=Integer(1))


def _attention(read: Read, out: Operand) -> Expr:
    """Scores q k^T, then their product with v; a mask saves nothing."""
    k, v = _tensor(read, 1), _tensor(read, 2)
    return 2 * scores(read) * (k.shape[-1] + v.shape[-1])


def scores(read: Read) -> Expr:
    """Entries of the attention pattern of a fused attention."""
    q, k = _tensor(read, 0), _tensor(read, 1)
    return prod(q.shape[:-1], start=Integer(1)) * k.shape[-2]


# operator -> (kind, FLOPs)
PRODUCTS: dict[str, tuple[str, Formula]] = {
    **dict.fromkeys(("mm", "mv", "dot", "_int_mm", "_scaled_mm"), ("linear", _matrix)),
    **dict.fromkeys(("addmm", "addmv", "_addmm_activation"), ("linear", _added)),
    **dict.fromkeys(("_grouped_mm", "_scaled_grouped_mm"), ("grouped", _groups)),
    "bmm": ("batched", _matrix),
    "baddbmm": ("batched", _added),
    "convolution": ("convolution", _convolution),
    "transposed convolution": ("convolution", _transposed_convolution),
    **dict.fromkeys((
        "_scaled_dot_product_flash_attention_for_cpu", "_scaled_dot_product_flash_attention",
        "_scaled_dot_product_efficient_attention", "_scaled_dot_product_cudnn_attention",
        "_scaled_dot_product_fused_attention_overrideable",
        "_scaled_dot_product_attention_math_for_mps",
    ), ("attention", _attention)),
}

# These read only the rows that they are asked for, not the whole first operand.
GATHERS = frozenset({"embedding", "index", "index_select", "gather"})
# These make memory without doing anything to it.
EMPTY = frozenset({"empty", "empty_like", "empty_strided", "empty_permuted", "new_empty",
                   "new_empty_strided"})
# On the cpu these copy what they read if it is not contiguous.
COPIES_STRIDED = frozenset({"_softmax", "_log_softmax", "native_layer_norm"})


def workspace(name: str, read: Read, out: Sequence[Operand], threads: int) -> list[Expr]:
    """Bytes that a kernel on the cpu holds inside, beside operands and results.

    Several entries are moments of which the worst counts.
    """
    if name in COPIES_STRIDED and not _tensor(read, 0).contiguous:
        return [_tensor(read, 0).entries * _tensor(read, 0).itemsize]
    if name == "_scaled_dot_product_flash_attention_for_cpu":
        return [threads * _tile(read)]
    if name.endswith("convolution"):
        x, weight = _tensor(read, 0), _tensor(read, 1)
        copies = sum((t.entries * t.itemsize for t in (x, weight) if not t.contiguous), Integer(0))
        # The weights in another order, then the result in another order; a convolution in one
        # dimension is computed as one in two, which orders the input anew as well.
        before = weight.bytes + (x.bytes if len(x.shape) == 3 else 0)
        return [copies + before, copies + out[0].bytes]
    return []


def _tile(read: Read) -> Expr:
    """Each thread of flash attention holds a tile of scores, its row statistics and sums.

    aten/src/ATen/native/cpu/FlashAttentionKernel.cpp: 32, 64 or 256 queries by 512 keys.
    """
    q, k = _tensor(read, 0), _tensor(read, 1)
    rows: Any = query_tile(q.shape[-2])
    columns: Any = key_tile(k.shape[-2])
    accumulated = max(4, q.itemsize)
    tile = accumulated * rows * (columns + 2 + q.shape[-1])
    # Probabilities once more in the type of v.
    return tile if q.itemsize == accumulated else tile + q.itemsize * rows * columns


class query_tile(Function):
    """How many queries a tile of flash attention on the cpu holds (printed by this name)."""

    @classmethod
    def eval(cls, *args: Any) -> Any:
        (length,) = args
        if length.is_Integer:
            return Integer(min(32, length) if length < 192 else 64 if length < 768 else 256)
        return None


class key_tile(Function):
    """How many keys a tile of flash attention on the cpu holds."""

    @classmethod
    def eval(cls, *args: Any) -> Any:
        return Integer(min(512, args[0])) if args[0].is_Integer else None


def _tensor(read: Read, index: int) -> Operand:
    found: Any = read[index]
    assert isinstance(found, Operand)
    return found
