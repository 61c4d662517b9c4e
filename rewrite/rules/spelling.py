"""One spelling for operators that mean the same, so that later rules meet fewer kinds.

Every rule keeps the values; a rule answers None where it does not apply.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx

from rewrite.ir.flow import args, shape
from rewrite.ir.graph import Graph
from rewrite.ir.spec import check
from rewrite.ir.surgery import copy_module

aten = torch.ops.aten
Rule = Callable[["_Writer", fx.Node], "fx.Node | None"]
RULES: dict[Any, Rule] = {}


def spelled(graph: Graph) -> Graph:
    """The same graph with `flatten`, `select`, `unbind`, `einsum` and the like spelt out."""
    module = copy_module(graph.module)
    writer = _Writer(module)
    for node in list(module.graph.nodes):
        rule = RULES.get(node.target) if node.op == "call_function" else None
        if rule is None:
            continue
        writer.at = node
        with module.graph.inserting_before(node):
            made = rule(writer, node)
        if made is not None:
            node.replace_all_uses_with(made)
            module.graph.erase_node(node)
    module.graph.eliminate_dead_code()
    module.recompile()
    result = replace(graph, module=module)
    check(result, "spelled")
    return result


def rule_for(*targets: Any) -> Callable[[Rule], Rule]:
    """Enter a rule into the table."""

    def enter(rule: Rule) -> Rule:
        RULES.update(dict.fromkeys(targets, rule))
        return rule

    return enter


class _Writer:
    """Makes nodes that know their values' shapes and the module that they come from."""

    def __init__(self, module: fx.GraphModule) -> None:
        self.module, self.graph = module, module.graph
        self.at: fx.Node

    def call(self, target: Any, *operands: Any) -> fx.Node:
        made = self.graph.call_function(target, operands)
        values = fx.map_arg(operands, lambda n: n.meta["val"])
        made.meta = {k: v for k, v in self.at.meta.items() if k != "val"}
        made.meta["val"] = target(*values)
        return made

    def size(self, x: fx.Node, axis: int) -> Any:
        """A size as an argument: a number if it is fixed, else a node."""
        value = x.meta["val"].shape[axis]
        return value if isinstance(value, int) else self.call(aten.sym_size.int, x, axis)

    def permute(self, x: fx.Node, order: list[int]) -> fx.Node:
        return x if order == sorted(order) else self.call(aten.permute.default, x, order)


# flatten(x) = reshape(x, sizes)
@rule_for(aten.flatten.using_ints)
def _flatten(write: _Writer, node: fx.Node) -> fx.Node | None:
    x, *given = args(node)
    rank = len(shape(x))
    start, end = (*given, *(0, -1)[len(given):])
    if rank == 0:
        return None
    start, end = start % rank, end % rank
    before, after = range(start), range(end + 1, rank)
    sizes = [*(write.size(x, d) for d in before), -1, *(write.size(x, d) for d in after)]
    return write.call(aten.reshape.default, x, sizes)


# unflatten(x, d, s) = reshape(x, sizes)
@rule_for(aten.unflatten.int)
def _unflatten(write: _Writer, node: fx.Node) -> fx.Node:
    x, dim, sizes = args(node)
    dim %= len(shape(x))
    before, after = range(dim), range(dim + 1, len(shape(x)))
    whole = [*(write.size(x, d) for d in before), *sizes, *(write.size(x, d) for d in after)]
    return write.call(aten.reshape.default, x, whole)


# reshape_as(x, y) = reshape(x, sizes of y)
@rule_for(aten.reshape_as.default, aten.view_as.default)
def _reshape_as(write: _Writer, node: fx.Node) -> fx.Node:
    x, like = args(node)
    sizes = [write.size(like, d) for d in range(len(shape(like)))]
    return write.call(aten.reshape.default, x, sizes)


# view(x + y) + z = (view(x) + view(y)) + z: terms of a residual sum stay visible as terms
@rule_for(aten.view.default, aten.reshape.default)
def _view_of_sum(write: _Writer, node: fx.Node) -> fx.Node | None:
    x, sizes = args(node)
    adds = {aten.add.Tensor}
    if x.target not in adds or len(x.users) > 1 or x.kwargs or len(args(x)) != 2:
        return None
    terms = [term for term in args(x) if isinstance(term, fx.Node)]
    alike = all(isinstance(t.meta.get("val"), Tensor) and shape(t) == shape(x) for t in terms)
    summed = any(user.target in adds for user in node.users)
    if len(terms) < 2 or not alike or not summed:
        return None
    views = (write.call(aten.reshape.default, t, sizes) for t in terms)  # terms may have gaps
    return write.call(aten.add.Tensor, *views)


# expand_as(x, y) = expand(x, sizes of y)
@rule_for(aten.expand_as.default)
def _expand_as(write: _Writer, node: fx.Node) -> fx.Node:
    x, like = args(node)
    sizes = [write.size(like, d) for d in range(len(shape(like)))]
    return write.call(aten.expand.default, x, sizes)


# x.T = permute(x, backwards)
@rule_for(aten.numpy_T.default)
def _backwards(write: _Writer, node: fx.Node) -> fx.Node:
    (x,) = args(node)
    return write.call(aten.permute.default, x, list(range(len(shape(x))))[::-1])


# x.mT = transpose(x, -2, -1)
@rule_for(aten.mT.default)
def _transposed(write: _Writer, node: fx.Node) -> fx.Node:
    return write.call(aten.transpose.int, args(node)[0], -2, -1)


