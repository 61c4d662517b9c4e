"""Direct paths by hand: every writer of the original model is frozen by hooks, but one.

All modules of the layers that hold a matrix give what they gave on the corrupt run, call by call,
and so do products with the matrices of modules that are never called themselves, or that scale
what they read by a norm of their own (hyper-connections: the norm runs as all norms do);
one of them gives something else: the output projection of an attention with one head's share of
its input from the clean run, or the modules of an MLP what they gave there.  Scales, norms and sums
of the stream run as they are, and so does what follows the layers.  So the output is that of the
direct path of that head or MLP, through norms of the stream if there are any.

Nothing of the package is used here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

Call = tuple[str, int]  # a module, and which of its calls
Outputs = Callable[[], list[Tensor]]


@dataclass
class Record:
    """What modules were given and gave, call by call, in order."""

    inputs: dict[Call, Any] = field(default_factory=dict)
    outputs: dict[Call, Any] = field(default_factory=dict)


def matrices(model: nn.Module) -> dict[str, nn.Module]:
    """The modules that hold a weight of two axes themselves, by their first name."""
    holders = {name.partition(".parametrizations")[0] for name, module in model.named_modules()
               if any(p.ndim == 2 or sum(size > 1 for size in p.shape) > 1
                      for p in module.parameters(recurse=False))}
    return {name: module for name, module in model.named_modules() if name in holders}


def attentions(model: nn.Module) -> list[str]:
    """The outermost modules whose class is called an attention, and which hold matrices."""
    holders = matrices(model)
    found: list[str] = []
    for name, module in model.named_modules():
        kind = type(module).__name__.lower()
        named = ("attention" in kind or "attn" in kind) and not kind.endswith(
            ("layer", "block", "model", "embeddings"))
        holds = [h for h in holders if h == name or h.startswith(f"{name}.")]
        inside = any(name.startswith(f"{other}.") for other in found)
        if name and named and len(holds) > 1 and not inside:
            found.append(name)
    return found


def _scales(module: nn.Module, output: Any) -> bool:
    """Whether a module makes several values of a norm that it runs and of a matrix of its own."""
    norms = any("norm" in type(child).__name__.lower() for child in module.children())
    attends = any(word in type(module).__name__.lower() for word in ("attention", "attn"))
    own = any(p.ndim > 1 for p in module.parameters(recurse=False))
    return isinstance(output, tuple) and norms and own and not attends


class Uses(TorchFunctionMode):
    """Changes what products with some weights give: `change(name, output)`.

    One function may multiply with several, as a whole attention does: the last of them counts.
    """

    def __init__(self, weights: Mapping[str, nn.Module], change: Callable[[str, Any], Any]) -> None:
        super().__init__()
        self.change = change
        self.names = {parameter.untyped_storage().data_ptr(): name
                      for name, module in weights.items()
                      for parameter in module.parameters(recurse=False) if parameter.ndim > 1}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        given = [self.names.get(value.untyped_storage().data_ptr())
                 for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)]
        names = [name for name in given if name]
        return self.change(names[-1], output) if names and None in given else output


@contextmanager
def hooked(
    model: nn.Module, names: Iterable[str], change: Callable[[Call, Any, Any], Any],
    uncalled: Iterable[str] = (),
) -> Iterator[None]:
    """Run with `change(call, inputs, output)` in place of what modules give.

    Of modules that are `uncalled`, in place of what products with their weights give.
    """
    counts = dict.fromkeys(names, 0)

    def changed(name: str, given: Any, output: Any) -> Any:
        counts[name] += 1
        return change((name, counts[name] - 1), given, output)

    def hook(name: str) -> Callable[..., Any]:
        return lambda _, given, named, output: changed(name, (given, named), output)

    with ExitStack() as stack, torch.no_grad():
        used = {name: model.get_submodule(name) for name in counts if name in set(uncalled)}
        for name in counts.keys() - used.keys():
            module = model.get_submodule(name)
            stack.callback(module.register_forward_hook(hook(name), with_kwargs=True).remove)
        if used:
            stack.enter_context(Uses(used, lambda name, output: changed(name, ((), {}), output)))
        yield


def copied(value: Any) -> Any:
    """The same with copies of all tensors: models add to values in place."""
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, dict):
        return {key: copied(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)) and type(value) in (tuple, list):
        return type(value)(copied(item) for item in value)
    return value


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return torch.equal(a, b)
    if isinstance(a, (tuple, list)):
        return all(map(_same, a, b))
    return True


def record(
    model: nn.Module, names: Iterable[str], run: Outputs, uncalled: Iterable[str] = ()
) -> Record:
    """What happens on a run."""
    seen = Record()

    def keep(call: Call, given: Any, output: Any) -> Any:
        seen.inputs[call], seen.outputs[call] = copied(given), copied(output)
        return output

    with hooked(model, names, keep, uncalled):
        run()
    return seen


class Frozen:
    """The original model on a clean and a corrupt run, its layers frozen.

    `clean` and `corrupt` run the model and give its outputs.  A module beside the layers is frozen
    if one of a layer depends on it.
    """

    def __init__(self, model: nn.Module, clean: Outputs, corrupt: Outputs) -> None:
        self.model, self.run = model, corrupt
        names = matrices(model)
        self.attentions = attentions(model)
        first = record(model, names, corrupt).outputs
        called = {name for name, _ in first} - {
            name for (name, _), output in first.items() if _scales(names[name], output)}
        elsewhere = {p for name in called for p in names[name].parameters(recurse=False)}
        self.uncalled = {name for name, module in names.items() if name not in called
                         and elsewhere.isdisjoint(module.parameters(recurse=False))}
        self.clean = record(model, names, clean, self.uncalled)
        self.corrupt = record(model, names, corrupt, self.uncalled)
        order = list(self.corrupt.outputs)
        layered = [call for call in order if self._layer(call[0]) or any(
            call[0] == a or call[0].startswith(f"{a}.") for a in self.attentions)]
        self.frozen = [call for call in order if call in layered or self._is_read(call, layered)]

    def leaves(self, path: str) -> list[Call]:
        """The frozen calls within a module."""
        return [call for call in self.frozen if call[0] == path or call[0].startswith(f"{path}.")]

    def holding(self, weights: set[int]) -> list[Call]:
        """The frozen calls of modules that hold some of the matrices, by identity."""
        found = {name for name, module in matrices(self.model).items() if any(
            id(p) in weights and "." not in path.partition("parametrizations.weight.")[0]
            for path, p in module.named_parameters())}
        return [call for call in self.frozen if call[0] in found]

    def outputs(self, change: Mapping[Call, Any]) -> list[Tensor]:
        """What the corrupt run gives if some calls give something else and others are frozen.

        A module around one that changes runs as it is.
        """
        around = {call for call in self.frozen if any(
            name.startswith(f"{call[0]}.") for name, _ in change)}
        given = {call: self.corrupt.outputs[call] for call in self.frozen if call not in around}
        given |= change
        with hooked(self.model, {name for name, _ in given},
                    lambda call, _, output: copied(given[call]) if call in given else output,
                    self.uncalled):
            return self.run()

    def layers(self) -> list[str]:
        """The paths of the layers: elements of lists of modules that hold matrices."""
        found = {self._layer(name) for name in matrices(self.model)}
        return [name for name in found if name]

    def of_head(self, path: str, head: int, heads: int, time: int = 0) -> list[Tensor] | None:
        """The direct effect of a head of the attention at `path`, where it runs for that time.

        None if its last matrix does not read the heads side by side.
        """
        around = {name.rpartition(".")[0] for name in matrices(self.model)}
        first = [call for call in self.leaves(path) if call[1] == time and not any(
            name == call[0] or name.startswith(f"{call[0]}.") for name in around)]
        if not first:
            return None
        last = first[-1]
        (given, named), (other, _) = self.corrupt.inputs[last], self.clean.inputs[last]
        if not given or not isinstance(given[0], Tensor) or given[0].shape[-1] % heads:
            return None
        size = given[0].shape[-1] // heads
        place = slice(head * size, (head + 1) * size)
        mixed = given[0].clone()
        mixed[..., place] = other[0][..., place]
        with torch.no_grad():
            made = self.model.get_submodule(last[0])(mixed, *given[1:], **named)
        return self.outputs({last: made})

    def of_modules(self, calls: Iterable[Call]) -> list[Tensor]:
        """The direct effect of all that some calls write."""
        return self.outputs({call: self.clean.outputs[call] for call in calls})

    def _is_read(self, call: Call, layered: list[Call]) -> bool:
        """Whether a module of a layer gives something else if a call gives something else."""
        order = list(self.corrupt.outputs)
        later = [other for other in layered if order.index(other) > order.index(call)]
        output = self.corrupt.outputs[call]
        if not later or not isinstance(output, Tensor) or not output.is_floating_point():
            return bool(later)
        seen: dict[Call, Any] = {}

        def change(other: Call, _: Any, found: Any) -> Any:
            seen[other] = copied(found)
            return output + torch.randn_like(output) if other == call else found

        with hooked(self.model, {name for name, _ in [call, *later]}, change, self.uncalled):
            self.run()
        return any(not _same(seen[other], self.corrupt.outputs[other]) for other in later)

    def _layer(self, name: str) -> str:
        """The outermost element of a list of modules around a module, or "".

        A sequence of which only one element holds matrices is none, and a single matrix in a list
        is no layer: one for each stream behind the last layer, say.
        """
        parts = name.split(".")
        for i in range(1, len(parts)):
            above, path = self.model.get_submodule(".".join(parts[:i])), ".".join(parts[: i + 1])
            several = isinstance(above, nn.ModuleList) or (
                isinstance(above, nn.Sequential) and sum(map(bool, map(matrices, above))) > 1)
            whole = several and parts[i].isdigit() and any(
                True for _ in self.model.get_submodule(path).children())
            if whole:
                return path
        return ""


def one_of(several: Iterable[str], path: str) -> str | None:
    """The only one of several modules that is `path`, holds it, or is in it."""
    found = [name for name in several if name == path or name.startswith(f"{path}.")
             or path.startswith(f"{name}.")]
    return found[0] if len(found) == 1 else None
