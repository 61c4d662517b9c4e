"""Whether the inputs of a model lie as stacking and positions need it: batch first, then length."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rewrite.parts.component import Components

PLACES = {"batch": 0, "seq": 1}
REMEDY = ("wrap the model in a module that takes [batch, seq, ...] and transposes, and trace that")


def misplaced(parts: Components, name: str) -> str:
    """Why axis 0 ("batch") or 1 ("seq") is not what it is taken for; empty if it may be.

    What the user has said by `dynamic=` counts, else the first axis is measured.
    """
    sources = {str(node.target) for node in parts.cut.flow.sources}
    for spec in parts.graph.inputs:
        if spec.name in sources and name in spec.shape:
            axis = spec.shape.index(name)
            if axis != PLACES[name]:
                return (f"{name!r} is axis {axis} of {spec.describe()}, and must be axis "
                        f"{PLACES[name]}: {REMEDY}")
    if name == "batch" and parts.dag.motion.mixes_examples():
        first = next(spec for spec in parts.graph.inputs if spec.name in sources)
        return (f"axis 0 of {first.describe()} is no batch of examples, what is in one row "
                f"changes others: {REMEDY}")
    return ""
