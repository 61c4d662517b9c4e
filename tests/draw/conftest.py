"""A tiny model of two layers, and a shape of twelve layers with twelve heads."""

from __future__ import annotations

import pytest
import torch
import transformers as tf

import rewrite as rw
from tests.zoo import tokens, traced


@pytest.fixture(scope="session")
def small() -> rw.Components:
    return traced("gpt2").parts


@pytest.fixture(scope="session")
def post_norm() -> rw.Components:
    return traced("bert").parts


@pytest.fixture(scope="session")
def sandwich() -> rw.Components:
    """Norms on both sides of attention and MLP."""
    return traced("gemma3").parts


@pytest.fixture(scope="session")
def deep() -> rw.Components:
    torch.manual_seed(0)
    config = tf.GPT2Config(vocab_size=97, n_embd=96, n_layer=12, n_head=12, n_positions=64,
                           bos_token_id=None, eos_token_id=None)
    model = tf.GPT2LMHeadModel(config).eval()
    return rw.trace(model, inputs={"input_ids": tokens(2, 7)}).components()
