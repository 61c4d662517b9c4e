"""pick(f(x)) = f'(pick'(x)) for every rule, against slices of the whole result."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rewrite.rules.picks import Every, Pick
from rewrite.rules.slicing import as_slice
from rewrite.rules.slicing_table import RULES, push
from tests.rules.cases import FUSED, MAKERS, Case, nodes
from tests.rules.oracle import agree, any_pick, aten, entry_of, node_of, picked, rand, rebuilt

often = settings(max_examples=30, derandomize=True, deadline=None)


@pytest.mark.parametrize("make", MAKERS, ids=lambda make: make.__name__)
@often
@given(seed=st.integers(0, 2**32 - 1))
def test_rules(make: Callable[[Random], list[Case]], seed: int) -> None:
    random = Random(seed)
    torch.manual_seed(seed)
    for node in nodes(make, random):
        pick = any_pick(random, node.meta["val"])
        pushed = push(node, pick)
        if pushed is not None:
            assert agree(rebuilt(node, pushed), picked(node.meta["val"], pick)), (node.target, pick)


def test_every_rule_fires() -> None:
    fired = set()
    for make in MAKERS:
        for seed in range(8):
            random = Random(seed)
            for node in nodes(make, random):
                if any(push(node, any_pick(random, node.meta["val"])) for _ in range(3)):
                    fired.add(node.target)
    assert set(RULES) <= fired


def _attended(*, batch: int = 2, heads: int = 4, **options: object) -> Case:
    queries, keys = rand(2, 4, 3, 5), rand(batch, heads, 6, 5)
    return FUSED, queries, keys, rand(batch, heads, 6, 7), options


x234, table = rand(2, 3, 4), torch.tensor([[1, 2, 6], [0, 0, 3]])
ids = torch.tensor([2, 0, 1, 1])
PASSES: dict[str, tuple[Case, Pick]] = {
    "every third of a product": ((aten.bmm.default, rand(6, 2, 4), rand(6, 4, 5)),
                                 {0: Every(3, (1, 2)), 2: (0, 3)}),
    "every third of a sum": ((aten.add.Tensor, rand(6, 1), rand(5)), {0: Every(3, (1,))}),
    "every third of a transposed axis": ((aten.transpose.int, rand(6, 2), 0, 1),
                                         {1: Every(3, (0,))}),
    "several operands in one list": ((aten.cat.default, [rand(2, 3), rand(2, 4)], 1), {0: (1,)}),
    "axes around a new one": ((aten.stack.default, [x234, x234], 1), {0: (1,), 3: (0, 2)}),
    "axes around an axis of one entry": ((aten.squeeze.dim, rand(2, 1, 4), 1), {1: (0, 2)}),
    "pairs of reals": ((aten.view_as_complex.default, rand(3, 4, 2)), {1: (0, 2)}),
    "complex numbers": ((aten.view_as_real.default, torch.view_as_complex(rand(3, 4, 2))),
                        {0: (2,), 1: (1,)}),
    "columns of a part": ((aten.slice_scatter.default, x234, rand(2, 2, 4), 1, 1, 3), {2: (0, 3)}),
    "columns of one entry": ((aten.select_scatter.default, x234, rand(2, 4), 1, 2),
                             {0: (1,), 2: (0, 3)}),
    "rows that choose for themselves": (
        (aten.gather.default, x234, 2, torch.randint(0, 4, (2, 3, 6))), {0: (1,), 1: (0, 2)}),
    "rows that scatter for themselves": (
        (aten.scatter.src, x234, 2, torch.randint(0, 4, (2, 3, 4)), rand(2, 3, 4)), {1: (0, 2)}),
    "copies of an axis": ((aten.repeat.default, x234, [1, 2, 1]), {1: (1, 3, 5), 2: (0,)}),
    "an axis that is not repeated": ((aten.repeat.default, x234, [2, 1, 1]), {1: (0, 2), 2: (1,)}),
    "an axis that is not padded": ((aten.constant_pad_nd.default, x234, [0, 0, 1, 1]),
                                   {0: (1,), 2: (3,)}),
    "an axis that is not rolled": ((aten.roll.default, x234, [1], [1]), {0: (1,), 2: (0, 2)}),
    "an axis that is not turned round": ((aten.flip.default, x234, [-1]), {1: (0, 2)}),
    "axes around indices": ((aten.index.Tensor, rand(2, 7, 4), [None, table]),
                            {0: (1,), 3: (0, 3)}),
    "axes around one index": ((aten.index.Tensor, x234, [None, torch.tensor(2)]), {1: (0, 3)}),
    "axes around chosen rows": ((aten.index_select.default, x234, -2, ids), {0: (1,), 2: (0, 3)}),
    "channels of a convolution": ((aten.conv1d.default, rand(2, 4, 7), rand(6, 4, 3), rand(6)),
                                  {0: (1,), 1: (0, 5)}),
    "channels each for itself": (
        (aten.conv2d.default, rand(2, 6, 5, 5), rand(6, 1, 3, 3), None, [1, 1], [0, 0], [1, 1], 6),
        {1: (0, 5)}),
    "pictures in groups": (
        (aten.conv1d.default, rand(3, 4, 7), rand(6, 2, 3), None, [1], [0], [1], 2), {0: (0, 2)}),
    "channels of a batch norm": (
        (aten.batch_norm.default, x234, rand(3), None, rand(3), rand(3).abs(), False, .1, 0., True),
        {0: (1,), 1: (0, 2), 2: (3,)}),
    "channels of a batch's statistics": (
        (aten.batch_norm.default, x234, None, None, None, None, True, .1, 0., True), {1: (0, 2)}),
    "letters": ((aten.einsum.default, "bij,bkj->bki", [rand(2, 3, 4), rand(2, 5, 4)]),
                {0: (1,), 1: (4,), 2: (0, 2)}),
    "addends": ((aten.baddbmm.default, rand(1, 5), rand(2, 3, 4), rand(2, 4, 5)),
                {0: (1,), 1: (0, 2), 2: (4,)}),
    "a kept axis of one entry": ((aten.expand.default, rand(2, 1, 4), [2, 3, 4]), {1: (0, 2)}),
    "heads that share keys": (_attended(heads=2, enable_gqa=True), {1: (1, 2)}),
    "heads that share one key": (_attended(heads=1, enable_gqa=True), {1: (1, 2), 2: (0,)}),
    "rows and columns of attention": (_attended(attn_mask=rand(3, 6)), {2: (-1,), 3: (0, 6)}),
    "batch of attention": (_attended(), {0: (1,)}),
    "batch of causal attention": (_attended(is_causal=True), {0: (1,)}),
    "every second batch": (_attended(attn_mask=rand(2, 1, 3, 6)), {0: Every(2, (1,))}),
    "a mask for the whole batch": (_attended(attn_mask=rand(4, 3, 6)), {0: Every(2, (1,))}),
    "keys for the whole batch": (_attended(batch=1), {0: (1,)}),
    "heads folded into the batch": (
        (FUSED, rand(6, 3, 5), rand(6, 4, 5), rand(6, 4, 7), rand(6, 3, 4)), {0: Every(3, (2,))}),
    "rows of a sum of squares": ((aten.linalg_vector_norm.default, x234, 2, [-1], True),
                                 {0: (1,), 1: (0, 2)}),
    "batches of a log of sums": ((aten.logsumexp.default, x234, [1]), {0: (1,), 1: (0, 3)}),
    "batch of a sort": ((aten.sort.default, x234), {0: (0,)}),
    "rows of a choice": ((aten.topk.default, x234, 2), {1: (0, 2)}),
    "places of the greatest": ((aten.argmax.default, x234, 1), {1: (0, 3)}),
    "rows of a softmax": ((aten.log_softmax.int, x234, -1), {0: (1,), 1: (0, 2)}),
    "parts along another axis": ((aten.split_with_sizes.default, x234, [1, 3], -1), {1: (0, 2)}),
    "copies": ((aten.repeat_interleave.self_int, x234, 2, 1, {"output_size": 6}), {1: (0, 3, 5)}),
}


@pytest.mark.parametrize("case", PASSES)
def test_a_rule_that_must_fire(case: str) -> None:
    (target, *args), pick = PASSES[case]
    kwargs = args.pop() if isinstance(args[-1], dict) else {}
    node = node_of(target, tuple(args), kwargs)
    pushed = push(node, pick)
    assert pushed is not None
    assert agree(rebuilt(node, pushed), picked(node.meta["val"], pick))


REFUSED: dict[str, tuple[Case, Pick]] = {
    "softmax over the picked axis": ((aten.softmax.int, rand(2, 3), -1), {1: (0,)}),
    "norm over the picked axis": ((aten.layer_norm.default, rand(2, 3), [3]), {1: (0,)}),
    "cumsum along the picked axis": ((aten.cumsum.default, rand(2, 3), 0), {0: (1,)}),
    "sort along the picked axis": ((aten.sort.default, rand(2, 3)), {1: (0,)}),
    "choice along the picked axis": ((aten.topk.default, rand(2, 3), 2), {1: (0,)}),
    "kept axis of a mean": ((aten.mean.dim, rand(2, 3), [1], True), {1: (0,)}),
    "kept axis of a norm": ((aten.linalg_vector_norm.default, x234, 2, [1], True), {1: (0,)}),
    "no axis means all axes": ((aten.sum.dim_IntList, rand(2, 3), [], True), {1: (-1,)}),
    "concatenated axis": ((aten.cat.default, [rand(2, 3), rand(2, 3)], 1), {1: (0,)}),
    "stacked axis": ((aten.stack.default, [rand(2, 3), rand(2, 3)], -1), {2: (0,)}),
    "split axis": ((aten.split.Tensor, rand(2, 6), 2, 1), {1: (0,)}),
    "sliced axis": ((aten.slice.Tensor, rand(2, 6), 1, 2, 4), {1: (0,)}),
    "new axis": ((aten.unsqueeze.default, rand(2, 3), 1), {1: (0,)}),
    "real or imaginary": ((aten.view_as_real.default, torch.view_as_complex(rand(3, 2))),
                          {1: (0,)}),
    "an axis that would be squeezed away": ((aten.squeeze.dim, x234, 1), {1: (0,)}),
    "part of a written axis": ((aten.slice_scatter.default, x234, rand(2, 2, 4), 1, 1), {1: (0,)}),
    "part of an axis written once": (
        (aten.select_scatter.default, x234, rand(2, 3), -1, 0), {2: (0,)}),
    "gathered axis": ((aten.gather.default, rand(3, 2), 0, torch.tensor([[0, 1]])), {0: (0,)}),
    "gathered corner": ((aten.gather.default, rand(2, 3), 1, torch.tensor([[2]])), {0: (-1,)}),
    "scattered axis": ((aten.scatter.value, rand(3, 2), 0, torch.tensor([[0, 1]]), 1), {0: (0,)}),
    "scattered corner": (
        (aten.scatter.value, rand(2, 3), 1, torch.tensor([[2]]), 1), {0: (1,)}),
    "every second of a repeated axis": (
        (aten.repeat.default, rand(2, 3), [1, 2]), {1: Every(2, (0,))}),
    "repeats with a new axis": ((aten.repeat.default, rand(2, 3), [2, 1, 1]), {1: (0,)}),
    "padded axis": ((aten.pad.default, rand(2, 3), [1, 1]), {1: (0,)}),
    "reversed axis": ((aten.flip.default, rand(2, 3), [-1]), {1: (0,)}),
    "rolled axis": ((aten.roll.default, rand(2, 3), [1], [1]), {1: (0,)}),
    "rolled in one row": ((aten.roll.default, rand(2, 3), [1]), {0: (0,)}),
    "indexed axis": ((aten.index.Tensor, rand(7, 3), [table]), {1: (0,)}),
    "two index tensors": ((aten.index.Tensor, rand(3, 3, 4), [ids, ids]), {1: (0,)}),
    "a mask for two axes": ((aten.index.Tensor, rand(2, 3, 4), [rand(2, 3) < 9]), {1: (0,)}),
    "chosen axis": ((aten.index_select.default, rand(7, 3), 0, ids), {0: (0,)}),
    "pixels": ((aten.conv1d.default, rand(2, 4, 7), rand(6, 4, 3)), {2: (0,)}),
    "a convolution of one picture": ((aten.conv1d.default, rand(4, 7), rand(6, 4, 3)), {0: (0,)}),
    "channels in groups": (
        (aten.conv1d.default, rand(2, 4, 7), rand(6, 2, 3), None, [1], [0], [1], 2), {1: (0,)}),
    "one of a batch's statistics": (
        (aten.batch_norm.default, x234, None, None, None, None, True, .1, 0., True), {0: (0,)}),
    "implicit letters": ((aten.einsum.default, "ij,jk", [rand(2, 3), rand(3, 4)]), {0: (0,)}),
    "further letters": ((aten.einsum.default, "...j,jk->...k", [x234, rand(4, 5)]), {0: (0,)}),
    "rows of causal attention": (_attended(is_causal=True), {2: (1,)}),
    "batch and heads of attention": (_attended(), {0: (1,), 1: (0,)}),
    "rows of attention without heads": ((FUSED, x234, x234, x234), {1: (0,)}),
    "attention of one sequence": ((FUSED, rand(3, 4), rand(3, 4), rand(3, 4)), {0: (0,)}),
    "no box, two axes": ((aten.view.default, rand(2, 6), [3, 4]), {0: (1, 2), 1: (0,)}),
    "every second of a fixed axis": ((aten.view.default, rand(4), [4, 1]), {0: Every(2, (0,))}),
    "every second of a broadcast axis": ((aten.expand.default, rand(1), [4]), {0: Every(2, (0,))}),
    "every second of copies": (
        (aten.repeat_interleave.self_int, rand(3), 2, 0), {0: Every(2, (0,))}),
    "flattened matrix": ((aten.matmul.default, rand(3), rand(3, 4)), {0: (0,)}),
    "an operator without a rule": ((aten.cumprod.default, rand(2, 3), 1), {0: (0,)}),
    "no axis": ((aten.repeat_interleave.self_int, rand(2, 3), 2), {0: (0,)}),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_rule_that_must_not_fire(case: str) -> None:
    (target, *args), pick = REFUSED[case]
    kwargs = args.pop() if isinstance(args[-1], dict) else {}
    node = node_of(target, tuple(args), kwargs)
    assert push(node, pick) is None


def test_one_of_several_results() -> None:
    """A pick that the results' node refuses stays below the result: no pick is of them all."""
    for target, *args in [(aten.sort.default, x234, 1), (aten.topk.default, x234, 2, 1),
                          (aten.max.dim, x234, 1, True), (aten.split.Tensor, x234, 2, 1)]:
        node = node_of(target, tuple(args))
        for index in (0, 1):
            entry = entry_of(node, index)
            assert push(entry, {0: (0,), 1: (0,)}) is None
            pushed = push(entry, {0: (0,), 2: (1, 3)})
            assert pushed is not None and agree(
                rebuilt(entry, pushed), picked(entry.meta["val"], {0: (0,), 2: (1, 3)}))
    assert push(entry_of(node_of(torch.aminmax, (x234,)), 0), {0: (0,)}) is None


