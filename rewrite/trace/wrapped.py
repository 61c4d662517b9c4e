"""What people wrap around a model, taken off, and what is no model, with what to pass instead."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from rewrite.errors import TraceError


def unwrapped(model: Any) -> Any:
    """The model inside `torch.compile`, DataParallel, adapters, pipelines and trainers.

    Raises `TraceError` for wrappers that change the weights, or hide the code, of what they hold.

    >>> unwrapped(nn.DataParallel(nn.Linear(1, 2)))
    Linear(in_features=1, out_features=2, bias=True)
    """
    while (inner := _inside(model)) is not None:
        model = inner
    if isinstance(model, torch.jit.ScriptModule):
        raise TraceError("a TorchScript module has no Python code to trace: pass the module that "
                         "torch.jit.script or torch.jit.trace was given")
    if isinstance(model, nn.Module):
        shared = next((n for n, p in model.named_parameters() if hasattr(p, "full_tensor")), None)
        if shared is not None or type(model).__name__ == "FullyShardedDataParallel":
            raise TraceError(f"{type(model).__name__} is sharded (FSDP), so that no process holds "
                             f"its weights{f', as {shared}' if shared else ''}: trace the model "
                             "before it is sharded, or one that has loaded its full state dict")
    return model


def _inside(model: Any) -> nn.Module | None:
    """The module that a wrapper holds; None for what is no wrapper."""
    if isinstance(compiled := getattr(model, "_orig_mod", None), nn.Module):
        return compiled
    if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        return model.module
    if isinstance(model, nn.Module):
        adapted = getattr(model, "get_base_model", None)
        learned = getattr(getattr(model, "active_peft_config", None), "is_prompt_learning", True)
        return adapted() if adapted is not None and not learned else None  # prompts are outside
    inner = None if isinstance(model, type) else getattr(model, "model", None)
    return inner if isinstance(inner, nn.Module) else None


def instead_of(model: Any) -> str:
    """What to pass instead of something that is no model; may be empty."""
    if isinstance(owner := getattr(model, "__self__", None), nn.Module):
        return f" (this is a method of a {type(owner).__name__}: pass the module itself)"
    if isinstance(model, type) and issubclass(model, nn.Module):
        return f" (this is the class: pass a module, rw.trace({model.__name__}(...).eval()))"
    if isinstance(model, torch.export.ExportedProgram):
        return " (of an exported program, pass the module that was exported)"
    if isinstance(model, Mapping) and any(isinstance(v, Tensor) for v in model.values()):
        return (" (a state dict has weights and no code: load it into a module, "
                "module.load_state_dict(...), or give it to graph.with_weights)")
    if isinstance(model, (tuple, list)):
        held = next((type(v).__name__ for v in model if isinstance(v, nn.Module)), None)
        return f" (pass the {held} alone)" if held else ""
    if isinstance(getattr(model, "module", None), torch.fx.GraphModule):
        return " (this is a graph already: use it as it is)"
    if inspect.isroutine(model) or callable(model):
        return (" (wrap a function in a module: class Model(nn.Module), with "
                "def forward(self, x): return function(x))")
    return ""
