"""Data sets: what they yield, what they refuse, and that a file gives them back."""

import json
import re

import numpy as np
import pytest
import torch

from rewrite.errors import DataError, FileError
from rewrite.measure import Pairs
from rewrite.measure.align import aligned

TEXTS = {
    "clean": ["When Mary ran", "When Mary ran to the shop", "When John and"],
    "corrupt": ["When John ran", "When Alex ran to the shop", "When Mary and"],
}
ANSWERS = {"correct": [" Mary", " Mary", " John"], "wrong": [" John", " Alex", " Mary"]}


@pytest.fixture
def pairs(tokenizer) -> Pairs:
    return Pairs.from_text(tokenizer, TEXTS, ANSWERS)


def tensors(n=4, length=3, **changed):
    runs = {run: {"input_ids": torch.arange(n * length).view(n, length)} for run in ("r", "c")}
    return {**runs, **changed}


def test_text_becomes_ids_and_labels(pairs, tokenizer):
    assert len(pairs) == 3
    assert pairs.run_names == ("clean", "corrupt")
    ids = pairs.runs["clean"][1]["input_ids"].tolist()
    assert "".join(tokenizer.convert_ids_to_tokens(ids)) == "When Mary ran to the shop"
    assert tokenizer.convert_ids_to_tokens(int(pairs.labels["wrong"][1])) == " Alex"
    assert repr(pairs) == (
        "Pairs(3 examples, runs: clean, corrupt, reference: clean, labels: correct, wrong)"
    )


def test_batches_hold_equal_lengths_and_every_example_once(pairs):
    batches = list(pairs.batches(2))
    assert [batch.index.tolist() for batch in batches] == [[0, 2], [1]]
    assert [len(batch) for batch in batches] == [2, 1]
    first = batches[0]
    assert first.inputs["clean"]["input_ids"].shape == (2, 3)
    assert first.inputs["corrupt"]["input_ids"].shape == (2, 3)
    assert first.labels["correct"].tolist() == [1, 2]
    assert first.tokens is first.inputs["clean"]["input_ids"]
    assert first.mask is None
    assert first.to("meta").inputs["clean"]["input_ids"].device.type == "meta"


def test_batch_size_cuts(pairs):
    assert [len(b) for b in Pairs.from_tensors(tensors(5), reference="r").batches(2)] == [2, 2, 1]
    with pytest.raises(DataError, match="at least 1, found 0"):
        next(pairs.batches(0))


@pytest.mark.parametrize("special, length", [(None, 2), (True, 2), (False, 1)])
def test_special_tokens_follow_the_tokenizer_unless_told(special, length):
    class Starts:
        unk_token_id = None

        def __call__(self, text, add_special_tokens=True):
            return {"input_ids": [9] * add_special_tokens + [1] * len(text.split())}

        def convert_ids_to_tokens(self, ids):
            return [str(i) for i in ids]

    texts = {"clean": ["a"], "corrupt": ["b"]}
    pairs = Pairs.from_text(Starts(), texts, {"correct": ["c"]}, add_special_tokens=special)
    assert len(pairs.runs["clean"][0]["input_ids"]) == length
    assert int(pairs.labels["correct"][0]) == 1  # answers never get special tokens


def test_unequal_lengths_show_where_they_part(tokenizer):
    texts = {
        "clean": ["When Mary ran", "When Mary ran to the shop", " Mary ran"],
        "corrupt": ["When John ran", "When Alexandria ran to the shop", " Alexandria ran"],
    }
    with pytest.raises(DataError) as error:
        Pairs.from_text(tokenizer, texts)
    assert str(error.value) == (
        "example 1: runs 'clean' and 'corrupt' differ in length, 6 and 7 tokens; "
        "so do 2 (2 of 3)\n\n"
        "  clean: 'When Mary ran to the shop'\n"
        "  corrupt: 'When Alexandria ran to the shop'\n\n"
        "clean   | When |  Mary |        |  ran |  to |  the |  shop\n"
        "corrupt | When |  Alex | andria |  ran |  to |  the |  shop\n"
        "                 ^^^^^   ^^^^^^\n\n"
        "Activations of one run are used at the same position of the other: choose words with "
        "equally many tokens at the marked place, or leave the example out."
    )


def test_long_agreement_is_folded_and_newlines_are_shown():
    shown = aligned(("a", [*"0123456789", "\n"]), ("b", [*"0123456789", "x", "y"]))
    assert shown.splitlines() == [
        r"a | 0 | 1 | 2 | ... | 7 | 8 | 9 | \n |",
        r"b | 0 | 1 | 2 | ... | 7 | 8 | 9 | x  | y",
        "                                  ^^   ^",
    ]


