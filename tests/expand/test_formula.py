"""Formulas are read again, by a reader that knows only what they say of themselves."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from random import Random
from typing import Literal

import numpy as np
import pytest
from hypothesis import given as drawn
from hypothesis import settings
from hypothesis import strategies as st
from matplotlib.mathtext import MathTextParser

import rewrite as rw
from rewrite.expand import Product, expand_dag
from rewrite.expand.folding import Equation, fold
from rewrite.expand.formula import formula
from rewrite.ir.dag import Constant, Dag, Join, Node, Part, Port, Source
from rewrite.paths import Automaton, assign, paths
from tests.laws.oracle import WIDTH, Chooser, compute, draw, given, treeified
from tests.laws.random_dags import dags, hypotheses
from tests.zoo import tiny, traced

Values = dict[str, np.ndarray]


def unfolded(text: str) -> Iterator[tuple[str, str]]:
    """Equations one by one: `{2l+1}` in a loop is a number."""
    lines = iter([*text.splitlines(), ""])
    line = next(lines)
    while line:
        loop = re.fullmatch(r"for l = (\d+)\.\.(\d+):", line)
        if loop is None:
            name, _, value = line.partition(" = ")
            yield name, value
            line = next(lines)
            continue
        body = []
        while (line := next(lines)).startswith("    "):
            body.append(line.strip())
        assert body
        for number in range(int(loop[1]), int(loop[2]) + 1):
            for equation in body:
                done = re.sub(r"\{(-?\d*)l([+-]\d+)?\}", lambda found, at=number: str(
                    int(found[1] or 1) * at + int(found[2] or 0)), equation)
                name, _, value = done.partition(" = ")
                yield name, value


def pieces(text: str, mark: str) -> list[str]:
    """Split at `mark` outside of brackets."""
    found, depth, start = [], 0, 0
    for at, letter in enumerate(text):
        depth += (letter in "({[") - (letter in ")}]")
        if depth == 0 and text.startswith(mark, at):
            found.append(text[start:at])
            start = at + len(mark)
    return [*found, text[start:]]


class Reader:
    """Computes the value of each equation, with the parts of the oracle."""

    def __init__(self, dag: Dag) -> None:
        self.dag, self.values = dag, {}
        self.applied: set[tuple[str, bytes]] = set()
        self.outputs: list[np.ndarray] | None = None

    def read(self, text: str) -> Values:
        for name, value in unfolded(text):
            assert name not in self.values
            if name == "outputs":
                self.outputs = [self.term(text) for text in re.split("[,;] ", value)]
            else:
                self.values[name] = self.sum(value)
        return self.values

    def sum(self, text: str) -> np.ndarray:
        added = [(sign, term) for plus in pieces(text, " + ") for sign, term in zip(
            (1, *(-1,) * plus.count(" - ")), pieces(plus, " - "), strict=False)]
        return np.sum([sign * self.times(term) for sign, term in added], axis=0)

    def times(self, text: str) -> np.ndarray:
        """A term with its factor, a number, or what weights make."""
        if text.startswith("-"):
            return -self.times(text[1:])
        factor, *rest = pieces(text, "*")
        if rest:
            return self.times(factor) * self.term(rest[0])
        if re.fullmatch(r"[\d.]+(e[+-]\d+)?", text):
            return np.full(WIDTH, float(text))
        return draw(text, WIDTH) if text.endswith((".scale", ".shift")) else self.term(text)

    def term(self, text: str) -> np.ndarray:
        if text in self.values:
            return self.values[text]
        match = re.fullmatch(r"([\w.]+?)(\{[\d,-]+\})?(?:\[(\w+)\]|\((.*)\))?", text)
        assert match, text
        name, chosen, run, arguments = match.groups()
        names = [name + str(n) for n in numbers(chosen)] if chosen else [name]
        if name not in self.dag.by_name and f"{name}.out" in self.dag.by_name:
            names = list(self.dag[f"{name}.out"].reads)
        return np.sum([self.one(name, run, arguments) for name in names], axis=0)

    def one(self, name: str, run: str | None, arguments: str | None) -> np.ndarray:
        node = self.dag[name]
        if run is not None:
            return treeified(self.dag, name, lambda word: run)
        if isinstance(node, Constant):
            return given(name)
        if arguments is None:
            return given(name, "the only run")
        assert isinstance(node, Part)
        by_port: dict[str, list[str]] = {}
        for block in pieces(arguments, "; "):
            *ports, values = pieces(block, ": ")
            for port in ports[0].split(",") if ports else {p.symbol.rpartition(".")[2]
                                                           for p in node.ports}:
                by_port[port] = pieces(values, ", ")
        readings = [self.sum(by_port[p.symbol.rpartition(".")[2]].pop(0)) for p in node.ports]
        assert not any(by_port.values()), "arguments that no port reads"
        self.applied.add((name, b"".join(value.tobytes() for value in readings)))
        return compute(name, readings)


def numbers(chosen: str) -> Iterator[int]:
    """`{0-2,4}`."""
    for piece in chosen[1:-1].split(","):
        first, _, last = piece.partition("-")
        yield from range(int(first), int(last or first) + 1)


def check(dag: Dag, product: Product, choose: Chooser) -> None:
    reader = Reader(dag)
    values = reader.read(formula(product))
    found = reader.outputs or [values[name] for name in dag.outputs]
    for name, value in zip(dag.outputs, found, strict=True):
        assert np.allclose(value, treeified(dag, name, choose), rtol=1e-9)
    copies = [(n.name, c.index) for n in dag.nodes if isinstance(n, Part)
              for c in product.copies[n.name] if len(c.runs) > 1]
    assert len(reader.applied) == len(copies)


def automaton(dag: Dag, sets: dict[str, str]) -> Automaton:
    return assign({run: paths(text) for run, text in sets.items()}, "rest", dag)


@settings(max_examples=60, deadline=None, derandomize=True)
@drawn(st.data())
def test_random_wirings(data: st.DataObject) -> None:
    dag = data.draw(dags())
    sets, choose = data.draw(hypotheses(dag))
    check(dag, expand_dag(dag, [automaton(dag, sets)]), choose)


def scaled(dag: Dag, random: Random) -> Dag:
    """The same wiring with random factors in its sums."""
    def factor() -> float | Literal["some"]:
        return random.choice([1.0, -1.0, 2.0, 0.7071067811865475, -0.25, 1e-05, "some"])

    nodes = [replace(node, factors=tuple(factor() for _ in node.terms),
                     shift=random.choice([0.0, 0.0, factor()]))
             if isinstance(node, Join) and random.random() < 0.8 and not node.name.endswith(".out")
             else node for node in dag.nodes]
    return replace(dag, nodes=tuple(nodes))


@settings(max_examples=60, deadline=None, derandomize=True)
@drawn(st.data())
def test_factors_of_sums(data: st.DataObject) -> None:
    dag = scaled(data.draw(dags()), Random(data.draw(st.integers(0, 999))))
    sets, choose = data.draw(hypotheses(dag))
    check(dag, expand_dag(dag, [automaton(dag, sets)]), choose)


@pytest.mark.parametrize("family", ["gpt2", "llama", "bert"])
def test_a_scaled_model_is_all_of_its_parts(family: str) -> None:
    dag = scaled(traced(family).parts.dag, Random(1))
    values = Reader(dag).read(formula(dag))
    wanted = treeified(dag, "logits", lambda word: "the only run")
    assert np.allclose(values["logits"], wanted)


def test_equal_factors_are_folded_and_others_are_not() -> None:
    """Factors and what is added stand as they are in a loop."""
    nodes: list[Node] = [Source("x"), Part("m", (Port("m", "x"),)), Join("r0", ("x", "m"))]
    nodes += [Join(f"r{i + 1}", (f"r{i}",), (2.0,), 3.0) for i in range(4)]
    nodes += [Join(f"r{i + 1}", (f"r{i}", "m"), (i + 1.0, 1.0), i - 1.0) for i in range(4, 8)]
    dag = Dag((*nodes, Part("y", (Port("y", "r8"),))), ("y",))
    assert formula(dag) == """\
