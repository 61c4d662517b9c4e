"""Words in pictures: short numbers, ranges, lines that wrap, and escapes for labels."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from decimal import Decimal
from html import escape
from itertools import pairwise

FONT = "Helvetica,Arial,sans-serif"
SMALL, NORMAL = 11, 13  # points
INK, FAINT = "#222222", "#6B6B6B"


def number(n: int) -> str:
    """An exact count up to a million, its order of magnitude beyond.

    >>> number(12345), number(23 * 10**19)
    ('12,345', '2.3e+20')
    """
    return f"{n:,}" if abs(n) < 1_000_000 else f"{Decimal(n):.1e}"


def plural(n: int, word: str) -> str:
    """A count with its noun.

    >>> plural(1, "part"), plural(2, "copy")
    ('1 part', '2 copies')
    """
    if n == 1:
        return f"1 {word}"
    return f"{number(n)} {word[:-1] + 'ies' if word.endswith('py') else word + 's'}"


def ranges(numbers: Iterable[int]) -> str:
    """Numbers with neighbours drawn together.

    >>> ranges([0, 1, 2, 5])
    '0–2,5'
    """
    ordered = sorted(set(numbers))
    if not ordered:
        return ""
    starts = [ordered[0], *(b for a, b in pairwise(ordered) if b != a + 1)]
    ends = [*(a for a, b in pairwise(ordered) if b != a + 1), ordered[-1]]
    return ",".join(str(a) if a == b else f"{a}–{b}" for a, b in zip(starts, ends, strict=True))


def wrap(text: str, width: int) -> list[str]:
    """Lines of at most `width` characters, broken at spaces where there are any.

    >>> wrap("a0.h1 -> m3 -> logits", 11)
    ['a0.h1 -> m3', '-> logits']
    """
    lines: list[str] = []
    for word in text.split():
        if lines and len(lines[-1]) + 1 + len(word) <= width:
            lines[-1] += f" {word}"
        else:
            lines.extend(word[at : at + width] for at in range(0, len(word), width))
    return lines or [""]


def shorten(text: str, width: int) -> str:
    """The text itself, or its beginning and an ellipsis.

    >>> shorten("counterfactual", 8)
    'counter…'
    """
    return text if len(text) <= width else text[: width - 1] + "…"


def spell(words: Sequence[str], where: str = "", width: int = 38) -> str:
    """A walk to the output as one line, its middle left out where it is long.

    >>> spell(("a9.h9.q", "logits")), spell(("logits",), "@END")
    ('→ a9.h9.q → logits', '@END → logits')
    >>> spell(("m1", "m2", "m3", "logits"), width=18)
    '→ m1 → … → logits'
    """
    start = f"{where} " if where else ""
    line = start + " ".join(f"→ {word}" for word in words)
    short = len(line) <= width or len(words) < 3
    return line if short else f"{start}→ {words[0]} → … → {words[-1]}"


def html(text: str, size: int = NORMAL, color: str = INK, bold: bool = False) -> str:
    """One piece of text inside an HTML-like label."""
    inner = f"<b>{escape(text)}</b>" if bold else escape(text)
    return f'<font point-size="{size}" color="{color}">{inner}</font>'


def parity(certificate: object) -> str:
    """The certificate of a trace for a caption, without attempts before and what was guessed.

    >>> parity(None)
    'parity: not measured'
    """
    said = str(certificate) if certificate else "not measured"
    for rest in ("; tried before", "; which sizes vary", "; sizes as asked"):
        said = said.partition(rest)[0]
    return said if said.startswith("parity") else f"parity: {said}"
