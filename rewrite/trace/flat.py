"""The model as a function of tensors to tensors, and the way back to what it returns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rewrite.errors import TraceError
from rewrite.ir.graph import OutputSpec
from rewrite.trace.fake import fake_mode, inside
from rewrite.trace.support import experts_in_batches

Axis = tuple[int, int]  # the place of an input, and one of its axes


class Flat(nn.Module):
    """The model as a function of tensors in a fixed order to a tuple of tensors.

    `equal` are axes of inputs that the user calls by one name.
    A model without weights runs `inside()` its fake mode, on the tensors that `given` returns.
    """

    def __init__(self, model: nn.Module, names: tuple[str, ...]):
        super().__init__()
        self.model = model
        self.names = names
        self._mode = fake_mode(model)
        self.outputs: OutputSpec | None = None
        self.equal: list[tuple[Axis, Axis]] = []

    @property
    def fake(self) -> bool:
        """Whether the model has no weights."""
        return self._mode is not None

    def inside(self) -> AbstractContextManager[Any]:
        """Where the model runs: its fake mode, or nowhere in particular."""
        return inside(self._mode)

    @contextmanager
    def eagerly(self) -> Iterator[None]:
        """Where the model itself runs, to compare with.

        Without weights its experts are computed in batches: of grouped products, torch knows
        the shape for bfloat16 only, unless they are exported.
        """
        with self.inside(), experts_in_batches(self.model) if self.fake else nullcontext():
            yield

    def given(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The inputs as the model takes them: fake ones for a model without weights."""
        if self._mode is None:
            return dict(inputs)
        here = {n: torch.zeros_like(v, device="cpu") if v.is_meta else v for n, v in inputs.items()}
        return {name: self._mode.from_tensor(value) for name, value in here.items()}

    def call(self, *tensors: Tensor) -> Any:
        """The model's own return value."""
        config = getattr(self.model, "config", None)
        options: dict[str, Any] = {}
        if config is not None and hasattr(self.model, "get_input_embeddings"):
            options["return_dict"] = True
            if hasattr(config, "use_cache"):
                options["use_cache"] = False
        return self.model(**dict(zip(self.names, tensors, strict=True)), **options)

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        assert self.outputs is not None
        for (one, axis), (other, along) in self.equal:  # export then knows them as one size
            torch._check(tensors[one].shape[axis] == tensors[other].shape[along])
        found = dict(leaves(self.call(*tensors)))
        return tuple(found[name] for name in self.outputs.names)


def leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """The tensors (and what is no container) inside a return value, by dotted name.

    >>> [name for name, _ in leaves({"logits": 1, "states": (2, 3)})]
    ['logits', 'states.0', 'states.1']
    """
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from leaves(item, f"{name}.{key}" if name else str(key))
    elif isinstance(value, (tuple, list)):
        keys = getattr(value, "_fields", range(len(value)))
        for key, item in zip(keys, value, strict=True):
            inner = f"{name}.{key}" if name else key if isinstance(key, str) else f"output{key}"
            yield from leaves(item, inner)
    elif is_dataclass(value) and not isinstance(value, type):
        for entry in fields(value):
            inner = f"{name}.{entry.name}" if name else entry.name
            yield from leaves(getattr(value, entry.name), inner)
    else:
        yield name or "output", value


def output_spec(value: Any) -> tuple[OutputSpec, tuple[str, ...]]:
    """How to rebuild `value` from its tensors, and notes on what is left out of it.

    `None` stays, caches are left out, anything else is a `TraceError` (a number may depend on
    the input, and would be wrong for the next one).
    """
    names, notes, plain = [], [], {}
    for name, item in leaves(value):
        if isinstance(item, Tensor):
            names.append(name)
        elif item is None:
            plain[name] = item
        elif name == "past_key_values" or hasattr(item, "get_seq_length"):
            plain[name] = None
            notes.append(f"output {name} ({type(item).__name__}) is a cache and left out")
        else:
            which = "output" if item is value else f"output {name!r}"
            raise TraceError(f"unsupported {which} of type {type(item).__name__}: only "
                             "tensors can be outputs of a graph; wrap the model in a module "
                             "that returns the tensors that you need")
    if not names:
        raise TraceError(f"the model returns {type(value).__name__} without any tensor: its output "
                         "must be a tensor, or a tuple, dict or dataclass of tensors")
    if len(set(names)) < len(names):
        raise TraceError(f"two outputs have the same name: {', '.join(names)}")
    shell = _shell(value)
    return OutputSpec(tuple(names), lambda found: _filled(shell, plain | found)), tuple(notes)


def _shell(value: Any) -> Any:
    """The same nesting without its tensors, so that a graph does not keep them alive."""
    if isinstance(value, Mapping):
        return (type(value), {key: _shell(item) for key, item in value.items()})
    if isinstance(value, (tuple, list)):
        return (type(value), [_shell(item) for item in value], getattr(value, "_fields", None))
    if is_dataclass(value) and not isinstance(value, type):
        return (type(value), {e.name: _shell(getattr(value, e.name)) for e in fields(value)})
    return None


def _filled(shell: Any, found: Mapping[str, Any], name: str = "") -> Any:
    if shell is None:
        return found[name or "output"]
    kind, inside, *keys = shell
    if isinstance(inside, dict):
        made = {key: _filled(item, found, f"{name}.{key}" if name else str(key))
                for key, item in inside.items()}
        rebuild: Any = kind
        return rebuild(**made) if is_dataclass(kind) else rebuild(made)
    labels = keys[0] or range(len(inside))
    items = [
        _filled(item, found,
                f"{name}.{key}" if name else key if isinstance(key, str) else f"output{key}")
        for key, item in zip(labels, inside, strict=True)
    ]
    return kind(*items) if keys[0] else kind(items)