r0 = x + m(x)
for l = 0..3:
    r{l+1} = 2*r{l} + 3.0
r5 = 5*r4 + m(x) + 3.0
r6 = 6*r5 + m(x) + 4.0
r7 = 7*r6 + m(x) + 5.0
r8 = 8*r7 + m(x) + 6.0
y = y(r8)"""
    assert r"\quad r_{l + 1} &= 2\,r_{l} + 3.0 \\" in formula(dag, latex=True)
    tiny = replace(dag, nodes=(*nodes[:3], Join("r8", ("r0", "m"), (-1e-05, 0.5), -1e-07),
                               dag.nodes[-1]))
    assert "r_{8} &= -1 \\cdot 10^{-5}\\,r_{0} + 0.5\\,m(x) - 1 \\cdot 10^{-7}" in formula(
        tiny, latex=True)


@pytest.mark.parametrize("family", ["gpt2", "llama", "bert", "gemma3", "gpt_neox"])
@settings(max_examples=8, deadline=None, derandomize=True)
@drawn(st.data())
def test_models(family: str, data: st.DataObject) -> None:
    dag = traced(family).parts.dag
    sets, choose = data.draw(hypotheses(dag))
    check(dag, expand_dag(dag, [automaton(dag, sets)]), choose)


@pytest.mark.parametrize("family", ["gpt2", "llama", "bert", "gemma3", "gpt_neox"])
def test_a_model_is_all_of_its_parts(family: str) -> None:
    parts = traced(family).parts
    reader = Reader(parts.dag)
    values = reader.read(formula(parts))
    wanted = treeified(parts.dag, "logits", lambda word: "the only run")
    assert np.allclose(values["logits"], wanted)
    assert len(reader.applied) == sum(isinstance(n, Part) for n in parts.dag.nodes)


deep = pytest.mark.xdist_group("thirty layers")


@cache
def thirty() -> rw.Components:
    return rw.trace(tiny("llama", num_hidden_layers=30)).components()


def expanded(parts: rw.Components, text: str) -> rw.Expansion:
    return rw.expand(rw.Hypothesis(parts, {"clean": text}))


@deep
def test_thirty_layers() -> None:
    assert formula(thirty()) == """\
