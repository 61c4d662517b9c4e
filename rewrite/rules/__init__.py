"""Rewrites that keep values: rules as equations, and the driver that applies them."""

from rewrite.rules.attention import (
    open_attention,
    split_heads,
    split_mask,
    split_neurons,
    split_ports,
)
from rewrite.rules.declare import Match, Rule, rule, rule_on
from rewrite.rules.engine import rewrite
from rewrite.rules.example import Example
from rewrite.rules.norms import fold_norm, fold_scale, mean_as_sum, split_norm
from rewrite.rules.parts_of import push_down_slice, split_positions, split_subspace
from rewrite.rules.simplify import (
    SIMPLIFY,
    add_zero,
    dedup,
    flatten,
    fold_constants,
    fold_weights,
    sub_as_add,
)
from rewrite.rules.site import Miss, Site
from rewrite.rules.sums import (
    as_total,
    collect,
    distribute,
    distribute_total,
    residual_rewrite,
    share_partial_sums,
)
from rewrite.rules.table import RULES
from rewrite.rules.trail import Step, Trail

__all__ = [
    "RULES",
    "SIMPLIFY",
    "Example",
    "Match",
    "Miss",
    "Rule",
    "Site",
    "Step",
    "Trail",
    "add_zero",
    "as_total",
    "collect",
    "dedup",
    "distribute",
    "distribute_total",
    "flatten",
    "fold_constants",
    "fold_norm",
    "fold_scale",
    "fold_weights",
    "mean_as_sum",
    "open_attention",
    "push_down_slice",
    "residual_rewrite",
    "rewrite",
    "rule",
    "rule_on",
    "share_partial_sums",
    "split_heads",
    "split_mask",
    "split_neurons",
    "split_norm",
    "split_ports",
    "split_positions",
    "split_subspace",
    "sub_as_add",
]
