"""Spelling: the operators that are gone, the values that stay, and rules that do not apply."""

from __future__ import annotations

import operator
from collections.abc import Callable
from random import Random
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch._subclasses import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import (
    DimDynamic,
    ShapeEnv,
    StatelessSymbolicContext,
)

import rewrite as rw
from rewrite.ir.flow import shape
from rewrite.ir.graph import Graph, InputSpec, OutputSpec
from rewrite.rules.spelling import SPELLINGS, spelled
from rewrite.rules.spelling_sums import SUM_SPELLINGS
from tests.rules.oracle import aten

Function = Callable[..., Any]


class Tiny(nn.Module):
    """A function of x `[batch, length, 4]` as a module, with a weight and some constants."""

    def __init__(self, function: Function) -> None:
        super().__init__()
        self.function = function
        self.weight = nn.Parameter(torch.randn(4, 2, 3))
        self.square = nn.Parameter(torch.randn(4, 4))
        self.flat = nn.Parameter(torch.randn(4, 3))
        self.register_buffer("pair", torch.tensor([[2, 0], [1, 3]]))
        self.register_buffer("some", torch.tensor([2, -3, 2]))
        self.register_buffer("zeros", torch.tensor([0, 0, 0]))
        self.register_buffer("none", torch.tensor([], dtype=torch.int64))

    def forward(self, x: Tensor) -> Any:
        return self.function(x, self)


def targets(graph: Graph) -> list[Any]:
    return [node.target for node in graph.module.graph.nodes if node.op == "call_function"]


def exact(function: Function) -> tuple[Graph, Graph]:
    """The graph before and after spelling, once they agree at other sizes (bit for bit,
    but for einsum: a product may add in another order)."""
    torch.manual_seed(0)
    module = Tiny(function).eval()
    graph = rw.trace(module, inputs={"x": torch.randn(3, 7, 4)})
    code = graph.code
    after = spelled(graph)
    assert graph.code == code, "the graph itself was changed"
    same = torch.allclose if aten.einsum.default in targets(graph) else torch.equal
    for batch, length in [(2, 5), (4, 9)]:
        x = torch.randn(batch, length, 4)
        for found, wanted in zip(after.flat(x=x), graph.flat(x=x), strict=True):
            assert found.shape == wanted.shape and same(found, wanted)
    for node in after.module.graph.nodes:  # all nodes know their values, as later rules require
        assert node.op == "output" or "val" in node.meta
    return graph, after


def in_place(x: Tensor, m: Tiny) -> Tensor:
    made = torch.zeros_like(x)
    made.copy_(x * 2)
    return made


def written_entry(x: Tensor, m: Tiny) -> Tensor:
    made = x * 2
    made[:, 0] = x[:, 1]
    return made


