"""Rules: an equation, or a function on a node with its equation beside it."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from inspect import cleandoc, getsource
from textwrap import dedent
from typing import TYPE_CHECKING, Any

from torch import fx

from rewrite.errors import RuleError, near
from rewrite.rules.example import Example
from rewrite.rules.matching import fits
from rewrite.rules.site import Miss, Site
from rewrite.rules.terms import Call, Hole, Rest, depth, holes, operators, read, walk

if TYPE_CHECKING:
    from rewrite.ir.graph import Graph

Answer = fx.Node | Miss | None
Guard = Callable[["Match"], Any]


class Match:
    """What the holes of a pattern hold: `match.x` is a node, a number or a list."""

    def __init__(self, site: Site, held: Mapping[str, Any]) -> None:
        self.site, self.held = site, dict(held)

    def __getattr__(self, name: str) -> Any:
        if name not in self.held:
            raise AttributeError(f"the rule has no hole {name!r}; {near(name, self.held)}")
        return self.held[name]

    def shape(self, name: str) -> tuple[Any, ...]:
        """Sizes of what a hole holds; empty for numbers."""
        node = self.held[name]
        return tuple(node.meta["val"].shape) if isinstance(node, fx.Node) else ()

    def is_node(self, *names: str) -> bool:
        """Whether holes hold nodes, not numbers."""
        return all(isinstance(self.held[name], fx.Node) for name in names)


@dataclass(frozen=True, eq=False)
class Rule:
    """A rewrite that keeps values.

    `apply` answers for a site with the node that takes the node's place, or with something
    falsy: None, or a `Miss` that says why not.  `on` are the operators at which it looks (None:
    all).  A rule that is `once` is not applied to what it has made itself.  `examples` are
    graphs on which it fires, and by which it is proved; on `refuses` it must not fire.
    """

    name: str
    equation: str
    apply: Callable[[Site], Answer]
    on: frozenset[Any] | None = None
    once: bool = False
    depth: int = 3
    examples: tuple[Example, ...] = ()
    refuses: tuple[Example, ...] = ()
    doc: str = ""
    lines: int = 1  # of the function; an equation is one line
    alternatives: tuple[Rule, ...] = ()  # one rule for each of several equations

    def __repr__(self) -> str:
        return f"{self.name}: {self.equation}"

    def __reduce__(self) -> Any:
        return _arrived, (self.name, self.equation)

    def __deepcopy__(self, memo: Any) -> Rule:
        return self

    def why_not(self, graph: Graph, name: str) -> str:
        """Why the rule does not apply at a node; empty if it does.

        >>> from rewrite.rules import open_attention
        >>> open_attention.why_not(parts.graph, "embedding")
        'open_attention looks at scaled_dot_product_attention, not at embedding'
        """
        from rewrite.ir.sizes import labels
        from rewrite.ir.surgery import copy_module, get

        module = copy_module(graph.module)
        node = get(module.graph, name)
        if self.on is not None and node.target not in self.on:
            looks = ", ".join(sorted(_plain(t) for t in self.on))
            return f"{self.name} looks at {looks}, not at {_plain(node.target)}"
        with module.graph.inserting_before(node):
            answer = self.apply(Site(module, node, self.name, labels(graph)))
        if isinstance(answer, fx.Node):
            return ""
        return answer.reason if isinstance(answer, Miss) else f"{self.equation} does not fit"


def rule(
    name: str,
    *equations: str,
    where: Guard | None = None,
    let: Mapping[str, Callable[[Match], Any]] | None = None,
    once: bool = False,
    examples: str | Sequence[str | Example] = (),
    refuses: str | Sequence[str | Example] = (),
    doc: str = "",
) -> Rule:
    """A rule from equations `"pattern = replacement"`; the first that fits is used.

    Names of operators are those of ATen (and `attention`, `total`, `take`); every other name
    is a hole that holds an operand, `*names` hold any number of operands of `total`, and equal
    names hold equal operands.  `where` gets the match and answers with something falsy, such as
    a `Miss("reason")`, where the rule must not apply.  `let` computes further names for the
    right side.  Examples give shapes of the holes by letters: `"x: b s d, W: e d, c: e"`.

    Raises `RuleError` that points at what cannot be read.

    >>> twice = rule("twice", "x + x = 2 * x", examples="x: b s d")
    >>> twice
    twice: x + x = 2 * x
    """
    if not equations:
        raise RuleError(f"{name}: a rule needs an equation such as 'x + x = 2 * x'")
    sides = [_sides(name, equation, set(let or ())) for equation in equations]

    def apply(site: Site) -> Answer:
        answer: Answer = None
        for left, right in sides:
            for held in fits(left, site.node, {}):
                match = Match(site, held)
                if where is not None and not (said := where(match)):
                    answer = said if isinstance(said, Miss) else answer
                    continue
                more = {key: value(match) for key, value in (let or {}).items()}
                result = site.write(right, **held, **more)
                if isinstance(result, fx.Node):
                    return result
        return answer

    given = [examples] if isinstance(examples, str) else examples
    never = [refuses] if isinstance(refuses, str) else refuses
    lefts = [left for left, _ in sides]
    alone = () if len(equations) == 1 else tuple(
        rule(name, equation, where=where, let=let, once=once) for equation in equations)
    return Rule(
        name, "; ".join(equations), apply,
        frozenset(t for left in lefts for t in operators(left.name)), once,
        max(depth(left) for left in lefts),
        tuple(_example(e, lefts, i) for i, e in enumerate(given)),
        tuple(_example(e, lefts, 0) for e in never), doc, alternatives=alone,
    )


def rule_on(
    *targets: Any, name: str, equation: str, once: bool = False, depth: int = 3,
    examples: Iterable[str | Example] = (), refuses: Iterable[str | Example] = (),
) -> Callable[[Callable[[Site], Answer]], Rule]:
    """Makes a rule of a function on a site; `targets` are the operators at which it looks.

    Examples are written as a term and shapes: `"gelu(x) | x: b s d"`.
    """

    def made(function: Callable[[Site], Answer]) -> Rule:
        return Rule(name, equation, function, frozenset(targets) or None, once, depth,
                    tuple(_example(e) for e in examples), tuple(_example(e) for e in refuses),
                    cleandoc(function.__doc__ or ""), _lines(function))

    return made


@dataclass(frozen=True)
class Absent:
    """A function that stayed where it was when what it belongs to was pickled."""

    what: str

    def __call__(self, *given: Any) -> Any:
        raise RuleError(f"{self.what} does not travel, so this cannot be done again here: "
                        "do it where the graph was made")


def _arrived(name: str, equation: str) -> Rule:
    """The rule of this package that was pickled; of another one, its name and equation."""
    from rewrite.rules.table import RULES

    known = RULES.get(name)
    return known if known and known.equation == equation else Rule(
        name, equation, Absent(f"the rule {name!r}"))


def equations(of: Rule) -> list[Rule]:
    """A rule of several equations as rules of one; a function on a site as it is."""
    return list(of.alternatives) or [of]


def _lines(function: Callable[[Site], Answer]) -> int:
    """Lines of a function, without decorators and documentation; 0 where there is no source."""
    try:
        (tree,) = ast.parse(dedent(getsource(function))).body
    except OSError:  # written at a prompt
        return 0
    assert isinstance(tree, ast.FunctionDef)
    body = tree.body[1:] if ast.get_docstring(tree) else tree.body
    return 1 + (body[-1].end_lineno or 0) - body[0].lineno + 1


def _sides(name: str, equation: str, known: set[str]) -> tuple[Call, Any]:
    left, sign, right = equation.partition(" = ")
    if not sign:
        raise RuleError(f"{name}: an equation is written 'pattern = replacement', found "
                        f"{equation!r}")
    pattern, replacement = read(left), read(right)
    if not isinstance(pattern, Call):
        raise RuleError(f"{name}: the left side must be an operator on something, found {left!r}")
    stars = {t.name for t in walk(pattern) if isinstance(t, Rest)}
    for term in walk(replacement):
        if isinstance(term, (Hole, Rest)) and term.name not in {*holes(pattern), *known}:
            raise RuleError(f"{name}: {term.name!r} stands on the right of {equation!r} only; "
                            f"{near(term.name, holes(pattern))}; or compute it with let=")
        if isinstance(term, Hole) and term.name in stars:
            raise RuleError(f"{name}: {term.name!r} holds several operands: write *{term.name}")
    return pattern, replacement


def _example(given: str | Example, lefts: Sequence[Call] = (), index: int = 0) -> Example:
    if isinstance(given, Example):
        return given
    if "|" in given or not lefts:
        return Example.read(given)
    return Example(lefts[min(index, len(lefts) - 1)], given)


def _plain(target: Any) -> str:
    name = getattr(target, "_opname", None) or getattr(target, "__name__", str(target))
    return str(name)
