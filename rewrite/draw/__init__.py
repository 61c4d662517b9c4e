"""Stage eight: pictures of graphs, components and expansions, by Graphviz."""

from rewrite.draw.drawing import draw, svg

__all__ = ["draw", "svg"]