# what is written, the operators that are gone, and one that is there instead
GONE: dict[str, tuple[Function, list[Any], Any]] = {
    "flatten": (lambda x, m: x.flatten(1), [aten.flatten.using_ints], aten.reshape.default),
    "flatten all": (lambda x, m: x.flatten(), [aten.flatten.using_ints], aten.reshape.default),
    "flatten the front": (lambda x, m: x.tanh().flatten(0, -2), [aten.flatten.using_ints],
                          aten.reshape.default),
    "flatten one axis": (lambda x, m: x.tanh().flatten(1, 1), [aten.flatten.using_ints],
                         aten.reshape.default),
    "unflatten": (lambda x, m: x.unflatten(-1, (2, -1)), [aten.unflatten.int],
                  aten.reshape.default),
    "unflatten the front": (lambda x, m: x.transpose(0, 2).unflatten(0, (2, 2)),
                            [aten.unflatten.int], aten.reshape.default),
    "reshape_as": (lambda x, m: x.reshape_as(x.transpose(0, 1)), [aten.reshape_as.default],
                   aten.reshape.default),
    "view_as": (lambda x, m: x.view_as(x.transpose(0, 1)), [aten.view_as.default],
                aten.reshape.default),
    "expand_as": (lambda x, m: x[:, :1].expand_as(x) * 2, [aten.expand_as.default],
                  aten.expand.default),
    "expand_as with a new axis": (lambda x, m: m.flat[:, 0].expand_as(x) * 2,
                                  [aten.expand_as.default], aten.expand.default),
    "a view of a sum": (lambda x, m: (x + x.tanh()).view(-1, 2) + 1, [aten.view.default],
                        aten.reshape.default),
    "a reshaped sum": (lambda x, m: 1 + (x + x.tanh()).reshape(-1, 2), [], aten.reshape.default),
    "x.T": (lambda x, m: x @ m.weight.sum(2).T.T, [aten.numpy_T.default], aten.permute.default),
    "x.mT": (lambda x, m: x.mT.tanh(), [aten.mT.default], aten.transpose.int),
    "movedim": (lambda x, m: x.movedim(0, -1).tanh().movedim(2, 1), [aten.movedim.int],
                aten.permute.default),
    "swapaxes": (lambda x, m: x.swapaxes(-1, 1), [aten.swapaxes.default], aten.permute.default),
    "swapdims": (lambda x, m: x.swapdims(0, 2), [aten.swapdims.default], aten.permute.default),
    "select": (lambda x, m: x[..., -1] + x.select(-1, 2), [aten.select.int], aten.squeeze.dim),
    "unbind": (lambda x, m: (lambda a, b, c, d: a * b - d)(*x.unbind(-1)), [aten.unbind.int],
               aten.squeeze.dim),
    "unbind the first axis": (lambda x, m: x.transpose(0, 2).unbind()[-1], [aten.unbind.int],
                              aten.squeeze.dim),
    "a constant index": (lambda x, m: x[..., m.some], [aten.index.Tensor], aten.cat.default),
    "a list as an index": (lambda x, m: x[:, :, [3]], [aten.index.Tensor], aten.slice.Tensor),
    "copy": (in_place, [aten.copy.default], aten.mul.Tensor),
    "empty pieces": (lambda x, m: torch.cat([torch.empty(0), x, x], 1), [], aten.cat.default),
    "an empty piece": (lambda x, m: torch.cat([torch.empty(0), x], 1) * 2, [aten.cat.default],
                       aten.mul.Tensor),
    "einsum": (lambda x, m: torch.einsum("bqd,bkd->bqk", x, x.tanh()), [aten.einsum.default],
               aten.matmul.default),
    "further letters": (lambda x, m: torch.einsum("...d,de->...e", x, m.flat),
                        [aten.einsum.default], aten.matmul.default),
    "further letters, no result": (lambda x, m: torch.einsum("...d,de", x, m.flat),
                                   [aten.einsum.default], aten.matmul.default),
    "three operands": (lambda x, m: torch.einsum("btd,de,ef->btf", x, m.square, m.flat),
                       [aten.einsum.default], aten.matmul.default),
    "a product of entries": (lambda x, m: torch.einsum("btd,btd->dbt", x, x),
                             [aten.einsum.default], aten.mul.Tensor),
    "an outer product": (lambda x, m: torch.einsum("btd,e->btde", x, x[0, 0]),
                         [aten.einsum.default], aten.mul.Tensor),
    "a batch and two letters": (
        lambda x, m: torch.einsum("bqd,bkhd->bhqk", x, x.unsqueeze(2).tanh()),
        [aten.einsum.default], aten.matmul.default),
    "a batch and no row": (lambda x, m: torch.einsum("bd,bkd->bk", x[:, 0], x),
                           [aten.einsum.default], aten.matmul.default),
    "a batch and no column": (lambda x, m: torch.einsum("bhqd,bd->qbh", x.unsqueeze(1), x[:, 0]),
                              [aten.einsum.default], aten.matmul.default),
    "stack": (lambda x, m: torch.stack([x, x.tanh()], 1), [aten.stack.default], aten.cat.default),
    "stack at the end": (lambda x, m: torch.stack([x, x.tanh()], -1), [aten.stack.default],
                         aten.cat.default),
    "broadcast_to": (lambda x, m: torch.broadcast_to(x.tanh(), (2, *x.shape)),
                     [aten.broadcast_to.default], aten.expand.default),
    "a sum of one operand": (lambda x, m: torch.einsum("btd->tb", x), [aten.einsum.default],
                             aten.sum.dim_IntList),
    "a sum of a stack": (lambda x, m: torch.stack([x, x.tanh()]).sum(0), [aten.sum.dim_IntList],
                         aten.add.Tensor),
    "a mean of a stack": (lambda x, m: torch.stack([x, x.tanh()], 1).mean(1), [aten.mean.dim],
                          aten.div.Tensor),
    "other names": (lambda x, m: torch.true_divide(torch.multiply(x, 2), torch.divide(
        x.exp(), 2)).subtract(x.negative()), [aten.multiply.Tensor, aten.divide.Tensor],
        aten.mul.Tensor),
    "einsum with a weight": (lambda x, m: torch.einsum("btd,dhf->bthf", x, m.weight),
                             [aten.einsum.default], aten.matmul.default),
}


