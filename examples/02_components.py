"""The component graph: heads, their q, k and v readings, MLPs, and who writes to whom."""

import torch
import transformers

import rewrite as rw

torch.manual_seed(0)
config = transformers.LlamaConfig(vocab_size=100, hidden_size=32, num_hidden_layers=2,
                                  num_attention_heads=4, num_key_value_heads=2,
                                  intermediate_size=48)
model = transformers.LlamaForCausalLM(config).eval()

parts = rw.trace(model).components()
print(parts.names)
print([writer for writer, reader in parts.edges if reader == "a1.h2.q"])

tokens = torch.randint(0, 100, (2, 7))
difference = parts(input_ids=tokens).logits - model(tokens).logits
print(f"largest difference with every head apart: {difference.abs().max():.1e}")
assert difference.abs().max() < 1e-5
