"""What a digest tells apart: everything that a number depends on, and nothing else."""

from __future__ import annotations

import ast
import functools
import re
import sys
import threading
import types
from collections import OrderedDict, deque, namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import rewrite as rw
from rewrite.errors import DataError
from rewrite.run.digest import digest

SHARED = "a name that functions read"
Point = namedtuple("Point", "x y")


class Shade(Enum):
    """Two values that are told apart by their names."""

    LIGHT = 1
    DARK = 2


@dataclass
class Weighted:
    """A metric with state, as users write them."""

    weight: float
    by: Callable[[float], float] = abs

    def __call__(self, value: float) -> float:
        return self.by(value) * self.weight


class Slotted:
    """State without a dictionary."""

    __slots__ = ("scale",)

    def __init__(self, scale: float) -> None:
        self.scale = scale


def made(source: str, name: str = "f", **around: Any) -> Any:
    """A function of a module of its own, from its source."""
    space: dict[str, Any] = {"torch": torch, "__name__": "users_module"} | around
    exec(compile(source, "users_module.py", "exec"), space)
    return space[name]


def closure(value: Any) -> Callable[..., Any]:
    return lambda *_: value


def effect(reference: Any, hypothesis: Any, batch: Any) -> Any:
    return hypothesis


def module_of(source: str, folder: Path) -> types.ModuleType:
    (folder / "helpers.py").write_text(source)
    module = types.ModuleType("helpers")
    module.__file__ = str(folder / "helpers.py")
    exec(compile(source, module.__file__, "exec"), vars(module))
    return module


def net(seed: int, **changes: Any) -> torch.nn.Module:
    torch.manual_seed(seed)
    found = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Dropout(changes.pop("p", 0.1)))
    return found.train(changes.pop("training", False))


def chain(value: int) -> list[Any]:
    found: list[Any] = [value]
    found.append(found)
    return found


