"""A name with `*`, a range or a list is the union of its members, at positions and in windows too.

Members are found here by text alone: brackets spelt out, globs by segment.
"""

from __future__ import annotations

import re
from fnmatch import fnmatchcase
from itertools import product
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest

import rewrite as rw
from rewrite.discover.spots import finer, other_ports
from rewrite.errors import PathError
from rewrite.ir.dag import Dag, Join, Node, Part, Port, Source
from rewrite.paths import PathSet, count_paths, paths
from rewrite.paths.pattern import Choice, Name, joined
from tests.zoo import error, tokens, traced

PLACES = ("[2]", "[-1]", "S", "END", "[1:3]")
WINDOWS = ("[-1]", "[-2:0]", "[:0]", "[-1:]")


def spelt(dag: Dag) -> dict[str, str]:
    """Every beginning of every spelling, with the short name that a first segment may be."""
    short = {symbol.partition(".")[0] for symbol in dag.symbols}
    found: dict[str, str] = {}
    for symbol in dag.symbols:
        own = symbol.partition(".")[0]
        for spelling in (symbol, *dag.spellings.get(symbol, ())):
            segments = spelling.split(".")
            if segments[0] in short - {own}:
                continue  # a module path that begins like the short name of another part
            for n in range(1, len(segments) + 1):
                found[".".join(segments[:n])] = own if segments[0] == own else ""
    return found


def members(atom: str, dag: Dag) -> list[str]:
    """The names that an atom stands for."""
    pieces = re.split(r"(\[.*?\]|\{.*?\})", atom)
    options = []
    for piece in pieces:
        if piece.startswith("["):
            low, high = map(int, piece[1:-1].split("-"))
            options.append([str(n) for n in range(low, high + 1)])
        else:
            options.append(piece[1:-1].split(",") if piece.startswith("{") else [piece])
    found: dict[str, None] = {}
    for asked in map("".join, product(*options)):
        segments = asked.split(".")
        for name, own in spelt(dag).items():
            has = name.split(".")
            if len(has) == len(segments) and all(map(fnmatchcase, has, segments)) and (
                    own or "*" not in segments[0]):
                found[name] = None
    return list(found)


def random_atom(random: Random, dag: Dag) -> str:
    """A name of the graph, some of its segments made wider."""
    known = [name.split(".") for name in spelt(dag)]
    segments = list(random.choice(known))

    def wider(at: int) -> str:
        text = segments[at]
        others = sorted({name[at] for name in known if len(name) > at})
        digits = re.search(r"\d+", text)
        kinds = [lambda: "*", lambda: text, lambda: f"{text[0]}*", lambda: f"*{text[-1]}",
                 lambda: "{" + ",".join([text, random.choice(others), "nothing"]) + "}"]
        if digits:
            low, high = sorted((int(digits[0]), random.randrange(3)))
            for bracket in (f"[{low}-{high}]", "{" + f"{low},{high}" + "}"):
                kinds.append(lambda b=bracket: text[: digits.start()] + b + text[digits.end():])
        return random.choice(kinds)()

    return ".".join(wider(at) for at in range(len(segments)))


def random_spelling(random: Random, atom: str) -> Any:
    """A function that writes a name of as many segments with positions or a window."""
    kind, place, other = random.randrange(5), random.choice(PLACES), random.choice(PLACES)

    def write(name: str) -> str:
        text, dot, port = name.rpartition(".")
        if kind == 3 and dot:
            return f"{text}@{place}.{port}"
        if kind == 4 and dot:
            return f"{text}@{place}.{port}@{other}"
        return name + ("", f"@{place}", random_window, f"@{place}", f"@{place}")[kind]

    random_window = random.choice(WINDOWS)
    return write


def check(parts: Any, random: Random) -> tuple[str, str] | None:
    """One random name, between random nodes: None if it names nothing or cannot be followed."""
    atom = random_atom(random, parts.dag)
    if not (found := members(atom, parts.dag)):
        return None
    write = random_spelling(random, atom)
    front, back = random.choice([("", ""), ("", " -> logits"), ("... -> ", " -> ... -> logits")])
    one = front + write(atom) + back
    union = f"{front}({' | '.join(map(write, found))}){back}"
    a, b = paths(one), paths(union)
    outcomes = [counted(text, parts.dag) for text in (a, b)]
    assert outcomes[0] == outcomes[1], (one, union)
    if isinstance(outcomes[0], str):
        return None
    assert count_paths((a - b) | (b - a), parts.dag) == 0, (one, union)
    return one, union


