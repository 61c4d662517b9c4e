"""The driver: rules are applied to a graph until none fires, and every step is recorded.

A rule looks at one node and answers with the node that takes its place, or with nothing.
Nodes wait in line; what a step writes, and what reads it, is looked at again.  When the line
is empty all nodes are looked at once more, so that the result is a fixpoint.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from torch import fx

from rewrite.errors import RuleError
from rewrite.ir.graph import Graph
from rewrite.ir.match import Match
from rewrite.ir.sizes import described, labels
from rewrite.ir.spec import check
from rewrite.ir.surgery import copy_module
from rewrite.rules.declare import Rule
from rewrite.rules.site import Names, Site, alike
from rewrite.rules.trail import Step, Trail, shown
from rewrite.turn import alone

At = Match | str | Callable[[fx.Node], Any] | None
LIMIT = 1000


@alone
def rewrite(
    graph: Graph, rules: Rule | Iterable[Rule], at: At = None, *,
    limit: int = LIMIT, steps: int | None = None,
) -> Graph:
    """The graph after rules have been applied to it as often as they fire.

    `at` restricts them to some nodes, and to what is made of those: a name, a glob, a matcher
    of `rw.match`, or a function of a node.  `steps` stops after so many steps.  The result's
    `trail` tells what was done.

    Raises `RuleError` if more than `limit` steps follow on each other's results (rules that undo
    each other, or that fire on what they have made), or if a rule's result has another shape or
    type than what it replaces; `MatchError` if `at` accepts no node; `SpecError` if a rule
    leaves an illegal graph.

    >>> from rewrite.rules import open_attention
    >>> opened = rewrite(parts.graph, open_attention)
    >>> len(opened.trail), opened.trail[0].rule
    (2, 'open_attention')
    """
    table = [rules] if isinstance(rules, Rule) else list(rules)
    if wrong := [r for r in table if not isinstance(r, Rule)]:
        raise RuleError(f"rules are made with rw.rule(name, equation), found "
                        f"{type(wrong[0]).__name__}")
    module = copy_module(graph.module)
    allowed = _allowed(replace(graph, module=module), at)
    names = labels(replace(graph, module=module))
    driver = _Driver(module, table, allowed, limit, steps, names)
    driver.run()
    module.graph.lint()
    module.recompile()
    made = {name for step in driver.steps for name in step.made}
    calls = any(node.op == "call_module" for node in module.graph.nodes)  # a component graph
    check(module, "edited" if calls else "rewritten", deep=True, new=made)
    trail = Trail(graph, tuple(table), at, limit, tuple(driver.steps))
    return replace(graph, module=module, trail=trail,
                   certificate=graph.certificate if not driver.steps else None)


def _allowed(graph: Graph, at: At) -> set[fx.Node]:
    nodes = graph.module.graph.nodes
    if at is None:
        return set(nodes)
    if callable(at):
        return {node for node in nodes if at(node)}
    names = set(graph.expect(at))
    return {node for node in nodes if node.name in names}


class _Driver:
    """`age[node]` counts the steps that made a node out of what was there at first."""

    def __init__(
        self, module: fx.GraphModule, rules: Sequence[Rule], allowed: set[fx.Node], limit: int,
        steps: int | None, names: Names,
    ) -> None:
        self.module, self.limit, self.most, self.names = module, limit, steps, names
        self.by_target: dict[Any, list[Rule]] = {}
        self.anywhere: list[Rule] = [r for r in rules if r.on is None]
        for rule in rules:
            for target in rule.on or ():
                self.by_target.setdefault(target, []).append(rule)
        self.order = {rule: i for i, rule in enumerate(rules)}
        self.far = max((rule.depth for rule in rules), default=1)
        self.allowed = allowed
        self.age: dict[fx.Node, int] = {}
        self.done: dict[fx.Node, frozenset[str]] = {}
        self.steps: list[Step] = []

    def run(self) -> None:
        while True:
            before = len(self.steps)
            queue = deque(n for n in self.module.graph.nodes if n in self.allowed)
            waiting = set(queue)
            while queue:
                if self.most is not None and len(self.steps) >= self.most:
                    return
                node = queue.popleft()
                waiting.discard(node)
                if node._erased or node.op in {"placeholder", "output"}:
                    continue
                for changed in self._try(node):
                    if changed not in waiting and changed in self.allowed:
                        waiting.add(changed)
                        queue.append(changed)
            if len(self.steps) == before:
                return

    def _try(self, node: fx.Node) -> list[fx.Node]:
        """Apply the first rule that fires at a node; answers what is to be looked at again."""
        found = [*self.by_target.get(node.target, ()), *self.anywhere]
        for rule in sorted(found, key=self.order.__getitem__):
            if rule.once and rule.name in self.done.get(node, frozenset()):
                continue
            site = Site(self.module, node, rule.name, self.names)
            with self.module.graph.inserting_before(node):
                result = rule.apply(site)
            if isinstance(result, fx.Node) and result is not node:
                return self._replace(rule, site, result)
            for made in reversed(site.made):
                if not made.users:
                    self.module.graph.erase_node(made)
        return []

    def _replace(self, rule: Rule, site: Site, result: fx.Node) -> list[fx.Node]:
        node, name = site.node, site.node.name
        if not alike(node, result):
            raise RuleError(
                f"{rule.name} replaces {name!r} ({described(node, self.names)}) by {shown(result)} "
                f"({described(result, self.names)}); both sides of a rule must have one shape and "
                "type: add a guard (where=...), or a cast or view on the right")
        age = self.age.get(node, 0) + 1
        if age > self.limit:
            recent = ", ".join(dict.fromkeys(s.rule for s in self.steps[-6:]))
            raise RuleError(
                f"{rule.name} rewrites {name!r}, which {self.limit:,} steps have made out of each "
                f"other (last rules: {recent}): rules that undo each other or fire on their own "
                "result never end; add a guard, mark the rule once=True, or raise limit=")
        before = shown(node, doomed(node))
        after = shown(result, set(site.made))
        users = list(node.users)
        node.replace_all_uses_with(result)
        removed = self._bury(node)
        kept = [made for made in reversed(site.made) if self._used(made, result)][::-1]
        if result in kept:  # the value keeps its name
            result.name = _free(self.module.graph, name, result)
        if "part" in node.meta and "part" not in result.meta:
            result.meta |= {key: node.meta[key] for key in ("part", "component")}
        history = self.done.get(node, frozenset()) | {rule.name}
        for made in kept:
            self.age[made] = age
            self.done[made] = history
            self.allowed.add(made)
            made.meta["provenance"] = (*node.meta.get("provenance", ()), (rule.name, name))
        self.steps.append(Step(rule.name, rule.equation, name, before, after,
                               tuple(n.name for n in kept), tuple(removed)))
        return [*kept, *self._readers([result, *users])]

    def _used(self, made: fx.Node, result: fx.Node) -> bool:
        if made._erased or made.users or made is result:
            return not made._erased
        self._bury(made)
        return False

    def _bury(self, node: fx.Node) -> list[str]:
        """Erase a node and what only it needed; answers their names."""
        names, stack = [], [node]
        while stack:
            dead = stack.pop()
            if dead._erased or dead.users or dead.op in {"placeholder", "output"}:
                continue
            stack.extend(dead.all_input_nodes)
            names.append(dead.name)
            self.module.graph.erase_node(dead)
        return names

    def _readers(self, nodes: Iterable[fx.Node]) -> list[fx.Node]:
        """Nodes whose patterns may reach down to the given ones."""
        found: dict[fx.Node, None] = {}
        layer = [n for n in nodes if not n._erased]
        for _ in range(self.far):
            found.update(dict.fromkeys(layer))
            layer = [user for node in layer for user in node.users if user not in found]
        return list(found)


def doomed(node: fx.Node) -> set[fx.Node]:
    """The node, and what will be read by nobody once it is gone."""
    found, stack = {node}, list(node.all_input_nodes)
    while stack:
        operand = stack.pop()
        if operand not in found and operand.op != "placeholder" and found.issuperset(operand.users):
            found.add(operand)
            stack.extend(operand.all_input_nodes)
    return found


def _free(graph: fx.Graph, name: str, node: fx.Node) -> str:
    taken = any(other.name == name for other in graph.nodes if other is not node)
    return node.name if taken else name
