"""Trace a model that nobody prepared: the graph computes what the model computes."""

import torch
import transformers

import rewrite as rw

torch.manual_seed(0)
config = transformers.GPT2Config(vocab_size=100, n_embd=32, n_layer=2, n_head=4,
                                 bos_token_id=None, eos_token_id=None)
model = transformers.GPT2LMHeadModel(config).eval()

graph = rw.trace(model)
print(graph.certificate)

tokens = torch.randint(0, 100, (2, 7))
assert torch.equal(graph(input_ids=tokens).logits, model(tokens).logits)
print(graph.code[:400])
