"""Per-token effects of a hypothesis on texts, and the texts themselves, token by token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from jaxtyping import Float

from rewrite.errors import DataError

from .check import positions
from .result import data_frame
from .stats import as_array

if TYPE_CHECKING:
    from pandas import DataFrame

PARTIAL = "\N{REPLACEMENT CHARACTER}"
Losses = Float[np.ndarray, "draw token"]


class Decoder(Protocol):
    """What token texts need of a tokenizer; every Hugging Face tokenizer has it."""

    def decode(self, token_ids: list[int], **options: Any) -> str: ...

    def convert_ids_to_tokens(self, ids: list[int]) -> list[str]: ...


@dataclass(frozen=True, eq=False)
class Passage:
    """One reference text and the loss of each of its tokens, in nats.

    `reference` are losses under the model, `hypothesis` those under the hypothesis,
    `[draw, token]`, one row per counterfactual; nan where a token does not count.

    >>> passage = Passage(0, ("a", " b"), [[np.nan, 2.0]] * 2, [[np.nan, 3.0], [np.nan, 1.5]])
    >>> passage.effect.tolist(), passage.change.tolist()
    ([nan, 0.75], [nan, 0.25])

    Raises DataError for unequal lengths, infinite losses, and where no token counts.
    """

    index: int
    tokens: tuple[str, ...]
    reference: Losses
    hypothesis: Losses

    def __post_init__(self) -> None:
        for name in ("reference", "hypothesis"):
            try:
                losses = as_array(getattr(self, name), np.float64)
            except (TypeError, ValueError) as error:
                raise DataError(f"example {self.index}: {name} must be losses [draw, token]: "
                                f"{error}") from error
            losses.setflags(write=False)
            object.__setattr__(self, name, losses)
        shapes = self.reference.shape, self.hypothesis.shape
        if len(set(shapes)) > 1 or shapes[0][1:] != (len(self.tokens),) or not shapes[0][0]:
            raise DataError(
                f"example {self.index}: losses [draw, token] of {len(self.tokens)} tokens are "
                f"needed, found {list(shapes[0])} of the model and {list(shapes[1])} of the "
                "hypothesis")
        changes = self.hypothesis - self.reference
        if np.isinf(self.reference).any() or np.isinf(self.hypothesis).any():
            raise DataError(f"example {self.index}: losses are not finite")
        if np.isnan(changes).all():
            raise DataError(f"example {self.index}: no token counts, there is nothing to show")

    @property
    def draws(self) -> int:
        """How many counterfactuals were drawn."""
        return len(self.reference)

    @property
    def effect(self) -> Float[np.ndarray, " token"]:
        """Unexplained effect: |change of loss|, its mean over draws."""
        return mean(np.abs(self.hypothesis - self.reference))

    @property
    def change(self) -> Float[np.ndarray, " token"]:
        """Signed change of loss, its mean over draws: positive is predicted worse."""
        return mean(self.hypothesis - self.reference)

    @property
    def summary(self) -> str:
        """The mean effect, in words."""
        counted = int(np.isfinite(self.effect).sum())
        return (f"example {self.index}: mean effect {np.nanmean(self.effect):.3f} over {counted} "
                f"token{'s' * (counted > 1)}, {self.draws} counterfactual"
                f"{'s' * (self.draws > 1)}")


@dataclass(frozen=True, eq=False)
class TokenEffects:
    """What a hypothesis leaves unexplained, token by token; `token_effects` measures it.

    One passage per reference text, with all counterfactuals that were drawn for it.  `notes`
    say in how many examples a position is empty, or the runs are equal.
    """

    hypothesis: str
    metric: str
    passages: Sequence[Passage]
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.passages:
            raise DataError("there is no text to show; give at least one")

    @cached_property
    def table(self) -> DataFrame:
        """One row per token: losses in nats, signed change and effect, means over draws."""
        columns: dict[str, list[Any]] = {name: [] for name in (
            "example", "position", "token", "reference_loss", "hypothesis_loss", "change",
            "effect")}
        for passage in self.passages:
            values = (mean(passage.reference), mean(passage.hypothesis), passage.change,
                      passage.effect)
            rows = zip(passage.tokens, *values, strict=True)
            for position, row in enumerate(rows):
                for name, value in zip(columns, (passage.index, position, *row), strict=True):
                    columns[name].append(value)
        return data_frame(columns)

    @property
    def limit(self) -> float:
        """Where colours are full: 98 % of the effects are below, so that one does not hide all."""
        effects = np.concatenate([passage.effect for passage in self.passages])
        return float(np.nanquantile(effects, 0.98)) or float(np.nanmax(effects)) or 1.0

    def subset(self, where: object) -> TokenEffects:
        """Only the texts of a boolean mask, of positions, or of a slice; in that order."""
        keep = positions(where, len(self.passages))
        return replace(self, passages=[self.passages[i] for i in keep])

    def draw(self, path: str | Path) -> Path:
        """The texts, each token on a colour: how much is unexplained, and in which direction.

        A page with the numbers of the token under the mouse (.html), or a picture (.png, .svg,
        .pdf).  Returns the path.  Raises FileError for another kind of file, and DataError for
        more text than a picture can hold.
        """
        if Path(path).suffix.lower() in (".html", ".htm"):
            from .tokens_page import write_page

            return write_page(self, Path(path))
        from .tokens_figure import draw_texts

        return draw_texts(self, path)


def mean(losses: Losses) -> Float[np.ndarray, " token"]:
    """Mean over the draws in which a token counts; nan where there is none."""
    return np.ma.masked_invalid(losses).mean(0).filled(np.nan)


def token_texts(tokenizer: Decoder, ids: Sequence[int]) -> tuple[str, ...]:
    """What each token adds to the text.

    Where a character is several tokens, all but the last are the replacement character; what
    adds nothing (a special token, with some tokenizers) is its name in the vocabulary.
    Raises DataError for something that is no tokenizer.
    """
    if not hasattr(tokenizer, "decode") or not hasattr(tokenizer, "convert_ids_to_tokens"):
        raise DataError(f"texts need the tokenizer of the model, found {tokenizer!r}: give "
                        "tokenizer=AutoTokenizer.from_pretrained(folder)")
    names = tokenizer.convert_ids_to_tokens(list(ids))
    found: list[str] = []
    before = ""
    for end, name in enumerate(names, start=1):
        text = tokenizer.decode(list(ids[:end]), skip_special_tokens=False,
                                clean_up_tokenization_spaces=False)
        added = text[len(before):] if text.startswith(before) else ""
        if added.endswith(PARTIAL):
            found.append(PARTIAL)
            continue
        found.append(added or str(name))
        before = text
    return tuple(found)


def visible(token: str) -> str:
    """A token as shown: line ends, tabs, lone spaces and control characters as signs.

    >>> visible(" the"), visible(" "), visible("\\n  "), visible("\\x00")
    (' the', '␣', '↵\\n  ', '\\\\x00')
    """
    if not token.strip(" "):
        return "␣" * len(token) or "∅"
    return "".join(_SIGNS.get(c) or (c if c.isprintable() else repr(c)[1:-1]) for c in token)


_SIGNS = {"\n": "↵\n", "\t": "⇥", "\r": "␍", "\xa0": "⍽"}


class Scale:
    """Colours of effects: white at zero, orange where predicted worse, blue where better.

    Both are of the palette of Okabe and Ito (2008), which the colour-blind tell apart.

    >>> Scale(2.0).color(0.0, 0.0), Scale(2.0).color(2.0, 2.0), Scale(2.0).color(2.0, -0.1)
    ('#FFFFFF', '#D55E00', '#0072B2')
    """

    def __init__(self, limit: float) -> None:
        self.limit = limit

    def color(self, effect: float, change: float) -> str:
        """The ground of a token: strength is the effect, hue the sign of the change."""
        full = (0xD5, 0x5E, 0x00) if change >= 0 else (0x00, 0x72, 0xB2)
        share = min(1.0, effect / self.limit)
        return "#" + "".join(f"{round(255 + share * (c - 255)):02X}" for c in full)

    @staticmethod
    def ink(ground: str) -> str:
        """Black or white, whichever is easier to read on a ground (WCAG contrast).

        >>> Scale.ink("#FFFFFF"), Scale.ink("#0072B2")
        ('#111111', '#FFFFFF')
        """
        parts = [int(ground[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        light = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
        return "#FFFFFF" if 1.05 / (light + 0.05) > (light + 0.05) / 0.056 else "#111111"
