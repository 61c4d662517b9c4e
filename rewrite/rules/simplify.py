"""Simplifications: what is there without need."""

from __future__ import annotations

import torch
from torch import Tensor, fx

from rewrite.ir.flow import args, shape
from rewrite.ir.ops import take
from rewrite.ir.values import attribute
from rewrite.rules.declare import Match, Rule, rule, rule_on
from rewrite.rules.site import Miss, Site, alike

aten = torch.ops.aten


def _kept(match: Match) -> bool | Miss:
    """Shape and type of x are those of the whole: nothing broadcasts, nothing is promoted."""
    if not isinstance(match.x, fx.Node):
        return Miss("there is only a number")
    return alike(match.site.node, match.x) or Miss("x has another shape or type than the whole")


add_zero = rule("add_zero", "x + 0 = x", "x - 0 = x", where=_kept,
                examples=("x + 0 | x: b s d", "x - 0 | x: b s d"), refuses="x + 1 | x: b s d")
mul_one = rule("mul_one", "x * 1 = x", "x / 1 = x", where=_kept,
               examples=("x * 1 | x: b s d", "x / 1 | x: b s d"),
               refuses=("x * 2 | x: b s d", "x * 1.0 | x: int b s"))
mul_zero = rule("mul_zero", "x * 0 = zeros_like(x)", where=_kept,
                examples="x: b s d", refuses="x * 1 | x: b s d",
                doc="For finite x; infinity times zero would be no number.")
sub_self = rule("sub_self", "x - x = zeros_like(x)", where=_kept,
                examples="x: b s d", refuses="x - y | x: b s d, y: b s d")
neg_neg = rule("neg_neg", "-(-x) = x", examples="x: b s d", refuses="-x | x: b s d")
sub_as_add = rule("sub_as_add", "x - y = x + -y", where=lambda m: m.is_node("x", "y"),
                  examples="x: b s d, y: b s d", refuses="x - 1 | x: b s d")
view_of_view = rule("view_of_view", "reshape(reshape(x, r), s) = reshape(x, s)",
                    examples="reshape(reshape(x, [b, 4]), [b, 2, 2]) | x: b 2 2",
                    refuses="reshape(transpose(reshape(x, [b, 4]), 0, 1), [2, 2]) | x: b 2 2")
view_as_is = rule("view_as_is", "reshape(x, s) = x", where=_kept,
                  examples="reshape(x, [b, s]) | x: b s", refuses="reshape(x, [s, b]) | x: b s")
swap_twice = rule("swap_twice", "transpose(transpose(x, i, j), i, j) = x",
                  "transpose(transpose(x, i, j), j, i) = x",
                  examples=("transpose(transpose(x, 0, 1), 0, 1) | x: b s d",
                            "transpose(transpose(x, 0, 1), 1, 0) | x: b s d"),
                  refuses="transpose(transpose(x, 0, 1), 1, 2) | x: b d d")
no_change = rule("no_change", "cast(x, t) = x", "contiguous(x) = x", "clone(x) = x",
                 "alias(x) = x", "dropout(x, p, False) = x", where=_kept,
                 examples=("cast(x, float64) | x: b s", "contiguous(x) | x: b s",
                           "clone(x) | x: b s", "alias(x) | x: b s",
                           "dropout(x, 0.5, False) | x: b s"),
                 refuses=("cast(x, float32) | x: b s", "dropout(x, 0.5, True) | x: b s"),
                 doc="A copy of what lies elsewhere in memory, or of what it is already.")
total_of_one = rule("total_of_one", "total(x) = x", where=_kept, examples="x: b s d",
                    refuses="total(x, y) | x: b s d, y: b s d")
concat_of_one = rule("concat_of_one", "cat([x], i) = x",
                     examples="cat([x], 1) | x: b s d", refuses="cat([x, x], 1) | x: b s d")