@pytest.mark.parametrize(("start", "end", "step"), [
    (0, 3, 1), (1, None, 1), (2, 10**9, 1), (-3, -1, 1), (None, 5, 2), (4, 2, 1)])
def test_slices_are_indices(start: int | None, end: int | None, step: int) -> None:
    x = torch.arange(12).reshape(2, 6)
    node = node_of(aten.slice.Tensor, (x, -1, start, end, step))
    operand, dim, found = as_slice(node) or (None, None, None)
    assert operand is node.args[0] and dim == 1 and found is not None
    assert x[:, list(found)].tolist() == node.meta["val"].tolist()


@pytest.mark.parametrize(("target", "pieces", "rest"), [
    (aten.split.Tensor, 2, (1,)), (aten.split.Tensor, 1, ()), (aten.split.sizes, [1, 4, 1], (-1,)),
    (aten.split_with_sizes.default, [4, 2], (1,)), (aten.chunk.default, 4, (-1,))])
def test_parts_are_indices(target: object, pieces: object, rest: tuple[int, ...]) -> None:
    x = torch.arange(12).reshape(2, 6)
    node = node_of(target, (x, pieces, *rest))
    for index, part in enumerate(node.meta["val"]):
        operand, dim, found = as_slice(entry_of(node, index)) or (None, None, None)
        assert operand is node.args[0] and dim is not None and found is not None
        assert picked(x, {dim: tuple(found)}).tolist() == part.tolist()
    assert as_slice(node) is None and as_slice(operand) is None
