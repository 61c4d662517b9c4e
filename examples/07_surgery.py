"""Edit the graph by name: the original stays as it is."""

import torch
import transformers

import rewrite as rw

torch.manual_seed(0)
config = transformers.GPT2Config(vocab_size=100, n_embd=32, n_layer=2, n_head=4,
                                 bos_token_id=None, eos_token_id=None)
parts = rw.trace(transformers.GPT2LMHeadModel(config).eval()).components()
tokens = torch.randint(0, 100, (2, 7))

whole = parts.as_graph()
without = whole.insert(after="a0.h1", function=torch.zeros_like)
scaled = whole.insert(after="m1", function=lambda x: 0.5 * x)
print(whole.paths_between("a0.h1", "logits", limit=3))
for name, graph in {"without a0.h1": without, "half of m1": scaled}.items():
    change = graph(input_ids=tokens).logits - whole(input_ids=tokens).logits
    print(name, f"{change.abs().mean():.4f}")
