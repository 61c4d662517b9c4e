"""Names and edges of the parts of every family."""

from __future__ import annotations

from dataclasses import replace

import pytest

import rewrite as rw
from rewrite.errors import UnknownName
from rewrite.ir.dag import Constant, Join
from tests.zoo import FAMILIES, tokens, traced

HEADS = [f"a{layer}.h{head}" for layer in range(2) for head in range(4)]
PLAIN = ("tokens", "embed", *HEADS[:4], "m0", *HEADS[4:], "m1", "logits")
NAMES = {
    "gpt2": PLAIN, "gpt_neox": PLAIN, "llama": PLAIN, "qwen3": PLAIN,
    "gemma3": ("tokens", "embed", *HEADS[:4], "n0.a", "m0", *HEADS[4:], "n1.a", "m1", "logits"),
    "bert": ("tokens", "embed", *HEADS[:4], "n0.a", "m0", "n0.m",
             *HEADS[4:], "n1.a", "m1", "logits"),
}


def layers(parts: rw.Components) -> dict[str, list[str]]:
    """Who is read by whom, with the heads of a layer and their ports as one."""
    found: dict[str, list[str]] = {}
    for writer, reader in parts.edges:
        one, other = (name.partition(".h")[0] for name in (writer, reader))
        if one not in found.setdefault(other, []):
            found[other].append(one)
    return found


SERIAL = {
    "embed": ["tokens"], "a0": ["embed"], "m0": ["embed", "a0"], "a1": ["embed", "a0", "m0"],
    "m1": ["embed", "a0", "m0", "a1"], "logits": ["embed", "a0", "m0", "a1", "m1"],
}
EDGES = {
    "gpt2": SERIAL, "llama": SERIAL, "qwen3": SERIAL,
    "gpt_neox": SERIAL | {"m0": ["embed"], "m1": ["embed", "m0", "a0"]},
    "gemma3": {
        "embed": ["tokens"], "a0": ["embed"], "n0.a": ["a0"], "m0": ["embed", "n0.a"],
        "a1": ["embed", "n0.a", "m0"], "n1.a": ["a1"], "m1": ["embed", "n0.a", "m0", "n1.a"],
        "logits": ["embed", "n0.a", "m0", "n1.a", "m1"],
    },
    "bert": {
        "embed": ["tokens"], "a0": ["embed"], "n0.a": ["embed", "a0"], "m0": ["n0.a"],
        "n0.m": ["n0.a", "m0"], "a1": ["n0.m"], "n1.a": ["n0.m", "a1"], "m1": ["n1.a"],
        "logits": ["n1.a", "m1"],
    },
}


@pytest.mark.parametrize("family", FAMILIES)
def test_names_and_edges(family: str) -> None:
    parts = traced(family).parts
    assert parts.names == NAMES[family]
    assert parts.heads == tuple(HEADS)
    assert parts.notes == ()
    found = layers(parts)
    assert {reader: sorted(w) for reader, w in found.items()} == {
        reader: sorted(w) for reader, w in EDGES[family].items()}
    ports = {reader for _, reader in parts.edges if reader.startswith("a0.h2")}
    assert ports == {"a0.h2.q", "a0.h2.k", "a0.h2.v"}


@pytest.mark.parametrize("family", FAMILIES)
def test_constants_and_sums(family: str) -> None:
    nodes = traced(family).parts.dag.nodes
    constants = [node.name for node in nodes if isinstance(node, Constant)]
    biases = [] if family in {"llama", "qwen3", "gemma3"} else ["a0.bias", "a1.bias"]
    assert constants == ["pos"] * (family == "gpt2") + biases
    assert all(isinstance(traced(family).parts.dag[f"a{i}.out"], Join) for i in (0, 1))


@pytest.mark.parametrize(("family", "alias", "name"), [
    ("gpt2", "transformer.h.0.mlp", "m0"),
    ("gpt2", "transformer.h.1.attn.h2", "a1.h2"),
    ("gpt2", "transformer.wte", "embed"),
    ("gpt2", "lm_head", "logits"),
    ("llama", "model.layers.1.mlp", "m1"),
    ("llama", "model.layers.*.mlp", "m{0,1}"),
    ("llama", "a1.kv1.k", "a1.h{2,3}.k"),
    ("llama", "a*.kv0", "a*.h{0,1}"),
    ("gpt_neox", "gpt_neox.layers.0.mlp", "m0"),
])
def test_further_spellings(family: str, alias: str, name: str) -> None:
    dag = traced(family).parts.dag
    one, other = rw.paths(alias), rw.paths(name)
    try:
        assert rw.count_paths(one, dag) > 0
    except UnknownName as error:
        raise AssertionError(str(dag.spellings)) from error
    assert rw.count_paths((one - other) | (other - one), dag) == 0


def test_a_star_in_a_short_name_means_short_names() -> None:
    dag = traced("llama").parts.dag
    assert rw.count_paths("m*", dag) == rw.count_paths("m0 | m1", dag)


def test_names_come_from_dataflow_and_not_from_modules() -> None:
    """Without module paths the same graph has the same names."""
    graph = traced("gpt2").graph
    from rewrite.ir.surgery import copy_module

    module = copy_module(graph.module)
    for node in module.graph.nodes:
        node.meta["module"] = ""
    assert replace(graph, module=module).components().names == PLAIN


def test_unknown_components_have_near_misses() -> None:
    parts = traced("gpt2").parts
    with pytest.raises(UnknownName, match=r"no component 'a11'; did you mean a1"):
        parts.body("a11")
    with pytest.raises(UnknownName, match="no input 'input_idz'; did you mean input_ids"):
        traced("gpt2").graph.components(sources=("input_idz",))


def test_surgery_on_the_split_model() -> None:
    at, ids = traced("gpt2"), tokens(2, 5)
    graph = at.parts.as_graph()
    edited = graph.insert("a1.h2", lambda value: value * 0)
    assert (edited(input_ids=ids).logits - graph(input_ids=ids).logits).abs().max() > 0.01
