"""Ways to export a model, each tried only if those before it failed, and what each one costs."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from rewrite.trace.examples import dynamic_axes


@dataclass(frozen=True)
class Change:
    """What a rung changed in the model: notes for the report, the greatest length it holds for."""

    notes: tuple[str, ...] = ()
    limit: int | None = None


Setting = Callable[[nn.Module], "AbstractContextManager[Change | None]"]


@dataclass(frozen=True)
class Rung:
    """A way to export: what is changed while exporting, and which sizes may vary.

    `setting(model)` yields what it changed, or None if there is nothing to change in this
    model, so that trying would be a repetition.
    """

    name: str
    setting: Setting
    length: bool = True  # whether the length may vary
    automatic: bool = False  # torch may find out which sizes vary

    def axes(self, inputs: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
        """Which axes of each input may vary."""
        return {name: dynamic_axes(name, value, self.length) for name, value in inputs.items()}


@contextmanager
def _as_it_is(model: nn.Module) -> Iterator[Change | None]:
    yield Change()


@contextmanager
def _patched_by_transformers(model: nn.Module) -> Iterator[Change | None]:
    """The replacements that transformers itself makes when it exports a model."""
    if not hasattr(model, "get_input_embeddings"):
        yield None
        return
    try:
        from transformers.exporters import exporter_dynamo
        from transformers.exporters.utils import apply_patches
    except ImportError:  # before transformers 5.20 there is no such module
        yield None
        return
    reset = getattr(exporter_dynamo, "reset_model_state", lambda model: nullcontext())
    with apply_patches("dynamo"), reset(model):
        yield Change()


@contextmanager
def _experts_in_batches(model: nn.Module) -> Iterator[Change | None]:
    """Experts as batched products with gathered weights instead of a loop over experts."""
    before = getattr(getattr(model, "config", None), "_experts_implementation", None)
    setter: Any = getattr(model, "set_experts_implementation", None)
    if before is None or setter is None:
        yield None
        return
    setter("batched_mm")
    try:
        yield Change((f"experts are computed by batched products instead of {before}",))
    finally:
        setter(before)


@contextmanager
def _fixed_rotary(model: nn.Module) -> Iterator[Change | None]:
    """Rotary embeddings that rescale themselves for long inputs, without the rescaling.

    They are decorated functions; the plain one behind the decorator is right as long as the
    input is no longer than what the model was first trained on.
    """
    limits: dict[str, int] = {}
    changed = []
    for name, module in model.named_modules():
        plain = inspect.unwrap(type(module).forward)
        kind = getattr(module, "rope_type", None)
        limit = _trained_length(module)
        decorated = plain is not type(module).forward
        if decorated and kind in ("dynamic", "longrope") and limit is not None:
            module.forward = types.MethodType(plain, module)
            changed.append(module)
            note = f"{name} rescales itself ({kind} rotary embedding) beyond length {limit}"
            limits[note] = limit
    try:
        yield Change(tuple(limits), min(limits.values())) if changed else None
    finally:
        for module in changed:
            del module.forward


def _trained_length(module: nn.Module) -> int | None:
    options = getattr(getattr(module, "config", None), "rope_parameters", None) or {}
    limit = options.get("original_max_position_embeddings")
    return limit or getattr(module, "original_max_seq_len", None)


LADDER = (
    Rung("torch.export, batch and length dynamic", _as_it_is),
    Rung("torch.export under the export patches of transformers", _patched_by_transformers),
    Rung("torch.export, experts in batches", _experts_in_batches),
    Rung("torch.export, rotary embedding without rescaling", _fixed_rotary),
    Rung("torch.export, Dim.AUTO", _as_it_is, automatic=True),
    Rung("torch.export, batch dynamic, length fixed", _as_it_is, length=False),
    Rung("torch.export under the export patches of transformers, batch dynamic, length fixed",
         _patched_by_transformers, length=False),
    Rung("torch.export, experts in batches, batch dynamic, length fixed", _experts_in_batches,
         length=False),
)
