"""einsum as products of two operands, and those as matrix products of operands in order."""

from __future__ import annotations

import torch
from torch import fx

from rewrite.ir.flow import args, shape
from rewrite.rules.declare import Rule, rule_on
from rewrite.rules.site import Miss, Site

aten = torch.ops.aten


@rule_on(aten.einsum.default,
         name="einsum_in_full",
         equation="einsum('...i,...j', x, y, z) = einsum('ai,aj->aij', x, y), then z",
         examples=("einsum('...ij,...kj->...ik', [x, y]) | x: b h s d, y: b h e d",
                   "einsum('bij,bjk', [x, y]) | x: b s d, y: b d e",
                   "einsum('bij,bjk,bi->bik', [x, y, z]) | x: b s d, y: b d e, z: b s"),
         refuses=("einsum('ij,jk->ik', [x, y]) | x: s d, y: d e",))
def einsum_in_full(site: Site) -> fx.Node | Miss | None:
    """Dots as letters, the result spelt, and two operands at a time."""
    equation, operands = str(args(site.node)[0]).replace(" ", ""), list(args(site.node)[1])
    full = _in_full(equation, operands)
    if full is None:
        return Miss("its dots stand for different axes")
    inputs, out = full.split("->")
    first, *rest = inputs.split(",")
    if full == equation and len(operands) < 3:
        return Miss("it is spelt in full")
    made = operands[0]
    for i, letters in enumerate(rest):
        needed = {*out, *"".join(rest[i + 1:])}
        last = i == len(rest) - 1
        kept = out if last else "".join(dict.fromkeys(c for c in first + letters if c in needed))
        made = site.call(
            aten.einsum.default, f"{first},{letters}->{kept}", [made, operands[i + 1]])
        first = kept
    return made if rest else site.call(aten.einsum.default, full, operands)


def _in_full(equation: str, operands: list[fx.Node]) -> str | None:
    inputs, arrow, out = equation.partition("->")
    if not arrow:
        counts = {c: inputs.count(c) for c in sorted(inputs) if c.isalpha()}
        out = "..." * ("..." in inputs) + "".join(c for c, n in counts.items() if n == 1)
    letters = inputs.split(",")
    ranks = {len(shape(x)) - len(own) + 3 for own, x in zip(letters, operands, strict=True)
             if "..." in own}
    if not ranks:
        return f"{inputs}->{out}"
    if len(ranks) > 1:
        return None
    free = [c for c in "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefgh" if c not in equation]
    return f"{inputs}->{out}".replace("...", "".join(free[:ranks.pop()]))


@rule_on(aten.einsum.default,
         name="einsum_as_matmul",
         equation="einsum(x, y) = matmul of x and y with their letters in order",
         examples=("einsum('bij,bkj->bik', [x, y]) | x: b s d, y: b e d",
                   "einsum('bij,jhe->bihe', [x, y]) | x: b s d, y: d h e",
                   "einsum('bhid,bjd->bhij', [x, y]) | x: b h s d, y: b e d",
                   "einsum('bid,bd->bi', [x, y]) | x: b s d, y: b d",
                   "einsum('bi,bj->bij', [x, y]) | x: b s, y: b d"),
         refuses=("einsum('ij,jk,k->ik', [x, y, z]) | x: s d, y: d e, z: e",
                  "einsum('ii,j->ij', [x, y]) | x: d d, y: s"))
