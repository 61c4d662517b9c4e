"""Texts that people write: for each parser good ones, and what seeded damage makes of them."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch

import rewrite as rw
from rewrite.errors import RewriteError
from rewrite.ir import match
from rewrite.run.budget import as_bytes
from tests.fuzz.formats import parts
from tests.zoo import tiny

DIGITS = "9" * 5_000
PIECES = (
    "(", ")", "[", "]", "{", "}", "->", "...", "|", "&", "~", "-", "?", "*", "@", ":", ",", ".",
    "!", "=", "+", "/", "//", "**", "<", ">", "'", '"', "\\", "#", ";", "\n", "\t", "\0", "é",
    "\u2028", "\U0001f600", "\ud800", "١", "²", "a0", "a0.h1", "a*.h*", "m0", "logits", "tokens",
    "tokens@[2:-]", "@END", "@[1:2]", "[-1]", "[:]", "[3-1]", "[0-99999999]", "{1,3}", "{}",
    "batch", "seq", "0", "1", "-1", "1e999", "nan", "inf", "1.5", "2GB", DIGITS, "-" + DIGITS,
    "(" * 200, ")" * 200, "~" * 300, "?*" * 300, " - m0" * 300, " | m0" * 300, "[" * 200,
    "(" * 3_000 + "m0" + ")" * 3_000, "x" * 3_000, "-" * 300, "a -> " * 300, "lambda: 0",
    "__import__('os')", "f(x)", "silu(x)", "x * y", "(?P<a>", "a{99999999999}", "None", "True",
)
"""What is put into a text."""


@dataclass(frozen=True)
class Reader:
    """What takes a text, and texts that it takes."""

    read: Callable[[str], Any]
    good: tuple[str, ...]
    share: int = 1  # of how many texts it is asked about one


def _paths(text: str) -> None:
    found = rw.paths(text)
    assert rw.paths(str(found)) == found, "written out, it is another set"
    rw.count_paths(parts(), found)


def _found(text: str) -> None:
    graph = parts().graph
    for make in (match.name, match.regex, match.op, match.module):
        with suppress(RewriteError):
            graph.find(make(text))


def _hypothesis(text: str) -> None:
    _ = rw.Hypothesis(parts(), {text: "m0"}, default=text[:1] or "corrupt", name=text)


def _metric(text: str) -> None:
    for make in (rw.metric, lambda t: rw.logit_diff(position=t), lambda t: rw.logit_diff(axes=t),
                 lambda t: rw.kl_divergence(output=t)):
        with suppress(RewriteError):
            make(text).reads(parts().layout)


PATTERNS = (
    "a0.h1 -> ... -> a1.h2.{q,k} - m0", "tokens@[0] -> ... -> logits", "(a0 -> m*)* | ~(m1)",
    "a[0-1].h*.v@[-2:] -> logits", "tokens -> ...[-1] -> a1.h3.k", "a*.h*@END.v -> logits & m0",
)
READERS: dict[str, Reader] = {
    "paths": Reader(_paths, PATTERNS),
    "runs and names": Reader(_hypothesis, ("clean", "corrupt")),
    "budget": Reader(lambda text: as_bytes(text, torch.device("cpu")), ("2GB", "1.5 GiB", "300")),
    "matchers": Reader(_found, ("linear*", "transformer.h.*.mlp", "aten.add.Tensor", "a.*b"), 4),
    "sizes": Reader(lambda text: parts().graph.find(match.shape(text, ...)),
                    ("batch", "batch*seq", "seq + 1"), 4),
    "metrics": Reader(_metric, ("logit_diff", "batch seq classes", "all", "logits")),
    "rules": Reader(lambda text: rw.rule("new", text, examples="x: b s d"),
                    ("silu(x) = x * sigmoid(x)", "x + y = y + x", "gelu(x) = -(-gelu(x))"), 20),
    "examples of rules": Reader(
        lambda text: rw.rule("new", "silu(x) = x * sigmoid(x)", examples=text),
        ("x: b s d", "x: 2 3"), 20),
    "text form": Reader(lambda text: rw.from_text(text, tiny("gpt2")), (), 400),
}


def texts(name: str, count: int, seed: int = 0) -> list[str]:
    """Seeded texts for one reader."""
    reader = READERS[name]
    good = reader.good or (parts().graph.text(),)
    draw = random.Random(f"{seed} {name}")
    return [_damaged(draw.choice(good), draw) for _ in range(count)]


def _damaged(text: str, draw: random.Random) -> str:
    if draw.random() < 0.1:
        return "".join(draw.choice(PIECES) for _ in range(draw.randrange(1, 8)))
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        at = draw.randrange(len(text) + 1)
        match draw.randrange(5):
            case 0:
                text = text[:at]
            case 1:
                text = text[:at] + text[at + draw.randrange(1, 5):]
            case 2:
                text = text[:at] + draw.choice(PIECES) + text[at + draw.randrange(0, 3):]
            case 3:
                text = text[:at] + text[at - draw.randrange(0, 6):at] * 2 + text[at:]
            case _:
                letter = chr(draw.choice((0, 9, 32, 40, 45, 64, 91, 255, 955)))
                text = text[:at] + letter + text[at:]
    return text
