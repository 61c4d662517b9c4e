"""What makes a graph legal at each stage, as one table that is checked where a stage ends."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

from torch import fx

from rewrite.errors import SpecError, near
from rewrite.ir import clauses
from rewrite.ir.clauses import Found, Subject
from rewrite.ir.graph import Graph

OPS = ("traced", "spelled", "rewritten")  # op graphs: as traced, after spelling, after any rules
ASSEMBLED = ("components", "expanded")  # calls of bodies, and sums
GRAPHS = (*OPS, "edited", *ASSEMBLED)  # edited: after surgery, with functions of the user
STAGES = (*GRAPHS, "body")  # body: a part, as a graph of its own


@dataclass(frozen=True)
class Clause:
    """One row of the table: what must hold, at which stages, and what finds where it does not.

    A deep clause runs operators again on shapes, which takes longer.
    """

    name: str
    says: str
    stages: tuple[str, ...]
    find: Callable[[Subject], Found]
    deep: bool = False


TABLE = (
    Clause("defined", "every operand stands before its reader in the same graph", STAGES,
           clauses.defined),
    Clause("named", "names are identifiers, and no two nodes share one", STAGES, clauses.named),
    Clause("inputs", "placeholders are the inputs, in order, of their shapes and types", GRAPHS,
           clauses.inputs),
    Clause("outputs", "the last node returns a tuple with one node for each output", STAGES,
           clauses.outputs),
    Clause("targets", "only operators and modules that this stage knows are called", STAGES,
           clauses.targets),
    Clause("attributes", "weights exist, and their shape and type are as noted", STAGES,
           clauses.attributes),
    Clause("pure", "no operator writes into its operands", STAGES, clauses.pure),
    Clause("arguments", "arguments bind to the parameters of what is called", STAGES,
           clauses.arguments),
    Clause("arity", "a body is given one value for each of its placeholders", GRAPHS,
           clauses.arity),
    Clause("alive", "every node leads to the output", GRAPHS, clauses.alive),
    Clause("values", "every node knows the shape and type of its value", OPS, clauses.values),
    Clause("joins", "the terms of a residual sum have its shape", ASSEMBLED, clauses.joins),
    Clause("shapes", "a node gives the shape and type that it says", STAGES, clauses.shapes,
           deep=True),
)


@dataclass(frozen=True)
class Violation:
    """A node that breaks a clause: what was found there, and what would mend it."""

    node: str
    clause: Clause
    found: str
    fix: str

    def __str__(self) -> str:
        return f"%{self.node}: {self.found} ({self.clause.name}: {self.clause.says}); {self.fix}"


def check(
    graph: Graph | fx.GraphModule, stage: str, deep: bool = False,
    new: Collection[str] | None = None,
) -> None:
    """Raise `SpecError` unless a graph is legal at its stage.

    `stage` is traced, spelled, rewritten, edited, components, expanded or body.  The error
    names the node, what was found there, the clause that it breaks, and a fix.  With `deep`,
    every operator (or only those of the nodes called `new`) is run again on the shapes and
    types of its operands, and must give what the node says of itself.

    >>> check(parts.graph, "spelled", deep=True)
    >>> check(parts.graph, "speled")
    Traceback (most recent call last):
        ...
    rewrite.errors.SpecError: there is no stage 'speled'; did you mean spelled?
    """
    found = violations(graph, stage, deep, new)
    if not found:
        return
    name = graph.name if isinstance(graph, Graph) else type(graph).__name__
    more = "".join(f"\n  also {other}" for other in found[1:3])
    rest = f"\n  and {len(found) - 3} more" if len(found) > 3 else ""
    raise SpecError(f"{name} is not a legal graph at the stage {stage!r}: {found[0]}{more}{rest}")


def violations(
    graph: Graph | fx.GraphModule, stage: str, deep: bool = False,
    new: Collection[str] | None = None,
) -> list[Violation]:
    """Everything that makes a graph illegal at its stage; see `check`.

    >>> violations(parts.as_graph(), "components")
    []
    """
    if stage not in STAGES:
        raise SpecError(f"there is no stage {stage!r}; {near(stage, STAGES)}")
    module = graph.module if isinstance(graph, Graph) else graph
    subject = Subject(module, stage, graph if isinstance(graph, Graph) else None, new)
    found = list(_broken(subject, deep))
    for target, body in bodies(module).items():
        for inner in _broken(Subject(body, "body"), deep):
            found.append(Violation(f"{target}.{inner.node}", inner.clause, inner.found, inner.fix))
    return found


def bodies(module: fx.GraphModule) -> dict[str, fx.GraphModule]:
    """The graphs that a graph calls, by name, in the order of their first calls."""
    known = dict(module.named_children())
    targets = dict.fromkeys(str(node.target) for node in module.graph.find_nodes(op="call_module"))
    return {name: body for name in targets
            if isinstance(body := known.get(name), fx.GraphModule)}


def _broken(subject: Subject, deep: bool) -> Iterator[Violation]:
    whole = True
    for clause in TABLE:
        if subject.stage in clause.stages and (not clause.deep or (deep and whole)):
            for node, found, fix in clause.find(subject):
                whole = False  # of a broken graph nothing can be inferred
                yield Violation(node, clause, found, fix)
