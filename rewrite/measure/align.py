"""Two token sequences under each other, so that a reader sees where they part."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import SequenceMatcher
from itertools import zip_longest

_CONTEXT = 3  # tokens shown on each side of a difference; longer agreement is folded


def aligned(left: tuple[str, Sequence[str]], right: tuple[str, Sequence[str]]) -> str:
    """Three lines: the tokens of `left`, those of `right`, and a mark under each difference.

    Each side is a label and its token strings.  Longer stretches that agree are folded.

    >>> print(aligned(("clean", ["Mary", "ran"]), ("corrupt", ["Mar", "ian", "ran"])))
    clean   | Mary |     | ran
    corrupt | Mar  | ian | ran
              ^^^^   ^^^
    """
    columns = _columns(left[1], right[1])
    head = max(len(left[0]), len(right[0]))
    lines = [f"{label:<{head}}" for label in (left[0], right[0], "")]
    for a, b in columns:
        width = max(len(a), len(b))
        lines[0] += f" | {a:<{width}}"
        lines[1] += f" | {b:<{width}}"
        lines[2] += "   " + ("^" if a != b else " ") * width
    return "\n".join(line.rstrip() for line in lines)


def _columns(a: Sequence[str], b: Sequence[str]) -> list[tuple[str, str]]:
    columns: list[tuple[str, str]] = []
    for kind, a0, a1, b0, b1 in SequenceMatcher(None, a, b, autojunk=False).get_opcodes():
        if kind == "equal":
            shown = _fold([_visible(token) for token in a[a0:a1]])
            columns += [(token, token) for token in shown]
            continue
        pairs = zip_longest(a[a0:a1], b[b0:b1], fillvalue="")
        columns += [(_visible(x), _visible(y)) for x, y in pairs]
    return columns


def _fold(tokens: list[str]) -> list[str]:
    if len(tokens) <= 2 * _CONTEXT + 1:
        return tokens
    return [*tokens[:_CONTEXT], "...", *tokens[-_CONTEXT:]]


def _visible(token: str) -> str:
    return repr(token)[1:-1]  # a newline shows as \n, accents stay
