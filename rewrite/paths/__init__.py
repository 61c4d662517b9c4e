"""The path language: sets of source-to-output paths, written as patterns with an algebra.

>>> paths("tokens -> ... -> a5.h3") - "m0"
paths('tokens -> ... -> a5.h3 - m0')
"""

from rewrite.paths.automaton import Automaton, assign
from rewrite.paths.bind import BoundSet, bind
from rewrite.paths.pathset import PathSet, paths
from rewrite.paths.walk import check_reachable, count_paths, example_paths, has_paths

__all__ = [
    "Automaton",
    "BoundSet",
    "PathSet",
    "assign",
    "bind",
    "check_reachable",
    "count_paths",
    "example_paths",
    "has_paths",
    "paths",
]
