"""Norms: their scale as a node of its own, and their weights moved into what reads them."""

from __future__ import annotations

import torch
from torch import fx

from rewrite.ir.flow import shape
from rewrite.rules.declare import Match, Rule, rule, rule_on
from rewrite.rules.matching import arguments
from rewrite.rules.site import Miss, Site

aten = torch.ops.aten


@rule_on(aten.layer_norm.default, aten.rms_norm.default, name="split_norm",
         equation="norm(x) = (x - mean(x)) * scale(x) * g + h",
         examples=("layer_norm(x, [d], g, h, 0.1) | x: b s d, g: d, h: d",
                   "layer_norm(x, [s, d]) | x: b s d", "rms_norm(x, [d], g, 0.1) | x: b s d, g: d"),
         refuses=("gelu(x) | x: b s d",))
def split_norm(site: Site) -> fx.Node:
    """A norm spelt out, so that its scale is a node: freezing it freezes the norm."""
    rms = site.node.target is aten.rms_norm.default
    given = arguments(site.node)
    x, sizes, gain = given[:3]
    over = list(range(-len(sizes), 0))
    shift, small = (None, given[3]) if rms else given[3:5]
    if small is None:
        small = torch.finfo(x.meta["val"].dtype).eps
    centred = x if rms else site.write("x - mean(x, over, True)", x=x, over=over)
    value = site.write("x * rsqrt(mean(x * x, over, True) + e)", x=centred, over=over, e=small)
    if gain is not None:
        value = site.write("x * g", x=value, g=gain)
    return value if shift is None else site.write("x + h", x=value, h=shift)


def _has_weights(match: Match) -> bool | Miss:
    if not match.is_node("g") or len(match.shape("g")) != 1:
        return Miss("the norm has no weight of one axis")
    if "h" in match.held and not match.is_node("h"):
        return Miss("the norm has no bias")
    return True


_NORM = "layer_norm(x, n, g, h, e, c)"
_BARE = "layer_norm(x, n, None, None, e, c)"
fold_norm = rule(
    "fold_norm",
    f"linear({_NORM}, W, d) = linear({_BARE}, W * g, linear(h, W, d))",
    f"addmm(d, reshape({_NORM}, r), W) = addmm(d + h @ W, reshape({_BARE}, r), "
    "unsqueeze(g, -1) * W)",
    where=_has_weights,
    examples=("linear(layer_norm(x, [2], g, h, 0.1), W, c) | x: b s 2, g: 2, h: 2, W: e 2, c: e",
              "linear(layer_norm(x, [2], g, h, 0.1), W) | x: b s 2, g: 2, h: 2, W: e 2",
              "addmm(c, reshape(layer_norm(x, [2], g, h, 0.1), [-1, 2]), W) | x: b s 2, g: 2, h: 2"
              ", W: 2 e, c: e"),
    refuses=("linear(layer_norm(x, [d], g), W) | x: b s d, g: d, W: e d",
             "gelu(layer_norm(x, [d], g, h)) | x: b s d, g: d, h: d"),
    doc="Gain and bias of a norm become part of the product that reads it.",
)


def _per_feature(match: Match) -> bool | Miss:
    if not match.is_node("x", "g") or (match.g.op == "placeholder" and not match.shape("g")):
        return Miss("the factor is a number")
    x, g = match.shape("x"), match.shape("g")
    return (len(g) == 1 and len(x) > 1 and g[-1] == x[-1]) or Miss(
        "the factor is not one number for each feature")


fold_scale = rule(
    "fold_scale", "linear(x * g, W, c) = linear(x, W * g, c)", where=_per_feature,
    examples="x: b s d, g: d, W: e d, c: e",
    refuses=("linear(x * g, W) | x: b s d, g: b s d, W: e d",
             "linear(x * 2, W) | x: b s d, W: e d"),
    doc="The gain of a norm that is spelt out (RMS norms) becomes part of what reads it.",
)


@rule_on(aten.mean.dim, name="mean_as_sum", equation="mean(x, d) = sum(x, d) / size",
         examples=("mean(x, [-1], True) | x: b s d", "mean(x, [0, 1]) | x: b s d"),
         refuses=("sum(x, [-1]) | x: b s d",))
def mean_as_sum(site: Site) -> fx.Node | Miss:
    """A mean as a sum, where the number of terms is fixed: then it distributes over sums."""
    x, axes, *keep = arguments(site.node)
    if axes is None or keep[1] is not None:
        return Miss("the mean is over all axes, or changes the type")
    sizes = [shape(x)[axis] for axis in axes]
    if not all(isinstance(size, int) for size in sizes):
        return Miss("the number of terms varies")
    count = 1
    for each in sizes:
        count *= each
    return site.write("sum(x, axes, keep) / n", x=x, axes=list(axes), keep=keep[0], n=count)


NORMS: tuple[Rule, ...] = (split_norm, fold_norm, fold_scale, mean_as_sum)
