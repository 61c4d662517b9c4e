"""What a graph computes, as algebra: proofs of rules, cost as expressions."""

from rewrite.symbolic.equality import Verdict, equal
from rewrite.symbolic.expression import expression
from rewrite.symbolic.proof import Proof, prove
from rewrite.symbolic.run import Space, run
from rewrite.symbolic.table import Table, Term
from rewrite.symbolic.tensor import (
    SymbolicTensor,
    elementwise,
    lift,
    operator_rule,
    symbols,
)

__all__ = [
    "Proof",
    "Space",
    "SymbolicTensor",
    "Table",
    "Term",
    "Verdict",
    "elementwise",
    "equal",
    "expression",
    "lift",
    "operator_rule",
    "prove",
    "run",
    "symbols",
]
