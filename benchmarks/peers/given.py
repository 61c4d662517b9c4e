"""What all sides of a comparison are given, and how they are asked.

Runs in the environments of peers too: it needs torch, transformers and safetensors only.
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
import transformers
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

Head = tuple[int, int]
Edge = tuple[Head, Head]  # a head, and the later head whose query reads it


@dataclass(frozen=True)
class Given:
    """A model with two batches of inputs: edges read `patch`, everything else `base`.

    The metric is the difference of the logits of two tokens at the last position, `[batch]`.
    """

    model: Any
    patch: Tensor
    base: Tensor
    edges: list[Edge]
    tokens: tuple[int, int]

    @property
    def heads(self) -> list[Head]:
        """All heads, in an order that makes the first ones a sample of all layers."""
        config = self.model.config
        found = [(layer, head) for layer in range(config.n_layer) for head in range(config.n_head)]
        random.Random(0).shuffle(found)
        return found

    def metric(self, logits: Tensor) -> Tensor:
        """The difference of logits `[batch, seq, vocab]` at the last position."""
        return logits[:, -1, self.tokens[0]] - logits[:, -1, self.tokens[1]]

    def save(self, path: Path) -> None:
        """Weights and inputs as tensors, the rest as metadata."""
        tensors = {f"model.{name}": p.detach() for name, p in self.model.named_parameters()}
        about = {"config": self.model.config.to_dict(), "edges": self.edges,
                 "tokens": self.tokens, "threads": torch.get_num_threads()}
        save_file(tensors | {"patch": self.patch, "base": self.base}, path,
                  {name: json.dumps(value) for name, value in about.items()})


def load(path: Path) -> Given:
    """What `save` wrote; also takes the number of threads."""
    with safe_open(path, "pt") as file:
        about = {name: json.loads(value) for name, value in file.metadata().items()}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    torch.set_num_threads(about["threads"])
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**about["config"])).eval()
    patch, base = tensors.pop("patch"), tensors.pop("base")
    weights = {name.removeprefix("model."): value for name, value in tensors.items()}
    missing, unknown = model.load_state_dict(weights, strict=False)
    assert not unknown and set(missing) <= {"lm_head.weight"}, (missing, unknown)  # tied
    edges = [((a, b), (c, d)) for (a, b), (c, d) in about["edges"]]
    return Given(model, patch, base, edges, tuple(about["tokens"]))


class Subject(Protocol):
    """Answers the same questions, each `[n, batch]`, in its own way.

    `keep` comes first: what a loop over edges needs of the runs `patch` and `base`.
    """

    def keep(self) -> Tensor:
        """Run both inputs and keep what edges are made of; an empty tensor."""
        ...

    def forward(self) -> Tensor:
        """The metric of the run `base`, by an ordinary forward pass."""
        ...

    def edges(self, which: list[Edge]) -> Tensor:
        """The metric with one edge patched, for each edge."""
        ...

    def direct(self, which: list[Head]) -> Tensor:
        """The metric with the direct path of one head to the logits patched, for each head."""
        ...


def measure(
    given: Given, subject: Subject, what: str, start: int = 0, stop: int = 0
) -> tuple[Tensor, float]:
    """The answer and how long it took."""
    question: Callable[..., Tensor] = getattr(subject, what)
    every: dict[str, list[Any]] = {"edges": given.edges, "direct": given.heads}
    asked = (every[what][start:stop],) if what in every else ()
    with torch.no_grad():
        begin = time.perf_counter()
        answer = question(*asked)
        return answer, time.perf_counter() - begin


def serve(make: Callable[[Given], Subject]) -> None:
    """Answer questions of the parent process, one line each; the argument is the saved file."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    given = load(Path(sys.argv[1]))
    subject = make(given)
    print(json.dumps("ready"), file=answers, flush=True)
    for line in sys.stdin:
        values, seconds = measure(given, subject, **json.loads(line))
        print(json.dumps([values.tolist(), seconds]), file=answers, flush=True)
