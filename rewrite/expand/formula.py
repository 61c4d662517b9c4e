"""A component graph or an expansion as equations that a person can read.

    resid2 = resid1 + a1.h{0-2}(resid1) + a1.h3(q: resid1; k,v: resid1[corrupt]) + a1.bias

* `name[run]` is the value that a name has in a run, `name` and `name#1` are mixtures of runs.
* `name(...)` is a part that reads what stands in brackets, apart for each port if they differ.
* `0.5*x`, `-x`: a term times a number.  `resid2.scale*x`, `+ resid2.shift`: times, or plus, what
  weights or sizes make there (one number, or one for each feature).
* `a1.h{0-2}(x)` is the sum of these heads, `a1(x)` of all heads of the layer and its bias.
* `outputs` tells which values of several are returned, by each hypothesis if there are several.
* Equations that differ by numbers in even steps are one, for a range of `l`; `{2l+1}` is a number.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace

from rewrite.expand.folding import Equation, fold
from rewrite.expand.product import Copy, Mixed, Product
from rewrite.ir.dag import SOME, Constant, Dag, Join, Node, Number, Part, Source
from rewrite.parts import Components

Place = tuple[str, int]  # a node and which copy of it


def formula(of: Product | Dag | Components, latex: bool = False) -> str:
    """Equations of what mixes runs, or of a whole model, with equal layers folded.

    What reads a single run is not spelt out: it is the model in that run.  With `latex` the
    result is an `aligned` environment.

    >>> print(formula(parts))
    resid0 = embed(tokens) + pos
    for l = 0..1:
        resid{2l+1} = resid{2l} + a{l}(resid{2l})
        resid{2l+2} = resid{2l+1} + m{l}(resid{2l+1})
    logits = logits(resid4)
    >>> print(rw.expand(rw.Hypothesis(parts, {"clean": "a1.h3 -> logits"})).formula())
    resid3 = resid2[corrupt] + a1.h{0-2}[corrupt] + a1.h3[clean] + a1.bias
    resid4 = resid3 + m1[corrupt]
    logits = logits(resid4)
    """
    from rewrite.expand.formula_latex import to_latex

    if isinstance(of, Components):
        of = of.dag
    lines = fold(_Writer(*((of, _mixes) if isinstance(of, Product) else _whole(of))).equations())
    return to_latex(lines) if latex else "\n".join(str(line) for line in lines)


def _mixes(node: Node, copy: Copy | Mixed) -> bool:
    return len(copy.runs) > 1


def _whole(dag: Dag) -> tuple[Product, Callable[[Node, Copy | Mixed], bool]]:
    """A graph as the product in which nothing is copied and everything is spelt out."""
    copies: dict[str, list[Copy | Mixed]] = {
        node.name: [Copy(node.name, 0, (0,) * len(node.reads), frozenset())]
        for node in dag.nodes}
    product = Product(dag, copies, ((0,) * len(dag.outputs),), 1)
    return product, lambda node, copy: not isinstance(node, (Source, Constant))


@dataclass(frozen=True)
class _Term:
    """A summand; those of one layer that differ by the head only are written as one."""

    name: str
    rest: str  # arguments in brackets, or a run
    factor: str = ""  # a sign or none, then a number or name and `*`, or nothing

    def __str__(self) -> str:
        return self.factor + self.name + self.rest


class _Writer:
    """Writes an equation for every copy that is spelt out and not written where it is read."""

    def __init__(self, product: Product, spelt: Callable[[Node, Copy | Mixed], bool]) -> None:
        self.product, self.dag = product, product.dag
        self.spelt = {(node.name, copy.index) for node in self.dag.nodes
                      for copy in product.copies[node.name] if spelt(node, copy)}
        self.roots = {place for root in product.roots
                      for place in zip(self.dag.outputs, root, strict=True)}
        self.readers: dict[Place, list[Place]] = {}
        for name, index in self.spelt:
            for place in dict.fromkeys(product.reads(name, index)):
                self.readers.setdefault(place, []).append((name, index))
        self.lines = {place for place in self.spelt if self._has_line(place)}

    def equations(self) -> list[Equation]:
        """In the order of the model; what the outputs are, if their names do not say it."""
        places = [(node.name, copy.index) for node in self.dag.nodes
                  for copy in self.product.copies[node.name]]
        found = [Equation(self._name(place), self._value(place))
                 for place in places if place in self.lines]
        roots = [list(zip(self.dag.outputs, root, strict=True)) for root in self.product.roots]
        if {self._name(place) for root in roots for place in root} - set(self.dag.outputs):
            shown = "; ".join(", ".join(map(self._name, root)) for root in roots)
            found.append(Equation("outputs", shown))
        return found

    def _has_line(self, place: Place) -> bool:
        """Whether a value has an equation of its own; else it is written where it is read.

        A part stands as it is in a sum, and so does a layer that reads one thing or is read once.
        """
        node, readers = self.dag[place[0]], self.readers.get(place, [])
        if isinstance(self._copy(place), Mixed):
            return True
        if isinstance(node, Part):
            named = any(isinstance(self.dag[name], Part) or isinstance(
                self._copy((name, index)), Mixed) for name, index in readers)
            return named or place in self.roots
        if self._layer(node) is None:
            return True
        members = [term for term in self.product.reads(*place)
                   if not isinstance(self.dag[term[0]], Constant)]
        read = {(self._copy(m).reads if m in self.spelt else ()) for m in members}
        return len(readers) > 1 and len(read) > 1

    def _layer(self, node: Node) -> str | None:
        """The layer whose heads (or experts) and bias a sum adds up."""
        if not isinstance(node, Join):
            return None
        stem, _, end = node.name.rpartition(".")
        inside = all(term.startswith(f"{stem}.") for term in node.terms)
        return stem if end == "out" and inside else None

    def _name(self, place: Place) -> str:
        name, index = place
        node, copies = self.dag[name], self.product.copies[name]
        runs = copies[index].runs
        name = self._layer(node) or name
        if place not in self.spelt:
            return f"{name}[{next(iter(runs))}]" if runs else name
        mixed = [c.index for c in copies if (c.node, c.index) in self.spelt]
        return name if len(mixed) == 1 else f"{name}#{mixed.index(index)}"

    def _value(self, place: Place) -> str:
        node, copy = self.dag[place[0]], self._copy(place)
        if isinstance(copy, Mixed):
            test = copy.test
            where = f"hop >= {test.offset}" if copy.by_hop else f"@{test.place}"
            yes, no = (self._name((place[0], index)) for index in copy.reads)
            return f"{yes} if {where} else {no}"
        if isinstance(node, Part):
            return node.name + self._arguments(place)
        return " + ".join(map(str, self._summands(place))).replace(" + -", " - ")

    def _arguments(self, place: Place) -> str:
        """What a part reads: once if all ports read the same, else port by port."""
        node = self.dag[place[0]]
        assert isinstance(node, Part)
        read: dict[str, list[str]] = {}
        for port, value in zip(node.ports, self.product.reads(*place), strict=True):
            symbol = port.symbol.rpartition(".")[2]
            inline = value in self.spelt and value not in self.lines
            read.setdefault(symbol, []).append(
                self._value(value) if inline else self._name(value))
        alike: dict[str, list[str]] = {}
        for symbol, texts in read.items():
            alike.setdefault(", ".join(texts), []).append(symbol)
        if len(alike) == 1:
            return f"({next(iter(alike))})"
        return "({})".format("; ".join(f"{','.join(s)}: {text}" for text, s in alike.items()))

    def _copy(self, place: Place) -> Copy | Mixed:
        return self.product.copies[place[0]][place[1]]

    def _summands(self, place: Place) -> list[_Term]:
        """What a sum adds up, the stream first, members of a layer that read the same as one."""
        node = self.dag[place[0]]
        terms = self._terms(place)
        return _members(layer, terms) if (layer := self._layer(node)) else terms

    def _terms(self, place: Place) -> list[_Term]:
        node = self.dag[place[0]]
        assert isinstance(node, Join)
        streams: list[_Term] = []
        others: list[_Term] = []
        reads = self.product.reads(*place)
        for read, number in zip(reads, node.factors or (1.0,) * len(reads), strict=True):
            inner, factor = self.dag[read[0]], _factor(number, node.name)
            if read not in self.spelt or read in self.lines:
                stream = not isinstance(inner, Constant) and not self._layer(node)
                (streams if stream else others).append(_split(self._name(read), factor))
            elif isinstance(inner, Part):
                others.append(_Term(read[0], self._arguments(read), factor))
            else:  # a layer, whose heads count once each
                others += [replace(term, factor=factor) for term in self._summands(read)]
        if node.shift:
            shift = f"{node.name}.shift" if node.shift == SOME else repr(node.shift)
            others.append(_Term(shift, ""))
        return streams + others


def _factor(number: Number, name: str) -> str:
    """How the factor of a term of the sum `name` is written in front of it."""
    if number == SOME:
        return f"{name}.scale*"
    size = "" if abs(number) == 1 else f"{repr(abs(number)).removesuffix('.0')}*"
    return "-" * (number < 0) + size


def _split(name: str, factor: str) -> _Term:
    found = re.match(r"[^\[#]*", name)
    assert found is not None
    return _Term(found[0], name[found.end():], factor)


def _members(layer: str, terms: list[_Term]) -> list[_Term]:
    """Members of a layer that read the same, as one term."""
    groups: dict[str, list[int]] = {}
    others: list[_Term] = []
    stem = ""
    for term in terms:
        member = re.fullmatch(re.escape(layer) + r"\.([a-z]+)(\d+)", term.name)
        if member is None or term.rest.startswith("#"):
            others.append(term)
            continue
        stem = member[1]
        groups.setdefault(term.rest, []).append(int(member[2]))
    if len(groups) == 1 and all(term.name == f"{layer}.bias" for term in others):
        return [_Term(layer, next(iter(groups)))]
    return [_Term(f"{layer}.{stem}{_numbers(group)}", rest)
            for rest, group in groups.items()] + others


def _numbers(group: list[int]) -> str:
    """`3`, or `{0-2,4}`."""
    if len(group) == 1:
        return str(group[0])
    pieces: list[list[int]] = []
    for number in group:
        if pieces and number == pieces[-1][-1] + 1:
            pieces[-1].append(number)
        else:
            pieces.append([number])
    return "{" + ",".join(str(p[0]) if len(p) == 1 else f"{p[0]}-{p[-1]}" for p in pieces) + "}"
