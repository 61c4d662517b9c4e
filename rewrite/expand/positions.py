"""Positions in an expanded module: masks for named places and slices, and values mixed by them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from rewrite.errors import HypothesisError, InputError, near
from rewrite.expand.product import Mixed, Product
from rewrite.ir.flow import shape
from rewrite.ir.ops import mix_rows, positions_of, take
from rewrite.parts import Components
from rewrite.parts.assemble import Assembler
from rewrite.parts.layout import misplaced
from rewrite.parts.sequences import sequence_of
from rewrite.paths.tree import Condition

Spot = tuple[str, str]  # a named place or a slice, with the input whose positions it is of
Spots = frozenset[Spot]
_SLICE = re.compile(r"\[([+-]?\d*)(:?)([+-]?\d*)\]")


class Positions:
    """Mixes values by rows.  Named places are inputs of the module, slices are worked out."""

    def __init__(self, assembler: Assembler, places: Iterable[str]) -> None:
        self.assembler = assembler
        for place in places:  # inputs in this order, be they read or not
            _ = assembler.where(place)
        self._masks: dict[Spot, fx.Node] = {}

    def mixed(
        self, test: Condition, name: str, sides: Sequence[fx.Node], label: str, ranges: Any = None
    ) -> fx.Node:
        """`sides[0]` where the position of the value `name` passes, else `sides[1]`.

        `ranges` of positions are what the sides hold, None for all.
        """
        graph = self.assembler.graph
        mask = self._mask(test.place, input_of(self.assembler.parts, name))
        if ranges is not None:
            mask = graph.call_function(take, (mask, 1, ranges))
        made = graph.create_node("call_function", mix_rows, (mask, *sides),
                                 name=re.sub(r"\W", "_", label))
        made.meta["component"] = label
        return made

    def _mask(self, place: str, name: str) -> fx.Node:
        if not place.startswith("["):
            return self.assembler.where(place)
        if (place, name) not in self._masks:
            source = self.assembler.inputs[self.assembler.runs[0], name]
            self._masks[place, name] = self.assembler.graph.call_function(
                positions_of, (source, *ends_of(place)))
        return self._masks[place, name]


def ends_of(place: str) -> tuple[int | None, int | None]:
    """The ends of a slice as text.

    >>> ends_of("[-1]"), ends_of("[2:]"), ends_of("[0]")
    ((-1, None), (2, None), (0, 1))
    """
    found = _SLICE.fullmatch(place)
    assert found is not None, place
    low, colon, high = found.groups()
    if colon:
        return (int(low) if low else None), (int(high) if high else None)
    return int(low), (None if int(low) == -1 else int(low) + 1)


def input_of(parts: Components, name: str) -> str:
    """The input whose positions a value has: its axis 1 counts them.

    Raises `HypothesisError` for values that are not known to have positions.
    """
    if why := misplaced(parts, "seq") or misplaced(parts, "batch"):
        raise HypothesisError(f"no position of {name} can be told: {why}")
    layer, member = parts.owner(name)
    known = name if member is None else f"{layer}.out"
    value = next((node for node, called in parts.values.items()
                  if called in (known, f"{name}.out")), None)
    if value is None:  # an output that is the stream itself
        return input_of(parts, parts.dag[name].reads[0])
    sequence = sequence_of(parts, value)
    if sequence is None:
        specs = {spec.name: spec for spec in parts.graph.inputs}
        sources = [(specs[str(source.target)], shape(source)) for source in parts.cut.flow.sources]
        called = {size: dim for spec, sizes in sources
                  for dim, size in zip(spec.shape, sizes, strict=True)}
        sizes = ", ".join(str(called.get(size, size)) for size in shape(value))
        lengths = {size for _, sizes in sources for size in sizes[1:2]} - {*shape(value)[1:2]}
        first = bool(shape(value)) and shape(value)[0] in lengths
        instead = ("axis 0 seems to: build the model with batch_first=True, if it has that"
                   if first else "ask for a position of what it reads")
        raise HypothesisError(
            f"{name} has no positions that are known: its shape is [{sizes}], and nothing shows "
            "that axis 1, behind the batch, counts those of an input "
            f"({'; '.join(spec.describe() for spec, _ in sources)}): {instead}")
    return sequence


def groups_of(product: Product, parts: Components) -> dict[str, str]:
    """The named places that an expansion asks for, each with the input whose positions it is of.

    Raises `HypothesisError` if a place is asked of two sequences.
    """
    found: dict[str, str] = {}
    for name, copies in product.copies.items():
        for copy in copies:
            if isinstance(copy, Mixed) and copy.test.place and not copy.test.place.startswith("["):
                place, sequence = copy.test.place, input_of(parts, name)
                if found.setdefault(place, sequence) != sequence:
                    raise HypothesisError(
                        f"@{place} is asked of two sequences ({name} has the positions of "
                        f"{sequence}, others those of {found[place]}): name one for each")
    return found


def masks_for(
    places: Mapping[str, str], inputs: Mapping[str, Tensor], given: Mapping[str, Any]
) -> list[Tensor]:
    """The mask [batch, positions] of each place, in order; raises `InputError` if one is missing.

    `places` are of inputs by name.  What is given beyond them is not asked for.
    """
    masks: list[Tensor] = []
    for place, sequence in places.items():
        if place not in given:
            raise InputError(f"the hypothesis asks for positions @{place}: call it with positions="
                             f"{{{place!r}: ...}}, a mask [batch, positions] or one position for "
                             f"each example; {near(place, given) if given else 'none are given'}")
        batch, length = inputs[sequence].shape[:2]
        masks.append(as_mask(place, given[place], batch, length, inputs[sequence].device))
    return masks


def first_of(spots: Spots, masks: Mapping[str, Tensor], inputs: Mapping[str, Tensor]) -> int:
    """The first position of any of some places, in any of the examples.

    `masks` are those of named places.
    """
    found: list[int] = []
    for place, sequence in spots:
        size = inputs[sequence].shape[1]
        if place.startswith("["):
            low, high = ends_of(place)
            inside = range(size)[low:high]
            found.append(inside[0] if inside else size)
        else:
            columns = masks[place].any(0).nonzero()
            found.append(int(columns[0]) if len(columns) else size)
        found[-1] = min(found[-1], size - 1)  # one row at least, so that no kernel is without work
    return min(found)


def as_mask(
    place: str, value: Any, batch: int, length: int, device: torch.device | None = None
) -> Tensor:
    """A mask [batch, length] from one, or from one position or several for each example.

    >>> as_mask("END", [2, -1], 2, 3)
    tensor([[False, False,  True],
            [False, False,  True]])

    Raises `InputError` for shapes and positions that do not fit.
    """
    found = torch.as_tensor(value, device=device)
    if found.dtype == torch.bool:
        if found.shape != (batch, length):
            raise InputError(f"the mask @{place} is {list(found.shape)}, the inputs have "
                             f"[batch, positions] = {[batch, length]}")
        return found
    if found.is_floating_point() or found.ndim not in (1, 2) or len(found) != batch:
        raise InputError(f"@{place} needs a mask of booleans {[batch, length]} or integers "
                         f"[{batch}] or [{batch}, n], found {found.dtype} {list(found.shape)}")
    found = found.unsqueeze(1) if found.ndim == 1 else found
    outside = found[(found < -length) | (found >= length)]
    if len(outside):
        raise InputError(f"@{place} has position {int(outside[0])}, the inputs have {length}")
    mask = torch.zeros(batch, length, dtype=torch.bool, device=device)
    return mask.scatter(1, found % length, True)
