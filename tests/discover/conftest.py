"""A model in which one path carries everything, and pairs that differ along it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import rewrite as rw
from tests.zoo import VOCAB, tiny, tokens

HEAD = 2


@pytest.fixture(scope="session")
def planted() -> rw.Components:
    """A GPT-2 whose only nonzero writer is head 2 of layer 1, which attends to all tokens alike."""
    model: Any = tiny("gpt2", torch.float64)
    width = 32 // 4
    own = slice(HEAD * width, (HEAD + 1) * width)
    with torch.no_grad():
        for layer, block in enumerate(model.transformer.h):
            weight = block.attn.c_proj.weight
            kept = weight[own].clone()
            for parameter in (*block.attn.c_proj.parameters(), *block.mlp.c_proj.parameters()):
                parameter.zero_()
            if layer == 1:
                weight[own] = kept
            block.attn.c_attn.weight[:, 32:64] = 0  # no keys: attention is uniform
    return rw.trace(model).components()


@pytest.fixture(scope="session")
def differ() -> rw.Pairs:
    """Prompts that differ in all tokens but the last."""
    runs = {run: {"input_ids": tokens(8, 6, seed)} for seed, run in
            enumerate(("clean", "corrupt"), start=1)}
    runs["corrupt"]["input_ids"][:, -1] = runs["clean"]["input_ids"][:, -1]
    correct = torch.arange(8) + 7
    return rw.Pairs.from_tensors(runs, {"correct": correct, "wrong": (correct + 1) % VOCAB})
