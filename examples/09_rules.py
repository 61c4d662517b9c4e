"""Rewrite rules: apply some, follow the trail, prove one, and count what the result costs."""

import torch
import transformers

import rewrite as rw

torch.manual_seed(0)
config = transformers.GPT2Config(n_layer=2, n_head=4, n_embd=32, vocab_size=97,
                                 bos_token_id=None, eos_token_id=None)
graph = rw.trace(transformers.GPT2LMHeadModel(config).eval())

# The attention of layer 0 spelt out, so that its pattern is a node.
after = graph.rewrite(rw.rules.open_attention, rw.match.module("transformer.h.0.*"))
print(after.trail)
print(graph.diff(after))

# The same numbers on other inputs than it was traced with.
ids = torch.randint(0, 97, (2, 9))
print((after(input_ids=ids).logits - graph(input_ids=ids).logits).abs().max())

# A rule of one's own, its proof, and a wrong one that is refuted.
print(rw.prove(rw.rule("square", "pow(a + c, 2) = a * a + 2 * (a * c) + c * c",
                       examples="a: b s, c: b s")))
print(rw.prove(rw.rule("wrong", "pow(a + c, 2) = a * a + c * c", examples="a: b s, c: b s")))

print(rw.cost(after))
graph.diff(after).draw("difference.svg")
