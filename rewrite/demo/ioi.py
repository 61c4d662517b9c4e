"""Indirect object identification as pairs of prompts (task of Wang et al. 2022)."""

from __future__ import annotations

import tomllib
from importlib.resources import files
from typing import Any

from rewrite.measure import Pairs


def ioi_pairs(tokenizer: Any) -> Pairs:
    """Every template with every pair of names in both orders.

    In the reference ("clean") the second name acts and the first should be named next.  The
    counterfactual ("corrupt") lets the first name act, so the answer is the second: prompts
    of equal length that differ in one name.
    """
    data = tomllib.loads((files("rewrite.demo") / "ioi.toml").read_text(encoding="utf-8"))
    clean: list[str] = []
    corrupt: list[str] = []
    correct: list[str] = []
    wrong: list[str] = []
    for template in data["templates"]:
        for pair in data["names"]:
            for first, second in (pair, pair[::-1]):
                clean.append(template.format(A=first, B=second, S=second))
                corrupt.append(template.format(A=first, B=second, S=first))
                correct.append(f" {first}")
                wrong.append(f" {second}")
    return Pairs.from_text(
        tokenizer, {"clean": clean, "corrupt": corrupt}, {"correct": correct, "wrong": wrong})
