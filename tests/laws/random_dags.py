"""Random wirings, and random path sets as text for `rewrite` and as a predicate for the oracle."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from hypothesis import strategies as st

from rewrite.ir.dag import Constant, Dag, Join, Node, Part, Port, Source
from tests.laws.oracle import Chooser, Word

Tree = tuple[Any, ...]
LARGEST = 1000  # nodes of the tree of an output
seeds = st.integers(0, 2**32 - 1)


@st.composite
def dags(draw: st.DrawFn) -> Dag:
    """Two sources, a constant, parts with one to three ports, sums (also of sums).

    Parts that nobody reads, outputs that are read again and sums that list a term twice occur.
    Hypothesis draws how many parts there are; the wiring comes from a seed, since drawn choices
    would be small ones, and small graphs mix nothing.
    """
    return random_dag(Random(draw(seeds)), draw(st.sampled_from([1, 2, 3, 4, 5, 6, 6, 7, 7, 8])))


def random_dag(random: Random, parts: int) -> Dag:
    """A wiring with this many parts, the last of which is an output."""
    nodes: list[Node] = [Source("x"), Source("y"), Constant("c")]
    size = {"x": 1, "y": 1, "c": 0}  # of the tree behind each node

    def pick(budget: int) -> str:
        """A late node rather than an early one, so that graphs are deep."""
        fitting = [name for name in size if size[name] <= budget]
        late = [name for name in fitting[-4:] if size[name]]
        return random.choice(late if late and random.random() < 0.9 else fitting)

    for index in range(parts):
        if index and random.random() < 0.8:
            terms = tuple(pick(LARGEST // 4) for _ in range(random.choice([2, 3, 3, 4])))
            if random.random() < 0.9:
                terms = tuple(dict.fromkeys(terms))
            nodes.append(Join(f"s{index}", terms))
            size[f"s{index}"] = 1 + sum(size[term] for term in terms)
        name, count = f"p{index}", random.choice([1, 1, 2, 3])
        symbols = [name] if count == 1 else [f"{name}.{port}" for port in "qkv"[:count]]
        ports = tuple(Port(symbol, pick(LARGEST // count)) for symbol in symbols)
        nodes.append(Part(name, ports))
        size[name] = 1 + sum(size[port.reads] for port in ports)
    others = [node.name for node in nodes if isinstance(node, Part)]
    first = (random.choice(others),) if random.random() < 0.2 else ()
    return Dag(tuple(nodes), (*first, nodes[-1].name))


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


@st.composite
def path_sets(draw: st.DrawFn, dag: Dag) -> Paths:
    """A pattern in the language of `rewrite`; the predicate matches spelt words with `re`."""
    return path_set(random_set(Random(draw(seeds)), dag, draw(st.integers(0, 2))), dag)


def random_set(random: Random, dag: Dag, depth: int) -> Tree:
    """A tree of a pattern, with numbers for names."""
    if depth == 0 or random.random() < 0.2:
        return random_thread(random, dag) if random.random() < 0.7 else random_walk(random, 2)
    mark = random.choice(["not", "&", "|", "|", "-"])
    count = 1 if mark == "not" else 2
    return (mark, *(random_set(random, dag, depth - 1) for _ in range(count)))


def random_thread(random: Random, dag: Dag) -> Tree:
    """Some of the nodes of a path of the graph, so that the set is seldom empty."""
    names, word = atoms_of(dag), []
    name = random.choice(dag.outputs)
    while node := dag[name]:
        if isinstance(node, (Source, Constant)):
            word.append(name)
            break
        port = random.choice(node.ports) if isinstance(node, Part) else None
        if port:
            word.append(random.choice([port.symbol, node.name]))
        name = port.reads if port else random.choice(node.reads)
    chain: list[Tree] = []
    for symbol in reversed(word):
        if symbol in names and random.random() < 0.6:
            chain.append(("atom", names.index(symbol), random.choice([0, 0, 0, 1, 2, 3])))
        elif not chain or chain[-1] != ("dots",):
            chain.append(("dots",))
    return ("chain", *chain) if len(chain) > 1 else chain[0]


def random_walk(random: Random, depth: int) -> Tree:
    """Any stretch at all; most of them fit no path, or many."""
    if depth == 0:
        return ("atom", random.randrange(24), random.randrange(5))
    inner = [random_walk(random, depth - 1) for _ in range(3)]
    return random.choice([
        inner[0], ("chain", inner[0], ("dots",), inner[1]), ("chain", *inner[:2]),
        ("chain", inner[0], ("choice", *inner[1:])), ("choice", *inner[:2]),
        ("repeat", inner[0]), ("chain", inner[1], ("repeat", inner[0])), ("maybe", inner[0]),
        ("chain", inner[0], ("maybe", inner[1]), inner[2]),
    ])


def atoms_of(dag: Dag) -> list[str]:
    """Symbols and names of parts."""
    parts = (node.name for node in dag.nodes if isinstance(node, (Source, Part)))
    return sorted({*dag.symbols, *parts})


def path_set(tree: Tree, dag: Dag) -> Paths:
    """A tree of a pattern, with names of a graph."""
    code = letters(dag.symbols)
    return _read(tree, code, atoms_of(dag))


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
            return f"({texts[0]})?", f"(?:{expressions[0]})?"


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
