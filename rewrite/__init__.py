"""Path patching for any PyTorch model.

Assign runs to paths, rewrite the graph so that each edge can receive from a different run,
recompile, execute, measure, draw.
"""

from rewrite.expand import Expansion, Hypothesis, expand
from rewrite.ir.graph import Graph
from rewrite.parts import Components
from rewrite.paths import PathSet, count_paths, paths
from rewrite.trace import trace

__all__ = [
    "Components",
    "Expansion",
    "Graph",
    "Hypothesis",
    "PathSet",
    "count_paths",
    "expand",
    "paths",
    "trace",
]
