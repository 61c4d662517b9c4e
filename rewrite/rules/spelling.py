"""One spelling for operators that mean the same, so that later rules meet fewer kinds."""

from __future__ import annotations

import operator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx

from rewrite.ir.flow import args, shape
from rewrite.ir.graph import Graph
from rewrite.ir.spec import check
from rewrite.ir.values import attribute
from rewrite.rules.declare import Rule, rule_on
from rewrite.rules.engine import rewrite
from rewrite.rules.site import Miss, Site
from rewrite.rules.spelling_sums import SUM_SPELLINGS

aten = torch.ops.aten


def spelled(graph: Graph) -> Graph:
    """The same graph with `flatten`, `select`, `unbind`, `einsum` and the like spelt out.

    >>> spelled(parts.graph).code == parts.graph.code
    True
    """
    done = rewrite(graph, SPELLINGS)
    done.module.graph.eliminate_dead_code()
    done.module.recompile()
    check(done, "spelled")
    return replace(done, certificate=graph.certificate)


@rule_on(aten.flatten.using_ints,
         name="flatten_as_reshape",
         equation="flatten(x) = reshape(x, sizes)",
         examples=("flatten(x, 1, 2) | x: b s d",
                   "flatten(x, 0, -2) | x: b s d"),
         refuses=("reshape(x, [-1]) | x: b s d",))
def flatten_as_reshape(site: Site) -> fx.Node | Miss | None:
    x, *given = args(site.node)
    rank = len(shape(x))
    start, end = (*given, *(0, -1)[len(given):])
    if rank == 0:
        return Miss("a number has no axes")
    start, end = start % rank, end % rank
    before, after = range(start), range(end + 1, rank)
    sizes = [*(site.size(x, d) for d in before), -1, *(site.size(x, d) for d in after)]
    return site.call(aten.reshape.default, x, sizes)


@rule_on(aten.unflatten.int,
         name="unflatten_as_reshape",
         equation="unflatten(x, d, s) = reshape(x, sizes)",
         examples=("unflatten(x, -1, [2, -1]) | x: b 2*d",),
         refuses=("reshape(x, [-1]) | x: b s d",))
def unflatten_as_reshape(site: Site) -> fx.Node | Miss | None:
    x, dim, sizes = args(site.node)
    dim %= len(shape(x))
    before, after = range(dim), range(dim + 1, len(shape(x)))
    whole = [*(site.size(x, d) for d in before), *sizes, *(site.size(x, d) for d in after)]
    return site.call(aten.reshape.default, x, whole)


@rule_on(aten.reshape_as.default, aten.view_as.default,
         name="reshape_like",
         equation="reshape_as(x, y) = reshape(x, sizes of y)",
         examples=("reshape_as(x, y) | x: b s d, y: b*s d",
                   "view_as(x, y) | x: b s d, y: b*s d"),
         refuses=("reshape(x, [-1]) | x: b s d",))
def reshape_like(site: Site) -> fx.Node | Miss | None:
    x, like = args(site.node)
    sizes = [site.size(like, d) for d in range(len(shape(like)))]
    return site.call(aten.reshape.default, x, sizes)


@rule_on(aten.view.default, aten.reshape.default,
         name="view_of_sum", once=True,
         equation="view(x + y) + z = (view(x) + view(y)) + z",
         examples=("reshape(x + y, [b, -1]) + z | x: b s d, y: b s d, z: b s*d",),
         refuses=("reshape(x + 1, [b, -1]) + z | x: b s d, z: b s*d",
                  "gelu(reshape(x + y, [b, -1])) | x: b s d, y: b s d"))
def view_of_sum(site: Site) -> fx.Node | Miss | None:
    x, sizes = args(site.node)
    adds = {aten.add.Tensor}
    if x.target not in adds or len(x.users) > 1 or x.kwargs or len(args(x)) != 2:
        return Miss("it is no view of a sum of two terms that nobody else reads")
    terms = [term for term in args(x) if isinstance(term, fx.Node)]
    alike = all(isinstance(t.meta.get("val"), Tensor) and shape(t) == shape(x) for t in terms)
    summed = any(user.target in adds for user in site.node.users)
    if len(terms) < 2 or not alike or not summed:
        return Miss("its terms broadcast, or it is no term itself")
    views = (site.call(aten.reshape.default, t, sizes) for t in terms)  # terms may have gaps
    return site.call(aten.add.Tensor, *views)


