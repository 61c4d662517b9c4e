"""What cannot be traced for a reason that is known before: said with what to do instead."""

from __future__ import annotations

import io
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from typing import Any

import torch
from torch import Tensor, nn

from rewrite.errors import TraceError
from rewrite.world import words


def check_supported(model: nn.Module) -> None:
    """Raise `TraceError` for a model in training mode, with weights elsewhere, or packed ones."""
    if model.training:
        raise TraceError(f"{type(model).__name__} is in training mode, where dropout makes every "
                         "run different: call model.eval() first")
    if offloaded := [name for name, module in model.named_modules() if _offloads(module)]:
        raise TraceError(
            f"{type(model).__name__} keeps weights on disk or in another memory and loads them "
            f"while it runs ({len(offloaded)} modules, {offloaded[0] or 'the model'!r} first), "
            "and a graph needs them in place: load it with a device_map that offloads nothing "
            "(after cpu_offload or disk_offload of a loaded model, "
            "accelerate.hooks.remove_hook_from_module(model, recurse=True) brings them back), or "
            "trace without weights: rw.trace(model.config)")
    for name, module in model.named_modules():
        if held := _packed(module):
            owner, _, leaf = name.rpartition(".")
            if leaf.startswith("_"):  # the holder is a detail of the module around it
                name, module, held = owner, model.get_submodule(owner), f"{leaf}.{held}"
            raise TraceError(
                f"{type(model).__name__} is quantised: {name!r} is a {_class(module)}, which "
                f"keeps its weight packed in {held!r}, where a graph cannot read it; trace the "
                "model before it is quantised, or replace the module by one with plain tensors "
                "that dequantises in forward")


def _offloads(module: nn.Module) -> bool:
    """Whether a hook of accelerate brings the weights of this module only while it runs."""
    stack = [getattr(module, "_hf_hook", None)]
    while stack:
        hook = stack.pop()
        stack.extend(getattr(hook, "hooks", ()))
        if getattr(hook, "offload", False) is True:
            return True
    return False


def _packed(module: nn.Module) -> str | None:
    """The attribute in which a module holds a weight that is no plain tensor."""
    for name, value in _attributes(module):
        if isinstance(value, torch.ScriptObject) or (
                isinstance(value, Tensor) and value.is_quantized):
            return name
    return None


def _attributes(module: nn.Module) -> Iterator[tuple[str, Any]]:
    for table in (vars(module), module._parameters, module._buffers):
        yield from table.items()


def _class(module: nn.Module) -> str:
    return f"{type(module).__module__}.{type(module).__qualname__}"


def experts(model: nn.Module) -> list[nn.Module]:
    """Modules whose experts transformers can compute in several ways.

    The marks are those that its decorator `use_experts_implementation` leaves; a
    configuration names an implementation for every model, with experts or without.
    """
    return [module for module in model.modules()
            if all(hasattr(module, name) for name in ("is_transposed", "is_concatenated",
                                                      "has_gate", "config"))]


def ways_of_experts(model: nn.Module) -> set[str]:
    """How the experts of a model are computed: `grouped_mm`, say; empty if it has none."""
    return {str(getattr(module.config, "_experts_implementation", None) or "eager")
            for module in experts(model)}


@contextmanager
def experts_in_batches(model: nn.Module) -> Iterator[None]:
    """Compute experts, if there are any, by batched products with gathered weights."""
    setter: Any = getattr(model, "set_experts_implementation", None)
    before: Any = getattr(model, "get_experts_implementation", lambda: None)()
    if setter is None or before is None or not ways_of_experts(model) - {"batched_mm"}:
        yield
        return
    setter("batched_mm")
    try:
        yield
    finally:
        setter(before)


def remedy(model: nn.Module, error: Exception) -> str:
    """What to try if the model itself, or its export, fails with `error`; may be empty."""
    said = []
    if (quantizer := getattr(model, "hf_quantizer", None)) is not None:
        said.append(f"its weights are quantised ({type(quantizer).__name__}): load it without "
                    "quantization_config, or call model.dequantize() first")
    if way := ", ".join(sorted(ways_of_experts(model) - {"batched_mm"})):
        said.append(f"its experts are computed by {way}, which does not take every type: "
                    'call model.set_experts_implementation("batched_mm") first')
    return "".join(f" ({text})" for text in said) if _of_weights(error) else ""


def _of_weights(error: Exception) -> bool:
    """Whether an error may come from the type or packing of weights."""
    marks = ("expected mat", "dtype", "scalar type", "float32", "not implemented for", "int8",
             "quantized", "subclass")
    said = words(error).lower()
    return any(mark in said for mark in marks)


def first_line(error: Exception) -> str:
    """The first line of an error that says something, with the error's type."""
    lines = [line.strip() for line in words(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:300] if lines else ''}"


@contextmanager
def quiet() -> Iterator[None]:
    """Without the graphs that torch logs or prints when something fails that is reported anyway.

    What is printed while it succeeds is passed on.
    """
    logger, before = logging.getLogger("torch"), logging.getLogger("torch").level
    logger.setLevel(logging.CRITICAL)
    printed = io.StringIO()
    try:
        with redirect_stderr(printed):
            yield
        sys.stderr.write(printed.getvalue())
    finally:
        logger.setLevel(before)
