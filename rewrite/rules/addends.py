"""What an operator adds up: its terms, each times a factor that no run changes.

    x + a,  x - a,  x + 0.5 a,  lerp(x, a, 0.2)                  two terms
    x / sqrt(2),  x * gain,  -x,  x + bias,  x in another type   one term

A factor is a number, or a context value with one number for each feature.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from rewrite.ir.dag import SOME, Number
from rewrite.ir.flow import Flow, args, is_float, shape
from rewrite.ir.ops import total

aten = torch.ops.aten
SUMS = {aten.add.Tensor, aten.add_.Tensor, aten.sub.Tensor, aten.sub_.Tensor}
SCALES = {aten.mul.Tensor, aten.mul.Scalar, aten.mul_.Tensor, aten.neg.default}
QUOTIENTS = {aten.div.Tensor, aten.div.Scalar, aten.div_.Tensor}
SHIFTS = {*SUMS, aten.add.Scalar, aten.sub.Scalar, aten.rsub.Scalar, aten.rsub.Tensor}
COPIES = {aten.to.device, aten.to.dtype, aten.to.dtype_layout, aten._to_copy.default,
          aten.clone.default, aten.contiguous.default, aten.alias.default}
TURNS = {aten.transpose.int, aten.permute.default}
MOVED = {*TURNS, aten.view.default, aten.reshape.default, aten._unsafe_view.default,
         aten.unsqueeze.default, aten.squeeze.dim, aten.squeeze.dims}


@dataclass(frozen=True)
class Addends:
    """The terms of a node in the order of its arguments.

    `plain` if all factors are single numbers: the node then looks alike in every feature.
    """

    terms: tuple[fx.Node, ...]
    plain: bool = True


def elementwise() -> tuple[Any, ...]:
    """The operators that add up, or scale, entry by entry."""
    return *SUMS, *SCALES, *QUOTIENTS, *SHIFTS - SUMS, *COPIES, aten.lerp.Scalar


def addends(flow: Flow, node: fx.Node, moved: bool = False) -> Addends | None:
    """What a flowing node adds up; None if it does something else.

    With `moved`, a value in another layout is a sum of one term too.

    Biases are no terms, and neither is what flows into a factor (a gate).
    """
    if node.op != "call_function" or not flow.flows(node) or not is_float(node):
        return None
    given = [*args(node), *node.kwargs.values()]
    values = [o for o in given if isinstance(o, fx.Node) and isinstance(o.meta.get("val"), Tensor)]
    flowing = [o for o in values if flow.flows(o)]
    if moved and node.target in MOVED:
        return Addends((args(node)[0],)) if flow.flows(args(node)[0]) else None
    if not all(is_float(o) and shape(o) == shape(node) for o in flowing):
        return None
    others = [o for o in given if o not in flowing]
    if node.target in SUMS | {total} and len(flowing) < len(values) == 2:
        return _with_context(flow, node, flowing, values)
    if not (all(map(_is_factor, others)) and _is_linear(node, flowing)):
        return None
    return Addends(tuple(flowing), all(map(_is_number, others)))


def factors(node: fx.Node, terms: Sequence[fx.Node]) -> tuple[tuple[Number, ...], Number]:
    """By what each of the terms of a node is multiplied, and what is added to them.

    The operator itself is asked: with one term 1 and the others 0, for two values of what
    does not flow.  What changes with that is no number that is known here.
    """
    if node.target in MOVED | COPIES:
        return (1.0,) * len(terms), 0.0

    def value(one: int | None, context: float) -> float:
        places = iter(range(len(terms)))
        given, options = fx.map_arg((args(node), dict(node.kwargs)), lambda o: torch.tensor(
            float(next(places) == one) if o in terms else context, dtype=torch.float64))
        target: Any = node.target
        return float(target(*given, **options))

    shifts = [value(None, context) for context in (1.0, 2.0)]
    known = [{value(one, context) if not shift else round(value(one, context) - shift, 12)
              for context, shift in zip((1.0, 2.0), shifts, strict=True)}
             for one in range(len(terms))]
    return (*(each.pop() if len(each) == 1 else SOME for each in known),), (
        shifts[0] if len(set(shifts)) == 1 else SOME)


def is_move(node: fx.Node) -> bool:
    """Whether a node is its operand on another device, and nothing else."""
    if node.target not in COPIES:
        return False
    before, after = args(node)[0].meta["val"], node.meta["val"]
    return before.device != after.device and before.dtype == after.dtype


def _with_context(
    flow: Flow, node: fx.Node, flowing: list[fx.Node], values: list[fx.Node]
) -> Addends | None:
    """A sum with a value that does not flow: a term if it is made for each position."""
    (other,) = (o for o in values if o not in flowing)
    if not is_float(other):
        return None
    if flow.from_weights(other) or len(shape(other)) != len(shape(node)):
        return Addends(tuple(flowing), False) if _is_factor(other) else None
    return Addends(tuple(values))  # learned positions, which may lack the batch


def _is_linear(node: fx.Node, flowing: list[fx.Node]) -> bool:
    """Whether a node is a sum of its flowing operands, each times what the others say."""
    given = args(node)
    if node.target is total or node.target in SUMS:
        return len(flowing) == len([o for o in given if isinstance(o, fx.Node)])
    if node.target in SCALES | SHIFTS | COPIES:
        return len(flowing) == 1
    if node.target in QUOTIENTS:
        return flowing == [given[0]]
    return node.target is aten.lerp.Scalar and flowing == [*given[:2]]


def _is_factor(value: Any) -> bool:
    """Whether a value is one number, or one for each feature; or says no more than a type."""
    if isinstance(value, fx.Node):
        held = value.meta.get("val")
        return isinstance(held, Tensor) and all(size == 1 for size in shape(value)[:-1])
    return True


def _is_number(value: Any) -> bool:
    return not isinstance(value, fx.Node) or all(size == 1 for size in shape(value))
