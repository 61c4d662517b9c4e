"""Random wirings, and random path sets as text for `rewrite` and as a predicate for the oracle."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hypothesis import strategies as st

from rewrite.ir.dag import Constant, Dag, Join, Node, Part, Port, Source, symbols_of
from tests.laws.oracle import Chooser, Word

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
        text = " - ".join(f"({paths.text})" for paths in (self, *others))
        return Paths(text, lambda word: self.holds(word) and not any(o.holds(word) for o in others))


def letters(symbols: Sequence[str]) -> dict[str, str]:
    """One character for each symbol, none of them special to `re`."""
    return {symbol: chr(0x4E00 + index) for index, symbol in enumerate(symbols)}


@st.composite
def path_sets(draw: st.DrawFn, dag: Dag) -> Paths:
    """A pattern in the language of `rewrite`; the predicate matches spelt words with `re`."""
    code = letters(dag.symbols)
    names = [*dag.symbols, *(n.name for n in dag.nodes if isinstance(n, (Source, Part)))]
    return draw(_set(code, sorted(set(names)), draw(st.integers(0, 2))))


def _set(code: dict[str, str], names: list[str], depth: int) -> st.SearchStrategy[Paths]:
    simple = _walk(code, names, 2).map(lambda walk: _whole(code, *walk))
    if depth == 0:
        return simple
    inner = _set(code, names, depth - 1)
    return st.one_of(
        simple,
        st.builds(lambda a: Paths(f"~({a.text})", lambda w: not a.holds(w)), inner),
        st.builds(lambda a, b: Paths(
            f"({a.text}) & ({b.text})", lambda w: a.holds(w) and b.holds(w)), inner, inner),
        st.builds(lambda a, b: Paths(
            f"({a.text}) | ({b.text})", lambda w: a.holds(w) or b.holds(w)), inner, inner),
        st.builds(lambda a, b: a.without([b]), inner, inner),
    )


def _whole(code: dict[str, str], text: str, expression: str) -> Paths:
    found = re.compile(f".*(?:{expression}).*")
    return Paths(text, lambda word: bool(found.fullmatch("".join(code[s] for s in word))))


def _walk(code: dict[str, str], names: list[str], depth: int) -> st.SearchStrategy[tuple[str, str]]:
    """(pattern, regular expression) for a stretch of a path."""
    atom = st.sampled_from(names).flatmap(lambda name: st.sampled_from(_spellings(name))).map(
        lambda text: (text, _class(code, text)))
    if depth == 0:
        return atom
    inner = _walk(code, names, depth - 1)
    dots = st.just(("...", ".*"))
    return st.one_of(
        atom,
        st.lists(st.one_of(inner, atom, dots), min_size=2, max_size=3).map(_chain),
        st.lists(inner, min_size=2, max_size=2).map(
            lambda walks: (f"({' | '.join(t for t, _ in walks)})",
                           f"(?:{'|'.join(e for _, e in walks)})")),
        inner.map(lambda walk: (f"({walk[0]})*", f"(?:{walk[1]})*")),
        atom.map(lambda walk: (f"{walk[0]}?", f"(?:{walk[1]})?")),
    )


def _chain(walks: list[tuple[str, str]]) -> tuple[str, str]:
    return " -> ".join(text for text, _ in walks), "".join(expr for _, expr in walks)


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


def is_written(dag: Dag, word: Word) -> bool:
    """Whether every symbol of a word belongs to the graph."""
    return set(word) <= {symbol for node in dag.nodes for symbol in symbols_of(node)}
