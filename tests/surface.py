"""The public surface by introspection, valid arguments for it, and values of the wrong kind."""

from __future__ import annotations

import dataclasses
import inspect
import os
import re
import sys
import tempfile
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import nn

import rewrite as rw
from tests.zoo import VOCAB, tokens, traced

NEW = 'no arguments in tests/surface.py, add:  "{name}": "...",'

ARGUMENTS = {
    "rw.compiled": "expansion, False",
    "rw.completeness": "hypothesis, pairs, 'logit_diff'",
    "rw.cost": "graph, {'batch': 2, 'seq': 3}",
    "rw.count_paths": "paths, parts.dag",
    "rw.custom": "distance, 'distance'",
    "rw.diff": "graph, changed",
    "rw.draw": "small, file('draw.svg')",
    "rw.equal": "small, small, {'input': torch.ones(3, 2)}",
    "rw.evaluate": "hypothesis, pairs, 'logit_diff'",
    "rw.expand": "hypothesis",
    "rw.from_text": "small.text(), small",
    "rw.kl_divergence": "",
    "rw.load": "file('pairs.json')",
    "rw.load_trusted": "file('small.pt2')",
    "rw.logit_diff": "",
    "rw.loss_diff": "",
    "rw.metric": "'logit_diff'",
    "rw.minimality": "hypothesis, pairs, 'logit_diff'",
    "rw.paths": "'a0.h1'",
    "rw.prove": "rw.rules.distribute",
    "rw.refine": "hypothesis, pairs, 'logit_diff', steps=1",
    "rw.refinements": "hypothesis, pairs, 'logit_diff'",
    "rw.rule": "'negated', 'gelu(x) = -(-gelu(x))'",
    "rw.rule_on": "'gelu', name='negated', equation='gelu(x) = -(-gelu(x))'",
    "rw.save": "pairs, file('saved.json')",
    "rw.structure": "small",
    "rw.sweep": "parts, 'a0.h1', pairs=pairs, metric='logit_diff'",
    "rw.token_effects": "hypothesis, pairs, decoder",
    "rw.trace": "linear, {'input': torch.ones(3, 2)}",
    "rw.Hypothesis": "parts, {'clean': 'a0.h1'}",
    "rw.Metric": None,  # abstract
    "rw.Pairs": "pairs.runs, pairs.labels",
    "rw.Rule": "'name', 'x = x', apply=lambda site: None",
    "rw.Site": "small.module, small.get('gelu')",
    "rw.rules.Example": "example.term, example.shapes",
    "rw.Example.read": "'relu(x) | x: b s'",
    "rw.rules.Match": "site, {}",
    "rw.rules.Step": "*step",
    "rw.Components.bias": "'m1'",
    "rw.Components.body": "'m1'",
    "rw.Components.component": "'m1'",
    "rw.Components.draw": "",
    "rw.Components.formula": "",
    "rw.Components.last_row": "'m1'",
    "rw.Components.mixes_examples": "parts.cut.regions[-1]",
    "rw.Components.owner": "'m1'",
    "rw.Components.rowwise": "'m1'",
    "rw.Components.verify": "inputs['clean']",
    "rw.Diff.draw": "",
    "rw.Expansion.all_arguments": "inputs",
    "rw.Expansion.arguments": "inputs",
    "rw.Expansion.draw": "",
    "rw.Expansion.formula": "",
    "rw.Expansion.run": "clean=inputs['clean'], corrupt=inputs['corrupt']",
    "rw.Graph.ablate": "'addmm_1', 'zero'",
    "rw.Graph.ancestors": "'addmm_1'",
    "rw.Graph.check": "inputs['clean']",
    "rw.Graph.components": "",
    "rw.Graph.count": "'addmm_1'",
    "rw.Graph.cut": "'tanh', 'add_6'",
    "rw.Graph.delete": "'tanh'",
    "rw.Graph.descendants": "'addmm_1'",
    "rw.Graph.diff": "changed",
    "rw.Graph.draw": "",
    "rw.Graph.export": "file('small.pt2')",
    "rw.Graph.duplicate": "'tanh', 'add_6'",
    "rw.Graph.expect": "'addmm_1'",
    "rw.Graph.extract": "None, 'addmm_1'",
    "rw.Graph.find": "'addmm_1'",
    "rw.Graph.flat": "ids",
    "rw.Graph.freeze": "'tanh', 1.0",
    "rw.Graph.get": "'addmm_1'",
    "rw.Graph.get_unique": "'addmm_1'",
    "rw.Graph.given": "inputs['clean']",
    "rw.Graph.graft": "graph, 'tanh'",
    "rw.Graph.inline": None,  # needs a graph with modules inside
    "rw.Graph.insert": "'addmm_1', torch.relu",
    "rw.Graph.paths_between": "'addmm_1', 'tanh'",
    "rw.Graph.replace": "'tanh', torch.relu",
    "rw.Graph.rewire": "'add_6', 'tanh', 1.0",
    "rw.Graph.rewrite": "rw.rule('negated', 'tanh(x) = -(-tanh(x))', once=True)",
    "rw.Graph.splice": "'tanh', 'add_6', torch.relu",
    "rw.Graph.substitute": "'transformer.h.1.mlp', nn.Linear(32, 32)",
    "rw.Graph.verify": "inputs['clean']",
    "rw.Graph.with_module": "graph.module",
    "rw.Graph.with_weights": "dict(model.state_dict())",
    "rw.Losses.columns": "pairs",
    "rw.Losses.effect": "output, output, batch",
    "rw.Losses.narrowed": "batch, tuple(range(97))",
    "rw.Losses.reads": "parts.layout",
    "rw.Losses.score": "output, batch",
    "rw.Losses.token_scores": "output, batch",
    "rw.Metric.columns": "pairs",
    "rw.Metric.effect": "output, output, batch",
    "rw.Metric.narrowed": "batch, tuple(range(97))",
    "rw.Metric.reads": "parts.layout",
    "rw.Metric.score": "output, batch",
    "rw.Metric.token_scores": None,  # of losses alone
    "rw.Minimality.verdict": "Minimality.rows[0]",
    "rw.Pairs.batches": "",
    "rw.Pairs.from_dict": "pairs.to_dict()",
    "rw.Pairs.from_tensors": "inputs, pairs.labels",
    "rw.Pairs.from_text": "tokenizer, {'clean': ['a b'], 'corrupt': ['a c']}, {'correct': ['b']}",
    "rw.Pairs.subset": "[0]",
    "rw.Refined.draw": "file('refined.svg')",
    "rw.Refined.from_dict": "Refined.to_dict(), parts",
    "rw.Result.draw": "file('result.svg')",
    "rw.Result.draw_attribution": "file('attribution.svg')",
    "rw.Result.from_dict": "Result.to_dict()",
    "rw.Result.subset": "[0, 1]",
    "rw.Rule.why_not": "graph, 'tanh'",
    "rw.Site.again": "site.node, lambda node: node",
    "rw.Site.call": "torch.ops.aten.relu.default, site.node",
    "rw.Site.call_with": "torch.ops.aten.relu.default, (site.node,), {}",
    "rw.Site.constant": "torch.ones(2)",
    "rw.Site.size": "site.node, 0",
    "rw.Site.write": "'relu(x)', x=site.node",
    "rw.Structure.to_json": "",
    "rw.Sweep.discoveries": "0.05",
    "rw.Sweep.draw": "file('sweep.svg')",
    "rw.Sweep.from_dict": "Sweep.to_dict()",
    "rw.Sweep.grid": "",
    "rw.Sweep.top": "1",
    "rw.TokenEffects.draw": "file('tokens.html')",
    "rw.TokenEffects.subset": "[0]",
    "rw.Trail.diff": "0",
    "rw.Trail.draw": "folder()",
    "rw.Trail.graph": "1",
    "rw.match.ancestors_of": "'tanh'",
    "rw.match.as_match": "'tanh'",
    "rw.match.between": "'addmm_1', 'tanh'",
    "rw.match.descendants_of": "'tanh'",
    "rw.match.dtype": "torch.float32",
    "rw.match.kind": "'mlp'",
    "rw.match.module": "'transformer.h.1.mlp'",
    "rw.match.name": "'tanh'",
    "rw.match.op": "'tanh'",
    "rw.match.read_by": "'tanh'",
    "rw.match.reads": "'tanh'",
    "rw.match.regex": "'tanh.*'",
    "rw.match.shape": "None, 32",
    "rw.match.where": "lambda node: node.op == 'output'",
    "rw.rules.residual_rewrite": "'norm'",
    "rw.rules.rewrite": "small, rw.rules.sub_as_add",
    "rw.rules.split_mask": "0, 1",
    "rw.rules.split_neurons": "(0, 1), (2, 3)",
    "rw.rules.split_positions": "[0], [1, 2]",
    "rw.rules.split_subspace": "torch.eye(4)[:2]",
}
"""Arguments by the name of a callable; what no table can hold without a file is None."""

