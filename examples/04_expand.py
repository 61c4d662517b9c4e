"""Assign runs to paths; the model is copied only as far as they differ."""

import torch
import transformers

import rewrite as rw

torch.manual_seed(0)
config = transformers.GPT2Config(vocab_size=100, n_embd=32, n_layer=2, n_head=4,
                                 bos_token_id=None, eos_token_id=None)
model = transformers.GPT2LMHeadModel(config).eval()
parts = rw.trace(model).components()

# What no mask over edges can say: m0 carries one path and not the other.
hypothesis = rw.Hypothesis(
    parts, {"clean": "a0.h1 -> m0 -> a1.h2 | a0.h3 -> m0 -> logits"}, default="corrupt")
expanded = rw.expand(hypothesis)
print(hypothesis.count(), expanded.cost, sep="\n")
print(expanded.formula())
print(expanded.code)

clean, corrupt = torch.randint(0, 100, (2, 3, 7))
output = expanded(clean={"input_ids": clean}, corrupt={"input_ids": corrupt})
print(output.logits.shape)

same = expanded(clean={"input_ids": clean}, corrupt={"input_ids": clean})
assert torch.allclose(same.logits, model(clean).logits, atol=1e-5)
