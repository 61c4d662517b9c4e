"""Token sequences for training and for what comes after it.

Documents are split into two parts by a hash of their names: one is trained on, the other
("held out") is never seen in training.  A sequence is `<begin>` and pieces of text after it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from jaxtyping import Int
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor

from examples.induction.sources import SOURCES, fetch

HERE = Path(__file__).parent
BEGIN = "<begin>"


def is_held(source: str, name: str, part: float) -> bool:
    """Whether a document is held out: `part` of all names are, always the same."""
    digest = hashlib.sha256(f"{source}/{name}".encode()).digest()
    return int.from_bytes(digest[:6]) < part * 2 ** 48


def documents(
    held: bool, names: Iterable[str] = tuple(SOURCES),
    progress: Callable[[str], None] = lambda message: None,
) -> list[str]:
    """The texts of the packages that are held out, or those that are not; no text twice."""
    found: dict[str, None] = {}
    seen_elsewhere: set[str] = set()
    for source in names:
        for name, text in SOURCES[source].read(fetch(SOURCES[source], progress)):
            if len(text) < 100:
                continue
            if is_held(source, name, SOURCES[source].held) == held:
                found[text] = None
            else:
                seen_elsewhere.add(text)
    return [text for text in found if not held or text not in seen_elsewhere]


def new_tokenizer(texts: Iterable[str], size: int) -> Tokenizer:
    """A byte-level BPE vocabulary of `size` entries; entry 0 is `<begin>`."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=size, special_tokens=[BEGIN], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    return tokenizer


def tokenizer(file: Path = HERE / "tokenizer.json") -> Tokenizer:
    """The vocabulary that ships with the model."""
    return Tokenizer.from_file(str(file))


def stream(texts: Iterable[str], vocabulary: Tokenizer) -> Int[Tensor, " tokens"]:
    """All documents after one another, each after a `<begin>`."""
    encoded = vocabulary.encode_batch_fast([BEGIN + text for text in texts])
    return torch.tensor([token for one in encoded for token in one.ids], dtype=torch.int16)


def batches(
    tokens: Int[Tensor, " tokens"], size: int, length: int, draw: torch.Generator
) -> Int[Tensor, "size length"]:
    """Windows of the stream from random places, whose first token is replaced by `<begin>`."""
    starts = torch.randint(0, len(tokens) - length + 1, (size, 1), generator=draw)
    taken = tokens[starts + torch.arange(length)].long()
    taken[:, 0] = 0
    return taken


def say_twice(rows: Int[Tensor, "size length"], draw: torch.Generator) -> None:
    """Repeat a passage of each row at once, over what followed it.

    It is a fifth to a half of the row and starts anywhere, so that no position tells where.
    """
    length = rows.shape[1]
    for row in rows:
        size = int(torch.randint(length // 5, length // 2, (1,), generator=draw))
        at = int(torch.randint(1, length - 2 * size + 1, (1,), generator=draw))
        row[at + size:at + 2 * size] = row[at:at + size].clone()


def pieces(
    texts: Iterable[str], vocabulary: Tokenizer, length: int
) -> Int[Tensor, "sequences length"]:
    """Sequences of `<begin>` and `length - 1` tokens of one document; ends are left out."""
    found: list[list[int]] = []
    for one in vocabulary.encode_batch_fast(list(texts)):
        for start in range(0, len(one.ids) - length + 2, length - 1):
            found.append([0, *one.ids[start:start + length - 1]])
    return torch.tensor(found, dtype=torch.int16)


def shuffled(rows: Int[Tensor, "sequences length"]) -> Int[Tensor, "sequences length"]:
    """The same rows in a fixed random order."""
    return rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))]


def save_held_out(file: Path, vocabulary: Tokenizer, length: int = 301) -> None:
    """Write the held-out sequences of all packages whose text is in the public domain."""
    texts = documents(True, [name for name, source in SOURCES.items() if source.free])
    save_file({"tokens": shuffled(pieces(texts, vocabulary, length))}, file)


def held_out(file: Path = HERE / "held_out.safetensors") -> Int[Tensor, "sequences length"]:
    """Sequences of 301 tokens from text that was held out, in a fixed random order.

    They ship with the example: presidents' addresses, chapters of Moby Dick and of the King
    James Bible, all in the public domain.
    """
    return load_file(file)["tokens"].long()
