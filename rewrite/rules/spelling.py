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
from rewrite.rules.einsum import EINSUMS
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


SPELLINGS: tuple[Rule, ...] = (
    flatten_as_reshape, unflatten_as_reshape, reshape_like, view_of_sum,
    expand_like, t_as_permute, mt_as_transpose, movedim_as_permute,
    select_as_slice, unbind_as_slices, index_as_slices, concat_without_empty,
    copy_as_value, broadcast_as_expand, stack_as_cat, *EINSUMS, *SUM_SPELLINGS,
)
