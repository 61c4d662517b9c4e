"""Metrics against values worked out by hand, and every way in which they refuse."""

from dataclasses import FrozenInstanceError
from math import log
from types import SimpleNamespace

import pytest
import torch
from transformers.modeling_outputs import CausalLMOutput

from rewrite.errors import DataError, UnknownName
from rewrite.measure import (
    METRICS,
    Batch,
    custom,
    kl_divergence,
    logit_diff,
    loss_diff,
    metric,
)

LABELS = {"correct": torch.tensor([0, 2]), "wrong": torch.tensor([1, 1])}
REFERENCE = torch.tensor([[[9.0, 9, 9], [3, 1, 0]], [[9, 9, 9], [0, 1, 5]]])
HYPOTHESIS = torch.tensor([[[7.0, 8, 9], [1, 2, 0]], [[9, 8, 7], [0, 1, 7]]])


def batch(labels=LABELS, ids=((5, 1), (6, 2)), **inputs) -> Batch:
    values = {"input_ids": torch.tensor(ids), **inputs}
    return Batch({"clean": values, "corrupt": values}, torch.tensor([10, 11]), labels, "clean")


def test_logit_diff_by_hand():
    # clean: 3-1=2 and 5-1=4; hypothesis: 1-2=-1 and 7-1=6
    assert logit_diff().effect(REFERENCE, HYPOTHESIS, batch()).tolist() == [3, 2]
    signed = logit_diff(absolute=False)
    assert signed.effect(REFERENCE, HYPOTHESIS, batch()).tolist() == [-3, 2]
    assert signed.score(REFERENCE, batch()).tolist() == [2, 4]


def test_loss_diff_by_hand():
    reference, hypothesis = torch.zeros(2, 1, 4), torch.tensor([[[log(3), 0, 0, 0]]] * 2)
    # p = 1/4 before; 3/6 for token 0 and 1/6 for token 2 after
    expected = torch.tensor([log(2), log(1.5)])
    assert torch.allclose(loss_diff().effect(reference, hypothesis, batch()), expected)
    assert torch.allclose(loss_diff().score(reference, batch()), torch.tensor(log(4)).expand(2))
    signed = loss_diff(absolute=False).effect(reference, hypothesis, batch())
    assert torch.allclose(signed, torch.tensor([-log(2), log(1.5)]))


def test_loss_of_every_token_is_absolute_before_the_mean():
    ids = ((0, 1, 0), (0, 1, 1))
    reference = torch.zeros(2, 3, 2)
    hypothesis = torch.tensor([[[log(3), 0.0]] * 3] * 2)  # p = 3/4, 1/4
    up, down = log(2), log(1.5)  # change of loss: token 1 up, token 0 down
    data = batch({}, ids)
    effects = loss_diff(position="all").effect(reference, hypothesis, data)
    assert torch.allclose(effects, torch.tensor([(up + down) / 2, up]))
    signed = loss_diff(position="all", absolute=False).effect(reference, hypothesis, data)
    assert torch.allclose(signed, torch.tensor([(up - down) / 2, up]))
    mask = {"repeats": torch.tensor([[0, 0, 1], [1, 1, 0]]).bool()}  # the first is never predicted
    masked = loss_diff(position="all", mask="repeats")
    effects = masked.effect(reference, hypothesis, batch(mask, ids))
    assert torch.allclose(effects, torch.tensor([down, up]))


def test_padding_is_left_out():
    seen = torch.tensor([[1, 1, 1], [0, 1, 1]])
    hypothesis = torch.zeros(2, 3, 2)
    hypothesis[1, 0] = torch.tensor([float("nan"), 50.0])
    data = batch({}, ((0, 1, 0), (0, 1, 1)), attention_mask=seen)
    effects = kl_divergence(position="all").effect(torch.zeros(2, 3, 2), hypothesis, data)
    assert effects.tolist() == [0, 0]


