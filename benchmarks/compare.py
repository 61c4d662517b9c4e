"""Ours beside peers: the same weights, inputs, precision and threads, interleaved in one session.

    python -m benchmarks.compare [--threads 2] [--repetitions 5] [--only lens,masks] [--page]

Peers are installed into environments of their own (`--folder`).  Numbers must agree before
anything is timed.  `--page` writes docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import sys
import time
from collections.abc import Callable
from datetime import date
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import torch
import transformers as tf
from rich.console import Console
from torch import Tensor

from benchmarks.environments import FOLDER, PEERS
from benchmarks.peers.given import Edge, Given, measure
from benchmarks.scaling import by_edges, by_size
from benchmarks.sides import Hooks, Ours, Resumed
from benchmarks.tables import Table

PAGE = Path(__file__).parent.parent / "docs" / "benchmarks.md"
TOLERANCE = 1e-4
OF_EFFECT = 0.05
PREFACE = """\
# Benchmarks

`{command}`, {date}: {config.n_layer} layers, {config.n_head} heads, width {config.n_embd},
vocabulary {config.vocab_size}, random weights, batch {options.batch}, length {options.length},
float32, {options.threads} threads ({machine}); {versions}.

All sides work on the same weights and inputs. Before anything is timed, their numbers agree to
{tolerance:g} of the largest number, and to {of_effect:.0%} of the median effect. Ratios are of
medians of runs that alternate in one session; on a machine that others use too, they say more
than seconds do. Copies and calls are exact, FLOPs are counted.

An edge is patched as follows: the query of the receiver reads, at every position, the run `patch`
for what the sender writes to the stream and the run `base` for everything else; all that comes
after the receiver is recomputed. The metric is the difference of two logits at the last position.

* hook loop: the Hugging Face model, logits at the last position only; a hook writes the columns of
  the query.
* hook loop, resumed: the same from the layer of the receiver on, and two rows of the unembedding.
{peers}
* EAP-IG was not found on PyPI as `eap-ig`, and `eap` there is a package about asset prices: it is
  not among the peers.

