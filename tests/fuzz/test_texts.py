"""Texts that people write are read, or refused by an error of this package."""

from __future__ import annotations

import warnings

import pytest

import rewrite as rw
from rewrite.errors import PathError, RewriteError
from tests.fuzz.texts import READERS, texts


@pytest.mark.parametrize("name", READERS)
def test_texts(name: str) -> None:
    reader, read = READERS[name], 0
    for text in reader.good:
        reader.read(text)
    for text in texts(name, 1 + 1000 // reader.share):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                reader.read(text)
        except RewriteError:
            continue
        read += 1
    assert read or not reader.good, "no text was left as it is"


@pytest.mark.parametrize("text", [
    "tokens@[2:-]", "tokens@[-]", "m0[+:]", "a[0-" + "9" * 5_000 + "]", "tokens@[" + "9" * 5_000,
    "(" * 3_000 + "m0" + ")" * 3_000, "~" * 3_000 + "m0", "m0" + "?*" * 3_000,
    "m0" + "[-1]" * 3_000, "(" * 200 + "m0 -> m1" + ")*" * 200])
def test_patterns(text: str) -> None:
    with pytest.raises(PathError, match="cannot read the pattern"):
        rw.paths(text)
