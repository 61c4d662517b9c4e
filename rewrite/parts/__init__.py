"""Stage two: the op graph as named components around a residual stream."""

from rewrite.parts.component import Component, Components, components

__all__ = ["Component", "Components", "components"]
