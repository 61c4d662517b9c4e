"""From text to token ids, with errors that show the tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from rewrite.errors import DataError
from rewrite.kinds import LARGEST, short
from rewrite.world import calling

from .align import aligned


class Tokenizer(Protocol):
    """What `Pairs.from_text` needs of a tokenizer; every Hugging Face tokenizer has it."""

    def __call__(self, text: str, **options: Any) -> Mapping[str, Any]: ...

    def convert_ids_to_tokens(self, ids: list[int]) -> list[str]: ...


@dataclass(frozen=True)
class SpecialTokens:
    """What a tokenizer puts in front of a text and behind it, such as `[BOS]` or `[CLS] [SEP]`."""

    before: tuple[int, ...]
    behind: tuple[int, ...]

    @staticmethod
    def of(tokenizer: Tokenizer) -> SpecialTokens:
        """Found by comparing what becomes of a text with and without them."""
        for text in ("a", "the", "0", "."):
            whole, bare = (_ids(tokenizer, text, special) for special in (None, False))
            added = len(whole) - len(bare)
            for start in range(added + 1):
                if bare and whole[start : start + len(bare)] == bare:
                    return SpecialTokens(tuple(whole[:start]), tuple(whole[start + len(bare):]))
        return SpecialTokens((), ())

    def begin(self, bare: Sequence[int]) -> bool:
        """Whether a text begins with them itself."""
        return bool(self.before) and tuple(bare[:1]) == self.before[:1]

    def end(self, bare: Sequence[int]) -> bool:
        """Whether a text ends with them itself."""
        return bool(self.behind) and tuple(bare[-len(self.behind):]) == self.behind

    def notes(self, tokenizer: Tokenizer, texts: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
        """Of which texts they are no part twice."""
        every = [_ids(tokenizer, text, False) for lines in texts.values() for text in lines]
        found: list[str] = []
        for has, ids, verb, where in ((self.begin, self.before, "begin", "in front of"),
                                      (self.end, self.behind, "end", "behind")):
            if count := sum(map(has, every)):
                names = tokenizer.convert_ids_to_tokens(list(ids))
                first = names[0] if verb == "begin" else " ".join(names)
                found.append(f"{count} of {len(every)} texts {verb} with {first}: the tokenizer's "
                             f"own {' '.join(names)} was not put {where} them")
        return tuple(found)


def token_ids(
    tokenizer: Tokenizer, text: str, special: bool | None, known: SpecialTokens | None = None
) -> list[int]:
    """Ids of `text`; `special=None` leaves special tokens to the tokenizer.

    None are added in front of a text that begins with those that are `known`, nor behind one
    that ends with them.
    """
    if known is None:
        return _ids(tokenizer, text, special)
    bare = _ids(tokenizer, text, False)
    begins, ends = known.begin(bare), known.end(bare)
    if not (begins or ends):
        return _ids(tokenizer, text, None)
    return [*(() if begins else known.before), *bare, *(() if ends else known.behind)]


def _ids(tokenizer: Tokenizer, text: str, special: bool | None) -> list[int]:
    options = {} if special is None else {"add_special_tokens": special}
    with calling("the tokenizer", DataError):
        found = list(tokenizer(text, **options)["input_ids"])
        ids = [each if isinstance(each, str) else int(each) for each in found]
        if odd := [each for each, token in zip(found, ids, strict=True) if isinstance(token, str)
                   or token != each or not 0 <= token < LARGEST]:
            raise DataError(f"a tokenizer gives whole numbers for a text, found {short(odd[0])} "
                            f"for {short(text)}")
        return [int(token) for token in ids]


def check_lengths(
    tokenizer: Tokenizer,
    texts: Mapping[str, Sequence[str]],
    ids: Mapping[str, Sequence[Sequence[int]]],
    reference: str,
) -> None:
    """Every text has tokens, and the texts of one example equally many."""
    n = len(ids[reference])
    for run in ids:
        empty = [i for i in range(n) if not ids[run][i]]
        if empty:
            raise DataError(f"example {empty[0]}: the text of run {run!r} has no tokens")
        unequal = [i for i in range(n) if len(ids[run][i]) != len(ids[reference][i])]
        if unequal:
            break
    else:
        return
    i = unequal[0]
    left, right = ids[reference][i], ids[run][i]
    tokens = aligned(
        (reference, tokenizer.convert_ids_to_tokens(list(left))),
        (run, tokenizer.convert_ids_to_tokens(list(right))),
    )
    also = "" if len(unequal) == 1 else f"; so do {_some(unequal[1:])} ({len(unequal)} of {n})"
    raise DataError(
        f"example {i}: runs {reference!r} and {run!r} differ in length, "
        f"{len(left)} and {len(right)} tokens{also}\n\n"
        f"  {reference}: {texts[reference][i]!r}\n"
        f"  {run}: {texts[run][i]!r}\n\n"
        f"{tokens}\n\n"
        "Activations of one run are used at the same position of the other: choose words with "
        "equally many tokens at the marked place, or leave the example out."
    )


def answer_tokens(
    tokenizer: Tokenizer, name: str, i: int, answer: str | Sequence[str]
) -> int | list[int]:
    """The id of an answer, or of each of several."""
    if isinstance(answer, str):
        return answer_token(tokenizer, name, i, answer)
    if not answer:
        raise DataError(f"example {i}: the answer {name!r} is an empty list; give at least one")
    return [answer_token(tokenizer, name, i, each) for each in answer]


def answer_token(tokenizer: Tokenizer, name: str, i: int, answer: str) -> int:
    """The id of an answer that is exactly one token which the tokenizer knows."""
    ids = token_ids(tokenizer, answer, special=False)
    if len(ids) == 1 and ids[0] != getattr(tokenizer, "unk_token_id", None):
        return ids[0]
    shown = tokenizer.convert_ids_to_tokens(ids)
    fault = "is unknown to the tokenizer" if len(ids) == 1 else f"is {len(ids)} tokens, not one"
    raise DataError(
        f"example {i}: the answer {name!r}, {answer!r}, {fault}: {shown}; "
        f"{_advice(tokenizer, answer)}"
    )


def _advice(tokenizer: Tokenizer, answer: str) -> str:
    other = answer.strip() if answer != answer.strip() else f" {answer}"
    ids = token_ids(tokenizer, other, special=False)
    if len(ids) == 1 and ids[0] != getattr(tokenizer, "unk_token_id", None):
        return f"{other!r} is one token, if that is what the model should predict"
    return "choose an answer of one token, or compare only the tokens in which answers differ"


def _some(indices: Sequence[int]) -> str:
    shown = ", ".join(str(i) for i in indices[:8])
    return shown + (", ..." if len(indices) > 8 else "")