def test_kl_by_hand():
    half, skew = torch.zeros(2, 2, 2), torch.tensor([[[0.0, 0.0], [log(3), 0]]] * 2)
    expected = 0.5 * log(0.5 / 0.75) + 0.5 * log(0.5 / 0.25)
    effects = kl_divergence().effect(half, skew, batch({}))
    assert torch.allclose(effects, torch.tensor(expected).expand(2))
    mean = kl_divergence(position=None).effect(half, skew, batch({}))
    assert torch.allclose(mean, effects / 2)
    assert kl_divergence().score(half, batch({})) is None
    assert kl_divergence().effect(skew, skew, batch({})).tolist() == [0, 0]


def test_kl_counts_impossible_tokens_as_nothing():
    never = torch.tensor([[[0.0, 0.0, float("-inf")]]] * 2)
    assert kl_divergence().effect(never, never, batch({})).tolist() == [0, 0]
    with pytest.raises(DataError, match="not finite"):
        kl_divergence().effect(torch.zeros(2, 1, 3), never, batch({}))


@pytest.mark.parametrize(
    "wrap",
    [
        lambda x: CausalLMOutput(logits=x),
        lambda x: {"logits": x},
        lambda x: (torch.tensor(0.5), x),
        lambda x: SimpleNamespace(logits=x),
        lambda x: x[:, -1:],
        lambda x: x[:, -1],
        lambda x: x.bfloat16(),
    ],
)
def test_logits_are_found(wrap):
    effects = logit_diff().effect(wrap(REFERENCE), wrap(HYPOTHESIS), batch())
    assert effects.dtype == torch.float32
    assert effects.tolist() == [3, 2]


def test_outputs_may_hold_different_rows_when_only_the_last_is_read():
    assert logit_diff().effect(REFERENCE, HYPOTHESIS[:, -1:], batch()).tolist() == [3, 2]


def test_the_last_token_is_the_last_that_is_no_padding():
    data = batch({"correct": torch.tensor([0, 0]), "wrong": torch.tensor([1, 2])},
                 attention_mask=MASK)
    assert logit_diff().score(HYPOTHESIS, data).tolist() == [-1, 2]
    assert logit_diff(position="last") == logit_diff(position=-1)


def test_positions_per_example():
    where = {"end": torch.tensor([1, 0])}
    score = logit_diff(position="end").score(REFERENCE, batch({**LABELS, **where}))
    assert score.tolist() == [2, 0]
    assert logit_diff(position=-2).score(HYPOTHESIS, batch()).tolist() == [-1, -1]


def test_which_rows_are_read():
    assert logit_diff().positions == "last"
    assert logit_diff(position="end").positions == "all"
    assert kl_divergence(position="all").positions == "all"
    assert custom(lambda r, h, b: r, "mine").positions == "all"
    assert custom(lambda r, h, b: r, "mine", position=-1).positions == "last"


def test_gradients_flow():
    hypothesis = HYPOTHESIS.clone().requires_grad_()
    logit_diff(absolute=False).effect(REFERENCE, hypothesis, batch()).sum().backward()
    assert hypothesis.grad[0, 1].tolist() == [1, -1, 0]


def test_custom():
    mine = custom(
        lambda r, h, b: (r - h).abs().amax((1, 2)), "worst", scores=lambda x, b: x.amax((1, 2))
    )
    assert mine.effect(REFERENCE, HYPOTHESIS, batch()).tolist() == [2, 2]
    assert mine.score(REFERENCE, batch()).tolist() == [9, 9]
    assert str(mine) == "worst" and mine.to_dict() == {"name": "worst"}
    with pytest.raises(DataError, match="already names a metric"):
        custom(lambda r, h, b: r, "logit_diff")
    with pytest.raises(DataError, match=r"'sum' must give one number .*\[2\]; found \[\]"):
        custom(lambda r, h, b: r.sum(), "sum").effect(REFERENCE, HYPOTHESIS, batch())


