"""Every rule of the table: proved, refuted when broken, equal in numbers, silent elsewhere."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import rewrite as rw
import rewrite.rules
from rewrite.errors import ProofError
from rewrite.rules import RULES, Example, Rule, rule
from rewrite.rules.declare import equations
from rewrite.rules.example import KINDS, SMALL
from rewrite.rules.terms import Call, Hole, Listed, Term, read, sizes_of
from rewrite.symbolic import prove
from tests.rules.mutants import mutants

NAMES = list(RULES)
# Broken in a way that keeps the equation: it holds for any mask, any projection, any positions.
EQUIVALENT = {
    "split_mask": {"other_sign at 3", "another_number at 4", "opposite_mask at 4",
                   "another_number at 5", "opposite_mask at 5", "opposite_mask at 6"},
    "split_positions": {"another_number at 2", "another_number at 3",
                        "doubled at 5"},  # twice zero
    "split_subspace": {f"doubled at {place}" for place in (1, 2)},
    "push_down_slice": {"another_number at 1"},  # of a vector, every axis is the same one
    "mul_zero": {"doubled at 0"}, "sub_self": {"doubled at 0"},  # twice zero
}
X = "x: b s d"
WRONG = {
    "dropped bias": ("linear(a + c, W, e) = linear(a, W) + linear(c, W)",
                     "a: b s d, c: b s d, W: e d, e: e"),
    "bias twice": ("linear(a + c, W, e) = linear(a, W, e) + linear(c, W, e)",
                   "a: b s d, c: b s d, W: e d, e: e"),
    "transposed weight": ("linear(a + c, W) = linear(a, W) + linear(c, W.mT)",
                          "a: b s d, c: b s d, W: d d"),
    "missing scale": ("attention(q, k, v) = softmax(q @ k.mT, -1) @ v",
                      "q: b h s d, k: b h t d, v: b h t e"),
    "softmax of the wrong axis": (
        "attention(q, k, v, None, 0.0, False, 1.0) = softmax(q @ k.mT, -2) @ v",
        "q: b h s d, k: b h t d, v: b h t e"),
    "forgotten mask": ("attention(q, k, v, m, 0.0, False, 1.0) = softmax(q @ k.mT, -1) @ v",
                       "q: b h s d, k: b h t d, v: b h t e, m: s t"),
    "norm without its bias": (
        "linear(layer_norm(x, n, g, h, e), W) = linear(layer_norm(x, n, None, None, e), W * g)",
        "linear(layer_norm(x, [2], g, h, 0.1), W) | x: b s 2, g: 2, h: 2, W: e 2"),
    "norm without its gain": (
        "linear(layer_norm(x, n, g, h, e), W) = linear(layer_norm(x, n, None, h, e), W)",
        "linear(layer_norm(x, [2], g, h, 0.1), W) | x: b s 2, g: 2, h: 2, W: e 2"),
    "gain on the wrong axis": ("linear(x * g, W) = linear(x, W * unsqueeze(g, -1))",
                               "x: b s d, g: d, W: d d"),
    "a function is no sum": ("gelu(a + c) = gelu(a) + gelu(c)", "a: b s d, c: b s d"),
    "add_zero": ("x + 1 = x", X), "mul_one": ("x * 2 = x", X), "neg_neg": ("-x = x", X),
    "flatten": ("total(x, total(y, z)) = total(x, y)", "x: s d, y: s d, z: s d"),
    "total_of_one": ("total(x, y) = x", "x: s d, y: s d"),
    "view_as_is": ("reshape(transpose(x, 0, 1), s) = x",
                   "reshape(transpose(x, 0, 1), [2, 2]) | x: 2 2"),
    "swap_twice": ("transpose(transpose(x, i, j), k, l) = x",
                   "transpose(transpose(x, 0, 1), 1, 2) | x: d d d"),
    "no_change": ("relu(x) = x", X),
    "concat_of_one": ("cat([x, y], i) = cat([y, x], i)", "cat([x, y], 1) | x: b s d, y: b s d"),
    "copy_as_value": ("copy(x, y) = x", "x: b s, y: b s"),
    "take_all": ("take(x, i, r) = x", "take(x, 1, [[1, 2], [0, 1]]) | x: b s d"),
    "dedup": ("gelu(x) + gelu(y) = gelu(x) + gelu(x)", "x: b s d, y: b s d"),
    "share_partial_sums": ("total(x, y, z) = total(total(x, z), z)", "x: s d, y: s d, z: s d"),
    "mean_as_sum": ("mean(x, d) = sum(x, d)", "mean(x, [-1]) | x: b s d"),
}


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """Broken rules ask torch for shapes that cannot be, which it logs."""
    logging.disable(logging.ERROR)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("name", NAMES)
def test_proved(name: str) -> None:
    proof = prove(RULES[name])
    assert proof, str(proof)
    assert proof.entries > 0 and len(proof.instances) == len(RULES[name].examples) > 0


@pytest.mark.parametrize("name", NAMES)
def test_broken_variants_are_refuted(name: str) -> None:
    survived, refuted = set(), 0
    for label, mutant in mutants(RULES[name]):
        try:
            proof = prove(mutant)
        except ProofError:  # it cannot be broken that way
            continue
        refuted += proof.verdict.status == "refuted"
        if proof.verdict.status != "refuted":
            survived.add(label.partition(": ")[2])
    assert survived == EQUIVALENT.get(name, set())
    wrong = name in WRONG or name in {"mul_zero", "sub_self", "fold_constants", "fold_weights"}
    assert refuted or wrong, "nothing was broken"


@pytest.mark.parametrize("name", WRONG)
def test_wrong_rules_are_refuted(name: str) -> None:
    equation, examples = WRONG[name]
    proof = prove(rule("wrong", equation, once=True, examples=examples))
    assert proof.verdict.status == "refuted"
    left, right = proof.verdict.values or (0.0, 0.0)
    assert abs(left - right) > 1e-6  # the counterexample is one


@pytest.mark.parametrize("name", NAMES)
def test_every_equation_has_an_example(name: str) -> None:
    for alone in equations(RULES[name]):
        fired = [e for e in RULES[name].examples if e.graph().rewrite(alone).trail]
        assert fired, f"no example of {alone.equation}"


@pytest.mark.parametrize("name", NAMES)
def test_it_must_not_fire(name: str) -> None:
    assert RULES[name].refuses
    for example in RULES[name].refuses:
        before = example.graph()
        after = before.rewrite(RULES[name])
        assert not after.trail and after.code == before.code


@settings(max_examples=8, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10**6), data=st.data())
@pytest.mark.parametrize("name", NAMES)
def test_changed_and_equal(name: str, seed: int, data: st.DataObject) -> None:
    """In a random surrounding, on random sizes: the rule fires, and the numbers stay."""
    example = data.draw(st.sampled_from(RULES[name].examples))
    letters = {letter: data.draw(st.integers(1, 4)) for letter in example.letters()}
    letters = {k: max(v, 2) if k in "dhs" else v for k, v in letters.items()}  # of 1, views are
    around = surrounded(example, data)
    before = around.graph(**letters)
    after = before.rewrite(RULES[name])
    assert after.trail and after.code != before.code
    inputs = around.inputs(seed, **letters)
    found, wanted = after(**inputs), before(**inputs)
    assert found.dtype == wanted.dtype and found.shape == wanted.shape
    assert torch.allclose(found, wanted, rtol=1e-9, atol=1e-9, equal_nan=True)


UNARY = ("gelu(H)", "tanh(H) + H", "H * 0.7", "silu(H * H)")


def surrounded(example: Example, data: st.DataObject) -> Example:
    """The example with functions of its inputs for its inputs, within another function."""
    floats = [n for n, s in sizes_of(example.shapes).items() if not {*s} & set(KINDS)]
    made = tuple((f"of_{n}", read(data.draw(st.sampled_from(UNARY)).replace("H", n)))
                 for n in floats if data.draw(st.booleans()))
    chosen: dict[str, Term] = {name.removeprefix("of_"): Hole(name) for name, _ in made}

    def put(term: Term, inside: dict[str, Term]) -> Term:
        match term:
            case Hole(name=n):
                return inside.get(n, term)
            case Call(name=n, operands=operands):
                return Call(n, tuple(put(o, inside) for o in operands))
            case Listed(items=items):
                return Listed(tuple(put(i, inside) for i in items))
        return term

    outer = read(data.draw(st.sampled_from(UNARY)))
    shared = (*made, *((n, put(t, chosen)) for n, t in example.shared))
    return replace(example, term=put(outer, {"H": put(example.term, chosen)}), shared=shared)


def test_no_rule_is_long() -> None:
    longest = max(RULES.values(), key=lines_of)
    assert lines_of(longest) <= 40, f"{longest.name} has {lines_of(longest)} lines"


def lines_of(what: Rule) -> int:
    """Lines of the function that a rule is, without its documentation; 1 for an equation."""
    return what.lines


def test_proofs_are_of_the_table() -> None:
    assert len(NAMES) >= 30 and set(SMALL.values()) <= {1, 2, 3}
    assert isinstance(rw.rules.RULES, dict)
