"""Attention: its pattern as a node, its masks as terms, its heads and readings apart."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import fx

from rewrite.ir.flow import CONTRACTIONS, Flow, args, shape
from rewrite.ir.ops import as_ranges, take, total
from rewrite.rules.declare import Rule, rule_on
from rewrite.rules.flatten_sums import residual_sums
from rewrite.rules.matching import arguments
from rewrite.rules.site import Miss, Site

aten = torch.ops.aten
FUSED = aten.scaled_dot_product_attention.default
PATTERNS = {aten.softmax.int, aten._softmax.default, aten._safe_softmax.default}
PRODUCTS = {aten.matmul.default, aten.bmm.default}
MOVES = {
    aten.transpose.int, aten.permute.default, aten.view.default, aten.reshape.default,
    aten._unsafe_view.default, aten.contiguous.default, aten.clone.default,
}
FAR = 12  # steps between a projection and its attention


@rule_on(FUSED, name="open_attention",
         equation="attention(q, k, v, m) = softmax(q @ k.mT * scale + m) @ v",
         examples=("attention(q, k, v) | q: b h s d, k: b h t d, v: b h t e",
                   "attention(q, k, v, None, 0.0, True) | q: b h s d, k: b h s d, v: b h s d",
                   "attention(q, k, v, m) | q: b h s d, k: b h t d, v: b h t d, m: s t",
                   "attention(q, k, v, None, 0.0, False, 0.3, True) "
                   "| q: b 2*h s d, k: b h t d, v: b h t d"),
         refuses=("attention(q, k, v, None, 0.5) | q: b h s d, k: b h t d, v: b h t d",))
def open_attention(site: Site) -> fx.Node | Miss:
    """A fused attention spelt out, so that its pattern is a node."""
    q, k, v, mask, dropout, causal, scale, grouped = arguments(site.node)
    if dropout:
        return Miss("it drops out at random")
    heads, shared = (shape(x)[-3] if len(shape(x)) > 3 else 1 for x in (q, k))
    if grouped and heads != shared:
        k, v = (site.write("repeat_interleave(x, n, -3)", x=x, n=heads // shared) for x in (k, v))
    if scale is None:
        scale = 1 / math.sqrt(shape(q)[-1])
    scores = site.write("q @ k.mT * s", q=q, k=k, s=scale)
    if causal:
        rows, columns = site.size(q, -2), site.size(k, -2)
        near = site.call(aten.ones.default, [rows, columns], torch.bool, None, _device(q))
        mask = site.call(aten.tril.default, near)
    if mask is None:
        return site.write("softmax(scores, -1) @ v", scores=scores, v=v)
    if mask.meta["val"].dtype == torch.bool:
        scores = site.write("masked_fill(x, logical_not(m), -inf)", x=scores, m=mask)
    else:
        scores = site.write("x + m", x=scores, m=mask)
    # a row whose keys are all masked is zero, as in the fused operator, not undefined
    return site.write("_safe_softmax(scores, -1) @ v", scores=scores, v=v)


def split_mask(nearest: int, farthest: int) -> Rule:
    """An attention's result as a sum: what comes from tokens within a window, and the rest.

    The window holds keys that lie `nearest` to `farthest` tokens back: (1, 1) is the previous
    token, (0, 0) the token itself.

    >>> opened = parts.graph.rewrite(rw.rules.open_attention)
    >>> len(opened.rewrite(rw.rules.split_mask(1, 1)).trail)
    2
    """

    @rule_on(*PRODUCTS, name="split_mask", once=True,
             equation="p @ v = (p * M) @ v + (p * (1 - M)) @ v",
             examples=("softmax(x, -1) @ v | x: b h s s, v: b h s d",
                       "softmax(x, -1) @ v | x: b s t, v: b t d"),
             refuses=("x @ v | x: b h s s, v: b h s d",))
    def apply(site: Site) -> fx.Node | Miss:
        pattern, v = args(site.node)
        if pattern.target not in PATTERNS:
            return Miss("it is no pattern times values")
        rows, columns = (site.call(aten.arange.default, site.size(pattern, axis), None, None,
                                   _device(pattern)) for axis in (-2, -1))
        back = site.write("unsqueeze(i, -1) - j", i=rows, j=columns)
        inside = site.write("logical_and(ge(x, a), le(x, z))", x=back, a=nearest, z=farthest)
        near = site.write("masked_fill(p, logical_not(m), 0.0) @ v", p=pattern, m=inside, v=v)
        return site.write("n + masked_fill(p, m, 0.0) @ v", n=near, p=pattern, m=inside, v=v)

    return apply


@rule_on(*CONTRACTIONS, name="split_heads", once=True,
         equation="linear(concat(z), W, c) = total(linear(z[h], W[:, h]), c)",
         examples=("linear(reshape(transpose(attention(q, k, v), 1, 2), [b, s, 4]), W, c) "
                   "| q: b 2 s 2, k: b 2 s 2, v: b 2 s 2, W: e 4, c: e",
                   "matmul(reshape(transpose(softmax(x, -1) @ v, 1, 2), [b, s, 4]), W) "
                   "| x: b 2 s s, v: b 2 s 2, W: 4 e"),
         refuses=("linear(x, W, c) | x: b s 4, W: e 4, c: e",
                  "linear(reshape(attention(q, k, v), [b, s, 2]), W) "
                  "| q: b 1 s 2, k: b 1 s 2, v: b 1 s 2, W: e 2"))
def split_heads(site: Site) -> fx.Node | Miss:
    """An output projection as a sum over heads; `push_down_slice` moves them further up."""
    data, _, _ = CONTRACTIONS[site.node.target]
    core = _attention_behind(args(site.node)[data])
    if core is None:
        return Miss("what it reads is no attention")
    heads, width = shape(core)[1], shape(args(site.node)[data])[-1]
    if len(shape(core)) != 4 or not isinstance(heads, int) or heads == 1 or width % heads:
        return Miss(f"the heads of {core.name} cannot be told apart")
    size = width // heads
    return by_features(site, [tuple(range(h * size, (h + 1) * size)) for h in range(heads)])


def split_neurons(*groups: tuple[int, ...]) -> Rule:
    """A product as a sum over groups of its input features; what is in no group is one more.

    Behind an MLP's activation the features are neurons.  Choose the product with `at`.

    >>> split = parts.graph.rewrite(rw.rules.split_neurons((0, 5)), at="addmm_3")
    >>> split.trail[0].rule
    'split_neurons'
    """

    @rule_on(*CONTRACTIONS, name="split_neurons", once=True,
             equation="linear(x, W, c) = total(linear(x[n], W[:, n]), c)",
             examples=("linear(gelu(x), W, c) | x: b s 4, W: e 4, c: e",
                       "addmm(c, gelu(x), W) | x: s 4, W: 4 e, c: e"),
             refuses=("gelu(x) | x: b s 4",))
    def apply(site: Site) -> fx.Node | Miss:
        size = shape(args(site.node)[CONTRACTIONS[site.node.target][0]])[-1]
        named = [n for group in groups for n in group]
        if not isinstance(size, int) or len(set(named)) < len(named) or any(
                not 0 <= n < size for n in named):
            return Miss(f"it has {size} features, and the groups are {groups}")
        rest = tuple(n for n in range(size) if n not in set(named))
        return by_features(site, [*groups, *([rest] if rest else [])])

    return apply


def by_features(site: Site, groups: list[tuple[int, ...]]) -> fx.Node:
    """The product at a site as a sum over groups of its input features, bias last."""
    node = site.node
    data, weight, bias = CONTRACTIONS[node.target]
    given: list[Any] = list(arguments(node))
    x, w = given[data], given[weight]
    axis = 1 if node.target is aten.linear.default else len(shape(w)) - 2
    product = aten.linear.default if node.target is aten.linear.default else aten.matmul.default
    terms = [
        site.call(product, site.call(take, x, -1, as_ranges(group)),
                  site.call(take, w, axis, as_ranges(group)))
        for group in groups
    ]
    summed = site.call(total, *terms)
    if bias is None or given[bias] is None:
        return summed
    return site.write("x + c", x=summed, c=given[bias])


@rule_on(FUSED, name="split_ports", once=True,
         equation="attention(q(x), k(x), v(x)) = attention(q(x'), k(x''), v(x''')), all x alike",
         examples=("attention(linear(y, W), linear(y, V), y) | y = gelu(x) "
                   "| x: b h s d, W: d d, V: d d",),
         refuses=("attention(q, k, v) | q: b h s d, k: b h t d, v: b h t e",))
def split_ports(site: Site) -> fx.Node | Miss:
    """Queries, keys and values each get their own copy of the norm that they read."""
    flow = Flow(site.module.graph, [n.target for n in site.module.graph.find_nodes(
        op="placeholder")])
    stops = {*flow.sources, *residual_sums(flow)}
    cones = [flow.cone(operand, stops) - stops for operand in args(site.node)[:3]]
    shared = [cone & set().union(*(c for c in cones if c is not cone)) for cone in cones]
    if not any(shared):
        return Miss("queries, keys and values share nothing but the residual stream")
    made: list[fx.Node] = []
    for operand, cone, common in zip(args(site.node)[:3], cones, shared, strict=True):
        copies: dict[fx.Node, fx.Node] = {}
        for node in sorted(cone, key=flow.order.__getitem__):
            if node in common or any(o in copies for o in node.all_input_nodes):
                copies[node] = site.again(node, lambda o, known=copies: known.get(o, o))
        made.append(copies.get(operand) or operand)
    return _with_ports(site, made)


def _with_ports(site: Site, ports: list[fx.Node]) -> fx.Node:
    made = site.again(site.node, lambda o: o)
    made.args = (*ports, *args(made)[3:])
    return made


def _attention_behind(node: fx.Node) -> fx.Node | None:
    """The attention whose result is only moved on its way to `node`."""
    for _ in range(FAR):
        if node.target is FUSED:
            return node
        if node.target in PRODUCTS and _is_pattern(args(node)[0]):
            return node
        if node.target not in MOVES:
            return None
        node = args(node)[0]
    return None


def _is_pattern(node: Any) -> bool:
    kept = {aten.to.dtype, aten.dropout.default, aten.masked_fill.Scalar, *MOVES}
    while isinstance(node, fx.Node) and node.target in kept:
        node = args(node)[0]
    return isinstance(node, fx.Node) and node.target in PATTERNS


def _device(node: fx.Node) -> torch.device:
    return node.meta["val"].device


ATTENTION: tuple[Rule, ...] = (
    open_attention, split_mask(1, 1), split_heads, split_neurons((0, 2)), split_ports,
)