def counted(path_set: PathSet, dag: Dag) -> int | str:
    try:
        return count_paths(path_set, dag)
    except PathError as found:
        return str(found).splitlines()[0]


def wide_dag() -> Dag:
    """Heads, grouped keys, experts, norms; one part has a path that begins like another's name."""
    nodes: list[Node] = [Source("tokens"), Part("embed", (Port("embed", "tokens"),))]
    spellings: dict[str, tuple[str, ...]] = {"m1.router": ("m0.gate",)}
    stream = "embed"
    for layer in range(2):
        names = [f"a{layer}.h{head}" for head in range(4)]
        for head, name in enumerate(names):
            nodes.append(Part(name, tuple(
                Port(f"{name}.{port}", stream, port != "q") for port in "qkv")))
            for port in "qkv":
                spellings[f"{name}.{port}"] = (f"model.layers.{layer}.attn.h{head}.{port}",
                                               f"a{layer}.kv{head // 2}.{port}")
        nodes.append(Join(f"mid{layer}", (stream, *names)))
        late = [f"m{layer}.{part}" for part in ("e0", "e1", "router", "shared")] + [f"n{layer}.a"]
        for name in late:
            nodes.append(Part(name, (Port(name, f"mid{layer}"),)))
            spellings.setdefault(name, (f"model.layers.{layer}.{name[3:]}",))
        stream = f"late{layer}"
        nodes.append(Join(stream, (f"mid{layer}", *late)))
    return Dag((*nodes, Part("logits", (Port("logits", stream),))), ("logits",), spellings)


@pytest.mark.parametrize("seed", range(4))
def test_a_name_is_the_union_of_its_members(seed: int) -> None:
    parts, random = SimpleNamespace(dag=wide_dag()), Random(seed)
    done = [found for _ in range(80) if (found := check(parts, random))]
    assert len(done) > 40


@pytest.mark.parametrize("seed", range(2))
def test_what_a_name_is_made_of_makes_it_up(seed: int) -> None:
    """The pieces that `minimality` drops one by one, at the same positions."""
    dag, random, done = wide_dag(), Random(seed), 0
    for _ in range(80):
        atom = random_atom(random, dag)
        name = paths(random_spelling(random, atom)(atom)).pattern
        pieces = finer(name, dag) if isinstance(name, Name) and members(atom, dag) else []
        if len(pieces) > 1:
            done += 1
            one, union = PathSet(name), PathSet(joined(Choice, pieces))
            assert count_paths((one - union) | (union - one), dag) == 0, (one, union)
    assert done > 20


@pytest.mark.parametrize(("text", "others"), [
    ("a1.h3.k@S", ["a1.h3.q@S", "a1.h3.v@S"]), ("a1@S.h3", []),
    ("a1.h3@END.k@S", ["a1.h3@END.q@S", "a1.h3@END.v@S"]),
])
def test_other_ports_are_at_the_same_positions(text: str, others: list[str]) -> None:
    name = paths(text).pattern
    assert isinstance(name, Name)
    assert [str(PathSet(each)) for each in other_ports(name, wide_dag())] == others


@pytest.mark.parametrize(("name", "union"), [
    ("{a0,m0}@[3]", "a0@[3] | m0@[3]"), ("*0@[2]", "a0@[2] | m0@[2]"),
    ("{a0,m0}@S", "a0@S | m0@S"), ("a0.{h1,kv0}@[1]", "a0.h1@[1] | a0.kv0@[1]"),
    ("{tokens,a1}@[2] -> ... -> logits", "(tokens@[2] | a1@[2]) -> ... -> logits"),
])
def test_values_of_mixed_names(name: str, union: str) -> None:
    parts = traced("llama").parts
    given = {"clean": {"input_ids": tokens(2, 6, 0)}, "corrupt": {"input_ids": tokens(2, 6, 1)}}
    first, second = (rw.expand(rw.Hypothesis(parts, {"clean": text}))(
        **given, positions={"S": [1, 4]}).logits for text in (name, union))
    assert error(first, second) == 0.0
