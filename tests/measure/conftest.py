"""A tiny word tokenizer: nothing is downloaded."""

import pytest
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

WORDS = [" Mary", " John", " Alex", "andria", " ran", " to", " the", "When", " shop", " and"]


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    vocab = {word: i for i, word in enumerate(["[UNK]", *WORDS])}
    words = Tokenizer(models.WordLevel(vocab, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Split(Regex(r" ?[A-Z]?[a-z]+?(?=andria|\W|$)"), "isolated")
    return PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]")
