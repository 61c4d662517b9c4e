"""How much of a behaviour do paths explain?  AUE, ATE, proportion explained."""

import torch
import transformers

import rewrite as rw

torch.manual_seed(0)
config = transformers.GPT2Config(vocab_size=100, n_embd=32, n_layer=2, n_head=4,
                                 bos_token_id=None, eos_token_id=None)
model = transformers.GPT2LMHeadModel(config).eval()
parts = rw.trace(model).components()

clean, corrupt = torch.randint(0, 100, (2, 40, 7))
pairs = rw.Pairs.from_tensors(
    {"clean": {"input_ids": clean}, "corrupt": {"input_ids": corrupt}})

hypotheses = [
    rw.Hypothesis(parts, {"clean": paths}, name=paths)
    for paths in ("embed -> logits", "m* -> logits", "... -> a1.*.v -> logits", "...")
]
for result in rw.evaluate(hypotheses, pairs, rw.kl_divergence()):
    print(result)

grid = rw.sweep(parts, "a*.h*", "logits", pairs=pairs, metric=rw.kl_divergence())
print(grid)
