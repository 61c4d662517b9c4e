"""The circuit of indirect objects in SmolLM2, without positions and with them.

    python examples/pretrained/ioi.py --pairs 32 --out ioi

"When Mary and John went to the store, John gave a drink to" goes on with Mary.  Positions: IO
(Mary), S1 and S2 (John), END.  Heads are found by three sweeps, from the logits back.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

import typer
from smollm import Setting, any_of, start

import rewrite as rw
from rewrite.cli import show
from rewrite.demo.study import keep_right, sample

METRIC = rw.logit_diff()
TOP = 6  # heads of each kind


@dataclass(frozen=True)
class Heads:
    """What the sweeps found."""

    movers: list[str]  # write the name to the logits
    steer: list[str]  # feed the queries of the movers
    notice: list[str]  # feed the values that those read at S2


def ioi_pairs(tokenizer: Any) -> rw.Pairs:
    """The prompts of the demo with positions; `corrupt` has three other names, `flip` swaps S2."""
    data = tomllib.loads((files("rewrite.demo") / "ioi.toml").read_text(encoding="utf-8"))
    texts: dict[str, list[str]] = {"clean": [], "flip": [], "corrupt": []}
    answers: dict[str, list[str]] = {"correct": [], "wrong": []}
    places: dict[str, list[int]] = {"IO": [], "S1": [], "S2": [], "END": []}
    names = data["names"]
    for template in data["templates"]:
        for i, pair in enumerate(names):
            (a, b), (c, _) = names[(i + 1) % len(names)], names[(i + 2) % len(names)]
            for io, s in (pair, pair[::-1]):
                texts["clean"].append(template.format(A=io, B=s, S=s))
                texts["flip"].append(template.format(A=io, B=s, S=io))
                texts["corrupt"].append(template.format(A=a, B=b, S=c))
                answers["correct"].append(f" {io}")
                answers["wrong"].append(f" {s}")
                ids = tokenizer.encode(texts["clean"][-1], add_special_tokens=False)
                words = [tokenizer.decode([token]).strip() for token in ids]
                first = words.index(s)
                at = (words.index(io), first, words.index(s, first + 1), len(ids) - 1)
                for name, place in zip(places, at, strict=True):
                    places[name].append(place)
    return rw.Pairs.from_text(tokenizer, texts, answers, positions=places)


def find_heads(setting: Setting, pairs: rw.Pairs) -> Heads:
    """Those that write to the logits; those that steer the former; those that feed the latter."""
    def top(name: str, receivers: str, known: list[str]) -> list[str]:
        found = setting.sweep(name, receivers, pairs, METRIC, patch="flip" if known else "corrupt")
        return [head for head in found.top(TOP + len(known), by="change")
                if head not in known][:TOP]

    movers = top("ioi_movers", "logits", [])
    queries = f"{any_of(movers, '@END.q')} -> logits"
    steer = top("ioi_steer", queries, movers)
    values = f"{any_of(steer, '@END.v@S2')} -> {queries}"
    return Heads(movers, steer, top("ioi_notice", values, movers + steer))


def hypotheses(heads: Heads) -> dict[str, str]:
    """Each without positions, then with them (names end in `@`)."""
    m, s, n = heads.movers, heads.steer, heads.notice

    def reads(port: str, *places: str) -> str:
        return " | ".join(any_of(m, f"@END.{port}@{place}") for place in places)

    values, keys = any_of(m, ".v"), any_of(m, ".k")
    names, where = reads("v", "IO", "S1"), reads("k", "IO", "S1")
    steered = f"{any_of(s, '.v')} -> ... -> {any_of(m, '.q')}"
    placed = f"{any_of(s, '@END.v@S2')} -> ... -> {any_of(m, '@END.q')}"
    return {
        "nothing": "~(...)",
        "movers": any_of(m),
        "movers, writing at END @": any_of(m, "@END"),
        "values": values,
        "values from IO @": reads("v", "IO"),
        "values from IO or S1 @": names,
        "values from S2 @": reads("v", "S2"),
        "values from END @": reads("v", "END"),
        "values from anywhere else @":
            f"{any_of(m, '@END.v')} - ({reads('v', 'IO', 'S1', 'S2', 'END')})",
        "values, keys": f"{values} | {keys}",
        "values, keys at IO or S1 @": f"{names} | {where}",
        "values, keys, queries": f"{values} | {keys} | {any_of(m, '.q')}",
        "values, keys at IO or S1, queries at END @": f"{names} | {where} | {any_of(m, '@END.q')}",
        "values, keys, steered queries": f"{values} | {keys} | {steered}",
        "values, keys at IO or S1, queries steered from S2 @": f"{names} | {where} | {placed}",
        "the same, steered by what is noticed":
            f"{values} | {keys} | {any_of(n)} -> ... -> {steered}",
        "the same, steered by what is noticed at S2 @":
            f"{names} | {where} | {any_of(n, '@S2')} -> ... -> {placed}",
        "all three kinds of heads": any_of(m + s + n),
        "all three kinds, at END, END and S2 @":
            f"{any_of(m, '@END')} | {any_of(s, '@END')} | {any_of(n, '@S2')}",
        "all heads, writing at END @": "a*.h*@END",
        "from the names @": "tokens@IO | tokens@S1 | tokens@S2",
    }


def main(
    pairs: Annotated[int, typer.Option(help="How many prompts.")] = 32,
    out: Annotated[Path, typer.Option(help="Where results go.")] = Path("ioi"),
    swept: Annotated[int, typer.Option(help="How many prompts the sweeps take.")] = 16,
) -> None:
    """Find the heads, then test paths with and without positions."""
    with show.errors(), show.steps() as step:
        setting = start(out, step)
        right = keep_right(setting.parts, ioi_pairs(setting.tokenizer), METRIC, 32,
                           step("what does the model get right?"))
        kept = sample(right, pairs, lengths=4)
        heads = find_heads(setting, sample(right, swept, lengths=2))
        rungs = {name: {"clean": paths} for name, paths in hypotheses(heads).items()}
        setting.ladder("ioi", rungs, kept, METRIC)


if __name__ == "__main__":
    typer.run(main)