@pytest.mark.parametrize("name", METRICS)
def test_metrics_are_values_that_files_can_name(name):
    one = metric(name, position=3)
    assert metric(**one.to_dict()) == one != metric(name)
    assert hash(one) == hash(metric(name, position=3))
    assert str(one) == f"{name}(position=3)" and str(metric(name)) == name
    with pytest.raises(FrozenInstanceError):
        one.position = 4


def test_unknown_names_offer_near_ones():
    with pytest.raises(UnknownName, match="no metric 'logit_dif'; did you mean logit_diff"):
        metric("logit_dif")
    with pytest.raises(UnknownName, match="no option 'absolut'; did you mean absolute"):
        metric("loss_diff", absolut=True)


MASK = torch.tensor([[1, 1], [1, 0]])


@pytest.mark.parametrize(
    "measure, data, message",
    [
        (
            logit_diff(),
            batch({"correct": LABELS["correct"]}),
            "label 'wrong'.*known names: correct",
        ),
        (loss_diff(), batch({}), "label 'correct'.*there are no names"),
        (logit_diff(wrong="correct"), batch(), r"same token in examples \[10, 11\]"),
        (logit_diff(correct="x"), batch({**LABELS, "x": torch.tensor([0, 3])}), r"side of 0\.\.2"),
        (logit_diff(correct="x"), batch({**LABELS, "x": torch.ones(2)}), "found float32 in exam"),
        (logit_diff(position=2), batch(), "position=2 reads a token that example 10 .* 2 of 2"),
        (logit_diff(position="end"), batch(), "label 'end'"),
        (logit_diff(position="end"), batch({**LABELS, "end": torch.tensor([1, 1])},
                                           attention_mask=MASK), r"is padding in examples \[11\]"),
        (logit_diff(), batch(attention_mask=0 * MASK), "example 10 does not have: it has 0 of 2"),
        (loss_diff(position="all"), batch(ids=((1,), (2,))), r"input_ids \[2, 1\]"),
        (loss_diff(position="all", mask="correct"), batch(), r"shape \[2, 2\], found \[2\]"),
        (loss_diff(position="all"), batch(attention_mask=MASK), r"no token .* examples \[11\]"),
    ],
)
def test_what_cannot_be_measured_is_refused(measure, data, message):
    with pytest.raises(DataError, match=message):
        measure.effect(REFERENCE, HYPOTHESIS, data)


@pytest.mark.parametrize(
    "measure, output, message",
    [
        (logit_diff(), SimpleNamespace(last_hidden_state=REFERENCE), "no logits in .*SimpleName"),
        (logit_diff(), REFERENCE[:1], r"of 2 examples are needed, found shape \[1, 2, 3\]"),
        (logit_diff(position=0), REFERENCE[:, -1:], "needs every row, but .* has one"),
        (kl_divergence(position="all"), REFERENCE[:, -1:], r"same rows, found \[2, 1, 3\]"),
        (loss_diff(), REFERENCE * float("nan"), r"not finite in examples \[10, 11\]: \[nan, nan\]"),
    ],
)
def test_outputs_that_cannot_be_read_are_refused(measure, output, message):
    with pytest.raises(DataError, match=message):
        measure.effect(output, HYPOTHESIS, batch())


def test_options_that_contradict_are_refused():
    with pytest.raises(DataError, match="write position='all' with it"):
        loss_diff(mask="repeats")
    with pytest.raises(DataError, match="at one position"):
        logit_diff(position="all")


def test_loss_needs_input_ids_and_a_next_token():
    no_ids = Batch({"clean": {}}, torch.tensor([0]), {}, "clean")
    with pytest.raises(DataError, match="found no input_ids"):
        loss_diff(position="all").score(torch.zeros(1, 2, 3), no_ids)
    with pytest.raises(DataError, match="one token has no next token"):
        loss_diff(position="all").score(torch.zeros(2, 1, 3), batch(ids=((1,), (2,))))
