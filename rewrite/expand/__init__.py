"""Stage four: duplicate what paths need apart, and nothing else."""

from rewrite.expand.expansion import Cost, Expansion, expand
from rewrite.expand.hypothesis import Hypothesis
from rewrite.expand.product import Copy, Product, expand_dag

__all__ = ["Copy", "Cost", "Expansion", "Hypothesis", "Product", "expand", "expand_dag"]
