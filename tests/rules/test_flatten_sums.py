"""flatten_sums: the residual additions become one sum for each reading, and no others do."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import rewrite as rw
from rewrite.ir.flow import Flow
from rewrite.ir.ops import total
from rewrite.rules.flatten_sums import flatten_sums, residual_sums
from tests.zoo import FAMILIES, error, logits, tokens, traced

# Layers write twice; gpt_neox adds both branches at once; bert norms the stream after each
# addition, so that its sums have two terms; gpt2 and bert add position embeddings.
SUMS = {
    "gpt2": [2, 3, 4, 5, 6], "gpt_neox": [3, 5], "llama": [2, 3, 4, 5],
    "qwen3": [2, 3, 4, 5], "gemma3": [2, 3, 4, 5], "bert": [2, 2, 2, 2],
}


@pytest.mark.parametrize("family", FAMILIES)
def test_families(family: str) -> None:
    at = traced(family)
    before = at.graph.code
    flat = flatten_sums(at.graph)
    ids = tokens(2, 7)
    assert error(flat(input_ids=ids).logits, logits(at.model, input_ids=ids)) < 1e-5
    sums = [node for node in flat.module.graph.nodes if node.target is total]
    assert all(term.target is not total for node in sums for term in node.args)
    assert [len(node.args) for node in sums] == SUMS[family]
    assert at.graph.code == before and flat.certificate is None


@pytest.mark.parametrize("family", ["gpt_neox", "llama", "gemma3"])
def test_rotary_and_polynomials_are_no_residual_additions(family: str) -> None:
    graph = traced(family).graph.module.graph
    found = residual_sums(Flow(graph, ("input_ids",)))
    assert len(found) == 4
    others = [n for n in graph.nodes if n.target is torch.ops.aten.add.Tensor and n not in found]
    assert len(others) >= 4  # rotary, the epsilon of norms


def test_the_polynomial_of_an_activation() -> None:
    """gpt2's gelu is written out as x + 0.044715 x^3, which is no skip connection."""
    graph = traced("gpt2").graph.module.graph
    found = residual_sums(Flow(graph, ("input_ids",)))
    assert len(found) == 5
    spelt = [n for n in graph.nodes if n.target is torch.ops.aten.pow.Tensor_Scalar]
    assert len(spelt) == 2
    assert all(user not in found for n in spelt for user in n.users)


class Nested(nn.Module):
    """Two blocks whose stream is read in between, with a bias that is added by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.shift = nn.Parameter(torch.randn(4))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.first(x)
        return (x + self.second(x).tanh() * 2) + self.shift


def test_a_plain_module() -> None:
    torch.manual_seed(0)
    model, x = Nested().eval(), torch.randn(3, 4)
    graph = rw.trace(model, inputs={"x": x})
    flat = flatten_sums(graph)
    sums = [node for node in flat.module.graph.nodes if node.target is total]
    assert [len(node.args) for node in sums] == [2, 3]
    assert torch.allclose(flat(x=x), model(x))
