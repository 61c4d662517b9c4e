"""evaluate and sweep against the same numbers worked out by hand with hooks."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import rewrite as rw
from rewrite.errors import DataError, PathError, UnknownName
from tests.zoo import VOCAB, tiny, tokens, trace


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    return tiny("gpt2", torch.float64)


@pytest.fixture(scope="module")
def parts(model: torch.nn.Module) -> rw.Components:
    return trace(model).components()


@pytest.fixture(scope="module")
def pairs() -> rw.Pairs:
    runs = {"clean": {"input_ids": tokens(9, 6, 1)}, "corrupt": {"input_ids": tokens(9, 6, 2)}}
    draw = torch.Generator().manual_seed(3)
    correct = torch.randint(0, VOCAB, (9,), generator=draw)
    return rw.Pairs.from_tensors(runs, {"correct": correct, "wrong": (correct + 1) % VOCAB})


def batch_of(pairs: rw.Pairs):
    (batch,) = pairs.batches(100)
    return batch


def difference(model: torch.nn.Module, ids: torch.Tensor, pairs: rw.Pairs) -> np.ndarray:
    batch, rows = batch_of(pairs), torch.arange(len(pairs))
    with torch.no_grad():
        last = model(ids).logits[:, -1]
    value = last[rows, batch.labels["correct"]] - last[rows, batch.labels["wrong"]]
    return value.numpy()


def test_everything_explains_everything(parts: rw.Components, pairs: rw.Pairs) -> None:
    result = rw.evaluate(rw.Hypothesis(parts, {"clean": "..."}), pairs, "logit_diff")
    assert result.aue.value == 0 and result.explained.value == 1


def test_ate_is_the_difference_between_two_plain_forwards(
    model: torch.nn.Module, parts: rw.Components, pairs: rw.Pairs
) -> None:
    result = rw.evaluate(
        rw.Hypothesis(parts, {"clean": rw.PathSet.none()}), pairs, rw.logit_diff(), batch_size=4)
    inputs = batch_of(pairs).inputs
    clean = difference(model, inputs["clean"]["input_ids"], pairs)
    corrupt = difference(model, inputs["corrupt"]["input_ids"], pairs)
    np.testing.assert_allclose(result.null_effects, abs(corrupt - clean), rtol=1e-9)
    assert result.explained.value == pytest.approx(0)
    np.testing.assert_allclose(result.reference_scores, clean, rtol=1e-9)
    np.testing.assert_allclose(result.scores, corrupt, rtol=1e-9)


@pytest.mark.parametrize("metric", [rw.logit_diff(), rw.kl_divergence(), rw.loss_diff(),
                                    rw.kl_divergence(position="all")], ids=str)
@pytest.mark.parametrize("size", [1, 4, 100])
def test_batch_size_and_company_change_nothing(
    parts: rw.Components, pairs: rw.Pairs, metric: rw.Metric, size: int
) -> None:
    hypotheses = [rw.Hypothesis(parts, {"clean": text}) for text in ("a0.h1", "m0 -> logits")]
    alone = [rw.evaluate(h, pairs, metric) for h in hypotheses]
    together = rw.evaluate(hypotheses, pairs, metric, batch_size=size)
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_allclose(one.effects, other.effects, rtol=1e-8, atol=1e-12)


def test_a_custom_metric_and_another_null(parts: rw.Components, pairs: rw.Pairs) -> None:
    seen = []

    def delta(reference: object, found: object, batch: object) -> torch.Tensor:
        seen.append(found.logits.shape)
        return (reference.logits - found.logits).abs().mean((1, 2))

    null = rw.Hypothesis(parts, {"clean": "embed -> logits"}, name="embedding only")
    result = rw.evaluate(rw.Hypothesis(parts, {"clean": "m1"}), pairs,
                         rw.custom(delta, "distance"), null=null)
    assert result.null == "embedding only" and result.metric == "distance"
    assert seen[0] == (9, 6, VOCAB), "a custom metric reads all positions"
    assert (result.null_effects > 0).all()


def test_sweep_of_heads_equals_hooks(
    model: torch.nn.Module, parts: rw.Components, pairs: rw.Pairs
) -> None:
    """The direct path of each head to the logits, patched with the other run, by hooks."""
    grid = rw.sweep(parts, "a*.h*", pairs=pairs, metric=rw.logit_diff())
    inputs = batch_of(pairs).inputs
    batch, rows = batch_of(pairs), torch.arange(len(pairs))
    kept: dict[str, dict[str, torch.Tensor]] = {}
    for run, values in inputs.items():
        kept[run] = {}
        hooks = [block.attn.c_proj.register_forward_pre_hook(
            lambda m, args, key=f"z{i}", store=kept[run]: store.__setitem__(key, args[0]))
            for i, block in enumerate(model.transformer.h)]
        hooks.append(model.transformer.ln_f.register_forward_pre_hook(
            lambda m, args, store=kept[run]: store.__setitem__("final", args[0])))
        with torch.no_grad():
            model(values["input_ids"])
        for hook in hooks:
            hook.remove()
    expected = {}
    clean = difference(model, inputs["clean"]["input_ids"], pairs)
    for layer, block in enumerate(model.transformer.h):
        for head in range(4):
            span = slice(8 * head, 8 * head + 8)
            change = kept["corrupt"][f"z{layer}"][..., span] - kept["clean"][f"z{layer}"][..., span]
            final = kept["clean"]["final"] + change @ block.attn.c_proj.weight[span]
            with torch.no_grad():
                last = model.lm_head(model.transformer.ln_f(final))[:, -1]
            value = last[rows, batch.labels["correct"]] - last[rows, batch.labels["wrong"]]
            expected[f"a{layer}.h{head}"] = value.detach().numpy() - clean
    assert list(grid.table["sender"]) == list(expected)
    for row in grid.table.itertuples():
        np.testing.assert_allclose(row.effect, abs(expected[row.sender]).mean(), rtol=1e-8)
        np.testing.assert_allclose(row.change, expected[row.sender].mean(), rtol=1e-8)
    strongest = max(expected, key=lambda name: abs(expected[name]).mean())
    assert grid.top(1) == [strongest]
    assert grid.grid().shape == (2, 4)


def test_sweep_in_pieces_and_into_queries(parts: rw.Components, pairs: rw.Pairs) -> None:
    options = {"pairs": pairs, "metric": rw.logit_diff()}
    whole = rw.sweep(parts, "a0.h* | m0", "a1.h2.q", **options)
    pieces = rw.sweep(parts, "a0.h* | m0", "a1.h2.q", chunk=2, **options)
    assert list(whole.table["sender"]) == ["a0.h0", "a0.h1", "a0.h2", "a0.h3", "m0"]
    np.testing.assert_allclose(whole.table["effect"], pieces.table["effect"], rtol=1e-9)
    one = rw.evaluate(rw.Hypothesis(parts, {"corrupt": "a0.h1 -> a1.h2.q"}, "clean"), **options)
    assert whole.table["effect"][1] == pytest.approx(one.aue.value, rel=1e-9)


def test_heatmap_is_drawn(parts: rw.Components, pairs: rw.Pairs, tmp_path) -> None:
    grid = rw.sweep(parts, pairs=pairs, metric="logit_diff")
    assert grid.draw(tmp_path / "h.png").read_bytes().startswith(b"\x89PNG")


def test_progress_is_told(parts: rw.Components, pairs: rw.Pairs) -> None:
    told: list[tuple[int, int]] = []
    rw.sweep(parts, "a1.h*", pairs=pairs, metric="logit_diff", batch_size=4, chunk=2,
             progress=lambda done, total: told.append((done, total)))
    assert told[-1] == (36, 36) and told == sorted(told)


def test_bad_input(parts: rw.Components, pairs: rw.Pairs) -> None:
    with pytest.raises(DataError, match="no hypothesis"):
        rw.evaluate([], pairs, "logit_diff")
    third = rw.Hypothesis(parts, {"cleen": "a0.h1"})
    with pytest.raises(DataError, match=r"reads a run 'cleen'.*did you mean clean"):
        rw.evaluate(third, pairs, "logit_diff")
    with pytest.raises(UnknownName, match="logit_diff"):
        rw.evaluate(rw.Hypothesis(parts, {"clean": "m0"}), pairs, "logit_dif")
    with pytest.raises(UnknownName, match=r"no sender is called 'a9.h\*'"):
        rw.sweep(parts, "a9.h*", pairs=pairs, metric="logit_diff")
    with pytest.raises(PathError, match="no sender that matches"):
        rw.sweep(parts, "a1.h*", "a0.h1.q", pairs=pairs, metric="logit_diff")
