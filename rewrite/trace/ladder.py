"""Ways to export a model, each tried only if those before it failed, and what each one costs."""

from __future__ import annotations

import inspect
import re
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from rewrite.trace.cause import NOWHERE, Spot, remedy_for
from rewrite.trace.examples import dynamic_axes
from rewrite.trace.support import experts_in_batches, first_line, ways_of_experts


@dataclass(frozen=True)
class Change:
    """What a rung changed in the model: notes for the report, the greatest length it holds for."""

    notes: tuple[str, ...] = ()
    limit: int | None = None


Setting = Callable[[nn.Module], "AbstractContextManager[Change | None]"]


@dataclass(frozen=True)
class Failure:
    """Why a rung did not work: its name, the reason on one line, and everything torch said."""

    method: str
    reason: str
    text: str = ""
    length: bool = True  # whether the length was to vary
    traced: bool = False  # there was a trace, and it was not right
    place: Spot = NOWHERE

    @staticmethod
    def of(rung: Rung, error: Exception, place: Spot) -> Failure:
        """The failure of `rung` with `error`; of violated constraints, the size that is fixed."""
        text = str(error)
        found = re.search(r"but your code specialized it to be a constant \((\d+)\)", text)
        reason = first_line(error)
        if found and CONSTRAINTS in text:
            reason = f"{type(error).__name__}: a size that should vary is fixed at {found[1]}"
        return Failure(rung.name, reason, text, rung.length, place=place)

    @property
    def constrains(self) -> bool:
        """Whether the model was followed to its end, but not for all sizes."""
        return CONSTRAINTS in self.text

    @property
    def ended(self) -> bool:
        """Whether the model was followed to its end at all, so that no value was in the way."""
        return self.traced or self.constrains or WRITES in self.text

    @property
    def fixes(self) -> bool:
        """Whether the model fixes a size that should vary."""
        return self.constrains and "specialized it to be a constant" in self.text

    @property
    def fixed(self) -> list[tuple[int, int]]:
        """Places of inputs and their axes that should vary and that the model fixes."""
        lines = (line for line in self.text.splitlines() if "specialized it" in line)
        return [(int(place), int(axis)) for line in lines for place, axis in _NAMED.findall(line)]

    @property
    def remedy(self) -> str:
        """What the user can do about it."""
        return remedy_for(f"{self.reason} {self.text}", self.place.operator)

    def __str__(self) -> str:
        where = str(self.place)
        return f"{self.method}: {self.reason}{f' ({where})' if where else ''}"


CONSTRAINTS, WRITES = "Constraints violated", "the model writes into"


# How export says which size of which input it takes as fixed.
_NAMED = re.compile(r"L\['tensors'\]\[(\d+)\]\.size\(\)\[(\d+)\]")


@dataclass(frozen=True)
class Rung:
    """A way to export: what is changed while exporting, and which sizes may vary.

    `setting(model)` yields what it changed, or None if there is nothing to change in this
    model, so that trying would be a repetition.  `helps` tells from the failures so far
    (those with the same sizes varying) whether the change can make a difference.
    """

    name: str
    setting: Setting
    length: bool = True  # whether the length may vary
    automatic: bool = False  # torch may find out which sizes vary
    named: bool = False  # fix the lengths that export has named as fixed, and no others
    helps: Callable[[nn.Module, Sequence[Failure]], bool] = lambda model, failures: True

    def axes(
        self, inputs: Mapping[str, Tensor], failures: Sequence[Failure] = ()
    ) -> dict[str, tuple[int, ...]]:
        """Which axes of each input may vary."""
        axes = {name: dynamic_axes(name, value, self.length) for name, value in inputs.items()}
        if not self.named:
            return axes
        said = [_NAMED.findall(failure.text) for failure in failures[:1]]
        fixed = {(int(place), int(axis)) for found in said for place, axis in found if axis != "0"}
        return {name: tuple(axis for axis in varying if (index, axis) not in fixed)
                for index, (name, varying) in enumerate(axes.items())}

    def may_help(self, model: nn.Module, failures: Sequence[Failure], fake: bool) -> bool:
        """Whether there is a reason to try this rung after these failures.

        What torch finds out by itself must be compared with the model, so it is of no use
        for one without weights (`fake`).
        """
        if self.automatic and fake:
            return False
        return self.helps(model, [f for f in failures if f.length == self.length])


def _against_values(model: nn.Module, failures: Sequence[Failure]) -> bool:
    """What changes how values are computed changes neither fixed sizes nor kept values."""
    return not any(failure.ended for failure in failures)


def _against_relations(model: nn.Module, failures: Sequence[Failure]) -> bool:
    """Letting torch find the sizes helps where they are related, not where they are fixed."""
    return any(failure.constrains and not failure.fixes for failure in failures)


def _by_patches(model: nn.Module, failures: Sequence[Failure]) -> bool:
    """Patches of what the model uses help always, general ones not against fixed sizes."""
    return _against_values(model, failures) or _uses_patched(model)


