"""Examples: small graphs on which a rule fires, written as a term and shapes."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch._subclasses.fake_tensor import FakeTensorMode

from rewrite.errors import RuleError
from rewrite.ir.code import Code
from rewrite.ir.graph import Graph, InputSpec, OutputSpec
from rewrite.rules.site import Site
from rewrite.rules.terms import (
    Call,
    Hole,
    Listed,
    Literal,
    Rest,
    Term,
    holes,
    read,
    size,
    sizes_of,
    walk,
)

KINDS = {"int": torch.int64, "bool": torch.bool, "const": torch.int64}
SMALL = {"b": 1, "s": 2, "d": 2, "e": 3, "h": 2, "g": 2, "t": 2, "n": 3}


@dataclass(frozen=True)
class Example:
    """A term whose holes are inputs of the shapes given by letters: `"x: b s d, W: e d"`.

    A hole without a shape is a size if it is called like a letter, else an error.  A star
    `*a` takes its operands from `a1: ..., a2: ...`; `int` in front of a shape makes it indices,
    `bool` a mask, `const` a constant of the graph (indices that count down to 0).
    `shared` names values that are read several times.
    """

    term: Term
    shapes: str
    shared: tuple[tuple[str, Term], ...] = ()

    @classmethod
    def read(cls, text: str) -> Example:
        """An example as it is written: `"gelu(y) + y | y = x * 2 | x: b s d"`.

        >>> Example.read("gelu(x) | x: b s d").sizes()
        {'b': 1, 's': 2, 'd': 2}
        """
        term, *between = text.split("|")
        if not between:
            raise RuleError(f"an example is written 'gelu(x) | x: b s d', found {text!r}")
        shared = [part.partition("=") for part in between[:-1]]
        return cls(read(term), between[-1].strip(),
                   tuple((name.strip(), read(value)) for name, _, value in shared))

    def letters(self) -> tuple[str, ...]:
        """The letters that its sizes are made of."""
        text = " ".join(" ".join(sizes) for sizes in sizes_of(self.shapes).values())
        found = [w for w in re.findall(r"[A-Za-z_]+", text) if w not in KINDS]
        known = {*sizes_of(self.shapes), *(name for name, _ in self.shared)}
        terms = (self.term, *(term for _, term in self.shared))
        named = [h for term in terms for h in holes(term) if h in SMALL and h not in known]
        return tuple(dict.fromkeys([*found, *named]))

    def sizes(self, **letters: int) -> dict[str, int]:
        """What each letter is, by default something small."""
        return {letter: letters.get(letter, SMALL.get(letter, 2)) for letter in self.letters()}

    def graph(self, **letters: int) -> Graph:
        """The term as a graph in double precision, with every letter as given."""
        given = self.sizes(**letters)
        module, mode = Code({}, fx.Graph()), FakeTensorMode()
        held: dict[str, Any] = dict(given)
        specs = []
        for name, dims in sizes_of(self.shapes).items():
            kind = dims[0] if dims and dims[0] in KINDS else ""
            shape = tuple(size(dim, given) for dim in dims[bool(kind):])
            if kind == "const":
                module.register_buffer(name, torch.arange(math.prod(shape)).flip(0).view(shape))
                held[name] = module.graph.get_attr(name)
                with mode:
                    held[name].meta["val"] = torch.empty(shape, dtype=torch.int64)
                continue
            dtype = KINDS.get(kind, torch.float64)
            held[name] = module.graph.placeholder(name)
            with mode:
                held[name].meta["val"] = torch.empty(shape, dtype=dtype)
            specs.append(InputSpec(name, shape, dtype))
        for term in walk(self.term):
            if isinstance(term, Rest):
                rest = [n for n in held if re.fullmatch(rf"{term.name}\d+", n)]
                held[term.name] = tuple(held[n] for n in sorted(rest))
        named = {name for name, _ in self.shared}
        if missing := [h for h in holes(self.term) if h not in held and h not in named]:
            raise RuleError(f"the example needs the shape of {missing[0]!r}: write "
                            f"'{missing[0]}: b s d' beside {self.shapes!r}")
        pen = module.graph.placeholder("pen")  # stands for the node at which a rule would write
        with module.graph.inserting_before(pen):
            site = Site(module, pen, "an example")
            for name, term in self.shared:
                held[name] = site.write(term, **held)
            result = site.write(self.term, **held)
        module.graph.erase_node(pen)
        module.graph.output((result,))
        module.graph.lint()
        module.recompile()
        return Graph(module, tuple(specs), OutputSpec(("result",), _plain), "Example")

    def inputs(self, seed: int = 0, **letters: int) -> dict[str, Tensor]:
        """Random inputs for the graph."""
        draw = torch.Generator().manual_seed(seed)
        return {spec.name: _random(spec, draw) for spec in self.graph(**letters).inputs}

    def __str__(self) -> str:
        shared = "".join(f" | {name} = {text(term)}" for name, term in self.shared)
        return f"{text(self.term)}{shared} | {self.shapes}"


def _random(spec: InputSpec, draw: torch.Generator) -> Tensor:
    sizes = [int(s) for s in spec.shape]
    if spec.dtype == torch.bool:
        return torch.randint(0, 2, sizes, generator=draw).bool()
    if not spec.dtype.is_floating_point:
        return torch.randint(0, 2, sizes, generator=draw)
    return torch.randn(sizes, generator=draw, dtype=spec.dtype)


def _plain(values: Mapping[str, Tensor]) -> Tensor:
    return values["result"]


_SIGNS = {"add": "+", "sub": "-", "mul": "*", "div": "/", "matmul": "@", "pow": "**"}


def text(term: Term) -> str:
    """A term as it is written."""
    match term:
        case Hole(name=name):
            return name
        case Rest(name=name):
            return f"*{name}"
        case Literal(value=value):
            return str(value).removeprefix("torch.")
        case Listed(items=items):
            return f"[{', '.join(map(text, items))}]"
        case Call(name=name, operands=(a, b)) if name in _SIGNS:
            return f"({text(a)} {_SIGNS[name]} {text(b)})"
        case Call(name=name, operands=operands):
            return f"{name}({', '.join(map(text, operands))})"
