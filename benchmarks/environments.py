"""Peers run in environments of their own, as processes that answer questions."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

FOLDER = Path.home() / ".cache" / "rewrite-benchmarks"
TORCH = "torch==2.13.0"


@dataclass
class Peer:
    """`script` in an environment that holds `packages`; `measure` asks it."""

    name: str
    script: str
    packages: tuple[str, ...]
    way: str
    process: subprocess.Popen[str] | None = field(default=None, repr=False)

    def install(self, folder: Path) -> Path:
        """The Python of the environment, made if it is not there or holds something else."""
        home = folder / self.script
        python, note = home / "bin" / "python", home / "packages"
        wanted = "\n".join((TORCH, *self.packages))
        if not note.exists() or note.read_text() != wanted:
            subprocess.run([sys.executable, "-m", "venv", "--clear", home], check=True)
            done = subprocess.run(
                [python, "-m", "pip", "install", "--quiet", TORCH, *self.packages],
                text=True, stderr=subprocess.PIPE)
            if done.returncode:
                raise RuntimeError(f"{self.name} cannot be installed:\n{done.stderr[-2000:]}")
            note.write_text(wanted)
        return python

    def start(self, folder: Path, given: Path) -> None:
        """Start the process on what `Given.save` wrote."""
        script = Path(__file__).parent / "peers" / f"{self.script}.py"
        quiet = {"OMP_WAIT_POLICY": "PASSIVE", "HF_HUB_OFFLINE": "1"}
        self.log = folder / f"{self.script}.log"
        self.process = subprocess.Popen(
            [self.install(folder), script, given], env=os.environ | quiet, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log.open("w"))
        self._answer()

    def measure(self, what: str, start: int = 0, stop: int = 0) -> tuple[Tensor, float]:
        """The answer and how long it took, measured by the peer itself."""
        assert self.process and self.process.stdin
        question = {"what": what, "start": start, "stop": stop}
        print(json.dumps(question), file=self.process.stdin, flush=True)
        values, seconds = self._answer()
        return torch.tensor(values), seconds

    def stop(self) -> None:
        """End the process."""
        if self.process and self.process.stdin:
            self.process.stdin.close()
            self.process.wait()

    def _answer(self) -> Any:
        assert self.process and self.process.stdout
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.name} stopped; the end of {self.log}:\n"
                               + self.log.read_text()[-2000:])
        return json.loads(line)


PEERS = (
    Peer("TransformerLens 4.3.0", "lens", ("transformer-lens==4.3.0", "transformers==5.23.0"),
         "what its direct path patching does for each pair of heads, `use_split_qkv_input` on."),
    # the last release of TransformerLens that has what AutoCircuit imports, and what it needs
    Peer("AutoCircuit 1.0.1", "masks", ("auto-circuit==1.0.1", "transformer-lens==2.18.0",
                                        "transformers==4.57.6", "pyarrow==21.0.0"),
         "`patch_mode` with one entry of the mask set."),
    Peer("nnsight 0.8.1", "traces", ("nnsight==0.8.1", "transformers==5.23.0"),
         "one trace for each edge, the query written by hand, logits at the last position only."),
)
