"""Real weights: a decoder and an encoder that come as packages."""

from __future__ import annotations

import pytest
import torch

import rewrite as rw
from tests.models.examine import distance
from tests.models.patching import Hand
from tests.pretrained import pretrained

HEADS = {"smollm2-135m": 30 * 9, "minilm-l6": 6 * 12}


@pytest.mark.slow
@pytest.mark.xdist_group("pretrained")
@pytest.mark.parametrize("name", HEADS)
def test_a_pretrained_model(name: str) -> None:
    found = pretrained(name)
    model, graph, parts = found.model, found.graph, found.parts
    assert graph.certificate is not None and graph.certificate.difference == 0
    assert len(parts.heads) == HEADS[name] == (
        model.config.num_hidden_layers * model.config.num_attention_heads)
    assert parts.notes == ()
    draw = torch.Generator().manual_seed(0)
    size = model.config.vocab_size
    clean, corrupt = ({"input_ids": torch.randint(5, size, (2, 9), generator=draw)} for _ in "ab")
    with torch.no_grad():
        wanted = list(graph.flat(**clean))
        found = list(parts.module(clean["input_ids"]))
    assert distance(found, wanted) <= 1e-4
    head = parts.heads[len(parts.heads) // 2]
    exp = rw.expand(rw.Hypothesis(parts, {"clean": f"{head}.q"}))
    hand = Hand(parts, clean, corrupt)
    with torch.no_grad():
        mixed = list(exp.module(clean["input_ids"], corrupt["input_ids"]))
    others = rw.expand(rw.Hypothesis(parts, {"clean": head}))
    with torch.no_grad():
        through = list(others.module(clean["input_ids"], corrupt["input_ids"]))
    assert distance(through, hand.through(head)) <= 1e-4
    assert distance(mixed, through) > 1e-5  # queries alone are not all of a head