@rule_on(aten.broadcast_to.default,
         name="broadcast_as_expand",
         equation="broadcast_to(x, s) = expand(x, s)",
         examples=("broadcast_to(x, [b, s, d]) | x: b 1 d",),
         refuses=("expand(x, [3, 2]) | x: 1 2",))
def broadcast_as_expand(site: Site) -> fx.Node | Miss | None:
    return site.call(aten.expand.default, *args(site.node))


@rule_on(aten.stack.default,
         name="stack_as_cat",
         equation="stack(x, y; d) = cat(unsqueeze(x, d), unsqueeze(y, d); d)",
         examples=("stack([x, y], 1) | x: b s, y: b s", "stack([x, y], -1) | x: b s, y: b s"),
         refuses=("cat([x, x], 1) | x: b s d",))
def stack_as_cat(site: Site) -> fx.Node | Miss | None:
    pieces, *rest = args(site.node)
    dim = (rest[0] if rest else 0) % len(shape(site.node))
    return site.call(
        aten.cat.default, [site.call(aten.unsqueeze.default, x, dim) for x in pieces], dim)


@rule_on(aten.expand_as.default,
         name="expand_like",
         equation="expand_as(x, y) = expand(x, sizes of y)",
         examples=("expand_as(x, y) | x: b 1 d, y: b s d",),
         refuses=("expand(x, [3, 2]) | x: 1 2",))
def expand_like(site: Site) -> fx.Node | Miss | None:
    x, like = args(site.node)
    sizes = [site.size(like, d) for d in range(len(shape(like)))]
    return site.call(aten.expand.default, x, sizes)


@rule_on(aten.numpy_T.default,
         name="t_as_permute",
         equation="x.T = permute(x, backwards)",
         examples=("numpy_T(x) | x: s d",),
         refuses=("transpose(x, 0, 1) | x: s d",))
def t_as_permute(site: Site) -> fx.Node | Miss | None:
    (x,) = args(site.node)
    return site.call(aten.permute.default, x, list(range(len(shape(x))))[::-1])


@rule_on(aten.mT.default,
         name="mt_as_transpose",
         equation="x.mT = transpose(x, -2, -1)",
         examples=("mT(x) | x: b s d",),
         refuses=("transpose(x, 0, 1) | x: s d",))
def mt_as_transpose(site: Site) -> fx.Node | Miss | None:
    return site.call(aten.transpose.int, args(site.node)[0], -2, -1)


@rule_on(aten.movedim.int, aten.swapaxes.default, aten.swapdims.default,
         name="movedim_as_permute",
         equation="movedim(x, a, b) = permute(x, order)",
         examples=("movedim(x, 0, -1) | x: b s d",
                   "swapaxes(x, 0, 2) | x: b s d",
                   "swapdims(x, 1, -1) | x: b s d"),
         refuses=("transpose(x, 0, 1) | x: s d",))
def movedim_as_permute(site: Site) -> fx.Node | Miss | None:
    x, a, b = args(site.node)
    order = list(range(len(shape(x))))
    a, b = a % len(order), b % len(order)
    if site.node.target is aten.movedim.int:
        order.insert(b, order.pop(a))
    else:
        order[a], order[b] = order[b], order[a]
    return site.call(aten.permute.default, x, order)


@rule_on(aten.select.int,
         name="select_as_slice",
         equation="x[i at d] = squeeze(x[i:i+1 at d], d)",
         examples=("select(x, 1, -1) | x: b s d",),
         refuses=("slice(x, 1, 0, 1) | x: b s d",))
def select_as_slice(site: Site) -> fx.Node | Miss | None:
    x, dim, index = args(site.node)
    return _one(site, x, dim, index)


