"""Sums: the residual stream taken apart and put together."""

from __future__ import annotations

from torch import fx

from rewrite.ir.flow import args
from rewrite.ir.ops import total
from rewrite.ir.surgery import get
from rewrite.rules.declare import Match, Rule, rule, rule_on
from rewrite.rules.site import Miss, Site, alike


def _terms(match: Match) -> bool | Miss:
    if not match.is_node("a", "c"):
        return Miss("one of the terms is a number")
    return True


as_total = rule("as_total", "a + c = total(a, c)", where=_terms,
                examples=("a: b s d, c: b s d", "a: b s d, c: d"), refuses="a + 1 | a: b s d")

distribute = rule(
    "distribute",
    "linear(a + c, W, e) = linear(a, W, e) + linear(c, W)",
    "(a + c) @ W = a @ W + c @ W", "W @ (a + c) = W @ a + W @ c",
    "(a + c) * W = a * W + c * W", "(a + c) / W = a / W + c / W",
    "addmm(e, a + c, W) = addmm(e, a, W) + c @ W",
    where=_terms,
    examples=("a: b s d, c: b s d, W: e d, e: e", "(a + c) @ W | a: b s d, c: b s d, W: d e",
              "W @ (a + c) | a: d e, c: d e, W: s d", "(a + c) * W | a: b s d, c: b s d, W: d",
              "(a + c) / 2 | a: b s d, c: b s d",
              "addmm(e, a + c, W) | a: s d, c: s d, W: d e, e: e"),
    refuses=("gelu(a + c) | a: b s d, c: b s d", "linear(a + 1, W) | a: b s d, W: e d"),
)
distribute_total = rule(
    "distribute_total",
    "linear(total(a, *c), W, e) = linear(a, W, e) + linear(total(*c), W)",
    "total(a, *c) @ W = a @ W + total(*c) @ W", "total(a, *c) * W = a * W + total(*c) * W",
    where=lambda m: bool(m.c) or Miss("there is one term"),
    examples=("linear(total(x, y, z), W, c) | x: b s d, y: b s d, z: b s d, W: e d, c: e",
              "total(x, y, z) @ W | x: b s d, y: b s d, z: b s d, W: d e",
              "total(x, y, z) * W | x: b s d, y: b s d, z: b s d, W: d"),
    refuses="linear(total(x), W) | x: b s d, W: e d",
)
collect = rule(
    "collect", "linear(a, W, e) + linear(c, W) = linear(a + c, W, e)",
    "a @ W + c @ W = (a + c) @ W", where=lambda m: alike(m.a, m.c) or Miss(
        "the operands have different shapes"),
    examples=("a: b s d, c: b s d, W: e d, e: e", "(a @ W) + (c @ W) | a: s d, c: s d, W: d e"),
    refuses="linear(a, W) + linear(c, V) | a: b s d, c: b s d, W: e d, V: e d",
    doc="The inverse of distribute: one product instead of two.",
)


@rule_on(total, name="share_partial_sums", equation="total(*a, *c) = total(total(*a), *c)",
         examples=("total(x, y, z) * total(x, y, w) | x: b s d, y: b s d, z: b s d, w: b s d",
                   "total(x, y) * total(x, y, w) | x: b s d, y: b s d, w: b s d"),
         refuses=("total(x, y, z) * total(y, x, z) | x: b s d, y: b s d, z: b s d",
                  "total(x, y, z) | x: b s d, y: b s d, z: b s d"))
def share_partial_sums(site: Site) -> fx.Node | Miss:
    """Equal beginnings of sums are added up once; the inverse of `flatten`."""
    terms = args(site.node)
    best, made = 1, None
    for other in args(site.node)[0].users:
        if other is site.node or other.target is not total:
            continue
        theirs = args(other)
        count = next((i for i, (a, b) in enumerate(zip(terms, theirs, strict=False)) if a is not b),
                     min(len(terms), len(theirs)))
        earlier = other if count == len(theirs) and other < site.node else None
        if count < len(terms) and (count > best or (count == best > 1 and earlier)):
            best, made = count, earlier
    if best == 1:
        return Miss("no other sum begins with the same two terms")
    shared = made or site.call(total, *terms[:best])
    return site.call(total, shared, *terms[best:])


def residual_rewrite(by: str) -> Rule:
    """`a = b + (a - b)`: what a value shares with node `by`, and the rest.

    It applies to every value of the same shape and type that comes after `by`; choose one
    with `at`.

    >>> split = parts.graph.rewrite(residual_rewrite("embedding"), at="add_4")
    >>> print(split.trail)
       1  residual_rewrite  add_4: (view_7 + add_1) -> (embedding + ((view_7 + add_1) - embedding))
    """

    @rule_on(name="residual_rewrite", equation="a = b + (a - b)", once=True,
             examples=("gelu(x) * y | y: b s d, x: b s d",) if by == "y" else (),
             refuses=("gelu(x) | x: b s d, y: d",) if by == "y" else ())
    def apply(site: Site) -> fx.Node | Miss | None:
        if site.node.op != "call_function":
            return Miss("it is no operator")
        known = get(site.module.graph, by)
        if site.node is known or not known < site.node or not alike(known, site.node):
            return Miss(f"{by} does not come before it, or has another shape")
        same = site.again(site.node, lambda operand: operand)
        return site.write("b + (a - b)", a=same, b=known)

    return apply


SUMS: tuple[Rule, ...] = (
    as_total, distribute, distribute_total, collect, share_partial_sums, residual_rewrite("y"),
)