@pytest.mark.parametrize("case", GONE)
def test_spelt_out(case: str) -> None:
    function, gone, made = GONE[case]
    before, after = exact(function)
    assert set(gone) <= set(targets(before)), "the case does not hold what it is about"
    assert not set(gone) & set(targets(after)) and made in targets(after)
    assert all(shape(piece) != (0,) for node in after.module.graph.nodes
               if node.target is aten.cat.default for piece in node.args[0])


KEPT: dict[str, tuple[Function, Any]] = {
    "an entry of an axis that varies": (lambda x, m: x[:, 0] + x.select(1, -1), aten.select.int),
    "an entry that the input chooses": (
        lambda x, m: x[..., x.sum((0, 1)).long() % 4], aten.index.Tensor),
    "two index tensors": (lambda x, m: x.transpose(0, 2).unsqueeze(0)[m.zeros, m.some],
                          aten.index.Tensor),
    "a view of a sum that is no term": (
        lambda x, m: (x + x.tanh()).reshape(-1, 2) * 2, aten.reshape.default),
    "a view of a sum that others read": (
        lambda x, m: (lambda y: (y.view(-1, 2) + 1, y))(x + x.tanh()), aten.view.default),
    "a view of a scaled sum": (
        lambda x, m: torch.add(x, x.tanh(), alpha=2).view(-1, 2) + 1, aten.view.default),
    "a view of a sum that broadcasts": (
        lambda x, m: (x + x[:, :1]).view(-1, 2) + 1, aten.view.default),
    "indices of two axes": (lambda x, m: x[..., m.pair], aten.index.Tensor),
    "an index along an axis that varies": (lambda x, m: x[:, m.some], aten.index.Tensor),
    "no index": (lambda x, m: x[..., m.none], aten.index.Tensor),
    "copy of another shape": (
        lambda x, m: torch.zeros_like(x).copy_(x[:, :, :1]), aten.copy.default),
    "copy of another type": (
        lambda x, m: torch.zeros_like(x).copy_(x.to(torch.float64) * 2), aten.copy.default),
    "pieces that are not empty": (lambda x, m: torch.cat([x, x], -1), aten.cat.default),
    "an empty piece that sets the type": (
        lambda x, m: torch.cat([torch.empty(0), (x * 9).long()], 1), aten.cat.default),
    "an axis of no entries": (lambda x, m: torch.cat([x[:, :, :0], x], -1), aten.cat.default),
    "a number": (lambda x, m: x.sum().flatten() * x, aten.flatten.using_ints),
    "a repeated letter": (lambda x, m: torch.einsum("dd,btd->bt", m.square, x),
                          aten.einsum.default),
    "an implicit result": (lambda x, m: torch.einsum("bqd,bkd", x, x), aten.einsum.default),
    "a letter that is summed alone": (lambda x, m: torch.einsum("btd,de->be", x, m.flat),
                                      aten.einsum.default),
    "a letter that broadcasts": (
        lambda x, m: torch.einsum("btd,de->bte", x[..., :1], m.flat), aten.einsum.default),
}


@pytest.mark.parametrize("case", KEPT)
def test_rules_that_do_not_apply(case: str) -> None:
    function, kept = KEPT[case]
    before, after = exact(function)
    assert kept in targets(before), "the case does not hold what it is about"
    assert targets(after) == targets(before)


def test_every_rule_has_a_case() -> None:
    named = {target for _, gone, made in GONE.values() for target in (*gone, made)}
    # how sums are spelt is in tests/laws/test_spellings_of_sums.py
    looked_at = {target for rule in SPELLINGS if rule not in SUM_SPELLINGS
                 for target in rule.on or ()}
    assert looked_at - {operator.getitem} <= named and aten.unbind.int in named


def test_terms_with_gaps() -> None:
    """A sum may be viewed where one of its terms may not."""
    def function(x: Tensor, m: Tiny) -> Tensor:
        moved = x.transpose(1, 2)
        return (moved.contiguous() + moved).view(x.shape[0], -1) + 1

    before, after = exact(function)
    assert aten.view.default in targets(before) and aten.view.default not in targets(after)
    assert targets(after).count(aten.reshape.default) == targets(after).count(aten.add.Tensor) == 2


