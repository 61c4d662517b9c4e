"""`Certificate`: what was compared between a graph and its model, and how well it agrees."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

CLOSE = 0.03  # of the largest gradient: more is another gradient, not rounding


@dataclass(frozen=True)
class Certificate:
    """Measured agreement of a graph with the eager model.

    The example inputs are compared first, then sizes that the graph was not traced with:
    `shapes` lists them in this order.  `difference` is the largest absolute difference over all
    outputs, sizes and ways to call the model, `scale` the largest output; a difference of 0.0
    means bit for bit.  Both are None if the graph was traced without weights: then its outputs
    only have the shapes and types of the model's.

    `gradients` is the largest difference of a gradient (with respect to inputs and weights, at
    the example inputs), as a share of the largest one; None if it was not compared.
    `unequal` says where the graph is not the model, one sentence each: a gradient that the
    model defines otherwise, or a way to call the model in which it computes something else.
    `longest` has the greatest size that the model takes, for axes where one was found:
    `(("seq", 1024),)`.  `varying` says which axes vary, and whether that was guessed.
    """

    difference: float | None
    scale: float | None
    shapes: tuple[str, ...]
    method: str
    seconds: float
    notes: tuple[str, ...] = ()
    gradients: float | None = None
    unequal: tuple[str, ...] = ()
    longest: tuple[tuple[str, int], ...] = ()
    varying: str = ""

    @property
    def gradients_agree(self) -> bool | None:
        """Whether gradients through the graph are the model's; None if they were not compared."""
        return None if self.gradients is None else self.gradients <= CLOSE

    def __str__(self) -> str:
        return "; ".join((self.agreement, self.method, *self.notes,
                          *([self.varying] if self.varying else [])))

    @property
    def agreement(self) -> str:
        """What was compared, and what was found, without the method and notes."""
        where = self.where
        if self.difference is None:
            shapes = f" (shapes agree {where})" if where else ""
            return f"parity not measured, there are no weights{shapes}"
        apart = [text for text in self.unequal if not text.startswith(GRADIENTS)]
        how = "bit for bit" if self.difference == 0 else f"to {self.difference:.1e}"
        text = (f"differs from the model in one way to call it, by {self.difference:.1e}; "
                f"otherwise compared {where}" if apart else f"equals the model {how} {where}")
        if self.gradients is not None and self.gradients_agree:
            text += f"; its gradients too ({_share(self.gradients)})"
        return "; ".join((text, *self.unequal))

    @property
    def where(self) -> str:
        """The sizes that were compared, in words."""
        if not self.shapes:
            return ""
        first, *others = self.shapes
        return f"on the example inputs ({first})" + "".join(
            f"{' and on' if not i else ','} {shape}" for i, shape in enumerate(others))


GRADIENTS = "gradients differ"


def _share(value: float) -> str:
    return "bit for bit" if value == 0 else f"to {value:.1e} of the largest"


def certificate_from(note: Mapping[str, Any]) -> Certificate:
    """The certificate that `dataclasses.asdict` and JSON made a dictionary of lists."""
    return Certificate(**{name: tuples(value) for name, value in note.items()})


def tuples(value: Any) -> Any:
    """Lists as the tuples that they were before JSON."""
    return tuple(map(tuples, value)) if isinstance(value, list) else value
