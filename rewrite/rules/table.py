"""All rules, each with its equation beside it."""

from __future__ import annotations

from rewrite.rules.attention import ATTENTION
from rewrite.rules.declare import Rule
from rewrite.rules.norms import NORMS
from rewrite.rules.parts_of import PARTS
from rewrite.rules.simplify import SIMPLIFY, fold_weights, sub_as_add
from rewrite.rules.spelling import SPELLINGS
from rewrite.rules.sums import SUMS

RULES: dict[str, Rule] = {r.name: r for r in (
    *SUMS, *NORMS, *ATTENTION, *PARTS, *SIMPLIFY, sub_as_add, fold_weights,
    *SPELLINGS)}
