"""Lines of a text, taken apart character by character; errors point at the place."""

from __future__ import annotations

import ast
import keyword
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

import torch

from rewrite.errors import TextError

WORD = r"[A-Za-z_]\w*(?:(?:\.|::)\w+)*"
NUMBER = r"-?(?:\d+\.?\d*(?:[eE][+-]?\d+)?|inf)|nan"
COMPLEX = rf"\((?:{NUMBER})[+-](?:\d+\.?\d*(?:[eE][+-]?\d+)?|inf|nan)j\)"
QUOTED = r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\""
ESCAPED = (r"(?:[^\\]|\\(?:['\"\\abfnrtv0]|x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|"
           r"U[0-9a-fA-F]{8}))*")  # as Python writes strings
CONSTANTS = {"None": None, "True": True, "False": False, "inf": float("inf"),
             "nan": float("nan")}
KINDS = {name: value for name, value in vars(torch).items()
         if isinstance(value, (torch.dtype, torch.memory_format, torch.layout))}
DEEPEST, LONGEST = 50, 80  # brackets inside one another, characters of a number


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
            return self.unquoted(quoted)
        found = self.match(WORD)
        return found if found is not None else self.fail(f"expected {what}, found {self.rest()}")

    def unquoted(self, text: str) -> str:
        """What stands between quotes, which have just been read."""
        try:
            if not re.fullmatch(ESCAPED, text[1:-1]):
                raise ValueError("a backslash stands in front of another letter")
            return ast.literal_eval(text)
        except (ValueError, SyntaxError) as error:
            self.fail(f"expected a string, found {text[:40]}: {error}", self.at - len(text),
                      len(text))

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


def arguments(
    line: Line, lookup: Lookup, depth: int = DEEPEST
) -> tuple[tuple[Any, ...], dict[str, Any]]:
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
            given.append(value(line, lookup, depth))
            continue
        if name in named or keyword.iskeyword(name):
            line.fail(f"{name} is given twice" if name in named else f"{name} is no name of an "
                      "argument", start, len(name))
        line.need("=")
        named[name] = value(line, lookup, depth)
    return tuple(given), named


def value(line: Line, lookup: Lookup, depth: int = DEEPEST) -> Any:
    """One argument: a node, a constant, or a list, tuple or dict of them."""
    line.spaces()
    start = line.at
    if not depth:
        line.fail(f"more than {DEEPEST} brackets lie inside one another")
    if (name := line.match(r"[%@][\w.]+")) is not None:
        return lookup(line, name, start)
    if (quoted := line.match(QUOTED)) is not None:
        return line.unquoted(quoted)
    if (number := line.match(rf"{COMPLEX}|{NUMBER}")) is not None:
        return _number(line, number, start)
    if line.sees("..."):
        return ...
    for opens, closes in ("[]", "()", "{}"):
        if line.sees(opens):
            return _several(line, lookup, closes, depth - 1)
    if (word := line.match(WORD)) is not None:
        return _constant(line, word, start, lookup, depth - 1)
    return line.fail(f"expected an argument, found {line.rest()}")


def _number(line: Line, text: str, start: int) -> Any:
    if len(text) > LONGEST:
        line.fail("this number is too long", start, len(text))
    if text.endswith("j)"):
        return complex(text)
    return float(text) if re.search(r"[.enai]", text) else int(text)


def _several(line: Line, lookup: Lookup, closes: str, depth: int) -> Any:
    start, items = line.at - 1, list[Any]()
    while not line.sees(closes):
        if items:
            line.need(",")
            if line.sees(closes):  # (x,)
                break
        items.append(value(line, lookup, depth))
        if closes == "}":
            line.need(":")
            items[-1] = (items[-1], value(line, lookup, depth))
    try:
        return {"]": list, ")": tuple, "}": dict}[closes](items)
    except TypeError:
        return line.fail("a list cannot be a key", start, line.at - start)


def _constant(line: Line, word: str, start: int, lookup: Lookup, depth: int) -> Any:
    if word in CONSTANTS:
        return CONSTANTS[word]
    if word in ("slice", "device"):
        line.need("(")
        given, named = arguments(line, lookup, depth)
        try:
            if named:
                raise TypeError(f"it takes no {next(iter(named))}=")
            return slice(*given) if word == "slice" else torch.device(*given)
        except (TypeError, RuntimeError) as error:
            line.fail(f"expected a {word}: {str(error).splitlines()[0]}", start, line.at - start)
    found = KINDS.get(word.removeprefix("torch."))
    if found is None:
        line.fail(f"expected an argument, found {word!r}; nodes are written %{word}, weights "
                  f"@{word}, strings {word!r}", start, len(word))
    return found
