"""Damaged files and texts: how many are refused, read, or raise what is no error of ours.

    python -m benchmarks.mutants --count 10000 --texts 100000
"""

from __future__ import annotations

import argparse
import random
import resource
import signal
import tempfile
import time
from collections import Counter
from pathlib import Path
from types import FrameType

import torch
import transformers

from rewrite.errors import RewriteError
from rewrite.world import is_out_of_memory
from tests.fuzz.formats import FORMATS, Bench
from tests.fuzz.texts import READERS, texts

SECONDS = 20
MOST = 12 * 2**30  # bytes


class Hung(BaseException):
    """A mutant took longer than `SECONDS`."""


def _hung(number: int, frame: FrameType | None) -> None:
    raise Hung


def main() -> None:
    """Print one line for each format, and each raw error once."""
    ask = argparse.ArgumentParser(description=__doc__)
    ask.add_argument("--count", type=int, default=10_000)
    ask.add_argument("--texts", type=int, default=100_000)
    ask.add_argument("--formats", nargs="*", default=list(FORMATS))
    ask.add_argument("--seed", type=int, default=0)
    given = ask.parse_args()
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity(50)
    signal.signal(signal.SIGALRM, _hung)
    resource.setrlimit(resource.RLIMIT_AS, (MOST, MOST))  # a mutant that takes more is raw
    kinds = ("refused", "read", "raw", "wrong", "hung")
    print(f"{'format':24}" + "".join(f"{kind:>9}" for kind in kinds) + f"{'seconds':>9}")
    seen: dict[str, str] = {}
    for name in given.formats:
        count, start = Counter[str](), time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            bench = Bench(FORMATS[name], Path(folder))
            for number in range(given.count // len(given.formats)):
                draw = random.Random(f"{given.seed} {name} {number}")
                signal.alarm(SECONDS)
                try:
                    found = bench.mutant(draw)
                except Hung:
                    count["hung"] += 1
                    seen.setdefault(f"{name}: hung", f"number {number}")
                    continue
                finally:
                    signal.alarm(0)
                count[found.kind] += 1
                if is_out_of_memory(found.error):
                    seen.setdefault(f"{name}: memory", f"number {number}: {found.error}"[:200])
                if found.kind in ("raw", "wrong"):
                    error = found.error
                    place = ""
                    if error is not None and (trace := error.__traceback__):
                        while trace.tb_next:
                            trace = trace.tb_next
                        place = f" at {Path(trace.tb_frame.f_code.co_filename).name}:" \
                                f"{trace.tb_lineno}"
                    key = f"{name}: {type(error).__name__}{place}" if error else (
                        f"{name}: says {found.told.split(' is ')[0][:60]}")
                    seen.setdefault(key, f"number {number}: {found.told} {str(error)[:150]}")
        took = time.perf_counter() - start
        print(f"{name:24}" + "".join(f"{count[kind]:9}" for kind in kinds) + f"{took:9.1f}",
              flush=True)
    for name, reader in READERS.items():
        count, start = Counter[str](), time.perf_counter()
        for text in texts(name, given.texts // len(READERS) // reader.share, given.seed):
            signal.alarm(SECONDS)
            try:
                reader.read(text)
                count["read"] += 1
            except RewriteError:
                count["refused"] += 1
            except Hung:
                count["hung"] += 1
                seen.setdefault(f"{name}: hung", repr(text[:200]))
            except Exception as error:
                count["raw"] += 1
                seen.setdefault(f"{name}: {type(error).__name__}", repr(text[:200]))
            finally:
                signal.alarm(0)
        took = time.perf_counter() - start
        print(f"{name:24}" + "".join(f"{count[kind]:9}" for kind in kinds) + f"{took:9.1f}",
              flush=True)
    for key, told in seen.items():
        print(f"  {key}: {told}")


if __name__ == "__main__":
    main()
