"""The structure report: what a traced model consists of, what was split, what was not and why."""

from rewrite.report.structure import Structure, structure

__all__ = ["Structure", "structure"]