def einsum_as_matmul(site: Site) -> fx.Node | Miss | None:
    equation, operands = str(args(site.node)[0]).replace(" ", ""), args(site.node)[1]
    if len(operands) != 2 or "->" not in equation or "." in equation:
        return None
    inputs, out = equation.split("->")
    a, b = inputs.split(",")
    x, y = operands
    if any(len(set(letters)) < len(letters) for letters in (a, b, out)):
        return None
    batch = [c for c in out if c in a and c in b]
    rows = [c for c in a if c in out and c not in b]
    columns = [c for c in b if c in out and c not in a]
    inner = [c for c in a if c in b and c not in out]
    if set(a + b) != {*batch, *rows, *columns, *inner}:
        return None
    sizes = {c: (x, a.index(c)) for c in a} | {c: (y, b.index(c)) for c in b if c not in a}
    if any(shape(x)[a.index(c)] != shape(y)[b.index(c)] for c in (*batch, *inner)):
        return None  # a letter of size 1 broadcasts
    if not inner:
        return site.call(aten.mul.Tensor, _spaced(site, x, a, out), _spaced(site, y, b, out))
    several = max(len(rows), len(columns), len(inner)) > 1
    if not (rows and columns) or (batch and several):
        return _broadcast(site, out, (a, b), (batch, rows, columns, inner), sizes)
    if max(len(columns), len(inner)) > 1 and all(
            any(not isinstance(shape(sizes[c][0])[sizes[c][1]], int) for c in letters)
            for letters in (inner, columns)):
        return None  # two products of sizes that vary
    left = _ordered(site, x, a, [*batch, *rows], inner, [], sizes)
    right = _ordered(site, y, b, batch, inner, columns, sizes)
    made = site.call(aten.matmul.default, left, right)
    if len(columns) != 1:
        whole = [site.size(*sizes[c]) for c in (*batch, *rows, *columns)]
        made = site.call(aten.reshape.default, made, whole)
    order = [*batch, *rows, *columns]
    return _permuted(site, made, [order.index(c) for c in out])


def _broadcast(
    site: Site, out: str, letters: tuple[str, str], groups: tuple[list[str], ...],
    sizes: dict[str, tuple[fx.Node, int]],
) -> fx.Node | None:
    """A product in which further rows and columns are axes of one operand, 1 in the other."""
    batch, rows, columns, inner = groups
    if len(inner) > 1 and any(
            not isinstance(shape(sizes[c][0])[sizes[c][1]], int) for c in inner[1:]):
        return None
    x, y = args(site.node)[1]
    outer = [*batch, *rows[:-1], *columns[:-1]]
    a, b = ("".join([*outer, *end]) for end in ((*rows[-1:], *inner), (*inner, *columns[-1:])))
    left, right = (_spaced(site, v, own, full) for v, own, full in (
        (x, letters[0], a), (y, letters[1], b)))
    if len(inner) > 1:
        before = [site.size(left, i) for i in range(len(outer) + len(rows[-1:]))]
        left = site.call(aten.reshape.default, left, [*before, _product(inner, sizes)])
        before = [site.size(right, i) for i in range(len(outer))]
        after = [site.size(right, -1)] if columns else []
        right = site.call(aten.reshape.default, right, [*before, _product(inner, sizes), *after])
    left = left if rows else site.call(aten.unsqueeze.default, left, -2)
    right = right if columns else site.call(aten.unsqueeze.default, right, -1)
    made = site.call(aten.matmul.default, left, right)
    made = made if columns else site.call(aten.squeeze.dim, made, -1)
    made = made if rows else site.call(aten.squeeze.dim, made, -1 if not columns else -2)
    order = [*outer, *rows[-1:], *columns[-1:]]
    return _permuted(site, made, [order.index(c) for c in out])


def _spaced(site: Site, x: fx.Node, letters: str, wanted: str) -> fx.Node:
    """`x` with its letters in the order that is wanted, and axes of size 1 for those it lacks."""
    own = [c for c in wanted if c in letters]
    made = _permuted(site, x, [letters.index(c) for c in own])
    for axis, c in enumerate(wanted):
        if c not in letters:
            made = site.call(aten.unsqueeze.default, made, axis)
    return made


def _ordered(
    site: Site, x: fx.Node, letters: str, before: list[str], inner: list[str],
    after: list[str], sizes: dict[str, tuple[fx.Node, int]],
) -> fx.Node:
    """`x` as [*before, product of inner, product of after]."""
    moved = _permuted(site, x, [letters.index(c) for c in (*before, *inner, *after)])
    if len(inner) == 1 and len(after) <= 1:
        return moved
    folded = [site.size(*sizes[c]) for c in before]
    folded.append(_product(inner, sizes))
    if after:
        folded.append(_product(after, sizes))
    return site.call(aten.reshape.default, moved, folded)


def _permuted(site: Site, x: fx.Node, order: list[int]) -> fx.Node:
    return x if order == sorted(order) else site.call(aten.permute.default, x, order)


def _product(letters: list[str], sizes: dict[str, tuple[fx.Node, int]]) -> int:
    found = [shape(sizes[c][0])[sizes[c][1]] for c in letters]
    total = 1
    for size in found:
        if not isinstance(size, int):
            return -1
        total *= size
    return total


EINSUMS: tuple[Rule, ...] = (einsum_in_full, einsum_as_matmul)