def _against_swaps(model: nn.Module, failures: Sequence[Failure]) -> bool:
    return any("Couldn't swap" in failure.text for failure in failures)


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
    except ImportError:  # transformers before 5.20 has no such module
        yield None
        return
    reset = getattr(exporter_dynamo, "reset_model_state", lambda model: nullcontext())
    with apply_patches("dynamo"), reset(model):
        yield Change()


def _uses_patched(model: nn.Module) -> bool:
    """Whether the model has a class for which transformers has a patch.

    Its modules, and the caches of sliding windows, which some models make even if they are
    told to use none, and which fix the length.
    """
    try:
        from transformers.exporters import exporter_dynamo, utils
    except ImportError:
        return False
    assert exporter_dynamo  # importing it is what registers the patches
    owners = {owner for owner, _, _ in utils._PATCHES.get("dynamo", ())}
    classes = {kind for module in model.modules() for kind in type(module).__mro__}
    configs = (getattr(module, "config", None) for module in model.modules())
    slides = any(getattr(config, "sliding_window", None) for config in configs)
    return (slides and any("cache_utils" in owner for owner in owners)) or any(
        f"{kind.__module__}.{kind.__qualname__}" in owners for kind in classes)


@contextmanager
def _experts_in_batches(model: nn.Module) -> Iterator[Change | None]:
    """Experts as batched products with gathered weights instead of a loop over experts."""
    ways = ", ".join(sorted(ways_of_experts(model) - {"batched_mm"}))
    if not ways:
        yield None
        return
    with experts_in_batches(model):
        yield Change((f"experts are computed by batched products instead of {ways}",))


@contextmanager
def _unconverted(model: nn.Module) -> Iterator[Change | None]:
    """Modules that are told to convert themselves to the type that they have do nothing.

    Export cannot follow a conversion of weights inside forward, even one without effect.
    """
    changed = []
    for module in model.modules():
        types_of = {tensor.dtype for tensor in module.parameters()}
        if len(types_of) == 1 and "to" not in vars(module):
            module.__dict__["to"] = types.MethodType(_to_own_type(types_of.pop()), module)
            changed.append(module)
    try:
        yield Change(("weights are not converted in forward, they have the type already",))
    finally:
        for module in changed:
            del module.__dict__["to"]


def _to_own_type(own: Any) -> Callable[..., nn.Module]:
    def to(module: nn.Module, *args: Any, **kwargs: Any) -> nn.Module:
        return module if (args, kwargs) in (((own,), {}), ((), {"dtype": own})) else (
            type(module).to(module, *args, **kwargs))

    return to


@contextmanager
def _fixed_rotary(model: nn.Module) -> Iterator[Change | None]:
    """Rotary embeddings that rescale themselves for long inputs, without the rescaling.

    They are decorated functions; the plain one behind the decorator is right as long as the
    input is no longer than what the model was first trained on.
    """
    limits: dict[str, int] = {}
    changed: list[tuple[nn.Module, Any]] = []
    for name, module in model.named_modules():
        plain = inspect.unwrap(type(module).forward)
        kind = getattr(module, "rope_type", None)
        limit = _trained_length(module)
        decorated = plain is not type(module).forward
        if decorated and kind in ("dynamic", "longrope") and limit is not None:
            changed.append((module, vars(module).get("forward")))  # a hook may sit there
            module.forward = types.MethodType(plain, module)
            note = f"{name} rescales itself ({kind} rotary embedding) beyond length {limit}"
            limits[note] = limit
    try:
        yield Change(tuple(limits), min(limits.values())) if changed else None
    finally:
        for module, before in changed:
            del module.forward
            if before is not None:
                module.forward = before


def _trained_length(module: nn.Module) -> int | None:
    options = getattr(getattr(module, "config", None), "rope_parameters", None) or {}
    limit = options.get("original_max_position_embeddings")
    return limit or getattr(module, "original_max_seq_len", None)


_PATCHES = "torch.export under the export patches of transformers"
_EXPERTS = "torch.export, experts in batches"
_FIXED = ", batch dynamic, length fixed"

LADDER = (
    Rung("torch.export, batch and length dynamic", _as_it_is),
    Rung(_PATCHES, _patched_by_transformers, helps=_by_patches),
    Rung(_EXPERTS, _experts_in_batches, helps=_against_values),
    Rung("torch.export, rotary embedding without rescaling", _fixed_rotary),
    Rung("torch.export, weights not converted", _unconverted, helps=_against_swaps),
    Rung("torch.export, length fixed where export demands it", _as_it_is, named=True),
    Rung("torch.export, Dim.AUTO", _as_it_is, automatic=True, helps=_against_relations),
    Rung("torch.export, batch dynamic, length fixed", _as_it_is, length=False),
    Rung(_PATCHES + _FIXED, _patched_by_transformers, length=False, helps=_by_patches),
    Rung(_EXPERTS + _FIXED, _experts_in_batches, length=False, helps=_against_values),
)
