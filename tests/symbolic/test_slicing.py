"""Every rule that pushes a slice through an operator, proved for free variables as operands."""

from __future__ import annotations

from functools import cache
from random import Random
from typing import Any

import pytest
import torch
from torch import Tensor, fx

from rewrite.errors import ProofError
from rewrite.rules.slicing_table import RULES, push
from rewrite.symbolic import Space, symbols
from rewrite.symbolic.equality import compare
from rewrite.symbolic.run import leaves
from tests.rules.cases import MAKERS, nodes
from tests.rules.oracle import any_pick, aten, picked, rebuilt

# They yield an order of entries, truths, or complex numbers, which variables do not have.
NOT_SYMBOLIC = {
    aten.topk.default, aten.sort.default, aten.argmax.default, aten.max.dim,
    aten.view_as_complex.default, aten.view_as_real.default, aten.__and__.Tensor,
    aten.__or__.Tensor,
}


def symbolic(node: fx.Node, space: Space) -> bool:
    """Free variables in the place of floating operands; whether the operator takes them."""
    for operand in node.all_input_nodes:
        value = operand.meta["val"]
        if operand.op != "placeholder":
            if not symbolic(operand, space):
                return False
        elif isinstance(value, Tensor) and value.is_floating_point():
            operand.meta["val"] = symbols(space.table, operand.name, value.shape, value.dtype)
    held: Any = fx.map_arg((node.args, node.kwargs), lambda n: n.meta["val"])
    target: Any = node.target
    try:
        node.meta["val"] = target(*held[0], **held[1])
    except ProofError:
        return False
    return True


@cache
def proved(make: Any) -> set[Any]:
    """The operators of which some slice is proved; a slice that is not is an error."""
    found = set()
    for seed in range(12):
        random = Random(seed)
        torch.manual_seed(seed)
        for node in nodes(make, random):
            if seed > 1 and node.target in found:
                continue
            pick, space = any_pick(random, node.meta["val"]), Space()
            pushed = push(node, pick)
            inner = {node.target, *(operand.target for operand in node.all_input_nodes)}
            if pushed is None or inner & NOT_SYMBOLIC or not symbolic(node, space):
                continue
            sides = (leaves(rebuilt(node, pushed)), leaves(picked(node.meta["val"], pick)))
            verdict = compare(*sides, space)
            assert verdict, f"{node.target} {pick}: {verdict}"
            found.add(node.target)
    return found


@pytest.mark.parametrize("make", MAKERS, ids=lambda make: make.__name__)
def test_rules(make: Any) -> None:
    assert proved(make)


def test_every_rule_is_proved() -> None:
    assert set(RULES) - NOT_SYMBOLIC <= {target for make in MAKERS for target in proved(make)}
