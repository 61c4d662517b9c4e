"""Stage four: duplicate what paths need apart, and nothing else."""

from rewrite.expand.cost import ExpansionCost, cost
from rewrite.expand.expansion import Expansion, expand
from rewrite.expand.hypothesis import Hypothesis
from rewrite.expand.product import Copy, Product, expand_dag

__all__ = ["Copy", "Expansion", "ExpansionCost", "Hypothesis", "Product", "cost", "expand",
           "expand_dag"]
