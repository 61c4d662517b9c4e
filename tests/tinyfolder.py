"""A tiny random model with a word tokenizer, saved as people keep models: in a folder."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers


def save_tiny(folder: Path) -> Path:
    """A GPT-2 of two layers whose vocabulary is the words of the demo's prompts."""
    text = (files("rewrite.demo") / "ioi.toml").read_text(encoding="utf-8")
    words = sorted(set(re.findall(r"[A-Za-z]+|[.,]", text)))
    vocabulary = {word: i for i, word in enumerate(["[UNK]", *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="[UNK]").save_pretrained(folder)
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=len(vocabulary), n_embd=32, n_layer=2, n_head=4, n_positions=64,
        bos_token_id=None, eos_token_id=None)
    model = transformers.GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.normal_(0, 0.3)
    model.save_pretrained(folder)
    return folder
