"""Examples: small graphs on which a rule fires, written as a term and shapes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch._subclasses.fake_tensor import FakeTensorMode

from rewrite.errors import RuleError
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
    size,
    sizes_of,
    walk,
)

SMALL = {"b": 1, "s": 2, "d": 2, "e": 3, "h": 2, "g": 2, "t": 2, "n": 3}


@dataclass(frozen=True)
class Example:
    """A term whose holes are inputs of the shapes given by letters: `"x: b s d, W: e d"`.

    A hole without a shape is a size if it is called like a letter, else an error.  A star
    `*a` takes its operands from `a1: ..., a2: ...`; `int` in front of a shape makes it indices.
    """

    term: Term
    shapes: str

    def letters(self) -> tuple[str, ...]:
        """The letters that its sizes are made of."""
        text = " ".join(" ".join(sizes) for sizes in sizes_of(self.shapes).values())
        found = [w for w in re.findall(r"[A-Za-z_]+", text) if w not in {"int", "bool"}]
        named = [h for h in holes(self.term) if h in SMALL and h not in sizes_of(self.shapes)]
        return tuple(dict.fromkeys([*found, *named]))

    def sizes(self, **letters: int) -> dict[str, int]:
        """What each letter is, by default something small."""
        return {letter: letters.get(letter, SMALL.get(letter, 2)) for letter in self.letters()}

    def graph(self, **letters: int) -> Graph:
        """The term as a graph in double precision, with every letter as given."""
        given = self.sizes(**letters)
        module, mode = fx.GraphModule({}, fx.Graph()), FakeTensorMode()
        held: dict[str, Any] = dict(given)
        specs = []
        for name, dims in sizes_of(self.shapes).items():
            dtype = torch.float64
            if dims[:1] in (("int",), ("bool",)):
                dtype = torch.int64 if dims[0] == "int" else torch.bool
                dims = dims[1:]
            shape = tuple(size(dim, given) for dim in dims)
            held[name] = module.graph.placeholder(name)
            with mode:
                held[name].meta["val"] = torch.empty(shape, dtype=dtype)
            specs.append(InputSpec(name, shape, dtype))
        for term in walk(self.term):
            if isinstance(term, Rest):
                rest = [n for n in held if re.fullmatch(rf"{term.name}\d+", n)]
                held[term.name] = tuple(held[n] for n in sorted(rest))
        if missing := [h for h in holes(self.term) if h not in held]:
            raise RuleError(f"the example needs the shape of {missing[0]!r}: write "
                            f"'{missing[0]}: b s d' beside {self.shapes!r}")
        pen = module.graph.placeholder("pen")  # stands for the node at which a rule would write
        with module.graph.inserting_before(pen):
            result = Site(module, pen, "an example").write(self.term, **held)
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
        return f"{text(self.term)} | {self.shapes}"


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