BODY = "def f(r, h, b):\n    return {}\n"
DIFFERENT: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
    "a number in code": (lambda: made(BODY.format("h + 1")), lambda: made(BODY.format("h + 2"))),
    "an operator": (lambda: made(BODY.format("h + 1")), lambda: made(BODY.format("h - 1"))),
    "a method that is called": (lambda: made(BODY.format("h.sum()")),
                                lambda: made(BODY.format("h.mean()"))),
    "a function of torch": (lambda: made(BODY.format("torch.exp(h)")),
                            lambda: made(BODY.format("torch.log(h)"))),
    "an argument by name": (lambda: made(BODY.format("h.sum(dim=0)")),
                            lambda: made(BODY.format("h.sum(axis=0)"))),
    "which argument is read": (lambda: made(BODY.format("h")), lambda: made(BODY.format("r"))),
    "a default": (lambda: made("def f(a, k=1): return k"), lambda: made("def f(a, k=2): return k")),
    "a default by name": (lambda: made("def f(*, k=1): return k"),
                          lambda: made("def f(*, k=2): return k")),
    "a value around it": (lambda: closure(1), lambda: closure(2)),
    "a tensor around it": (lambda: closure(torch.ones(2)), lambda: closure(torch.zeros(2))),
    "a number of the module": (lambda: made(BODY.format("K"), K=1),
                               lambda: made(BODY.format("K"), K=2)),
    "a helper of the module": (
        lambda: made("def g(x): return x + 1\n" + BODY.format("g(h)")),
        lambda: made("def g(x): return x + 2\n" + BODY.format("g(h)"))),
    "a helper of the helper": (
        lambda: made("def k(): return 1\ndef g(): return k()\n" + BODY.format("g()")),
        lambda: made("def k(): return 2\ndef g(): return k()\n" + BODY.format("g()"))),
    "a helper read within a lambda": (
        lambda: made("K = 1\n" + BODY.format("(lambda: K)()")),
        lambda: made("K = 2\n" + BODY.format("(lambda: K)()"))),
    "a function within": (
        lambda: made("def f(x):\n    def g(): return x + 1\n    return g()"),
        lambda: made("def f(x):\n    def g(): return x + 2\n    return g()")),
    "a list read at a place": (lambda: made(BODY.format("K[0]"), K=[1, 2]),
                               lambda: made(BODY.format("K[0]"), K=[2, 1])),
    "a dictionary": (lambda: {"a": 1}, lambda: {"a": 2}),
    "a key": (lambda: {"a": 1}, lambda: {"b": 1}),
    "a set": (lambda: {"a", "b"}, lambda: {"a", "c"}),
    "an array": (lambda: np.array([1.0]), lambda: np.array([2.0])),
    "the type of an array": (lambda: np.array([1.0]), lambda: np.array([1.0], np.float32)),
    "the shape of a tensor": (lambda: torch.ones(2, 1), lambda: torch.ones(1, 2)),
    "the type of a tensor": (lambda: torch.zeros(2), lambda: torch.zeros(2, dtype=torch.int32)),
    "one bit of a tensor": (lambda: torch.tensor([0.0]), lambda: torch.tensor([-0.0])),
    "true and one": (lambda: True, lambda: 1),
    "one and 1.0": (lambda: 1, lambda: 1.0),
    "a text and bytes": (lambda: "a", lambda: b"a"),
    "a tuple and a list": (lambda: (1,), lambda: [1]),
    "nesting": (lambda: [[1], 2], lambda: [1, [2]]),
    "an enum": (lambda: Shade.LIGHT, lambda: Shade.DARK),
    "a named tuple": (lambda: Point(1, 2), lambda: Point(2, 1)),
    "a field": (lambda: Weighted(1.0), lambda: Weighted(2.0)),
    "a function in a field": (lambda: Weighted(1.0, abs), lambda: Weighted(1.0, float)),
    "a method": (lambda: Weighted(1.0).__call__, lambda: Weighted(2.0).__call__),
    "a slot": (lambda: Slotted(1.0), lambda: Slotted(2.0)),
    "the body of a class": (
        lambda: made("class C:\n    def __call__(s): return 1\nc = C()", "c"),
        lambda: made("class C:\n    def __call__(s): return 2\nc = C()", "c")),
    "an attribute of a class": (lambda: made("class C:\n    k = 1\nc = C()", "c"),
                                lambda: made("class C:\n    k = 2\nc = C()", "c")),
    "the base of a class": (
        lambda: made("class B:\n    def g(s): return 1\nclass C(B): pass\nc = C()", "c"),
        lambda: made("class B:\n    def g(s): return 2\nclass C(B): pass\nc = C()", "c")),
    "a property": (
        lambda: made("class C:\n    @property\n    def g(s): return 1\nc = C()", "c"),
        lambda: made("class C:\n    @property\n    def g(s): return 2\nc = C()", "c")),
    "a partial": (lambda: functools.partial(max, 1), lambda: functools.partial(max, 2)),
    "what a cache keeps": (lambda: functools.lru_cache(closure(1)),
                           lambda: functools.lru_cache(closure(2))),
    "what a decorator keeps": (lambda: torch.no_grad()(closure(1)),
                               lambda: torch.no_grad()(closure(2))),
    "a pattern": (lambda: re.compile("a"), lambda: re.compile("a", re.IGNORECASE)),
    "weights": (lambda: net(1), lambda: net(2)),
    "training": (lambda: net(1), lambda: net(1, training=True)),
    "an option of a module": (lambda: net(1), lambda: net(1, p=0.2)),
    "a random state": (lambda: np.random.default_rng(1), lambda: np.random.default_rng(2)),
    "a queue": (lambda: deque([1]), lambda: deque([2])),
    "an order": (lambda: OrderedDict(a=1, b=2), lambda: OrderedDict(b=2, a=1)),
    "what holds itself": (lambda: chain(1), lambda: chain(2)),
    "an option of a metric": (rw.logit_diff, lambda: rw.logit_diff(absolute=False)),
    "the position of a metric": (rw.kl_divergence, lambda: rw.kl_divergence(position="all")),
    "the score of a custom one": (lambda: rw.custom(effect, "f", scores=closure(1)),
                                  lambda: rw.custom(effect, "f", scores=closure(2))),
    "an operator of torch": (lambda: torch.ops.aten.add.Tensor, lambda: torch.ops.aten.sub.Tensor),
    "a function of C": (lambda: torch.add, lambda: torch.sub),
    "a function of numpy": (lambda: np.add, lambda: np.subtract),
    "what raises": (
        lambda: made("def f():\n    try: g()\n    except KeyError: return 1\n    g()"),
        lambda: made("def f():\n    try: g()\n    except ValueError: return 1\n    g()")),
}


