"""Positions and windows in expansions: by-hand cases, costs, errors, data sets."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import rewrite as rw
from rewrite.errors import DataError, HypothesisError, InputError
from tests.zoo import error, logits, tokens, traced

CLEAN, CORRUPT = tokens(3, 6, 1), tokens(3, 6, 2)
RUNS = {"clean": {"input_ids": CLEAN}, "corrupt": {"input_ids": CORRUPT}}


def expanded(text: str, family: str = "gpt2") -> rw.Expansion:
    """One hypothesis about a tiny model."""
    return rw.expand(rw.Hypothesis(traced(family).parts, {"clean": text}))


def test_tokens_at_positions_are_prompts_with_some_words_swapped() -> None:
    where = [2, 4, -1]
    mixed = CORRUPT.clone()
    mixed[range(3), where] = CLEAN[range(3), where]
    at = traced("gpt2")
    exp = expanded("tokens@S")
    assert error(exp(**RUNS, positions={"S": where}).logits, logits(at.model, mixed)) == 0
    assert exp.copies["embed"] == 1  # no position has a copy
    mixed = CORRUPT.clone()
    mixed[:, -2:] = CLEAN[:, -2:]
    assert error(expanded("tokens@[-2:]")(**RUNS).logits, logits(at.model, mixed)) == 0


def test_a_head_at_a_position_is_a_hook_on_its_rows() -> None:
    at = traced("gpt2", torch.float32)
    exp = expanded("a0.h2@S")
    where = torch.zeros(3, 6, dtype=torch.bool)
    where[0, 3] = where[1, 5] = where[2, 0] = True
    kept: list[Tensor] = []
    heads = at.model.transformer.h[0].attn.c_proj  # what it reads is the heads side by side

    def patch(module: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
        value = args[0].clone()
        value[..., 16:24] = torch.where(where[..., None], kept[0], value[..., 16:24])
        return (value,)

    hook = heads.register_forward_pre_hook(lambda _, args: kept.append(args[0][..., 16:24]))
    _ = logits(at.model, CLEAN)
    hook.remove()
    hook = heads.register_forward_pre_hook(patch)
    wanted = logits(at.model, CORRUPT)
    hook.remove()
    assert error(exp(**RUNS, positions={"S": where}).logits, wanted) < 1e-5


def test_copies_do_not_grow_with_the_text() -> None:
    exp = expanded("tokens -> ...[-3:0] -> a1.h2.k -> logits", "llama")
    before = exp.copies
    for length in (8, 40):
        runs = {run: {"input_ids": tokens(1, length, seed)} for seed, run in enumerate(RUNS)}
        assert exp(**runs).logits.shape[1] == length
    assert exp.copies == before
    assert before["a0.h1"] == 2
    wider = expanded("tokens -> ...[-9:0] -> a1.h2.k -> logits", "llama")
    assert wider.copies == before  # one hop is left: inside or outside


def test_gradients_flow_through_mixtures() -> None:
    exp = expanded("a0.h1.v[-1] -> m0@S")
    weight = traced("gpt2").model.transformer.h[0].attn.c_attn.weight
    out = exp.run(**RUNS, positions={"S": [1, 2, 3]}).logits.sum()
    (found,) = torch.autograd.grad(out, [weight])
    (same,) = torch.autograd.grad(exp(**RUNS, positions={"S": [1, 2, 3]}).logits.sum(), [weight])
    assert found.abs().sum() > 0
    assert error(found, same) < 1e-4


@pytest.mark.parametrize(("positions", "says"), [
    ({}, "asks for positions @END"), ({"ENDS": [1, 2, 3]}, "did you mean ENDS"),
    ({"END": [1, 2]}, r"integers \[3\]"), ({"END": [1, 2, 6]}, "has position 6, the inputs have 6"),
    ({"END": torch.ones(3, 5, dtype=torch.bool)}, r"mask @END is \[3, 5\]"),
    ({"END": [0.5, 1.0, 1.5]}, "found torch.float32"),
])
def test_positions_that_do_not_fit(positions: dict[str, object], says: str) -> None:
    with pytest.raises(InputError, match=says):
        expanded("a1.h0@END")(**RUNS, positions=positions)


def test_what_has_no_positions() -> None:
    class Pooled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.out = nn.Embedding(11, 6), nn.Linear(6, 3)

        def forward(self, input_ids: Tensor) -> Tensor:
            return self.out(self.embed(input_ids).mean(1))

    parts = rw.trace(Pooled().eval(), inputs={"input_ids": CLEAN % 11}).components()
    last = parts.names[-1]
    with pytest.raises(HypothesisError, match="has no positions that are known: its shape is"):
        _ = rw.expand(rw.Hypothesis(parts, {"clean": f"{last}@END"})).module
    exp = rw.expand(rw.Hypothesis(parts, {"clean": "tokens@[0]"}))
    assert exp(clean={"input_ids": CLEAN % 11}, corrupt={"input_ids": CORRUPT % 11}) is not None


def test_positions_is_no_name_of_a_run() -> None:
    with pytest.raises(HypothesisError, match="no run can be called 'positions'"):
        rw.Hypothesis(traced("gpt2").parts, {"positions": "a0.h0"})


def test_data_sets_carry_positions() -> None:
    parts = traced("gpt2").parts
    pairs = rw.Pairs.from_tensors(RUNS, positions={"S": [1, 2, -1], "T": [[0, 1], [2, 3], [4, 5]]})
    hypotheses = [rw.Hypothesis(parts, {"clean": text}) for text in ("tokens@S", "a1.h1.k@T")]
    results = rw.evaluate(hypotheses, pairs, "kl_divergence", batch_size=2)
    metric = rw.kl_divergence()
    for hypothesis, result in zip(hypotheses, results, strict=True):
        for i in range(3):
            one = pairs.subset([i])
            (batch,) = one.batches()
            out = rw.expand(hypothesis)(**batch.inputs, positions=batch.positions)
            reference = traced("gpt2").graph(**batch.inputs["clean"])
            wanted = metric.effect(reference, out, batch)
            assert np.isclose(result.effects[i], wanted.item(), rtol=1e-3, atol=1e-5)
    again = rw.Pairs.from_dict(json.loads(json.dumps(pairs.to_dict())))
    assert [v.tolist() for v in again.positions["T"]] == [[0, 1], [2, 3], [4, 5]]
    with pytest.raises(InputError, match="@U"):
        rw.evaluate(rw.Hypothesis(parts, {"clean": "tokens@U"}), pairs, "kl_divergence")
    with pytest.raises(DataError, match="2 values for 3 examples"):
        rw.Pairs.from_tensors(RUNS, positions={"S": [1, 2]})
    with pytest.raises(DataError, match="named like a Python variable"):
        rw.Pairs.from_tensors(RUNS, positions={"S 1": [1, 2, 3]})


def test_no_hops_between_two_sequences() -> None:
    import transformers as tf

    torch.manual_seed(0)
    model = tf.T5ForConditionalGeneration(tf.T5Config(
        vocab_size=97, d_model=32, d_kv=8, d_ff=48, num_layers=1, num_decoder_layers=1,
        num_heads=4, decoder_start_token_id=0)).eval()
    parts = rw.trace(model).components()
    cross = next(name for name in parts.heads if ".x0." in name)
    exp = rw.expand(rw.Hypothesis(parts, {"clean": f"{cross}.k[-1]"}))
    with pytest.raises(HypothesisError, match="has no hops: its queries and keys count"):
        _ = exp.module
    own = next(name for name in parts.heads if "enc.a0." in name)
    assert rw.expand(rw.Hypothesis(parts, {"clean": f"{own}.k[-1]"})).module is not None