@pytest.mark.parametrize(
    "answer, message",
    [
        (" Alexandria", r"example 0: the answer 'correct', ' Alexandria', is 2 tokens.*andria"),
        (" Zoe", r"' Zoe', is unknown to the tokenizer: \['\[UNK\]'\]; choose an answer"),
        ("Mary", "'Mary', is unknown .*' Mary' is one token"),
    ],
)
def test_an_answer_is_one_known_token(tokenizer, answer, message):
    with pytest.raises(DataError, match=message):
        Pairs.from_text(
            tokenizer, {"clean": [" Mary"], "corrupt": [" John"]}, {"correct": [answer]}
        )


@pytest.mark.parametrize(
    "texts, message",
    [
        ({"clean": [], "corrupt": []}, "no examples"),
        ({"clean": [" Mary", " John"], "corrupt": [" Mary"]}, "'clean': 2, 'corrupt': 1"),
        ({"clean": [" Mary"]}, "needs a second one"),
        ({"cleen": [" Mary"], "corrupt": [" John"]}, "'clean' is not .*did you mean cleen"),
        ({"clean": [""], "corrupt": [""]}, "example 0: the text of run 'clean' has no tokens"),
        ({"clean": " Mary", "corrupt": [" John"] * 5}, "'clean' is one text"),
    ],
)
def test_texts_that_cannot_be_compared(tokenizer, texts, message):
    with pytest.raises(DataError, match=message):
        Pairs.from_text(tokenizer, texts)


def test_answers_are_one_per_example(tokenizer):
    with pytest.raises(DataError, match="'correct' has 1 values for 3 examples"):
        Pairs.from_text(tokenizer, TEXTS, {"correct": [" Mary"]})


@pytest.mark.parametrize(
    "changed, message",
    [
        (
            {"input_ids": torch.zeros(4, 5, dtype=torch.long)},
            "input 'input_ids' of run 'c' is int64[5], of run 'r' int64[3]",
        ),
        ({"input_ids": torch.zeros(4, 3)}, "of run 'c' is float32[3], of run 'r' int64[3]"),
        ({"ids": torch.zeros(4, 3)}, "run 'c' has inputs ['ids'], run 'r' has ['input_ids']"),
        ({"input_ids": torch.zeros(2, 3, dtype=torch.long)}, "{'r': 4, 'c': 2}"),
        ({"a": torch.zeros(4), "b": torch.zeros(3)}, "run 'c' need one equal first axis"),
    ],
)
def test_tensors_that_cannot_be_compared(changed, message):
    with pytest.raises(DataError, match=re.escape(message)):
        Pairs.from_tensors(tensors(c=changed), reference="r")


@pytest.mark.parametrize(
    "where, expected",
    [
        ([True, False, True], [0, 2]),
        (np.array([False, True, False]), [1]),
        (torch.tensor([2, 0]), [2, 0]),
        (slice(1, None), [1, 2]),
        (-1, [2]),
    ],
)
def test_subset_selects_in_order(pairs, where, expected):
    chosen = pairs.subset(where)
    assert list(chosen.texts["clean"]) == [TEXTS["clean"][i] for i in expected]
    assert list(chosen.answers["wrong"]) == [ANSWERS["wrong"][i] for i in expected]
    assert [int(x) for x in chosen.labels["correct"]] == [
        int(pairs.labels["correct"][i]) for i in expected
    ]


@pytest.mark.parametrize(
    "where, message",
    [
        ([], "selects none of 3"),
        ([False] * 3, "selects none of 3"),
        ([True], "a mask over 3 examples"),
        ([3], "no example 3: positions go from 0 to 2"),
        ([0.5], "found float64"),
    ],
)
def test_subset_refuses(pairs, where, message):
    with pytest.raises(DataError, match=message):
        pairs.subset(where)


def test_a_file_gives_text_pairs_back(pairs):
    data = json.loads(json.dumps(pairs.to_dict(), allow_nan=False))
    assert data["examples"][0] == {
        "texts": {"clean": "When Mary ran", "corrupt": "When John ran"},
        "answers": {"correct": " Mary", "wrong": " John"},
        "labels": {"correct": 1, "wrong": 2},
        "inputs": {"clean": {"input_ids": [8, 1, 5]}, "corrupt": {"input_ids": [8, 2, 5]}},
    }
    assert Pairs.from_dict(data).to_dict() == pairs.to_dict()


def test_a_file_gives_tensors_back_bit_for_bit():
    x = {run: {"x": torch.randn(3, 2, 2), "on": torch.ones(3).bool()} for run in ("a", "b")}
    pairs = Pairs.from_tensors(x, labels={"mask": torch.eye(3).bool()}, reference="b")
    back = Pairs.from_dict(json.loads(json.dumps(pairs.to_dict())))
    (one,), (two,) = pairs.batches(), back.batches()
    assert back.reference == "b"
    assert torch.equal(one.inputs["a"]["x"], two.inputs["a"]["x"])
    assert two.inputs["a"]["on"].dtype == torch.bool
    assert torch.equal(one.labels["mask"], two.labels["mask"])


def test_another_file_is_refused():
    with pytest.raises(FileError, match="expected kind 'pairs', found 'result'"):
        Pairs.from_dict({"kind": "result"})