"""
Measure = Callable[..., tuple[Tensor, float]]


def make(seed: int, batch: int, length: int, edges: int, **config: int) -> Given:
    """A random model with biases and norms that matter, and a random sample of edges."""
    torch.manual_seed(seed)
    scale = 1.4 / config.get("n_embd", 768)**0.5  # attention looks somewhere at every width
    options: dict[str, Any] = config | {
        "bos_token_id": None, "eos_token_id": None, "initializer_range": scale}
    model: Any = tf.GPT2LMHeadModel(tf.GPT2Config(**options)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter += 0.05 * torch.randn_like(parameter)
    patch, base = torch.randint(0, model.config.vocab_size, (2, batch, length))
    return Given(model, patch, base, sample(model.config, edges, seed), (11, 12))


def sample(config: Any, count: int, seed: int) -> list[Edge]:
    """Edges from a head to the query of a later head, all equally likely."""
    heads = [(layer, head) for layer in range(config.n_layer) for head in range(config.n_head)]
    every = [(a, b) for a in heads for b in heads if a[0] < b[0]]
    return random.Random(seed).sample(every, min(count, len(every)))


def agree(
    name: str, what: str, found: Tensor, wanted: Tensor, effect: float = float("inf")
) -> float:
    """The largest difference, relative to the largest number.

    Raises if that is too large, or if the difference is not small beside the median effect.
    """
    difference = float((found - wanted).abs().max())
    error = difference / float(wanted.abs().max())
    if not (error <= TOLERANCE and difference <= OF_EFFECT * effect):
        raise AssertionError(f"{name} and ours disagree about {what}: {error:.2g} relative, "
                             f"{difference / effect:.2g} of the median effect")
    return error


def identity(given: Given, repetitions: int) -> Table:
    """The expansion in which all paths read one run, beside the model; all logits."""
    ours, start = Ours(given), time.perf_counter()
    _ = ours.parts
    tracing = time.perf_counter() - start
    exp = ours.identity()
    arguments = exp.arguments(ours.runs)
    sides = {"eager Hugging Face": lambda: given.model(given.base).logits,
             "literal module": lambda: exp.module(*arguments),
             "stacked module": lambda: exp.stacked(*arguments)}
    wanted = sides["eager Hugging Face"]()
    errors = {name: agree(name, "all logits", first(run()), wanted) for name, run in sides.items()}
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(4 * repetitions):
        for name, run in sides.items():
            start = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - start)
    table = Table("The identity expansion", ("side", "seconds", "ratio", "largest difference"))
    table.note = f"Medians of {4 * repetitions}. Tracing the model took {tracing:.1f} s, once."
    base = median(times["eager Hugging Face"])
    for name, found in times.items():
        table.add(name, median(found), median(found) / base, errors[name])
    return table


def compare(
    title: str, what: str, sides: dict[str, Measure], count: int, checked: int, each: int,
    repetitions: int,
) -> Table:
    """Seconds for `count` edges.  Ours does all of them together; the others are loops.

    The first side is ours.  Loops are checked on the first `checked` edges and timed on slices
    of `each` of those, so that what they keep and what they repeat is known apart.
    """
    (our_name, our_measure), *others = sides.items()
    wanted, _ = our_measure(what, 0, count)
    plain, _ = our_measure("forward")
    effect = float((wanted - plain).abs().median())
    for _, ask in others:
        ask("keep")
    errors = {name: agree(name, what, ask(what, 0, checked)[0], wanted[:checked], effect)
              for name, ask in others}
    times: dict[str, list[float]] = {name: [] for name in sides}
    kept: dict[str, list[float]] = {name: [] for name in sides}
    forward: list[float] = []
    for turn in range(repetitions):
        times[our_name].append(our_measure(what, 0, count)[1] / count)
        forward.append(sides["hook loop"]("forward")[1])
        start = turn * each % checked
        stop = min(start + each, checked)
        for name, ask in others:
            kept[name].append(ask("keep")[1])
            found, seconds = ask(what, start, stop)
            agree(name, what, found, wanted[start:stop], effect)
            times[name].append(seconds / (stop - start))
    table = Table(title, ("side", "kept, ms", "each, ms", f"all {count}, s",
                          "forwards per edge", "times ours", "difference"))
    for name, found in times.items():
        before, one = median(kept[name] or [0.0]), median(found)
        every = before + count * one
        table.add(name, 1000 * before, 1000 * one, every, every / count / median(forward),
                  every / count / median(times[our_name]), errors.get(name, 0.0))
    table.note = (
        f"Ours is one run of {count}, both runs included, checked against {checked} of each loop. "
        "A loop takes what it keeps of both runs and then the same time for each; a resumed one "
        "starts at the layer of the receiver, from the stream that it kept. Medians of "
        f"{repetitions} interleaved repetitions; a forward is eager Hugging Face, "
        f"{1000 * median(forward):.0f} ms. Differences are relative to the largest metric, "
        f"{float(wanted.abs().max()):.3g}; the median effect is {effect:.2g}.")
    return table


def first(output: Any) -> Tensor:
    """The logits of what a module returns."""
    return output if isinstance(output, Tensor) else first(output[0])


def page(tables: list[Table], given: Given, options: argparse.Namespace) -> str:
    """The page that shows the tables."""
    config = given.model.config
    command = " ".join(("python -m benchmarks.compare", *sys.argv[1:]))
    return PREFACE.format(
        command=command, date=date.today(), config=config, options=options,
        machine=f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}",
        versions=", ".join(f"{name} {version(name)}" for name in ("torch", "transformers")),
        tolerance=TOLERANCE, of_effect=OF_EFFECT,
        peers="\n".join(f"* {peer.name}: {peer.way}" for peer in PEERS),
    ) + "\n".join(table.markdown for table in tables)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in (("threads", 2), ("repetitions", 5), ("batch", 8), ("length", 15),
                          ("edges", 60), ("each", 6), ("heads", 36), ("layers", 12), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--only", help="scripts of peers, such as lens,masks; none: leave all out")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="environments of peers")
    parser.add_argument("--page", action="store_true", help=f"write {PAGE}")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    options.folder.mkdir(parents=True, exist_ok=True)
    given = make(options.seed, options.batch, options.length, options.edges,
                 n_layer=options.layers)
    saved = options.folder / "given.safetensors"
    given.save(saved)
    peers = [p for p in PEERS if options.only is None or p.script in options.only.split(",")]
    local = {"rewrite": Ours(given), "hook loop": Hooks(given),
             "hook loop, resumed": Resumed(given)}
    sides: dict[str, Measure] = {
        name: lambda *asked, side=side: measure(given, side, *asked)
        for name, side in local.items()}
    console, tables = Console(width=110), []

    def show(table: Table) -> None:
        tables.append(table)
        table.show(console)

    with torch.no_grad():
        show(identity(given, options.repetitions))
        try:
            for peer in peers:
                peer.start(options.folder, saved)
                sides[peer.name] = peer.measure
            show(compare("Edges from a head to the query of a later head", "edges", sides,
                         len(given.edges), len(given.edges), options.each, options.repetitions))
            show(compare("Direct paths of all heads to the logits", "direct", sides,
                         len(given.heads), options.heads, options.each, options.repetitions))
        finally:
            for peer in peers:
                peer.stop()
        everything = sample(given.model.config, 300, options.seed)
        show(by_edges(given, everything, (10, 100, 300), 3))
        show(by_size(make, 3))
    if options.page:
        PAGE.write_text(page(tables, given, options))


if __name__ == "__main__":
    main()
