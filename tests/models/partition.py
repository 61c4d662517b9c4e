"""Where every weight of a model went: one part, or a sharing that the model itself has.

What a part holds is read off the module in which each part is a call: the parameters of its body.
What is shared is read off the original model by hooks and names: a tensor that stands in two
places, a module that runs more than once, a norm in front of several readers.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

import rewrite as rw

CONTEXT = "context"  # what no run changes: masks, positions, biases, scales of the stream


def holders(parts: rw.Components) -> dict[int, set[str]]:
    """The parts, heads as their layer, in which each parameter is, by its identity."""
    layers = {member: name for name, component in parts.components.items()
              for member in component.member_names}
    found: dict[int, set[str]] = {}
    for node in parts.module.graph.nodes:
        if node.op != "call_module":
            continue
        name = node.meta.get("component", CONTEXT)
        part = layers.get(name, name.removesuffix(".bias"))
        for parameter in parts.module.get_submodule(str(node.target)).parameters():
            found.setdefault(id(parameter), set()).add(part)
    return found


def calls(model: nn.Module, run: Callable[[], object]) -> dict[str, int]:
    """How often each module runs."""
    counts: dict[str, int] = {}

    def count(name: str) -> Callable[..., None]:
        def after(*_: object) -> None:
            counts[name] = counts.get(name, 0) + 1
        return after

    hooks = [module.register_forward_hook(count(name)) for name, module in model.named_modules()]
    with torch.no_grad():
        run()
    for hook in hooks:
        hook.remove()
    return counts


def misplaced(
    model: nn.Module, parts: rw.Components, run: Callable[[], object], layers: list[str]
) -> list[str]:
    """Weights that are in no part, in several without a reason, or hidden in an output.

    `layers` are the paths of the model's layers: no matrix of theirs may be in an output.
    """
    found, counts, wrong = holders(parts), calls(model, run), list[str]()
    places: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        places.setdefault(id(parameter), []).append(name)
    parameters = {id(p): p for p in model.parameters()}
    for key, names in places.items():
        parameter, homes = parameters[key], found.get(key, set())
        name = names[0]
        matrix = sum(size > 1 for size in parameter.shape) > 1
        if not homes and not _unused(model, parameter, run):
            wrong.append(f"{name} is in no part")
        tied = len(names) > 1 or counts.get(name.rpartition(".")[0], 1) > 1
        if matrix and len(homes - {CONTEXT}) > 1 and not tied:
            wrong.append(f"{name} is in {', '.join(sorted(homes))}")
        layered = all(any(n.startswith(f"{path}.") for path in layers) for n in names)
        hidden = homes & set(parts.dag.outputs)
        if matrix and layered and hidden:
            wrong.append(f"{name} is hidden in {', '.join(sorted(hidden))}")
    return wrong


def _unused(model: nn.Module, parameter: nn.Parameter, run: Callable[[], object]) -> bool:
    """Whether the outputs are the same with other values of a parameter."""
    with torch.no_grad():
        before, kept = run(), parameter.clone()
        parameter.add_(torch.randn_like(parameter))
        after = run()
        parameter.copy_(kept)
    assert isinstance(before, list) and isinstance(after, list)
    return all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