@pytest.mark.parametrize("what", DIFFERENT)
def test_one_thing_is_told_apart(what: str) -> None:
    one, other = DIFFERENT[what]
    assert digest(one()) == digest(one()), "made twice, it is the same"
    assert digest(other()) == digest(other())
    assert digest(one()) != digest(other())


def test_what_does_not_count() -> None:
    assert digest(made(BODY.format("h + 1"))) == digest(made("\n\n# a remark\n" + BODY.format(
        "h  +  1"))), "lines, spaces and remarks"
    assert digest(made(BODY.format("h"), K=1)) == digest(made(BODY.format("h"), K=2)), "not read"
    shared = torch.ones(2)
    assert digest([shared, shared]) == digest([torch.ones(2), torch.ones(2)]), "memory"
    assert digest(torch.ones(4, 2).t()) == digest(torch.ones(2, 4)), "strides"
    assert digest({1, 2, 3}) == digest({3, 2, 1})


def test_helpers_of_another_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sources = ("def g(x): return x + {}\nunused = {}", BODY.format("helpers.g(h)"),
               "def f(h):\n    import helpers\n    return helpers.g(h)",
               "def f(h):\n    from helpers import g\n    return g(h)")
    helper, *users = sources
    for source in users:
        found = []
        for numbers in ((1, 1), (1, 2), (2, 1)):
            module = module_of(helper.format(*numbers), tmp_path)
            monkeypatch.setitem(sys.modules, "helpers", module)
            found.append(digest(made(source, helpers=module)))
        assert found[0] != found[2], source
        assert (found[0] == found[1]) is ("import h" not in source), "or all of the module"
    found = []
    for number in (1, 2):
        module = module_of(f"K = {number}", tmp_path)
        found.append(digest(made("def f(): return vars(m)", m=module)))
    assert found[0] != found[1], "a module that is handed on counts by its source"


@pytest.mark.parametrize("value, name", [
    (threading.Lock(), "lock"), ((x for x in (1, 2)), "generator"), (sys.stdout, "")])
def test_what_cannot_be_compared_is_named(value: Any, name: str) -> None:
    with pytest.raises(DataError, match=rf"\[0\] of \['a'\] of K of metric 'mine' is a \w*{name}"):
        digest(made(BODY.format("K"), K={"a": [value]}), "metric 'mine'")
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(DataError, match="nested too deep"):
        digest(deep)


class Change(ast.NodeTransformer):
    """Changes the constant, operator or attribute of a number in a function."""

    def __init__(self, number: int) -> None:
        self.left = number

    def visit(self, node: ast.AST) -> Any:
        node = super().visit(node)
        kinds = (ast.Constant, ast.BinOp, ast.Attribute)
        if not isinstance(node, kinds) or (
                isinstance(node, ast.Constant) and not isinstance(node.value, int)):
            return node
        self.left -= 1
        if self.left == -1:
            match node:
                case ast.Constant():
                    node.value = not node.value if isinstance(node.value, bool) else 1 + int(
                        str(node.value))
                case ast.BinOp():
                    node.op = ast.Sub() if isinstance(node.op, ast.Add) else ast.Add()
                case ast.Attribute():
                    node.attr += "_other"
        return node


def test_every_edit_of_a_metric_is_seen() -> None:
    """Each constant, operator and attribute of the metrics of this package, edited by itself."""
    source = Path(sys.modules["rewrite.measure.outputs"].__file__ or "").read_text()
    functions = [node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)]
    tried = 0
    for function in functions:
        function.decorator_list, function.returns = [], None
        for argument in (*function.args.args, *function.args.kwonlyargs):
            argument.annotation = None
        text = ast.unparse(function)
        same = digest(made("from __future__ import annotations\n" + text, function.name))
        number = 0
        while True:
            change = Change(number)
            edited = ast.unparse(change.visit(ast.parse(text)))
            if change.left >= 0:
                break
            head = "from __future__ import annotations\n"
            assert digest(made(head + edited, function.name)) != same, edited
            number, tried = number + 1, tried + 1
    assert tried > 100
