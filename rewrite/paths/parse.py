"""Reading patterns.

    set    = meet ('|' meet)*                     loosest
    meet   = side (('&' | '-') side)*
    side   = '~' (side | item)  |  chain
    chain  = item ('->' item)*
    item   = (name | '...' | '(' set ')') (window | '?' | '*')*   a '*' not behind a name or ...
    name   = NAME ('@' place ('.' PORT ('@' place)?)?)?
    place  = GROUP | slice
    window = slice = '[' n ']' | '[' n? ':' n? ']'

`&`, `-` and `~` make sets of whole paths, so they may not stand inside a chain.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple, NoReturn

from rewrite.errors import PathError
from rewrite.paths.caret import point
from rewrite.paths.names import ATOM, PIECE, SLICE, faults, tidy
from rewrite.paths.pattern import (
    Both,
    Chain,
    Choice,
    Dots,
    Maybe,
    Minus,
    Name,
    Pattern,
    Repeat,
    Within,
    complement,
    is_walk,
    joined,
)
from rewrite.world import DEEPEST

MARKS = 20  # behind one item
_PLACE = rf"@(?:[A-Za-z_]\w*|{SLICE})"
_TOKEN = re.compile(rf"\s*(?:(?P<mark>->|\.\.\.|[()|&~?-])|(?P<window>{SLICE})"
                    rf"|(?P<name>{ATOM}(?:{_PLACE}(?:\.{PIECE}(?:{_PLACE})?)?)?))", re.ASCII)
_POSITIONS = re.compile(rf"(?P<text>{ATOM})(?:@(?P<at>\w+|{SLICE}))?"
                        rf"(?:\.(?P<port>{PIECE}))?(?:@(?P<port_at>\w+|{SLICE}))?", re.ASCII)

_INSTEAD = {
    "[": "write [5-7] for a range of numbers, k[-1] or ...[-3:0] for a window of hops",
    "@": "a position is a named group or a slice: write a5.h3@END, tokens@[0] or tokens@[2:5]",
    "{": "close the list: write {1,3}",
    ".": "write ... for any nodes, and names like a5.h3",
    ">": "write -> with no space inside",
    "→": "write ->",
    "+": "write | for either of two",
    "!": "write ~ for all other paths",
    ",": "write -> between nodes, or {1,3} inside a name",
}


class Token(NamedTuple):
    """A piece of a pattern: `kind` is "name", "end" or the mark itself.

    >>> [token.kind for token in tokens("(a5 -> m*)*")]
    ['(', 'name', '->', 'name', ')', '*', 'end']
    """

    kind: str
    text: str
    column: int


def tokens(text: str) -> list[Token]:
    """Cut a pattern into tokens.

    >>> tokens("a5?")[:2]
    [Token(kind='name', text='a5', column=0), Token(kind='?', text='?', column=2)]

    Raises `PathError` at the first character that no token begins with.
    """
    found: list[Token] = []
    at, end = 0, len(text.rstrip())
    while at < end:
        start = at + len(text[at:]) - len(text[at:].lstrip())
        if text[start] == "*" and found and found[-1].kind in (")", "?", "*", "window"):
            found.append(Token("*", "*", start))
        elif match := _TOKEN.match(text, at):
            kind = "name" if match["name"] else match["mark"] or "window"
            found.append(Token(kind, text[start : match.end()], start))
        else:
            character = text[start]
            instead = _INSTEAD.get(character, "names have letters, digits, _ and the wildcard *")
            _fail(text, f"unexpected {character}", Token("", character, start), instead)
        at = found[-1].column + len(found[-1].text)
    return [*found, Token("end", "", end)]


def parse(text: str) -> Pattern:
    """Read a pattern.

    >>> parse("... -> (m5@END)?")
    Chain(parts=(Dots(), Maybe(body=Name(text='m5', at='END', port='', port_at=''))))

    Raises `PathError` that quotes the text and points at what cannot be read.
    """
    return _Parser(text).whole()


def _fail(text: str, what: str, token: Token, instead: str) -> NoReturn:
    place = point(text, token.column, len(token.text))
    raise PathError(f"cannot read the pattern: {what}\n{place}\n{instead}")


class _Parser:
    """Recursive descent, one method for each line of the grammar."""

    def __init__(self, text: str) -> None:
        self.text: str = text
        self.tokens: list[Token] = tokens(text)
        self.position: int = 0
        self.depth: int = 0
        self.algebra: list[Token] = []  # the & - ~ read so far, to point at one inside a chain

    @property
    def next(self) -> Token:
        return self.tokens[self.position]

    def take(self, *kinds: str) -> Token | None:
        """The next token if it is of one of these kinds, and step over it."""
        token = self.next
        if token.kind not in kinds:
            return None
        self.position += 1
        return token

    def fail(self, what: str, token: Token, instead: str) -> NoReturn:
        _fail(self.text, what, token, instead)

    @contextmanager
    def inside(self, token: Token) -> Iterator[None]:
        """What is read in the block stands inside of brackets, or behind a `~`."""
        self.depth += 1
        if self.depth > DEEPEST:
            self.fail(f"more than {DEEPEST} of ( and ~ are inside of each other", token,
                      "join patterns by | and & without brackets, or in Python: rw.paths(a) | b")
        yield
        self.depth -= 1

    def whole(self) -> Pattern:
        if self.next.kind == "end":
            self.fail("it is empty", self.next, "write ... for all paths")
        pattern = self.set()
        if self.next.kind == ")":
            self.fail("this ) closes nothing", self.next, "remove it, or add a ( before it")
        if self.next.kind != "end":
            self.fail_behind(self.next)
        return pattern

    def fail_behind(self, token: Token) -> NoReturn:
        """What follows a complete pattern does not belong there."""
        if token.text == "*":
            instead = "write (A)* to repeat A"
        elif token.kind == "?":
            instead = "write ? directly behind a name or )"
        else:
            instead = "write -> between nodes, | between alternatives"
        self.fail(f"expected -> or |, found {token.text}", token, instead)

    def set(self) -> Pattern:
        parts = [self.meet()]
        while self.take("|"):
            parts.append(self.meet())
        return joined(Choice, parts)

    def meet(self) -> Pattern:
        left = self.side()
        while mark := self.take("&", "-"):
            self.algebra.append(mark)
            right = self.side()
            left = joined(Both, (left, right)) if mark.kind == "&" else Minus(left, right)
        return left

    def side(self) -> Pattern:
        if not (mark := self.take("~")):
            return self.chain()
        self.algebra.append(mark)
        with self.inside(mark):
            body = self.side() if self.next.kind == "~" else self.item()
        if self.next.kind == "->":
            self.fail_algebra(mark)
        return complement(body)

    def chain(self) -> Pattern:
        before = len(self.algebra)
        parts = [self.item()]
        while self.take("->"):
            parts.append(self.item())
        if len(parts) > 1 and not all(map(is_walk, parts)):
            self.fail_algebra(self.algebra[before])
        return joined(Chain, parts)

    def item(self) -> Pattern:
        before = len(self.algebra)
        item, marks = self.bare_item(), 0
        while mark := self.take("?", "*", "window"):
            marks += 1
            if marks > MARKS:
                self.fail(f"more than {MARKS} marks behind one item", mark, "once is enough")
            if not is_walk(item):
                self.fail_algebra(self.algebra[before])
            if mark.kind == "window":
                item = Within(item, *self.ends(mark))
            else:
                item = Maybe(item) if mark.kind == "?" else Repeat(item)
        return item

    def check_slice(self, token: Token) -> None:
        """A slice of positions holds some, in long enough texts."""
        low, colon, high = token.text.strip("[]").partition(":")
        ends = [int(end) if end else 0 for end in (low, high or "0")]
        same_side = low and high and (ends[0] < 0) == (ends[1] < 0)
        if colon and ((same_side and ends[0] >= ends[1]) or high == "0"):
            self.fail(f"the positions {token.text} are none", token,
                      "slices are those of Python: [0] is the first, [-2:] the last two")

    def ends(self, token: Token) -> tuple[int | None, int | None]:
        """The window that a slice means; as in Python, its end is not in it."""
        low, colon, high = token.text.strip("[] ").partition(":")
        if not colon:
            return int(low), int(low) + 1
        ends = (int(low) if low.strip() else None, int(high) if high.strip() else None)
        if ends == (None, None):
            self.fail("the window [:] is no limit", token, "leave it out")
        if ends[0] is not None and ends[1] is not None and ends[0] >= ends[1]:
            self.fail(f"the window {token.text} is empty", token,
                      "its end is not in it, as in Python: [-3:0] is three, two or one token back")
        return ends

    def bare_item(self) -> Pattern:
        token = self.next
        if self.take("name"):
            return self.name(token)
        if self.take("..."):
            return Dots()
        if self.take("("):
            with self.inside(token):
                pattern = self.set()
            if self.next.kind not in (")", "end"):
                self.fail_behind(self.next)
            if not self.take(")"):
                self.fail("this ( is never closed", token, "add a ) behind what it holds")
            return pattern
        self.fail_item(token)

    def name(self, token: Token) -> Pattern:
        match = _POSITIONS.fullmatch(token.text)
        assert match, token.text
        for group in ("text", "port"):
            for start, width, fault in faults(match[group] or ""):
                piece, column = match[group][start : start + width], match.start(group) + start
                self.fail(f"bad name {token.text}", Token("", piece, token.column + column), fault)
        at, port_at = (tidy(match[group] or "") for group in ("at", "port_at"))
        if not match["port"]:
            at, port_at = at or port_at, ""
        for place in (at, port_at):
            if place.startswith("["):
                self.check_slice(Token("", place, token.column + token.text.index("@") + 1))
        return Name(tidy(match["text"]), at, tidy(match["port"] or ""), port_at)

    def fail_item(self, token: Token) -> NoReturn:
        """Something else stands where a node should."""
        before = self.tokens[self.position - 1] if self.position else None
        if token.kind == "~":
            self.fail_algebra(token)
        if before and before.kind == "->" and token.kind == "end":
            self.fail(
                "expected a name after ->, found the end",
                before,
                "remove the arrow, or write ... behind it",
            )
        found = token.text or "the end"
        behind = f" after {before.text}" if before else ""
        self.fail(
            f"expected a name, ... or ({behind}, found {found}",
            token,
            "write ... for any nodes, ~(...) for no path"
            if token.kind == ")"
            else "write A -> B, or A -> ... -> B for any nodes between",
        )

    def fail_algebra(self, token: Token) -> NoReturn:
        self.fail(
            f"{token.text} is between whole patterns, it cannot stand inside a concatenation",
            token,
            "write (A -> B) & (C -> D), (A -> B) - (C -> D) or ~(A -> B)",
        )
