"""Path patching for any PyTorch model.

Assign runs to paths, rewrite the graph so that each edge can receive from a different run,
recompile, execute, measure, draw.
"""

from rewrite import rules as _rules
from rewrite.border import guard as _guard
from rewrite.discover import (
    Completeness,
    Minimality,
    Refined,
    Refinements,
    completeness,
    minimality,
    refine,
    refinements,
)
from rewrite.draw import draw
from rewrite.expand import Expansion, Hypothesis, expand
from rewrite.expand.cost import cost
from rewrite.files import load, load_trusted, save
from rewrite.ir import match
from rewrite.ir.diff import Diff, diff
from rewrite.ir.graph import Graph
from rewrite.ir.text_read import from_text
from rewrite.measure import (
    Metric,
    Pairs,
    Passage,
    Result,
    TokenEffects,
    custom,
    kl_divergence,
    logit_diff,
    loss_diff,
    metric,
)
from rewrite.parts import Components
from rewrite.paths import PathSet, count_paths, paths
from rewrite.report import Structure, structure
from rewrite.rules import Miss, Rule, Site, Trail, rule, rule_on
from rewrite.run import Sweep, compiled, evaluate, sweep, token_effects
from rewrite.symbolic import Proof, equal, prove
from rewrite.trace import trace

__all__ = [
    "Completeness",
    "Components",
    "Diff",
    "Expansion",
    "Graph",
    "Hypothesis",
    "Metric",
    "Minimality",
    "Miss",
    "Pairs",
    "Passage",
    "PathSet",
    "Proof",
    "Refined",
    "Refinements",
    "Result",
    "Rule",
    "Site",
    "Structure",
    "Sweep",
    "TokenEffects",
    "Trail",
    "compiled",
    "completeness",
    "cost",
    "count_paths",
    "custom",
    "diff",
    "draw",
    "equal",
    "evaluate",
    "expand",
    "from_text",
    "kl_divergence",
    "load",
    "load_trusted",
    "logit_diff",
    "loss_diff",
    "match",
    "metric",
    "minimality",
    "paths",
    "prove",
    "refine",
    "refinements",
    "rule",
    "rule_on",
    "save",
    "structure",
    "sweep",
    "token_effects",
    "trace",
]

_guard(vars(_rules), _rules.__all__, "rw.rules.")
_guard(vars(match), match.__all__, "rw.match.")
_guard(globals(), __all__, "rw.")
