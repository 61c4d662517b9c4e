"""Edits of one node: the copy is changed, the original never."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import rewrite as rw
from rewrite.errors import ArgumentError, InputError, SurgeryError, UnknownName
from tests.zoo import logits, tokens, traced


class Small(nn.Module):
    """x -> linear -> relu -> (+ x) -> scaled."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return (torch.relu(self.linear(x)) + x) * 2


X = torch.arange(-6.0, 6.0).reshape(3, 4)


@pytest.fixture(scope="module")
def small() -> rw.Graph:
    torch.manual_seed(0)
    return rw.trace(Small().eval(), inputs={"x": X})


def test_nodes_have_names(small: rw.Graph) -> None:
    assert small.nodes == ("linear", "relu", "add", "mul")
    assert small.get("relu").target is torch.ops.aten.relu.default
    with pytest.raises(UnknownName, match="no node 'rellu'; did you mean relu"):
        small.get("rellu")


def test_replace_by_function_module_and_tensor(small: rw.Graph) -> None:
    linear = small.module.linear.weight @ X.T
    before = small(x=X)
    assert torch.allclose(small.replace("relu", torch.tanh)(x=X),
                          2 * (torch.tanh(linear.T + small.module.linear.bias) + X))
    assert torch.equal(small.replace("relu", nn.Identity())(x=X),
                       small.delete("relu")(x=X))
    assert torch.equal(small.replace("relu", torch.zeros(4))(x=X), 2 * X)
    assert torch.equal(small(x=X), before)
    assert small.certificate is not None and small.delete("relu").certificate is None


def test_insert(small: rw.Graph) -> None:
    doubled = small.insert("add", lambda value: value * 2)
    assert torch.equal(doubled(x=X), 2 * small(x=X))
    # Readers of an input read the inserted value too.
    zeroed = small.insert("x", torch.zeros_like)
    assert torch.allclose(zeroed(x=X), 2 * torch.relu(small.module.linear.bias).expand(3, 4))


def test_twice_the_same_edit(small: rw.Graph) -> None:
    once = small.replace("relu", torch.ones(4))
    again = once.insert("add", nn.ReLU()).insert("add", nn.ReLU())
    assert torch.equal(again(x=X), 2 * torch.relu(1 + X))
    both = small.replace("relu", torch.ones(4)).replace("mul", torch.full((4,), 7.0))
    assert torch.equal(both(x=X), torch.full((3, 4), 7.0))


@pytest.mark.parametrize(("edit", "message"), [
    (lambda g: g.replace("x", torch.tanh), "'x' is an input of the graph and cannot be taken out"),
    (lambda g: g.delete("output"), "'output' is an output of the graph"),
    (lambda g: g.insert("output", torch.tanh), "nothing can be inserted after the output; insert "
                                               "after 'mul' instead"),
    (lambda g: g.replace("relu", torch.ones(4, dtype=torch.float64)),
     "'relu' is torch.float32, the tensor given for it torch.float64"),
])
def test_errors(small: rw.Graph, edit: object, message: str) -> None:
    with pytest.raises(SurgeryError, match=message):
        edit(small)  # type: ignore[operator]


def test_a_node_without_operand_cannot_be_deleted(small: rw.Graph) -> None:
    with pytest.raises(SurgeryError, match="has no operand to take its place; use replace"):
        small.delete(next(n.name for n in small.module.graph.nodes if n.op == "get_attr"))


def test_paths_between(small: rw.Graph) -> None:
    assert sorted(small.paths_between("x", "mul")) == [
        ("x", "add", "mul"), ("x", "linear", "relu", "add", "mul")]
    assert len(small.paths_between("x", "mul", limit=1)) == 1
    assert small.paths_between("mul", "x") == []
    assert small.paths_between("relu", "relu") == [("relu",)]


def test_a_head_is_ablated_by_name() -> None:
    """Names of the split model are node names with dots for underscores."""
    at, ids = traced("gpt2"), tokens(2, 5)
    graph = at.parts.as_graph().insert("a0.h1", torch.zeros_like)
    projection = at.model.transformer.h[0].attn.c_proj

    def ablate(module: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
        kept = args[0].clone()
        kept[..., 8:16] = 0
        return (kept,)

    handle = projection.register_forward_pre_hook(ablate)
    wanted = logits(at.model, input_ids=ids)
    handle.remove()
    assert torch.allclose(graph(input_ids=ids).logits, wanted, atol=1e-4)


@pytest.mark.parametrize(("inputs", "message"), [
    ({}, r"Small needs the input 'x': call it with \(x=...\)"),
    ({"y": X}, "Small has no input 'y'"),
    ({"x": X, "z": X}, "Small has no input 'z'"),
    ({"x": X.double()}, r"expected x: float32 \[batch, 4\], found float64 \[3, 4\]"),
    ({"x": X[0]}, r"expected x: float32 \[batch, 4\], found float32 \[4\]"),
    ({"x": X[:, :3]}, "with size 4 .fixed when the model was traced., found"),
    ({"x": [1.0]}, "x must be a tensor, found list"),
])
def test_inputs_are_checked(small: rw.Graph, inputs: dict[str, Tensor], message: str) -> None:
    with pytest.raises(InputError, match=message):
        small(**inputs)


def test_the_wrong_kind_of_thing(small: rw.Graph) -> None:
    """A node stands for its name, one name for a list; the rest says what to write."""
    relu = small.get("relu")
    assert small.get(relu) is relu
    for ends in (["relu"], "relu", relu):
        assert torch.equal(small.extract(ends, "mul")(relu=X, x=X), 4 * X)
    assert small.components("x").names[0] == "x"
    for wrong in (None, 3, 1.5, b"x", [], {}, object(), X, nn.ReLU()):
        with pytest.raises(ArgumentError, match="name must be a text or a node, found"):
            small.get(wrong)
        if not callable(wrong):
            with pytest.raises(ArgumentError, match="function must be a function of 1 argument"):
                small.insert("relu", wrong)
    for wrong in (3, object(), X):
        with pytest.raises(ArgumentError, match=r"sources(\[0\])? must be a text"):
            small.components(wrong)
    with pytest.raises(ArgumentError, match=r"inputs must be a text or a node or a list"):
        small.extract(3, "mul")