def test_parts_of_an_axis_that_varies() -> None:
    """No model is exported with them and a varying length, but a graph can hold them."""
    graph, x = fx.Graph(), torch.randn(3, 2)
    given = graph.placeholder("x")
    with FakeTensorMode(shape_env=ShapeEnv()) as mode:
        given.meta["val"] = mode.from_tensor(x, symbolic_context=StatelessSymbolicContext(
            dynamic_sizes=[DimDynamic.DYNAMIC, DimDynamic.STATIC]))
    node = graph.call_function(aten.unbind.int, (given,))
    part = graph.call_function(operator.getitem, (node, 1))
    node.meta["val"], part.meta["val"] = x.unbind(), x[1]
    graph.output((part,))
    after = spelled(_graph(fx.GraphModule({}, graph)))
    assert targets(after) == [aten.unbind.int, operator.getitem]


def test_masks_are_no_lists() -> None:
    """A mask picks as many entries as it is true at, and can do so on several axes."""
    for mask in (torch.tensor([True, False, True]), torch.ones(3, 2, dtype=torch.bool)):
        x, root = torch.randn(3, 2, 5), {"mask": mask}
        graph = fx.Graph()
        given, entry = graph.placeholder("x"), graph.get_attr("mask")
        node = graph.call_function(aten.index.Tensor, (given, [entry]))
        given.meta["val"], entry.meta["val"], node.meta["val"] = x, mask, x[mask]
        graph.output((node,))
        after = spelled(_graph(fx.GraphModule(root, graph)))
        assert aten.index.Tensor in targets(after)
        assert torch.equal(after.module(x)[0], x[mask])


def _graph(module: fx.GraphModule) -> Graph:
    held = module.graph.find_nodes(op="placeholder")
    specs = tuple(InputSpec(n.name, tuple(
        s if isinstance(s, int) else f"{n.name}{i}" for i, s in enumerate(n.meta["val"].shape)),
        n.meta["val"].dtype) for n in held)
    return Graph(module, specs, OutputSpec(("y",), lambda values: values["y"]))


# einsum with any letters


def equation(random: Random) -> str:
    """Two operands; mostly letters of batch, rows, columns and inner ones, in any order."""
    letters = list("abcdefg")
    random.shuffle(letters)
    batch, rows, columns, inner = (
        [letters.pop() for _ in range(random.choice(counts))]
        for counts in ([0, 0, 1], [1, 1, 2], [1, 1, 2], [1, 1, 1, 2, 0]))
    lone = [letters.pop()] if letters and random.random() < 0.1 else []
    parts = [[*batch, *rows, *inner, *lone], [*batch, *inner, *columns], [*batch, *rows, *columns]]
    if random.random() < 0.1 and parts[0]:
        parts[0].append(parts[0][0])
    for part in parts:
        random.shuffle(part)
    left, right, out = ("".join(part) for part in parts)
    return f"{left},{right}->{out}" if random.random() < 0.95 else f"{left},{right}"


def test_any_equation() -> None:
    """With fixed and varying sizes; what is rewritten is right at other sizes too."""
    rewritten, random = 0, Random(0)
    for _ in range(40):
        text = equation(random)
        varying = {c for c in "abcdefg" if random.random() < random.choice([0, 0, 0.4])}
        sizes = dict(zip("abcdefg", (2, 3, 5, 7, 11, 13, 4), strict=True))
        after = spelled(_einsum(text, varying, sizes))
        rewritten += aten.einsum.default not in targets(after)
        other = {c: random.randint(1, 4) if c in varying else size for c, size in sizes.items()}
        for at in (sizes, other):
            x, y = (torch.randn([at[c] for c in part], dtype=torch.float64)
                    for part in text.partition("->")[0].split(","))
            found, wanted = after.module(x, y)[0], torch.einsum(text, x, y)
            assert found.shape == wanted.shape
            assert torch.allclose(found, wanted, rtol=1e-12, atol=1e-12), text
    assert 12 < rewritten < 38


def _einsum(text: str, varying: set[str], sizes: dict[str, int]) -> Graph:
    mode, graph = FakeTensorMode(shape_env=ShapeEnv()), fx.Graph()
    operands = []
    for name, part in zip("xy", text.partition("->")[0].split(","), strict=True):
        dynamic = [DimDynamic.DYNAMIC if c in varying else DimDynamic.STATIC for c in part]
        operands.append(graph.placeholder(name))
        operands[-1].meta["val"] = mode.from_tensor(
            torch.empty([sizes[c] for c in part], dtype=torch.float64),
            symbolic_context=StatelessSymbolicContext(dynamic_sizes=dynamic))
    node = graph.call_function(aten.einsum.default, (text, operands))
    with mode:
        node.meta["val"] = torch.einsum(text, *(operand.meta["val"] for operand in operands))
    graph.output((node,))
    return _graph(fx.GraphModule({}, graph))
