"""Sweeps of models in bfloat16, and of models that accelerate has placed."""

from __future__ import annotations

from typing import Any

import accelerate
import numpy as np
import pandas as pd
import torch
from torch import Tensor

import rewrite as rw
from tests.zoo import logits, tiny, tokens, traced

RUNS = {run: {"input_ids": tokens(4, 6, seed)} for seed, run in enumerate(("clean", "corrupt"), 1)}
RIGHT, WRONG = torch.tensor([7, 8, 9, 10]), torch.tensor([17, 18, 19, 20])
CALL: dict[str, Any] = {"pairs": rw.Pairs.from_tensors(RUNS, {"correct": RIGHT, "wrong": WRONG}),
                        "metric": rw.logit_diff(absolute=False)}


def hooked(model: Any, layer: int, head: int) -> Tensor:
    """Logits at the last position where a head's values are those of the other run."""
    projection, size = model.transformer.h[layer].attn.c_proj, 8
    columns = slice(head * size, head * size + size)
    kept: list[Tensor] = []
    hook = projection.register_forward_pre_hook(lambda _, args: kept.append(args[0].clone()))
    logits(model, **RUNS["corrupt"])
    hook.remove()

    def patch(_: Any, args: tuple[Tensor]) -> tuple[Tensor]:
        value = args[0].clone()
        value[..., columns] = kept[0][..., columns]
        return (value,)

    hook = projection.register_forward_pre_hook(patch)
    found = logits(model, **RUNS["clean"])[:, -1]
    hook.remove()
    return found


def score(found: Tensor) -> np.ndarray:
    rows = torch.arange(len(found))
    return (found[rows, RIGHT] - found[rows, WRONG]).double().numpy()


def test_bfloat16_agrees_with_hooks() -> None:
    here = traced("gpt2", torch.bfloat16)
    swept = rw.sweep(here.parts, "a*.h*", None, **CALL).table.set_index("sender")["effect"]
    clean = logits(here.model, **RUNS["clean"])[:, -1]
    assert clean.dtype == torch.bfloat16
    close = 2**-8 * float(clean.abs().max())  # one rounding of the largest logit
    wanted = {f"a{layer}.h{head}": (score(hooked(here.model, layer, head)) - score(clean)).mean()
              for layer in range(2) for head in range(4)}
    assert list(swept.index) == list(wanted)
    np.testing.assert_allclose(swept, list(wanted.values()), atol=4 * close)
    assert np.abs(list(wanted.values())).max() > 20 * close, "and that says something"


def test_models_that_are_placed_by_a_device_map() -> None:
    """With weights in place, as on one device; `rw.trace` refuses weights that are offloaded."""
    placed = accelerate.dispatch_model(tiny("gpt2"), device_map={"": "cpu"}, force_hooks=True)
    found = rw.sweep(rw.trace(placed).components(), "a0.h*", "m1", **CALL)
    wanted = rw.sweep(traced("gpt2").parts, "a0.h*", "m1", **CALL)
    pd.testing.assert_frame_equal(found.table, wanted.table)
