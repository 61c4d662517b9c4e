"""Plan a hypothesis about a model of any size without its weights, and see what is in it."""

import torch
from transformers import LlamaConfig

import rewrite as rw

config = LlamaConfig(hidden_size=1024, num_hidden_layers=12, num_attention_heads=16,
                     num_key_value_heads=4, intermediate_size=2816, vocab_size=32000,
                     architectures=["LlamaForCausalLM"])
graph = rw.trace(config)
parts = graph.components()
print(rw.structure(parts))

expanded = rw.expand(rw.Hypothesis(parts, {"clean": "a4.h3 -> a8.h5.q"}))
print(expanded.cost)

# The same for a module of one's own, which has no residual stream: it is cut at its modules.
net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.GELU(), torch.nn.Linear(8, 2)).eval()
print(rw.trace(net, inputs={"input": torch.ones(3, 4)}).components().names)