def _one(site: Site, x: fx.Node, dim: int, index: Any) -> fx.Node | Miss:
    size = shape(x)[dim]
    if not isinstance(size, int) or not isinstance(index, int):
        return Miss("the size of the axis, or the place on it, varies")
    index %= size
    kept = site.call(aten.slice.Tensor, x, dim, index, index + 1)
    return site.call(aten.squeeze.dim, kept, dim)


@rule_on(operator.getitem,
         name="unbind_as_slices",
         equation="unbind(x, d)[i] = x[i at d]",
         examples=("getitem(unbind(x, 1), 1) | x: b s d",),
         refuses=("getitem(split(x, 1, 1), 0) | x: b s d",))
def unbind_as_slices(site: Site) -> fx.Node | Miss | None:
    several, index = args(site.node)
    if several.target is not aten.unbind.int:
        return Miss("it is an entry of something else")
    x, *rest = args(several)
    return _one(site, x, rest[0] if rest else 0, index)


@rule_on(aten.index.Tensor,
         name="index_as_slices",
         equation="x[c at d] = concat of slices of x, c constant",
         examples=("index(x, [None, c]) | x: b 3 d, c: const 2",
                   "index(x, [c]) | x: 3 d, c: const 1"),
         refuses=("index(x, [None, c]) | x: b 3 d, c: int s",))
def index_as_slices(site: Site) -> fx.Node | Miss | None:
    x, entries = args(site.node)
    places = [(i, entry) for i, entry in enumerate(entries) if entry is not None]
    if len(places) != 1 or places[0][1].op != "get_attr":
        return Miss("it is indexed by something else than one constant")
    (dim, entry), = places
    known = attribute(site.module, str(entry.target))
    if not isinstance(known, Tensor) or known.dtype not in (torch.int64, torch.int32):
        return None
    size = shape(x)[dim]
    if known.ndim != 1 or known.is_meta or not isinstance(size, int):
        return None
    if not 1 <= known.numel() <= 64:
        return None
    picked = [index % size for index in known.tolist()]
    pieces = [site.call(aten.slice.Tensor, x, dim, i, i + 1) for i in picked]
    return pieces[0] if len(pieces) == 1 else site.call(aten.cat.default, pieces, dim)


@rule_on(aten.cat.default,
         name="concat_without_empty",
         equation="concat(empty, x) = x",
         examples=("cat([e, x], 1) | e: 0, x: b s d",
                   "cat([e, x, x], 1) | e: 0, x: b s d"),
         refuses=("cat([x, x], 1) | x: b s d",))
def concat_without_empty(site: Site) -> fx.Node | Miss | None:
    pieces, *rest = args(site.node)
    kept = [piece for piece in pieces if shape(piece) != (0,)]
    types = {piece.meta["val"].dtype for piece in pieces}  # an empty piece may set the type
    if len(kept) == len(pieces) or not kept or len(types) > 1:
        return None
    return kept[0] if len(kept) == 1 else site.call(aten.cat.default, kept, *rest)


@rule_on(aten.copy.default,
         name="copy_as_value",
         equation="copy(x, y) = y where both are alike",
         examples=("copy(x, y) | x: b s, y: b s",),
         refuses=("copy(x, y) | x: b s, y: s",))
def copy_as_value(site: Site) -> fx.Node | Miss | None:
    target, source = args(site.node)[:2]
    same = shape(target) == shape(source) and (
        target.meta["val"].dtype == source.meta["val"].dtype)
    return source if same else None


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


SPELLINGS: tuple[Rule, ...] = (
    flatten_as_reshape, unflatten_as_reshape, reshape_like, view_of_sum,
    expand_like, t_as_permute, mt_as_transpose, movedim_as_permute,
    select_as_slice, unbind_as_slices, index_as_slices, concat_without_empty,
    copy_as_value, broadcast_as_expand, stack_as_cat, einsum_in_full, einsum_as_matmul,
    *SUM_SPELLINGS,
)
