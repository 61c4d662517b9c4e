"""Generators: what each may change, compared with every path of small random graphs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings

import rewrite as rw
from rewrite.discover import CANDIDATES
from rewrite.discover.candidates import at, drop, extend, generators, important, restrict, swap
from rewrite.discover.changes import changes
from rewrite.errors import DataError, HypothesisError, PathError, UnknownName
from rewrite.ir.dag import Dag, Join, Part
from rewrite.paths import bind
from tests.laws.random_dags import random_dag, seeds
from tests.zoo import traced

Word = tuple[str, ...]


def about(dag: Dag, text: str) -> Any:
    """As much of a hypothesis as the generators read."""
    runs = {"clean": rw.paths(text)}
    return SimpleNamespace(parts=SimpleNamespace(dag=dag), runs=runs, path_sets=runs)


def every_path(dag: Dag) -> Counter[Word]:
    """All paths, by recursion over the wiring, and by how many routes of sums each goes."""

    def behind(name: str) -> Iterator[Word]:
        node = dag[name]
        match node:
            case Part():
                for port in dict.fromkeys(node.ports):
                    yield from ((*word, port.symbol) for word in behind(port.reads))
            case Join():
                for term in dict.fromkeys(node.terms):
                    yield from behind(term)
            case _ if name in dag.sources:
                yield (name,)
            case _:
                return

    return Counter(word for output in dict.fromkeys(dag.outputs) for word in behind(output))


def held(path_set: rw.PathSet, dag: Dag, words: Counter[Word]) -> Counter[Word]:
    bound = bind(path_set, dag)
    return Counter({word: routes for word, routes in words.items() if word in bound})


def walk_of(words: Counter[Word], random: Random) -> str:
    """Some paths of the graph as a pattern: the end of one, with a gap at times."""
    word = random.choice(sorted(words))
    end = list(word[random.randrange(len(word)):])
    if len(end) > 2 and random.random() < 0.5:
        end[1 : len(end) - 1] = ["..."]
    return " -> ".join(end)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(seeds)
def test_what_each_generator_may_change(seed: int) -> None:
    random = Random(seed)
    dag = random_dag(random, random.randint(2, 5))
    words = every_path(dag)
    text = " | ".join(walk_of(words, random) for _ in range(random.choice([1, 2])))
    hypothesis = about(dag, text)
    before = held(rw.paths(text), dag, words)
    for change in changes(hypothesis, CANDIDATES):
        after = held(change.paths, dag, words)
        more, fewer = (after - before).total(), (before - after).total()
        assert (change.more, change.fewer, change.count) == (more, fewer, after.total()), change
        if change.kind in ("drop", "restrict"):
            assert after <= before, change
        if change.kind == "extend":
            assert after >= before, change
            writer, reader = change.what.split(" -> ")[:2]
            assert all(any(one.startswith(writer) and two == reader
                           for one, two in pairwise(word))
                       for word in after - before), change


@settings(max_examples=20, deadline=None, derandomize=True)
@given(seeds)
def test_edges_into_the_output_are_all_there_is(seed: int) -> None:
    dag = random_dag(Random(seed), 4)
    words = every_path(dag)
    made = changes(about(dag, "~(...)"), {"extend": extend})
    assert set().union(*(held(each.paths, dag, words) for each in made)) == set(words)
    assert all(each.paths.pattern != rw.PathSet.none().pattern for each in made)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(seeds)
def test_every_path_comes_by_one_of_the_writers(seed: int) -> None:
    random = Random(seed)
    dag = random_dag(random, 4)
    words = every_path(dag)
    before = held(rw.paths(dag.outputs[-1]), dag, words)
    made = [paths for _, paths in restrict(about(dag, dag.outputs[-1]))]
    assert set().union(*(held(each, dag, words) for each in made)) == set(before)


def texts(generator: Any, text: str) -> list[str]:
    hypothesis = rw.Hypothesis(traced("gpt2", torch.float64).parts, {"clean": text})
    return [str(paths) for _, paths in generator(hypothesis)]


def test_pieces_that_are_dropped() -> None:
    assert texts(drop, "a0.h1.q | m0 | a1.h2.v -> logits") == [
        "m0 | a1.h2.v -> logits", "a0.h1.q | a1.h2.v -> logits", "a0.h1.q | m0"]
    assert texts(drop, "a1.h2.v -> logits") == ["~(...)"]
    assert texts(drop, "(m0 | a0.h1.v) -> a1.h2.v") == [
        "~(...)", "a0.h1.v -> a1.h2.v", "m0 -> a1.h2.v"]
    assert texts(drop, "a1.h{1,2}.v -> logits") == [
        "~(...)", "a1.h2.v -> logits", "a1.h1.v -> logits"]
    assert texts(drop, "m0 & (m1 | a0.h1.v) - a1.h2") == [
        "~(...)", "m0 & a0.h1.v - a1.h2", "m0 & m1 - a1.h2"], "what is taken away is no piece"
    assert texts(drop, "(m0 | m1)?")[1:] == ["m1?", "m0?"]
    assert texts(drop, "(m0 | m1 -> logits)*")[1:] == ["(m1 -> logits)*", "(m0)*"]
    assert texts(drop, "~m0") == ["~(...)"]


def test_what_dots_are_replaced_by() -> None:
    made = texts(restrict, "m0 -> ... -> logits")
    assert "m0 -> logits" in made and "m0 -> ... -> a1.h3 -> logits" in made
    assert "embed -> m0 -> ... -> logits" in made
    assert "tokens -> embed -> m1" in texts(restrict, "embed -> m1")
    made = texts(restrict, "m1 | ... -> a1.h0.q")
    assert "m1 | m0 -> a1.h0.q" in made and "embed -> m1 | ... -> a1.h0.q" in made


def test_ports_of_a_head_that_is_in() -> None:
    assert texts(swap, "m0 | a1.h2.v -> logits") == [
        "m0 | a1.h2.q -> logits", "m0 | a1.h2.k -> logits"]
    assert texts(swap, "a1.h2 -> logits") == [], "it has all ports already"


def test_places_are_asked_for_where_there_are_none() -> None:
    made = texts(at("[-1]", "[0]"), "m0@[2] -> a1.h2.v")
    assert made == ["m0@[2] -> a1.h2.v@[-1]", "m0@[2] -> a1.h2@[-1].v",
                    "m0@[2] -> a1.h2.v@[0]", "m0@[2] -> a1.h2@[0].v"]
    assert all(str(rw.paths(text)) == text for text in made)
    assert texts(drop, "a1.h2@[-1] -> logits")[1:] == [
        "(a1.h2@[-1].k | a1.h2@[-1].v) -> logits", "(a1.h2@[-1].q | a1.h2@[-1].v) -> logits",
        "(a1.h2@[-1].q | a1.h2@[-1].k) -> logits"]
    assert texts(swap, "a1.h2@[-1].v")[0] == "a1.h2@[-1].q"
    assert "a1.h3.v[-1]" in texts(drop, "a1.h{2,3}.v[-1]")
    parts = traced("gpt2", torch.float64).parts
    hypothesis = rw.Hypothesis(parts, {"clean": "a1.h2.v -> logits"})
    (last, *_) = changes(hypothesis, {"at": at("[-1]")})
    assert last.count == last.fewer == 26, "the same paths, at fewer positions"


def test_changes_that_change_nothing_are_left_out() -> None:
    parts = traced("gpt2", torch.float64).parts
    hypothesis = rw.Hypothesis(parts, {"clean": "m1 -> logits"})
    made = changes(hypothesis, {"extend": extend})
    assert len(made) == len([w for w, r in parts.edges if r == "logits"]) - 1
    twice = {"one": extend, "two": extend}
    assert {each.kind for each in changes(hypothesis, twice)} == {"one"}
    own = {"own": lambda hypothesis: [("same", rw.paths("m1 -> logits")),
                                      ("none", rw.paths("m1 & ~m1"))]}
    (none,) = changes(hypothesis, own)
    assert none.paths == rw.PathSet.none() and none.count == 0


def test_candidates_by_name_or_function() -> None:
    def own(hypothesis: rw.Hypothesis) -> list[tuple[str, rw.PathSet]]:
        return []

    assert list(generators(["swap", own])) == ["swap", "own"]
    assert list(generators("swap")) == ["swap"] == list(generators(["swap", swap]))
    assert list(generators([at("S"), at("S", "[-1]")])) == ["at(S)", "at(S, [-1])"]
    with pytest.raises(DataError, match="two functions for candidates are called '<lambda>'"):
        generators([lambda _: [], lambda _: []])
    with pytest.raises(UnknownName, match="no candidates called 'extnd'; did you mean extend"):
        generators(["extnd"])
    with pytest.raises(DataError, match="there are no candidates: name some of drop"):
        generators([])
    with pytest.raises(DataError, match="names or functions of a hypothesis, found 3"):
        generators([3])  # pyright: ignore[reportArgumentType]
    hypothesis = rw.Hypothesis(traced("gpt2", torch.float64).parts, {"clean": "m1"})
    with pytest.raises(PathError, match=r"'own' gave 'm0': use rw\.paths"):
        changes(hypothesis, {"own": lambda _: [("text", "m0")]})  # pyright: ignore[reportArgumentType]


def test_one_set_of_important_paths() -> None:
    parts = traced("gpt2", torch.float64).parts
    three = rw.Hypothesis(parts, {"clean": "m1", "other": "m0 -> logits"})
    with pytest.raises(HypothesisError, match=r"clean, other, corrupt: keep one of clean, other"):
        important(three)
