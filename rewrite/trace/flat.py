"""The model as a function of tensors to tensors, and the way back to what it returns."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from rewrite.errors import TraceError
from rewrite.ir.graph import OutputSpec
from rewrite.ir.nested import Leaf, Nest, nested, unnested
from rewrite.trace.arguments import Arguments
from rewrite.trace.fake import fake_mode, inside
from rewrite.trace.support import experts_in_batches

Axis = tuple[int, int]  # the place of an input, and one of its axes


class Flat(nn.Module):
    """The model as a function of tensors in a fixed order to a tuple of tensors.

    `equal` are axes of inputs that the user calls by one name.
    A model without weights runs `inside()` its fake mode, on the tensors that `given` returns.
    """

    def __init__(
        self, model: nn.Module, names: tuple[str, ...], arguments: Arguments | None = None
    ):
        super().__init__()
        self.model = model
        self.names = names
        self.arguments = arguments
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
        given = dict(zip(self.names, tensors, strict=True))
        if self.arguments is None:
            return self.model(**options | given)
        positional, named = self.arguments.bound(self.model, given)
        return self.model(*positional, **options | named)

    @property
    def _taken(self) -> tuple[str, ...]:
        """Names that outputs may not have: those of inputs, in paths too."""
        return (*self.names, "tokens") if "input_ids" in self.names else self.names

    def spec(self, value: Any) -> tuple[OutputSpec, tuple[str, ...]]:
        """How what the model returned is made of tensors; see `output_spec`."""
        return output_spec(value, self._taken)

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        assert self.outputs is not None
        for (one, axis), (other, along) in self.equal:  # export then knows them as one size
            torch._check(tensors[one].shape[axis] == tensors[other].shape[along])
        _, found = unnested(self.call(*tensors), taken=self._taken)
        return tuple(found[name] for name in self.outputs.names)


def output_spec(
    value: Any, taken: Collection[str] = ()
) -> tuple[OutputSpec, tuple[str, ...]]:
    """How to rebuild `value` from its tensors, and notes on what is left out of it.

    An output that is called like an input is called `..._out`.  `None` stays, caches are left
    out, anything else is a `TraceError` (a number may depend on the input, and would be wrong
    for the next one).
    """
    names, notes, plain = [], [], {}
    form, found = unnested(value, taken=taken)
    for name, item in found.items():
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
                             "that returns the tensors that you need, as in def forward(self, x): "
                             "return self.model(x)[0]")
    if not names:
        raise TraceError(f"the model returns {type(value).__name__} without any tensor: its output "
                         "must be a tensor, or a tuple, dict or dataclass of tensors")
    return OutputSpec(tuple(names), partial(_returned, form, plain)), tuple(notes)


def _returned(form: Leaf | Nest, plain: Mapping[str, Any], found: Mapping[str, Tensor]) -> Any:
    return nested(form, {**plain, **found})
