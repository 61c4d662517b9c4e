"""Patterns against nodes: every way in which a term fits a value, with what its holes hold."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

import torch
from torch import fx

from rewrite.rules.terms import COMMUTES, Call, Hole, Listed, Literal, Rest, Term, operators

Holes = Mapping[str, Any]


def fits(term: Term, value: Any, held: Holes) -> Iterator[Holes]:
    """Every extension of `held` with which `term` is `value`."""
    match term:
        case Hole(name=name):
            if name not in held:
                yield {**held, name: value}
            elif _same(held[name], value):
                yield held
        case Literal(value=wanted):
            if _same(wanted, value):
                yield held
        case Listed(items=items):
            if isinstance(value, (list, tuple)):
                yield from _row(items, tuple(value), held)
        case Call(name=name, operands=operands):
            if isinstance(value, fx.Node) and value.target in operators(name):
                given = _given(value, operands)
                if given is not None:
                    yield from _row(operands, given, held)
                if given is not None and name in COMMUTES:
                    yield from _row(operands, (given[1], given[0], *given[2:]), held)


def _row(terms: tuple[Term, ...], values: tuple[Any, ...], held: Holes) -> Iterator[Holes]:
    """Terms against values side by side; a star takes as few values as it can, then more."""
    if not terms:
        if not values:
            yield held
        return
    first, others = terms[0], terms[1:]
    if not isinstance(first, Rest):
        for found in fits(first, values[0], held) if values else ():
            yield from _row(others, values[1:], found)
        return
    for count in range(len(values) + 1):
        taken = values[:count]
        if first.name not in held or held[first.name] == taken:
            yield from _row(others, values[count:], {**held, first.name: taken})


def _given(node: fx.Node, terms: tuple[Term, ...]) -> tuple[Any, ...] | None:
    """As many arguments as there are terms; None if one that is not asked for is no default."""
    given = arguments(node)
    if not isinstance(node.target, torch._ops.OpOverload):
        return given
    defaults = schema(node.target)[1]
    usual = all(map(_same, given[len(terms):], defaults[len(terms):]))
    return given[: len(terms)] if usual else None


def arguments(node: fx.Node) -> tuple[Any, ...]:
    """All arguments of a node in the order of its schema, defaults included."""
    given: tuple[Any, ...] = tuple(node.args)
    if not isinstance(node.target, torch._ops.OpOverload):
        return given
    names, defaults, _ = schema(node.target)
    return given + tuple(node.kwargs.get(n, d) for n, d in zip(
        names[len(given):], defaults[len(given):], strict=True))


def trimmed(target: Any, given: tuple[Any, ...]) -> tuple[Any, ...]:
    """Arguments without those at the end that are the operator's defaults."""
    _, defaults, required = schema(target)
    while len(given) > required and _same(given[-1], defaults[len(given) - 1]):
        given = given[:-1]
    return given


def called(target: Any, given: tuple[Any, ...]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Arguments in the order of the schema as positional ones and keywords."""
    if not isinstance(target, torch._ops.OpOverload):
        return given, {}
    given = trimmed(target, given)
    keyword = [a.name for a in target._schema.arguments if a.kwarg_only]
    positional = len(target._schema.arguments) - len(keyword)
    named = dict(zip(keyword, given[positional:], strict=False))
    defaults = {a.name: a.default_value for a in target._schema.arguments}
    return given[:positional], {n: v for n, v in named.items() if not _same(v, defaults[n])}


@cache
def schema(target: Any) -> tuple[tuple[str, ...], tuple[Any, ...], int]:
    """Names and defaults of the arguments, and how many of them have no default."""
    found = target._schema.arguments
    required = [i for i, a in enumerate(found) if not a.has_default_value()]
    return (tuple(a.name for a in found), tuple(a.default_value for a in found),
            max(required, default=-1) + 1)


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, fx.Node) or isinstance(b, fx.Node):
        return a is b
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(map(_same, a, b))
    if isinstance(a, bool) is not isinstance(b, bool):
        return False  # True is no 1
    return a == b
