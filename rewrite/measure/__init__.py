"""Data, metrics, statistics and results of path patching experiments."""

from .batch import Batch
from .metrics import (
    METRICS,
    Measure,
    Metric,
    as_metric,
    custom,
    kl_divergence,
    logit_diff,
    loss_diff,
    metric,
)
from .pairs import Pairs
from .result import Result, draw_ladder, ladder_table
from .stats import Estimate, aue, explained, p_values
from .tokens import Passage, TokenEffects

__all__ = [
    "METRICS",
    "Batch",
    "Estimate",
    "Measure",
    "Metric",
    "Pairs",
    "Passage",
    "Result",
    "TokenEffects",
    "as_metric",
    "aue",
    "custom",
    "draw_ladder",
    "explained",
    "kl_divergence",
    "ladder_table",
    "logit_diff",
    "loss_diff",
    "metric",
    "p_values",
]
