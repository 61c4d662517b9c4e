"""All rules, each with its equation beside it."""

from __future__ import annotations

from rewrite.rules.rule import Rule
from rewrite.rules.simplify import (
    SIMPLIFY,
    fold_weights,
    sub_as_add,
)

RULES: dict[str, Rule] = {r.name: r for r in (*SIMPLIFY, sub_as_add, fold_weights)}
