"""Name atoms: `a5.h3`, `a*.h[0-3]`, `m{1,2}` and the symbols that they stand for.

An atom is kept as its text.  A symbol matches when the segments of the atom match the
first segments of the symbol, so `a5` means every head of layer 5 and every port of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache

_NUMBER = r"[+-]?\d{1,9}"
SLICE = rf"\[\s*(?:{_NUMBER}|(?:{_NUMBER})?\s*:\s*(?:{_NUMBER})?)\s*\]"
PIECE = rf"(?:[A-Za-z0-9_*]|(?!{SLICE})\[[^\]]*\]|\{{[^}}]*\}})+"
ATOM = rf"{PIECE}(?:\.{PIECE})*"

WIDEST = 100_000  # numbers in one range: each is spelt out when the atom is compiled

_BRACKET = re.compile(r"\[[^\]]*\]|\{[^}]*\}")
_PART = re.compile(rf"{_BRACKET.pattern}|.")
_RANGE = re.compile(r"\[([0-9]{1,9})-([0-9]{1,9})\]")
_LIST = re.compile(r"\{\w+(,\w+)*\}", re.ASCII)


def tidy(atom: str) -> str:
    """The atom without the spaces that brackets may hold.

    >>> tidy("a[5 - 7].h{1, 3}")
    'a[5-7].h{1,3}'
    """
    return re.sub(r"\s+", "", atom)


def faults(atom: str) -> Iterable[tuple[int, int, str]]:
    """Brackets that cannot be read: where, how wide, and what to write instead.

    >>> list(faults("a[7-5]"))
    [(1, 5, 'the range [7-5] is reversed: write [5-7]')]
    """
    for found in _BRACKET.finditer(atom):
        if fault := _fault(tidy(found[0])):
            yield found.start(), len(found[0]), fault


def _fault(bracket: str) -> str | None:
    if bracket.startswith("{"):
        return None if _LIST.fullmatch(bracket) else "a list holds names or numbers: write {1,3}"
    if not (ends := _RANGE.fullmatch(bracket)):
        return "a range has two numbers: write [5-7]"
    low, high = int(ends[1]), int(ends[2])
    if low > high:
        return f"the range {bracket} is reversed: write [{high}-{low}]"
    if high - low >= WIDEST:
        return f"the range {bracket} is too wide: write * for any name"
    return None


@lru_cache(maxsize=4096)
def compiled(atom: str) -> re.Pattern[str]:
    """The atom as a regular expression that matches a prefix of whole segments.

    Its groups are what ranges and lists stand for.

    >>> bool(compiled("a[4-5].h*").match("a5.h3.q")), bool(compiled("a5").match("a51.h3"))
    (True, False)
    """
    return re.compile("".join(map(_regex, _PART.findall(atom))) + r"(?=\.|\Z)")


def _regex(part: str) -> str:
    if part == "*":
        return r"[^.]*"
    if ends := _RANGE.fullmatch(part):
        return f"({'|'.join(map(str, range(int(ends[1]), int(ends[2]) + 1)))})"
    if part.startswith("{"):
        return f"({part[1:-1].replace(',', '|')})"
    return re.escape(part)


def heads(atom: str, spellings: Iterable[str]) -> list[re.Match[str]]:
    """How an atom spells the first segments of a symbol: once for each spelling that fits.

    The first spelling is the symbol itself.  An atom whose first segment holds `*` means short
    names: `m*` is every MLP, and not every part of a model whose module paths begin with
    `model`.

    >>> [found[0] for found in heads("a5.kv1", ("a5.h3.k", "a5.kv1.k"))]
    ['a5.kv1']
    >>> heads("m*", ("a5.h3.k", "model.layers.5.self_attn.h3.k"))
    []
    """
    symbol, *further = spellings
    if "*" in first_segment(atom):
        own = first_segment(symbol)
        further = [spelling for spelling in further if first_segment(spelling) == own]
    return [found for spelling in (symbol, *further) if (found := compiled(atom).match(spelling))]


def first_segment(name: str) -> str:
    """The text before the first dot.

    >>> first_segment("a5.h3")
    'a5'
    """
    return name.partition(".")[0]