flatten = rule("flatten", "total(*a, total(*c), *e) = total(*a, *c, *e)",
               examples="total(x, total(y, z), w) | x: b s d, y: b s d, z: b s d, w: b s d",
               refuses="total(x, y) | x: b s d, y: b s d")


@rule_on(take, name="take_all", equation="take(x, i, all) = x",
         examples=("take(x, 1, [[0, s]]) | x: b s d",),
         refuses=("take(x, 1, [[0, 1]]) | x: b s d", "take(x, 1, [[1, 2], [0, 1]]) | x: b s d"))
def take_all(site: Site) -> fx.Node | Miss:
    x, axis, ranges = args(site.node)
    size = shape(x)[axis]
    whole = len(ranges) == 1 and tuple(ranges[0]) == (0, size)
    return x if whole else Miss("some of the axis is left out or moved")


@rule_on(name="dedup", equation="f(x) + f(x) = y + y with y = f(x)",
         examples=("gelu(x) + gelu(x) | x: b s d",),
         refuses=("gelu(x) + gelu(y) | x: b s d, y: b s d", "bernoulli(x) + bernoulli(x) | x: b"))
def dedup(site: Site) -> fx.Node | Miss | None:
    """Nodes that compute the same from the same are one; what is random stays apart."""
    node = site.node
    if node.op not in {"call_function", "get_attr"}:
        return None
    tags = getattr(node.target, "tags", ())
    if torch.Tag.nondeterministic_seeded in tags:
        return Miss(f"{node.name} is random")
    beside = node.all_input_nodes[0].users if node.all_input_nodes else site.module.graph.nodes
    for other in beside:
        if other is node:
            continue
        same = (other.op, other.target) == (node.op, node.target)
        if same and other.args == node.args and other.kwargs == node.kwargs and other < node:
            return other
    return None


@rule_on(name="fold_constants", equation="f(c) = the constant that it is",
         examples=("x + arange(n) * 2 | x: b n",), refuses=("gelu(x) | x: b s d",))
def fold_constants(site: Site) -> fx.Node | Miss | None:
    """What depends on constants alone is computed once.

    Parameters are no constants: they may be trained, and a folded weight would not follow.
    `fold_weights` folds them too.
    """
    return _folded(site, parameters=False)


@rule_on(name="fold_weights", equation="f(W) = the weight that it is",
         examples=("x * (arange(n) + 1) | x: b n",), refuses=("gelu(x) | x: b s d",))
def fold_weights(site: Site) -> fx.Node | Miss | None:
    """What depends on weights and constants alone is computed once, as a new weight."""
    return _folded(site, parameters=True)


def _folded(site: Site, parameters: bool) -> fx.Node | Miss | None:
    node = site.node
    target = node.target
    if node.op != "call_function" or not isinstance(node.meta.get("val"), Tensor):
        return None
    if torch.Tag.nondeterministic_seeded in getattr(target, "tags", ()):
        return Miss(f"{node.name} is random")
    if any(operand.op != "get_attr" for operand in node.all_input_nodes):
        return Miss("it depends on an input")
    values = {o: attribute(site.module, str(o.target)) for o in node.all_input_nodes}
    if not parameters and any(isinstance(v, torch.nn.Parameter) for v in values.values()):
        return Miss("it depends on a parameter, which may be trained: fold_weights folds it")
    if any(v.is_meta or isinstance(v, torch._subclasses.FakeTensor) for v in values.values()):
        return Miss("the graph has no weights")
    given = fx.map_arg((node.args, node.kwargs), values.__getitem__)
    assert callable(target)
    with torch.no_grad():
        return site.constant(target(*given[0], **given[1]), f"{node.name}_folded")


SIMPLIFY: tuple[Rule, ...] = (
    add_zero, mul_one, mul_zero, sub_self, neg_neg, view_of_view, view_as_is, swap_twice,
    no_change, total_of_one, concat_of_one, flatten, take_all, dedup, fold_constants,
)