FUNCTIONS = re.compile("Callable|Progress|Say|Guard|At|Generator|Measure|Runnable")
"""Annotations of what the user's own functions are given for; what these raise is theirs."""

SLOW = {(name, "compile", "True") for name in ("rw.evaluate", "rw.sweep")}
"""The compiler is called."""

GIVEN = {"LogitDiff": "Metric", "LossDiff": "Losses", "KLDivergence": "Metric"}


class Decoder:
    """Words that are their numbers."""

    def decode(self, ids: Any, **options: Any) -> str:
        return " ".join(f"t{int(i)}" for i in ids)

    def convert_ids_to_tokens(self, ids: list[int]) -> list[str]:
        return [f"t{int(i)}" for i in ids]

    def __call__(self, text: str, **options: Any) -> dict[str, list[int]]:
        return {"input_ids": [ord(word[0]) % VOCAB for word in text.split()]}


@dataclass(frozen=True)
class Callable_:
    """A public callable: its name, itself, its parameters and arguments that it accepts."""

    name: str
    call: Callable[..., Any]
    signature: inspect.Signature
    arguments: str | dict[str, Any] | None


def given(*args: Any, **options: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Arguments as Python reads them."""
    return args, options


@cache
def world() -> dict[str, Any]:
    """Something of every public class, about a tiny GPT-2, by its name."""
    gpt2 = traced("gpt2")
    parts, graph, ids = gpt2.parts, gpt2.graph, tokens(2, 4, 1)
    inputs = {"clean": {"input_ids": ids}, "corrupt": {"input_ids": tokens(2, 4, 2)}}
    pairs = rw.Pairs.from_tensors(inputs, {"correct": torch.tensor([1, 2]),
                                           "wrong": torch.tensor([3, 4])})
    hypothesis = rw.Hypothesis(parts, {"clean": "a1.h1 -> logits"})
    linear = nn.Sequential(nn.Linear(2, 2), nn.GELU()).eval()
    small = rw.trace(linear, {"input": torch.ones(3, 2)})
    rule = rw.rule("negated", "gelu(x) = -(-gelu(x))", once=True)
    trail = small.rewrite(rule).trail
    metric = rw.logit_diff()
    few = {"candidates": ["restrict"]}
    result = rw.evaluate(hypothesis, pairs, metric)
    made: dict[str, Any] = {
        "Components": parts, "Graph": graph, "Hypothesis": hypothesis, "Pairs": pairs,
        "Expansion": rw.expand(hypothesis), "Metric": metric,
        "Losses": rw.loss_diff(position="all"), "Result": result,
        "Sweep": rw.sweep(parts, "a0.h*", pairs=pairs, metric=metric),
        "Completeness": rw.completeness(hypothesis, pairs, metric),
        "Minimality": rw.minimality(hypothesis, pairs, metric),
        "Refinements": rw.refinements(hypothesis, pairs, metric, **few),
        "Refined": rw.refine(hypothesis, pairs, metric, steps=1, **few),
        "TokenEffects": rw.token_effects(hypothesis, pairs, Decoder()),
        "Structure": rw.structure(small), "Trail": trail, "Rule": rule,
        "Diff": rw.diff(small, small.rewrite(rule)), "PathSet": rw.paths("a0.h1"),
        "Proof": rw.prove(rw.rules.distribute), "Miss": rw.Miss("no"),
        "Site": rw.Site(small.module, small.get("gelu")),
    }
    made["Passage"] = made["TokenEffects"].passages[0]
    made["Step"] = trail[0]
    return made | {
        "rw": rw, "torch": torch, "nn": nn, "model": gpt2.model, "parts": parts, "graph": graph,
        "ids": ids, "inputs": inputs, "pairs": pairs, "hypothesis": hypothesis, "linear": linear,
        "small": small, "changed": graph.replace("tanh", torch.relu), "metric": metric,
        "expansion": made["Expansion"], "paths": made["PathSet"], "site": made["Site"],
        "decoder": Decoder(), "tokenizer": Decoder(), "batch": next(pairs.batches()),
        "output": graph(ids), "example": rw.rules.distribute.examples[0],
        "step": dataclasses.astuple(trail[0]), "given": given,
        "distance": lambda reference, hypothesis, batch: torch.zeros(len(batch.index)),
    }


def surface() -> Iterator[Callable_]:
    """Everything public that can be called, each once."""
    seen: set[int] = set()
    modules = [("rw.", rw), ("rw.match.", rw.match), ("rw.rules.", rw.rules)]
    for prefix, module in modules:
        for key in module.__all__:
            thing = getattr(module, key)
            if id(inspect.unwrap(thing)) in seen or not callable(thing):
                continue
            seen.add(id(inspect.unwrap(thing)))
            if inspect.isfunction(thing):
                yield entry(f"{prefix}{key}", thing)
            elif inspect.isclass(thing):
                yield from of_class(f"{prefix}{key}", thing)


def of_class(name: str, thing: type) -> Iterator[Callable_]:
    """Its constructor and its public methods."""
    if thing.__init__ is not object.__init__:
        yield entry(name, thing)
    kind = GIVEN.get(thing.__name__, thing.__name__)
    for key in sorted(dir(thing)):
        member = inspect.getattr_static(thing, key)
        inner = getattr(member, "__func__", member)
        if key.startswith("_") or not isinstance(inner, types.FunctionType) or \
                not inner.__module__.startswith("rewrite."):
            continue
        unbound = inner is not member
        if not unbound and kind not in world():
            continue
        yield entry(f"{name}.{key}", getattr(thing if unbound else world()[kind], key),
                    f"rw.{kind}.{key}")


def entry(name: str, call: Any, known: str = "") -> Callable_:
    signature = inspect.signature(call)
    arguments: Any = ARGUMENTS.get(known or name, "" if not signature.parameters else NEW)
    made = world().get(name.rpartition(".")[2])
    if arguments is NEW and inspect.isclass(call) and dataclasses.is_dataclass(made):
        arguments = {f.name: getattr(made, f.name) for f in dataclasses.fields(made) if f.init}
    return Callable_(name, call, signature, arguments)


def bound(thing: Callable_, folder: Path) -> inspect.BoundArguments:
    """The arguments of the table, with files in a folder of their own."""
    if isinstance(thing.arguments, dict):
        return thing.signature.bind(**thing.arguments)
    space = world() | {"file": lambda name: folder / name, "folder": lambda: folder}
    args, options = eval(f"given({thing.arguments})", space)
    return thing.signature.bind(*args, **options)


def wrong_values(folder: Path) -> dict[str, Any]:
    """Values of many kinds, most of which are wrong wherever they are put."""
    made = world()
    return {
        "None": None, "True": True, "3": 3, "0": 0, "-1": -1, "10**30": 10**30, "1.5": 1.5,
        "nan": float("nan"), "inf": float("inf"), "''": "", "'nonsense'": "nonsense",
        "' '": "\n \0", "b'x'": b"x", "[]": [], "{}": {}, "()": (), "[3]": [3], "[None]": [None],
        "{'a': 3}": {"a": 3}, "{3: 'a'}": {3: "a"}, "object()": object(), "set": {1},
        "tensor": torch.ones(2, 3), "empty tensor": torch.ones(0), "scalar": torch.tensor(1),
        "module": nn.Linear(2, 2), "Graph": made["Graph"], "Components": made["Components"],
        "Hypothesis": made["Hypothesis"], "lambda": lambda *values: None,
        "failing": rw.paths, "class": int, "missing": folder / "nowhere" / "x.json",
        "folder": folder, "['a']": ["a"], "slice": slice(None),
    }


def consumed(result: Any) -> Any:
    """Generators do nothing until they are read."""
    return list(islice(result, 3)) if isinstance(result, Iterator) else result


def tried(thing: Callable_, parameter: str, value: Any, folder: Path) -> Exception | None:
    """What comes out of a call with one wrong value, if it is no error of the house."""
    arguments = bound(thing, folder)
    kind, annotation = (getattr(thing.signature.parameters[parameter], key)
                        for key in ("kind", "annotation"))
    if kind is inspect.Parameter.VAR_POSITIONAL:
        arguments.arguments[parameter] = (value,)
    elif kind is inspect.Parameter.VAR_KEYWORD:
        arguments.arguments[parameter] = {"nonsense": value}
    else:
        arguments.arguments[parameter] = value
    try:
        consumed(thing.call(*arguments.args, **arguments.kwargs))
    except rw.errors.RewriteError:
        return None
    except Exception as error:
        return None if callable(value) and FUNCTIONS.search(str(annotation)) else error
    return None


def main(prefix: str = "rw.") -> None:
    """All values in every parameter of what begins with `prefix`; more than a CPU minute."""
    count, raw, parameters = 0, 0, 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.chdir(folder)
        rw.save(world()["pairs"], folder / "pairs.json")
        world()["small"].export(folder / "small.pt2")
        for thing in surface():
            if not thing.name.startswith(prefix) or thing.arguments is None:
                continue
            parameters += len(thing.signature.parameters)
            for parameter in thing.signature.parameters:
                for shown, value in wrong_values(folder).items():
                    if (thing.name, parameter, shown) in SLOW:
                        continue
                    count += 1
                    if error := tried(thing, parameter, value, folder):
                        raw += 1
                        print(f"{thing.name}({parameter}={shown}): {error!r:.200}")
    print(f"{parameters} parameters, {count} calls, {raw} raw errors")


if __name__ == "__main__":
    main(*sys.argv[1:])
