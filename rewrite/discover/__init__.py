"""Refining hypotheses: what others explain, what can be dropped, what to let in next."""

from rewrite.discover.candidates import CANDIDATES, at
from rewrite.discover.completeness import Completeness, completeness
from rewrite.discover.minimality import Minimality, Refinements, minimality, refinements
from rewrite.discover.refine import Refined, refine

__all__ = [
    "CANDIDATES",
    "Completeness",
    "Minimality",
    "Refined",
    "Refinements",
    "at",
    "completeness",
    "minimality",
    "refine",
    "refinements",
]
