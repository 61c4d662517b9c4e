"""Pictures: the op graph folded by module, the components, an expanded hypothesis."""

import sys
from pathlib import Path

import transformers

import rewrite as rw

folder = Path(sys.argv[1] if len(sys.argv) > 1 else "pictures")
folder.mkdir(parents=True, exist_ok=True)
config = transformers.GPT2Config(vocab_size=100, n_embd=32, n_layer=3, n_head=4,
                                 bos_token_id=None, eos_token_id=None)
graph = rw.trace(transformers.GPT2LMHeadModel(config).eval())
parts = graph.components()
hypothesis = rw.Hypothesis(parts, {"clean": "a0.h1.v -> a2.h3.q -> logits"})

print(rw.draw(graph, folder / "ops.svg"))
print(rw.draw(parts, folder / "parts.svg"))
print(rw.draw(rw.expand(hypothesis), folder / "expanded.svg"))
