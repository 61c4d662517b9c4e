"""Texts that bring the special tokens of their tokenizer get no second ones."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

import rewrite as rw
from rewrite.measure.text import SpecialTokens

WORDS = ["[UNK]", "[BOS]", "[EOS]", "[CLS]", "[SEP]", "[LANG]", "a", "Mary", "John", "ran", "to"]
IDS = {word: i for i, word in enumerate(WORDS)}
TEMPLATES = {
    "none": None, "bos": "[BOS] $A", "cls": "[CLS] $A [SEP]", "eos": "$A [EOS]",
    "both": "[BOS] [LANG] $A [EOS]", "same": "[EOS] $A [EOS]",
}


def made(template: str | None) -> PreTrainedTokenizerFast:
    words = Tokenizer(models.WordLevel(IDS, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.add_special_tokens([word for word in WORDS if word.startswith("[")])
    if template:
        words.post_processor = processors.TemplateProcessing(
            single=template, special_tokens=[(w, IDS[w]) for w in WORDS if w.startswith("[")])
    return PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]")


def ids_of(template: str | None, text: str, special: bool | None = None) -> tuple[list[str], str]:
    pairs = rw.Pairs.from_text(made(template), {"clean": [text], "corrupt": [text]},
                               add_special_tokens=special)
    ids = pairs.runs["clean"][0]["input_ids"].tolist()
    return [WORDS[i] for i in ids], " ".join(pairs.notes)


@pytest.mark.parametrize("kind", TEMPLATES)
def test_what_a_tokenizer_adds_is_found(kind: str) -> None:
    before, _, behind = (TEMPLATES[kind] or "$A").partition("$A")
    found = SpecialTokens.of(made(TEMPLATES[kind]))
    assert [WORDS[i] for i in found.before] == before.split()
    assert [WORDS[i] for i in found.behind] == behind.split()


@pytest.mark.parametrize("kind", TEMPLATES)
@pytest.mark.parametrize("begins", [False, True])
@pytest.mark.parametrize("ends", [False, True])
def test_special_tokens_stand_once(kind: str, begins: bool, ends: bool) -> None:
    before, _, behind = (each.split() for each in (TEMPLATES[kind] or "$A").partition("$A"))
    text = [*(before if begins else []), "Mary", "ran", *(behind if ends else [])]
    found, note = ids_of(TEMPLATES[kind], " ".join(text))
    assert found == [*before, "Mary", "ran", *behind]
    assert ("begin with" in note) == bool(begins and before)
    assert ("end with" in note) == bool(ends and behind)


def test_a_text_that_begins_with_a_part_of_them_keeps_its_own() -> None:
    found, note = ids_of(TEMPLATES["both"], "[BOS] Mary ran")
    assert found == ["[BOS]", "Mary", "ran", "[EOS]"]
    assert note == ("2 of 2 texts begin with [BOS]: the tokenizer's own [BOS] [LANG] was not put "
                    "in front of them")


def test_options_mean_what_they_say() -> None:
    text = "[CLS] Mary [SEP] ran"
    assert ids_of(TEMPLATES["cls"], text, False) == (text.split(), "")
    assert ids_of(TEMPLATES["cls"], text, True) == (["[CLS]", *text.split(), "[SEP]"], "")
    assert ids_of(TEMPLATES["cls"], "Mary [SEP] ran")[0] == ["[CLS]", *["Mary", "[SEP]", "ran"],
                                                             "[SEP]"]
    assert ids_of(None, "[BOS] Mary") == (["[BOS]", "Mary"], "")


def test_a_chat_template_that_writes_the_special_token() -> None:
    tokenizer = made(TEMPLATES["bos"])
    tokenizer.chat_template = "[BOS]{% for m in messages %} {{ m['content'] }}{% endfor %}"
    text = tokenizer.apply_chat_template([{"role": "user", "content": "Mary ran"}], tokenize=False)
    pairs = rw.Pairs.from_text(tokenizer, {"clean": [text], "corrupt": ["John ran"]})
    first, second = (pairs.runs[run][0]["input_ids"].tolist() for run in ("clean", "corrupt"))
    assert [WORDS[i] for i in first] == ["[BOS]", "Mary", "ran"]
    assert [WORDS[i] for i in second] == ["[BOS]", "John", "ran"]
    assert pairs.notes == ("1 of 2 texts begin with [BOS]: the tokenizer's own [BOS] was not put "
                           "in front of them",)
    again = rw.Pairs.from_dict(pairs.to_dict())
    assert again.notes == pairs.notes == pairs.subset([0]).notes


def test_several_answers() -> None:
    pairs = rw.Pairs.from_text(
        made(None), {"clean": ["a ran", "a to"], "corrupt": ["a to", "a ran"]},
        answers={"correct": [["Mary", "John"], ["to"]], "wrong": ["to", "ran"]})
    assert [label.tolist() for label in pairs.labels["correct"]] == [[7, 8], [10]]
    assert pairs.answers["correct"] == ("Mary | John", "to")
