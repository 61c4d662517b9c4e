"""Functions and modules that surgery has put in, as operators."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx
from torch._subclasses.functional_tensor import FunctionalTensorMode, dispatch_functionalize
from torch.fx.experimental.proxy_tensor import make_fx

from rewrite.errors import SurgeryError
from rewrite.ir.edit import Edit, called
from rewrite.ir.values import fake
from rewrite.trace.cleanup import clean
from rewrite.trace.functional import make_functional, mutates
from rewrite.world import reason

aten = torch.ops.aten


def trace(edit: Edit, node: fx.Node) -> fx.GraphModule:
    """The operators of the function or module that a node calls, on its operands in order.

    Where it asks about sizes, the graph is from now on for inputs that give the same answer.
    Raises `SurgeryError` if it looks at values, or changes its operand.
    """
    what, operands = f"{called(node, edit.module)} at {node.name!r}", node.all_input_nodes
    function: Any = (edit.module.get_submodule(str(node.target)) if node.op == "call_module"
                     else node.target)

    def run(*values: Any) -> Any:
        given = dict(zip(operands, values, strict=True))
        args, kwargs = fx.map_arg((node.args, dict(node.kwargs)), given.__getitem__)
        return function(*args, **kwargs)

    def functional(*values: Any) -> Any:
        with FunctionalTensorMode(pre_dispatch=True) as mode:
            return dispatch_functionalize(run, mode=mode)(*values)

    # Operands are told apart by identity, and two nodes may note one value.
    values = [fake(operand.meta["val"], edit.mode) for operand in operands]
    for attempt in (run, functional):  # the second one takes operators apart
        asked: list[Any] = []
        try:
            with edit.shapes_only(asked), torch.enable_grad():
                made = make_fx(attempt, tracing_mode="real", pre_dispatch=True,
                               _allow_non_fake_inputs=True)(*values)
        except Exception as error:  # of the user's function: of any kind
            raise SurgeryError(
                f"{what} cannot be written as operators: {reason(error)}; it must be made of "
                "tensor operators and not look at values: torch.where(condition, a, b), not if"
            ) from error
        _detach(made.graph)
        make_functional(made.graph)
        if not mutates(made.graph):
            clean(made.graph)
            for condition in asked:
                edit.require(condition)
            return made
    raise SurgeryError(f"{what} writes into its operand, which others read too: let it return a "
                       "new tensor (x = x.clone() first, or inplace=False)")


def _detach(graph: fx.Graph) -> None:
    """What was computed under `no_grad` is detached, and the switch itself is gone."""
    enabled = True
    for node in list(graph.nodes):
        if node.target is torch._C._set_grad_enabled:
            enabled = bool(node.args[0])
            graph.erase_node(node)
        elif not enabled and node.op == "call_function" and isinstance(
                node.meta.get("val"), Tensor):
            with graph.inserting_after(node):
                new = graph.call_function(aten.detach.default, (node,))
            new.meta = dict(node.meta)
            node.replace_all_uses_with(new, delete_user_cb=lambda user, new=new: user is not new)
