"""Lines of a text, taken apart character by character; errors point at the place."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

import torch

from rewrite.errors import TextError

WORD = r"[A-Za-z_]\w*(?:(?:\.|::)\w+)*"
NUMBER = r"-?(?:\d+\.?\d*(?:[eE][+-]?\d+)?|inf)|nan"
QUOTED = r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\""
CONSTANTS = {"None": None, "True": True, "False": False, "inf": float("inf"),
             "nan": float("nan")}
KINDS = (torch.dtype, torch.memory_format, torch.layout)


@dataclass
class Line:
    """A line of a text, and how far it is read."""

    number: int
    text: str
    at: int = 0

    def fail(self, message: str, at: int | None = None, width: int = 1) -> NoReturn:
        """Raise `TextError` with the line, and carets below a place (by default, here)."""
        place = self.at if at is None else at
        carets = " " * place + "^" * max(width, 1)
        raise TextError(f"line {self.number}: {message}\n    {self.text}\n    {carets}")

    def spaces(self) -> None:
        """Go on to the next character that is no space."""
        while self.text[self.at : self.at + 1] == " ":
            self.at += 1

    def sees(self, mark: str) -> bool:
        """Whether a mark comes next; it is read then."""
        self.spaces()
        if not self.text.startswith(mark, self.at):
            return False
        self.at += len(mark)
        return True

    def need(self, mark: str) -> None:
        """Read a mark that has to come next."""
        if not self.sees(mark):
            self.fail(f"expected {mark!r}, found {self.rest()}")

    def match(self, pattern: str) -> str | None:
        """Read what matches a pattern, if it comes next."""
        self.spaces()
        found = re.compile(pattern).match(self.text, self.at)
        if found is None:
            return None
        self.at = found.end()
        return found[0]

    def word(self, what: str) -> str:
        """Read a name, which may be quoted."""
        if (quoted := self.match(QUOTED)) is not None:
            return ast.literal_eval(quoted)
        found = self.match(WORD)
        return found if found is not None else self.fail(f"expected {what}, found {self.rest()}")

    def rest(self) -> str:
        """What comes next, for errors."""
        left = self.text[self.at :].split()
        return repr(left[0]) if left else "the end of the line"

    def end(self) -> None:
        """Make sure that nothing is left."""
        self.spaces()
        if self.at < len(self.text):
            self.fail(f"expected the end of the line, found {self.rest()}",
                      width=len(self.text) - self.at)


Lookup = Callable[[Line, str, int], Any]  # the node of `%name` or `@weight`, read at a place


def arguments(line: Line, lookup: Lookup) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a call, up to and with the bracket that ends it."""
    given: list[Any] = []
    named: dict[str, Any] = {}
    while not line.sees(")"):
        if given or named:
            line.need(",")
        line.spaces()
        start, name = line.at, line.match(r"[A-Za-z_]\w*(?==)")
        if name is None:
            if named:
                line.fail("expected an argument by name, after the first one by name")
            given.append(value(line, lookup))
            continue
        if name in named:
            line.fail(f"{name} is given twice", start, len(name))
        line.need("=")
        named[name] = value(line, lookup)
    return tuple(given), named


def value(line: Line, lookup: Lookup) -> Any:
    """One argument: a node, a constant, or a list, tuple or dict of them."""
    line.spaces()
    start = line.at
    if (name := line.match(r"[%@][\w.]+")) is not None:
        return lookup(line, name, start)
    if (quoted := line.match(QUOTED)) is not None:
        return ast.literal_eval(quoted)
    if (number := line.match(NUMBER)) is not None:
        return float(number) if re.search(r"[.enai]", number) else int(number)
    if line.sees("..."):
        return ...
    for opens, closes in ("[]", "()", "{}"):
        if line.sees(opens):
            return _several(line, lookup, closes)
    if (word := line.match(WORD)) is not None:
        return _constant(line, word, start, lookup)
    return line.fail(f"expected an argument, found {line.rest()}")


def _several(line: Line, lookup: Lookup, closes: str) -> Any:
    items: list[Any] = []
    while not line.sees(closes):
        if items:
            line.need(",")
            if line.sees(closes):  # (x,)
                break
        items.append(value(line, lookup))
        if closes == "}":
            line.need(":")
            items[-1] = (items[-1], value(line, lookup))
    return {"]": list, ")": tuple, "}": dict}[closes](items)


def _constant(line: Line, word: str, start: int, lookup: Lookup) -> Any:
    if word in CONSTANTS:
        return CONSTANTS[word]
    if word in ("slice", "device"):
        line.need("(")
        given, _ = arguments(line, lookup)
        return slice(*given) if word == "slice" else torch.device(*given)
    found = getattr(torch, word.removeprefix("torch."), None)
    if not isinstance(found, KINDS):
        line.fail(f"expected an argument, found {word!r}; nodes are written %{word}, weights "
                  f"@{word}, strings {word!r}", start, len(word))
    return found
