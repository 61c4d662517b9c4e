"""From text to token ids, with errors that show the tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from rewrite.errors import DataError

from .align import aligned


class Tokenizer(Protocol):
    """What `Pairs.from_text` needs of a tokenizer; every Hugging Face tokenizer has it."""

    def __call__(self, text: str, **options: Any) -> Mapping[str, Any]: ...

    def convert_ids_to_tokens(self, ids: list[int]) -> list[str]: ...


def token_ids(tokenizer: Tokenizer, text: str, special: bool | None) -> list[int]:
    """Ids of `text`; `special=None` leaves special tokens to the tokenizer."""
    options = {} if special is None else {"add_special_tokens": special}
    return [int(token) for token in tokenizer(text, **options)["input_ids"]]


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
