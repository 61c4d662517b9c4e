"""Hooks on a model when it is traced: what they do may be part of the graph, so they are named."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn
from torch.nn.modules import module as registry

KINDS = {"_forward_pre_hooks": "forward pre-hook", "_forward_hooks": "forward hook",
         "_backward_pre_hooks": "backward pre-hook", "_backward_hooks": "backward hook"}


def hook_notes(model: nn.Module) -> tuple[str, ...]:
    """One note for every hook of a module or weight, by their names, and for global hooks.

    Those with which torch itself makes weights (`weight_norm`, `prune`) are no hooks of a user.
    """
    return tuple(f"{kind} {_name(hook)} on {where} is {effect(kind)}"
                 for kind, hook, where in _hooks(model))


def effect(kind: str) -> str:
    """What a graph has of a hook of this kind."""
    backward = "gradient" in kind or "backward" in kind
    return "not in the graph, which has plain gradients" if backward else "part of the graph"


def _hooks(model: nn.Module) -> Iterator[tuple[str, Any, str]]:
    for table, kind in KINDS.items():
        for hook in getattr(registry, f"_global{table}", {}).values():
            yield f"global {kind}", hook, "every module"
    for name, module in model.named_modules():
        where = name or f"the model ({type(model).__name__})"
        for table, kind in KINDS.items():
            for hook in (getattr(module, table, None) or {}).values():
                if not _of_torch(hook):
                    yield kind, hook, where
        if (forward := vars(module).get("forward")) is not None:
            yield "own forward", forward, where
    for name, weight in model.named_parameters():
        for table in ("_backward_hooks", "_post_accumulate_grad_hooks"):
            for hook in (getattr(weight, table, None) or {}).values():
                yield "gradient hook", hook, name


def _of_torch(hook: Any) -> bool:
    """Whether torch put a hook there to make a weight out of others."""
    owner = getattr(hook, "__self__", hook)
    kinds = [getattr(owner, "__module__", "") or "", *(k.__module__ for k in type(owner).__mro__)]
    return any(kind.startswith("torch.nn.utils") for kind in kinds)


def _name(hook: Any) -> str:
    """The name of a function, or of the class of a callable.

    >>> _name(len), _name(_hooks)
    ('len', '_hooks')
    """
    hook = getattr(hook, "func", hook)  # of a partial
    return getattr(hook, "__qualname__", None) or type(hook).__name__
