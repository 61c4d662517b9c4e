"""`rewrite rules`: the table of rules, their proofs, and what they do to a model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from rewrite.cli import show
from rewrite.errors import RuleError, near
from rewrite.ir.graph import Graph
from rewrite.rules import RULES, Rule
from rewrite.symbolic import prove


def named(names: Sequence[str]) -> list[Rule]:
    """Rules by name; all if none is named.  Raises `RuleError` with near misses."""
    for name in names:
        if name not in RULES:
            raise RuleError(f"there is no rule called {name!r}; {near(name, RULES)}")
    return [RULES[name] for name in names] or list(RULES.values())


def listed(rules: Sequence[Rule], proofs: bool) -> pd.DataFrame:
    """One row for each rule; with `proofs`, each is proved now."""
    rows = []
    for rule in rules:
        row = {"rule": rule.name, "equation": rule.equation.partition("; ")[0]}
        if proofs:
            proof = prove(rule)
            row |= {"proof": proof.verdict.status, "instances": len(proof.instances),
                    "entries": proof.entries, "seconds": proof.seconds}
        rows.append(row)
    return pd.DataFrame(rows)


def applied(graph: Graph, rules: Sequence[Rule], at: str | None, out: Path | None) -> None:
    """Rewrite a graph, print the trail, and draw what changed."""
    after = graph.rewrite(rules, at)
    show.say(str(after.trail))
    difference = graph.diff(after)
    show.say(difference.summary)
    if out is not None:
        show.say(f"wrote {difference.draw(out)}")
