"""Path patching for any PyTorch model.

Assign runs to paths, rewrite the graph so that each edge can receive from a different run,
recompile, execute, measure, draw.
"""

from rewrite.draw import draw
from rewrite.expand import Expansion, Hypothesis, expand
from rewrite.files import load, save
from rewrite.ir.graph import Graph
from rewrite.measure import (
    Metric,
    Pairs,
    Result,
    custom,
    kl_divergence,
    logit_diff,
    loss_diff,
    metric,
)
from rewrite.parts import Components
from rewrite.paths import PathSet, count_paths, paths
from rewrite.report import Structure, structure
from rewrite.run import Sweep, evaluate, sweep
from rewrite.trace import trace

__all__ = [
    "Components",
    "Expansion",
    "Graph",
    "Hypothesis",
    "Metric",
    "Pairs",
    "PathSet",
    "Result",
    "Structure",
    "Sweep",
    "count_paths",
    "custom",
    "draw",
    "evaluate",
    "expand",
    "kl_divergence",
    "load",
    "logit_diff",
    "loss_diff",
    "metric",
    "paths",
    "save",
    "structure",
    "sweep",
    "trace",
]
