"""Path sets: patterns from input to output, and their algebra."""

import transformers

import rewrite as rw

config = transformers.GPT2Config(vocab_size=100, n_embd=32, n_layer=2, n_head=4,
                                 bos_token_id=None, eos_token_id=None)
parts = rw.trace(transformers.GPT2LMHeadModel(config).eval()).components()

for text in ("...", "a0.h1", "a0.h1 -> a1.h2.q", "tokens -> embed -> a0.h1.v -> m1 -> logits"):
    print(f"{rw.count_paths(text, parts.dag):6d} paths in {text}")

direct = rw.paths("a*.h* -> logits")
by_mlp = rw.paths("a*.h* -> m* -> logits")
print(rw.count_paths((direct | by_mlp) - "a0", parts.dag), "paths in", (direct | by_mlp) - "a0")
