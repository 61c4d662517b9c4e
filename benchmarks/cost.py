"""Costs as they are predicted beside what a run takes.

    python -m benchmarks.cost [--no-pretrained] [--batch 4] [--length 128]

Each model is measured as its op graph, as its component graph with every head a call of its own,
and expanded for a hypothesis.  FLOPs and kernels must agree exactly.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

import rewrite as rw
from rewrite.expand import cost
from tests.symbolic.counting import counted
from tests.zoo import tiny

WIDE = {"hidden_size": 256, "intermediate_size": 512, "max_position_embeddings": 1024}
MODELS: dict[str, dict[str, Any]] = {
    "gpt2": {"n_embd": 256, "n_positions": 1024}, "llama": WIDE | {"head_dim": 64},
    "qwen3": WIDE | {"head_dim": 64}, "gemma3": WIDE | {"head_dim": 64}, "bert": WIDE,
}
HYPOTHESIS = "a0.h1 -> ... -> a1.h2"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--no-pretrained", action="store_true", help="leave SmolLM2-135M out")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--length", type=int, default=128)
    chosen = parser.parse_args()
    table = Table("model", "graph", "GFLOP predicted", "counted / predicted",
                  "kernels predicted", "counted", "peak MB predicted", "measured / predicted",
                  "seconds to predict")
    for name in (*MODELS, *(() if chosen.no_pretrained else ("smollm2-135m",))):
        model: Any = tiny(name, **MODELS[name]) if name in MODELS else name
        for row in rows(rw.trace(model), chosen.batch, chosen.length):
            table.add_row(name, *row)
    Console(width=150).print(table)


def rows(graph: rw.Graph, batch: int, length: int) -> list[list[str]]:
    """One row for each form of a model."""
    parts = graph.components()
    exp = rw.expand(rw.Hypothesis(parts, {"clean": HYPOTHESIS}))
    a, b = torch.randint(1, 90, (2, batch, length))
    found = []
    for what, thing, given in (("ops", graph, (a,)), ("components", parts, (a,)),
                               ("expansion", exp, (a, b))):
        module = thing.module
        start = time.perf_counter()
        predicted = cost(thing).at(batch=batch, seq=length)
        seconds = time.perf_counter() - start
        real = counted(lambda module=module, given=given: module(*given))
        found.append([
            what, f"{predicted.flops / 1e9:.3f}", f"{real.flops / predicted.flops:.6g}",
            str(predicted.kernels), str(real.kernels), f"{predicted.peak / 1e6:.2f}",
            f"{real.peak / predicted.peak:.4f}", f"{seconds:.1f}"])
    return found


if __name__ == "__main__":
    main()