# movedim(x, a, b) = permute(x, order)
@rule_for(aten.movedim.int, aten.swapaxes.default, aten.swapdims.default)
def _moved(write: _Writer, node: fx.Node) -> fx.Node:
    x, a, b = args(node)
    order = list(range(len(shape(x))))
    a, b = a % len(order), b % len(order)
    if node.target is aten.movedim.int:
        order.insert(b, order.pop(a))
    else:
        order[a], order[b] = order[b], order[a]
    return write.call(aten.permute.default, x, order)


# x[.., i at d, ..] = squeeze(x[.., i:i+1 at d, ..], d)
@rule_for(aten.select.int)
def _select(write: _Writer, node: fx.Node) -> fx.Node | None:
    x, dim, index = args(node)
    return _one(write, x, dim, index)


def _one(write: _Writer, x: fx.Node, dim: int, index: Any) -> fx.Node | None:
    size = shape(x)[dim]
    if not isinstance(size, int) or not isinstance(index, int):
        return None
    index %= size
    kept = write.call(aten.slice.Tensor, x, dim, index, index + 1)
    return write.call(aten.squeeze.dim, kept, dim)


# unbind(x, d)[i] = x[.., i at d, ..]
@rule_for(aten.unbind.int)
def _unbind(write: _Writer, node: fx.Node) -> fx.Node | None:
    x, *rest = args(node)
    dim = rest[0] if rest else 0
    if not isinstance(shape(x)[dim], int):
        return None
    for user in list(node.users):
        made = _one(write, x, dim, args(user)[1])
        assert made is not None
        user.replace_all_uses_with(made)
        write.graph.erase_node(user)
    return None


# x[.., c] with a constant list c = concat of slices of x
@rule_for(aten.index.Tensor)
def _constant_index(write: _Writer, node: fx.Node) -> fx.Node | None:
    x, entries = args(node)
    places = [(i, entry) for i, entry in enumerate(entries) if entry is not None]
    if len(places) != 1 or places[0][1].op != "get_attr":
        return None
    (dim, entry), = places
    known = getattr(write.module, str(entry.target), None)
    if not isinstance(known, Tensor) or known.dtype not in (torch.int64, torch.int32):
        return None
    size = shape(x)[dim]
    if known.ndim != 1 or known.is_meta or not isinstance(size, int):
        return None
    if not 1 <= known.numel() <= 64:
        return None
    picked = [index % size for index in known.tolist()]
    pieces = [write.call(aten.slice.Tensor, x, dim, i, i + 1) for i in picked]
    return pieces[0] if len(pieces) == 1 else write.call(aten.cat.default, pieces, dim)


# concat(empty, x) = x: torch allows empty pieces of another rank
@rule_for(aten.cat.default)
def _without_empty(write: _Writer, node: fx.Node) -> fx.Node | None:
    pieces, *rest = args(node)
    kept = [piece for piece in pieces if shape(piece) != (0,)]
    types = {piece.meta["val"].dtype for piece in pieces}  # an empty piece may set the type
    if len(kept) == len(pieces) or not kept or len(types) > 1:
        return None
    return kept[0] if len(kept) == 1 else write.call(aten.cat.default, kept, *rest)


# copy(x, y) = y where both are alike
@rule_for(aten.copy.default)
def _copied(write: _Writer, node: fx.Node) -> fx.Node | None:
    target, source = args(node)[:2]
    same = shape(target) == shape(source) and (
        target.meta["val"].dtype == source.meta["val"].dtype)
    return source if same else None


# einsum(x, y) = matmul of the permuted x and y, with contracted letters side by side
@rule_for(aten.einsum.default)
def _einsum(write: _Writer, node: fx.Node) -> fx.Node | None:
    equation, operands = str(args(node)[0]).replace(" ", ""), args(node)[1]
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
    if not (rows and columns and inner) or set(a + b) != {*batch, *rows, *columns, *inner}:
        return None
    if batch and (len(rows) != 1 or len(columns) != 1 or len(inner) != 1):
        return None
    sizes = {c: (x, a.index(c)) for c in a} | {c: (y, b.index(c)) for c in b if c not in a}
    if any(shape(x)[a.index(c)] != shape(y)[b.index(c)] for c in (*batch, *inner)):
        return None  # a letter of size 1 broadcasts
    if max(len(columns), len(inner)) > 1 and all(
            any(not isinstance(shape(sizes[c][0])[sizes[c][1]], int) for c in letters)
            for letters in (inner, columns)):
        return None  # two products of sizes that vary
    left = _ordered(write, x, a, [*batch, *rows], inner, [], sizes)
    right = _ordered(write, y, b, batch, inner, columns, sizes)
    made = write.call(aten.matmul.default, left, right)
    if len(columns) != 1:
        whole = [write.size(*sizes[c]) for c in (*batch, *rows, *columns)]
        made = write.call(aten.reshape.default, made, whole)
    order = [*batch, *rows, *columns]
    return write.permute(made, [order.index(c) for c in out])


def _ordered(
    write: _Writer, x: fx.Node, letters: str, before: list[str], inner: list[str],
    after: list[str], sizes: dict[str, tuple[fx.Node, int]],
) -> fx.Node:
    """`x` as [*before, product of inner, product of after]."""
    moved = write.permute(x, [letters.index(c) for c in (*before, *inner, *after)])
    if len(inner) == 1 and len(after) <= 1:
        return moved
    folded = [write.size(*sizes[c]) for c in before]
    folded.append(_product(inner, sizes))
    if after:
        folded.append(_product(after, sizes))
    return write.call(aten.reshape.default, moved, folded)


def _product(letters: list[str], sizes: dict[str, tuple[fx.Node, int]]) -> int:
    found = [shape(sizes[c][0])[sizes[c][1]] for c in letters]
    total = 1
    for size in found:
        if not isinstance(size, int):
            return -1
        total *= size
    return total
