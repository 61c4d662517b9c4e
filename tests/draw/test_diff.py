"""Both graphs in one picture: what changed is told by signs and dashes, the rest is folded."""

from __future__ import annotations

from pathlib import Path

import pygraphviz
import pytest
import torch
from torch.nn import functional

import rewrite as rw
from rewrite.draw.diff import dot_of_diff
from rewrite.errors import RewriteError
from rewrite.ir.diff import diff
from tests.draw.reading import Picture, words
from tests.zoo import traced


@pytest.fixture(scope="module")
def edited() -> rw.Graph:
    """Of two activations the first is followed by another one, the second one replaced; a norm
    is gone."""
    graph = traced("gpt2").graph
    first, second = (name for name in graph.nodes if name.startswith("tanh"))
    twice = graph.insert(first, functional.silu).replace(second, torch.sigmoid)
    return twice.delete("layer_norm_2")


def test_what_changed_is_marked(edited: rw.Graph) -> None:
    source = dot_of_diff(diff(traced("gpt2").graph, edited))
    picture = Picture(source)
    added, removed = picture.find("+ silu"), picture.find("− layer_norm_2")
    assert "− tanh(" in picture.text(picture.find("± tanh_1", "+ `torch.sigmoid`("))
    look = pygraphviz.AGraph(string=source)
    assert "dashed" in look.get_node(removed).attr["style"]
    assert "bold" in look.get_node(added).attr["style"]
    dashed = {edge for edge in look.edges() if edge.attr["style"] == "dashed"}
    assert {edge[1] for edge in dashed if edge[0] == removed} == {picture.find("view_12 view")}
    picture.check_alive([picture.find("output")])
    assert picture.caption.startswith(
        "GPT2LMHeadModel: 1 added, 3 removed, 1 changed, 2 edges rewired; 2 removed weights not")


def test_what_is_far_away_is_folded(edited: rw.Graph) -> None:
    change = diff(traced("gpt2").graph, edited)
    near, far = Picture(dot_of_diff(change)), Picture(dot_of_diff(change, around=3))
    assert sum("nodes unchanged" in near.text(node) for node in near.labels) >= 3
    assert len(near.labels) < len(far.labels) < len(traced("gpt2").graph.nodes)
    assert "nodes unchanged" in Picture(dot_of_diff(diff(edited, edited))).text("box0")


def test_long_calls_are_cut() -> None:
    graph = traced("gpt2").graph
    label = dot_of_diff(diff(graph, graph.insert("layer_norm_2", torch.tanh)))
    lines = [words(line) for box in Picture(label).labels.values() for line in box.split("<br/>")]
    assert max(map(len, lines)) <= 46


def test_changed_nodes_show_both_calls() -> None:
    graph = traced("gpt2").graph
    module = rw.ir.surgery.copy_module(graph.module)
    node = next(n for n in module.graph.nodes if n.name == "tanh")
    node.target = torch.ops.aten.sigmoid.default
    picture = Picture(dot_of_diff(diff(graph, graph.with_module(module)), caption=False))
    text = picture.text(picture.find("± tanh"))
    assert "− tanh(" in text and "+ sigmoid(" in text and picture.caption == ""


def test_files_and_options(edited: rw.Graph, tmp_path: Path) -> None:
    change = diff(traced("gpt2").graph, edited)
    assert change.draw(tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in change._repr_svg_()
    with pytest.raises(RewriteError, match="drawing a Diff has no option 'arond'; did you mean ar"):
        change.draw(arond=2)
