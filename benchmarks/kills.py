"""Sweeps and refinements that are killed again and again, and go on: nothing is lost.

    python -m benchmarks.kills --sweeps 50 --refinements 20

Each process is killed after a random time.  After every kill, what the file held before is still
in it, and in the end the table is that of a run that nobody disturbed.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

import rewrite as rw

VOCAB = 13
LONGEST = 4.0  # seconds at work before a kill


class Net(torch.nn.Module):
    """Four layers on a stream, each slow enough to be hit."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = torch.nn.Embedding(VOCAB, 8)
        self.layers = torch.nn.ModuleList(torch.nn.Linear(8, 8) for _ in range(4))
        self.head = torch.nn.Linear(8, VOCAB)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Logits of every token."""
        x = self.embed(input_ids)
        for layer in self.layers:
            x = x + layer(x).relu()
        return self.head(x)


def slow(reference: Any, hypothesis: Any, batch: Any) -> torch.Tensor:
    """The distance of the outputs, after a while."""
    time.sleep(0.02)
    return (hypothesis - reference)[:, -1].abs().sum(-1)


def measured(kind: str, file: Path | None) -> str:
    """The table of a sweep or refinement, as a text."""
    made = torch.Generator().manual_seed(1)
    runs = {run: {"input_ids": torch.randint(0, VOCAB, (6, 5), generator=made)}
            for run in ("clean", "corrupt")}
    pairs = rw.Pairs.from_tensors(runs)
    parts = rw.trace(Net().eval(), {"input_ids": torch.zeros(3, 5, dtype=torch.int64)}).components()
    if file is not None:
        print("ready", flush=True)
    if kind == "sweep":
        return rw.sweep(parts, "*", "*", each=True, pairs=pairs, metric=slow, file=file,
                        chunk=2).table.to_csv()
    start = rw.Hypothesis(parts, {"clean": "m0"})
    return rw.refine(start, pairs, slow, file=file, steps=4, goal=1.0).table.to_csv()


def contents(kind: str, file: Path) -> list[Any]:
    """What is safe in a file: whole lines of a sweep, or rows of a log."""
    if not file.exists():
        return []
    if kind == "sweep":
        return [json.loads(line) for line in file.read_bytes().split(b"\n")[:-1]]
    return json.loads(file.read_text())["rows"]


def until(kind: str, kills: int, file: Path, rng: random.Random) -> tuple[int, int]:
    """Start and kill until so many were killed at work; how many, and how many files grew."""
    before, grown, done = contents(kind, file), 0, 0
    while done < kills:
        command = [sys.executable, "-m", "benchmarks.kills", "--child", kind, str(file)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            assert child.stdout.readline() == "ready\n"
            try:
                code = child.wait(rng.uniform(0, LONGEST))
            except subprocess.TimeoutExpired:
                os.kill(child.pid, signal.SIGKILL)
                code = child.wait()
        now = contents(kind, file)
        assert now[:len(before)] == before, "what was there is there"
        if code == 0:  # all is done: begin again
            now = []
            file.unlink()
        else:
            assert code == -signal.SIGKILL, code
            done += 1
            grown += len(now) > len(before)
        before = now
    return done, grown


def main() -> None:
    """Kill, and compare."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--sweeps", type=int, default=50)
    options.add_argument("--refinements", type=int, default=20)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--child", nargs=2, metavar=("KIND", "FILE"))
    asked = options.parse_args()
    if asked.child:
        _ = measured(asked.child[0], Path(asked.child[1]))
        return
    for kind, kills in (("sweep", asked.sweeps), ("refine", asked.refinements)):
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "file"
            done, grown = until(kind, kills, file, random.Random(asked.seed))
            left = [each.name for each in Path(folder).iterdir() if each != file]
            same = measured(kind, file) == measured(kind, None)
        print(f"{kind}: {done} kills, after {grown} of them more was done than before; "
              f"left behind: {len(left)} files; the table in the end is "
              f"{'' if same else 'NOT '}that of a run that nobody disturbed")


if __name__ == "__main__":
    main()
