"""Random wirings, and random path sets as text for `rewrite` and as a predicate for the oracle."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

from rewrite.ir.dag import Constant, Dag, Join, Node, Part, Port, Source
from tests.laws.oracle import Chooser, Word

Tree = tuple[Any, ...]
LARGEST = 250  # nodes of the tree of an output


@st.composite
def dags(draw: st.DrawFn, parts: int = 6) -> Dag:
    """Two sources, a constant, parts with one to three ports, sums (also of sums).

    Parts that nobody reads, outputs that are read again and sums that list a term twice occur.
    """
    nodes: list[Node] = [Source("x"), Source("y"), Constant("c")]
    size = {"x": 1, "y": 1, "c": 1}  # of the tree behind each node

    def pick(budget: int) -> str:
        """A late node more often than an early one, so that graphs are deep."""
        fitting = [name for name in size if size[name] <= budget]
        return fitting[-1 - draw(st.integers(0, min(len(fitting), 5) - 1))]

    for index in range(draw(st.integers(1, parts))):
        if index and draw(st.booleans()):
            terms = tuple(pick(LARGEST // 4) for _ in range(draw(st.integers(1, 4))))
            nodes.append(Join(f"s{index}", terms))
            size[f"s{index}"] = 1 + sum(size[term] for term in terms)
        name, count = f"p{index}", draw(st.sampled_from([1, 1, 2, 3]))
        symbols = [name] if count == 1 else [f"{name}.{port}" for port in "qkv"[:count]]
        ports = tuple(Port(symbol, pick(LARGEST // count)) for symbol in symbols)
        nodes.append(Part(name, ports))
        size[name] = 1 + sum(size[port.reads] for port in ports)
    last = nodes[-1].name
    outputs = (last,)
    if draw(st.integers(0, 3)) == 0:
        outputs = (draw(st.sampled_from([n.name for n in nodes if isinstance(n, Part)])), last)
    return Dag(tuple(nodes), outputs)


@dataclass(frozen=True)
class Paths:
    """A set of paths, twice: as a pattern, and as a predicate on whole paths."""

    text: str
    holds: Callable[[Word], bool]

    def without(self, others: Sequence[Paths]) -> Paths:
        """The same set, less others that come first."""
        first = tuple(others)
        text = " - ".join(f"({paths.text})" for paths in (self, *first))
        return Paths(text, lambda word: self.holds(word) and not any(o.holds(word) for o in first))


def letters(symbols: Sequence[str]) -> dict[str, str]:
    """One character for each symbol, none of them special to `re`."""
    return {symbol: chr(0x4E00 + index) for index, symbol in enumerate(symbols)}


# Trees of patterns, with numbers for names, so that they fit every graph.
ATOM = st.tuples(st.just("atom"), st.integers(0, 11), st.integers(0, 4))
DOTS = st.just(("dots",))


def _walks(inner: st.SearchStrategy[Tree]) -> st.SearchStrategy[Tree]:
    return st.one_of(
        ATOM,
        st.tuples(st.just("chain"), inner, st.one_of(ATOM, DOTS)),
        st.tuples(st.just("chain"), ATOM, st.one_of(inner, DOTS), inner),
        st.tuples(st.just("choice"), inner, inner),
        st.tuples(st.just("repeat"), inner),
        st.tuples(st.just("maybe"), ATOM),
    )


def _sets(inner: st.SearchStrategy[Tree]) -> st.SearchStrategy[Tree]:
    return st.one_of(
        WALKS,
        st.tuples(st.just("not"), inner),
        *(st.tuples(st.just(mark), inner, inner) for mark in "&|-"),
    )


WALKS = _walks(_walks(ATOM))
SETS = _sets(_sets(WALKS))


@st.composite
def path_sets(draw: st.DrawFn, dag: Dag) -> Paths:
    """A pattern in the language of `rewrite`; the predicate matches spelt words with `re`."""
    return path_set(draw(SETS), dag)


def path_set(tree: Tree, dag: Dag) -> Paths:
    """A tree of a pattern, with names of a graph."""
    code = letters(dag.symbols)
    names = sorted({*dag.symbols, *(n.name for n in dag.nodes if isinstance(n, (Source, Part)))})
    return _read(tree, code, names)


def _read(tree: Tree, code: dict[str, str], names: list[str]) -> Paths:
    if tree[0] not in {"not", "&", "|", "-"}:
        text, expression = _walk(tree, code, names)
        found = re.compile(f".*(?:{expression}).*")
        return Paths(text, lambda word: bool(found.fullmatch("".join(code[s] for s in word))))
    mark, a, *rest = tree[0], *(_read(branch, code, names) for branch in tree[1:])
    if mark == "not":
        return Paths(f"~({a.text})", lambda word: not a.holds(word))
    (b,) = rest
    if mark == "-":
        return a.without([b])
    if mark == "&":
        return Paths(f"({a.text}) & ({b.text})", lambda word: a.holds(word) and b.holds(word))
    return Paths(f"({a.text}) | ({b.text})", lambda word: a.holds(word) or b.holds(word))


def _walk(tree: Tree, code: dict[str, str], names: list[str]) -> tuple[str, str]:
    """(pattern, regular expression) of a stretch of a path."""
    if tree[0] == "dots":
        return "...", ".*"
    if tree[0] == "atom":
        spelt = _spellings(names[tree[1] % len(names)])
        text = spelt[tree[2] % len(spelt)]
        return text, _class(code, text)
    branches = [_walk(branch, code, names) for branch in tree[1:]]
    texts, expressions = zip(*branches, strict=True)
    match tree[0]:
        case "chain":
            return " -> ".join(texts), "".join(expressions)
        case "choice":
            return f"({' | '.join(texts)})", f"(?:{'|'.join(expressions)})"
        case "repeat":
            return f"({texts[0]})*", f"(?:{expressions[0]})*"
        case _:
            return f"{texts[0]}?", f"(?:{expressions[0]})?"


def _spellings(name: str) -> list[str]:
    """The name itself, and atoms with wildcards that match it."""
    found = [name, name]
    if number := re.fullmatch(r"([a-z]+)(\d+)(.*)", name):
        stem, digits, rest = number.groups()
        found += [f"{stem}*{rest}", f"{stem}[{max(0, int(digits) - 1)}-{int(digits) + 1}]{rest}",
                  f"{stem}{{{digits},99}}{rest}"]
    return found


def _class(code: dict[str, str], atom: str) -> str:
    """The symbols that an atom stands for, as a character class."""
    inside = [letter for symbol, letter in code.items() if stands_for(atom, symbol)]
    return f"[{''.join(inside)}]" if inside else "(?!)"


def stands_for(atom: str, symbol: str) -> bool:
    """Whether an atom (a prefix of segments, with `*`, `[a-b]`, `{a,b}`) names a symbol."""
    pattern = ""
    for piece in re.split(r"(\*|\[\d+-\d+\]|\{[^}]*\})", atom):
        if piece == "*":
            pattern += r"[^.]*"
        elif piece.startswith("["):
            low, high = map(int, piece[1:-1].split("-"))
            pattern += f"(?:{'|'.join(map(str, range(low, high + 1)))})"
        elif piece.startswith("{"):
            pattern += f"(?:{piece[1:-1].replace(',', '|')})"
        else:
            pattern += re.escape(piece)
    return bool(re.fullmatch(rf"{pattern}(?:\..*)?", symbol))


@st.composite
def hypotheses(draw: st.DrawFn, dag: Dag, most: int = 3) -> tuple[dict[str, str], Chooser]:
    """Disjoint path sets for one to `most` runs, and the function from paths to runs."""
    sets: list[Paths] = []
    for _ in range(draw(st.integers(1, most))):
        sets.append(draw(path_sets(dag)).without(sets))
    named = {f"run{index}": paths for index, paths in enumerate(sets)}

    def choose(word: Word) -> str:
        return next((run for run, paths in named.items() if paths.holds(word)), "rest")

    return {run: paths.text for run, paths in named.items()}, choose