embed = embed(tokens)
resid0 = embed + a0(embed)
for l = 0..28:
    resid{2l+1} = resid{2l} + m{l}(resid{2l})
    resid{2l+2} = resid{2l+1} + a{l+1}(resid{2l+1})
resid59 = resid58 + m29(resid58)
logits = logits(resid59)"""


@deep
def test_a_hypothesis_about_thirty_layers() -> None:
    exp = expanded(thirty(), "a5.h1 -> ... -> a20.h3.q")
    assert exp.formula() == """\
resid10 = resid9[corrupt] + a5.h{0,2-3}[corrupt] + a5.h1[clean]
for l = 5..18:
    resid{2l+1} = resid{2l} + m{l}(resid{2l})
    resid{2l+2} = resid{2l+1} + a{l+1}(resid{2l+1})
resid39 = resid38 + m19(resid38)
resid40 = resid39[corrupt] + a20.h{0-2}[corrupt] + a20.h3(q: resid39; k,v: resid39[corrupt])
for l = 20..28:
    resid{2l+1} = resid{2l} + m{l}(resid{2l})
    resid{2l+2} = resid{2l+1} + a{l+1}(resid{2l+1})
resid59 = resid58 + m29(resid58)
logits = logits(resid59)"""


@deep
@pytest.mark.parametrize("text", [
    "a20.h3.v -> logits | a5.h1 -> ... -> m7 -> ... -> a20.h3.q", "a5.h1 -> logits",
    "a5.h3 - m9", "a0.h1",
])
def test_formulas_of_deep_models_are_short(text: str) -> None:
    assert len(expanded(thirty(), text).formula().splitlines()) <= 17


def test_one_run_is_the_model() -> None:
    assert expanded(traced("gpt2").parts, "...").formula() == "outputs = logits[clean]"


def test_several_hypotheses_have_an_output_each() -> None:
    parts = traced("gpt2").parts
    both = rw.expand([rw.Hypothesis(parts, {"clean": t}) for t in ("m1 -> logits", "a1.h2")])
    lines = both.formula().splitlines()
    assert lines[-1] == "outputs = logits#0; logits#1"


LATEX = [lambda: formula(thirty(), latex=True),
         lambda: expanded(thirty(), "a5.h1 -> ... -> a20.h3.q").formula(latex=True),
         lambda: expanded(traced("gpt2").parts, "a0.h1 -> m0 -> a1.h2 | a0.h3 -> m0 -> logits"
                          ).formula(latex=True)]


@deep
@pytest.mark.parametrize("made", LATEX)
def test_latex(made: Callable[[], str]) -> None:
    text = made()
    assert text.count("{") == text.count("}")
    first, *rows, last = text.splitlines()
    assert (first, last) == (r"\begin{aligned}", r"\end{aligned}")
    assert all(row.endswith(r" \\") for row in rows[:-1]) and not rows[-1].endswith("\\")
    parser = MathTextParser("path")
    for row in rows:
        assert row.count("&") == 1
        parser.parse(f"${row.removesuffix(' ' + 2 * chr(92)).replace('&', ' ')}$")


@deep
def test_latex_of_names() -> None:
    rows = formula(thirty(), latex=True).splitlines()
    assert rows[4] == r"\quad \mathrm{resid}_{2 l + 1} &= \mathrm{resid}_{2 l} + m_{l}(" \
                      r"\mathrm{resid}_{2 l}) \\"


@settings(max_examples=200, deadline=None, derandomize=True)
@drawn(st.lists(st.tuples(st.sampled_from("xyz"), st.integers(0, 3), st.integers(0, 12)),
                max_size=40))
def test_folding_loses_nothing(numbers: list[tuple[str, int, int]]) -> None:
    equations = [Equation(f"{name}{i}", f"f{a}.w07(x{b}#1[run2]) + g.h{{0-{a}}}")
                 for i, (name, a, b) in enumerate(numbers)]
    lines = fold(equations)
    text = "\n".join(map(str, lines))
    assert list(unfolded(text)) == [(e.name, e.value) for e in equations]
    assert len(text.splitlines()) <= len(equations)


def test_folding_finds_the_longest_blocks() -> None:
    body = [Equation("start", "0")]
    body += [Equation(f"x{3 * i + j}", f"{name}{2 * i}") for i in range(4)
             for j, name in enumerate("abc")]
    assert "\n".join(map(str, fold(body))) == """\
start = 0
for l = 0..3:
    x{3l} = a{2l}
    x{3l+1} = b{2l}
    x{3l+2} = c{2l}"""
    assert isinstance(traced("gpt2").parts.dag["resid1"], Join)
