"""Draw the pictures of docs/path_language.md: python docs/make_positions.py (seconds)."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import GPT2Config, GPT2LMHeadModel

import rewrite as rw

IMAGES = Path(__file__).parent / "images"
PICTURES = {
    "positions_node": "a0.h1 -> a1.h2@END.v@S2",
    "positions_window": "tokens -> ...[-3:0] -> a1.h2.k",
}


def main() -> None:
    """Write one picture for each pattern, of a GPT-2 with two layers of four heads."""
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=50, n_embd=32, n_layer=2, n_head=4,
                        bos_token_id=None, eos_token_id=None)
    parts = rw.trace(GPT2LMHeadModel(config).eval()).components()
    for name, text in PICTURES.items():
        exp = rw.expand(rw.Hypothesis(parts, {"clean": text}))
        exp.draw(IMAGES / f"{name}.png")


if __name__ == "__main__":
    main()
