"""Where a slice of a result comes from: one rule per kind of operator.

A *pick* maps an axis to the indices wanted on it.  A rule answers, for a node and a pick on
its result, which pick each operand must deliver so that the node, run on those smaller
operands, yields exactly the picked result:  pick(f(x, y)) = f'(pick'(x), pick''(y)).
`None` means that the slice cannot pass this node and stays below it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx

from rewrite.ir.flow import args
from rewrite.rules.picks import Pick, Pushed, broadcast_pick

aten = torch.ops.aten
Rule = Callable[[fx.Node, Pick], Pushed | None]
RULES: dict[Any, Rule] = {}


def push(node: fx.Node, pick: Pick) -> Pushed | None:
    """The rule of `node` applied to `pick`; None if there is none or it does not apply."""
    rule = RULES.get(node.target)
    if rule is None and isinstance(node.target, torch._ops.OpOverload):
        rule = _elementwise if torch.Tag.pointwise in node.target.tags else None
    return rule(node, pick) if rule else None


def rule_for(*targets: Any) -> Callable[[Rule], Rule]:
    """Enter a rule into the table."""

    def enter(rule: Rule) -> Rule:
        RULES.update(dict.fromkeys(targets, rule))
        return rule

    return enter


# f(x, y)[I] = f(x[I], y[I]); an operand of size 1 on the axis broadcasts and stays whole
@rule_for(aten.to.dtype, aten.to.device, aten.to.dtype_layout, aten._to_copy.default,
          aten.contiguous.default, aten.type_as.default, aten.masked_fill.Scalar,
          aten.masked_fill.Tensor, aten.where.self, aten.where.ScalarOther, aten.where.ScalarSelf,
          aten.where.Scalar, aten.__and__.Tensor, aten.__or__.Tensor,
          aten.alias.default, aten.detach.default, aten.hardswish.default, aten.hardsigmoid.default,
          aten.hardtanh.default, aten.leaky_relu.default, aten.elu.default, aten.relu6.default)
def _elementwise(node: fx.Node, pick: Pick) -> Pushed:
    return Pushed({
        i: broadcast_pick(node, operand, pick)
        for i, operand in enumerate(args(node)) if is_tensor(operand)
    })


def is_tensor(value: Any) -> bool:
    """Whether an argument is a node whose value is a tensor."""
    return isinstance(value, fx.Node) and isinstance(value.meta.get("val"), Tensor)


