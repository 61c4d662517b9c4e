"""Wrong variants of rules: what a rule writes, with one node of it broken."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import fx

from rewrite.rules import Rule, Site
from rewrite.rules.site import alike

aten = torch.ops.aten
SUMS = {aten.add.Tensor, aten.mul.Tensor, aten.sub.Tensor, aten.div.Tensor, aten.matmul.default}
Break = Callable[[Site, fx.Node], fx.Node | None]


def first_only(site: Site, node: fx.Node) -> fx.Node | None:
    """A dropped term, factor or bias: the first operand alone."""
    first = node.args[0] if node.args else None
    fits = node.target in SUMS and isinstance(first, fx.Node) and alike(first, node)
    return first if fits and isinstance(first, fx.Node) else None


def second_only(site: Site, node: fx.Node) -> fx.Node | None:
    """The second operand alone."""
    second = node.args[1] if len(node.args) > 1 else None
    fits = node.target in SUMS and isinstance(second, fx.Node) and alike(second, node)
    return second if fits and isinstance(second, fx.Node) else None


def other_sign(site: Site, node: fx.Node) -> fx.Node | None:
    """A sum becomes a difference and the other way round."""
    other = {aten.add.Tensor: aten.sub.Tensor, aten.sub.Tensor: aten.add.Tensor}
    return site.call(other[node.target], *node.args) if node.target in other else None


def without_bias(site: Site, node: fx.Node) -> fx.Node | None:
    """A product that forgets its bias."""
    if node.target is aten.linear.default and len(node.args) > 2 and node.args[2] is not None:
        return site.call(aten.linear.default, *node.args[:2])
    return None


def turned_weight(site: Site, node: fx.Node) -> fx.Node | None:
    """A weight that is transposed, where it is square."""
    if node.target not in {aten.linear.default, aten.matmul.default}:
        return None
    x, weight, *rest = node.args
    assert isinstance(weight, fx.Node)
    sizes = weight.meta["val"].shape
    if len(sizes) < 2 or sizes[-1] != sizes[-2]:
        return None
    turned = site.call(aten.transpose.int, weight, -2, -1)
    assert callable(node.target)
    return site.call(node.target, x, turned, *rest)


def another_number(site: Site, node: fx.Node) -> fx.Node | None:
    """A constant that is a little larger: a scale, an epsilon, a power, a bound."""
    for place, value in enumerate(node.args):
        if isinstance(value, (int, float)) and not isinstance(value, bool) and (
                value == value and abs(value) != float("inf")):
            changed = list(node.args)
            changed[place] = value + 1
            try:
                made = site.call(node.target, *changed)
            except Exception:  # another axis may not exist
                return None
            return made if alike(made, node) else None
    return None


def doubled(site: Site, node: fx.Node) -> fx.Node | None:
    """Twice what it should be."""
    value = node.meta["val"]
    floating = isinstance(value, torch.Tensor) and value.is_floating_point()
    return site.call(aten.mul.Tensor, node, 2) if floating else None


def opposite_mask(site: Site, node: fx.Node) -> fx.Node | None:
    """A mask that hides what it should show."""
    value = node.meta["val"]
    if isinstance(value, torch.Tensor) and value.dtype == torch.bool:
        return site.call(aten.logical_not.default, node)
    return None


BREAKS: tuple[Break, ...] = (first_only, second_only, other_sign, without_bias, turned_weight,
                             another_number, doubled, opposite_mask)


def broken(rule: Rule, place: int, how: Break) -> Rule:
    """The rule, with the node that it writes at `place` broken; a miss where that cannot be."""

    def apply(site: Site) -> Any:
        result = rule.apply(site)
        if not isinstance(result, fx.Node) or place >= len(site.made):
            return None
        node = site.made[place]
        after = set(site.made)
        with site.module.graph.inserting_before(node.next):
            wrong = how(site, node)
        if wrong is None or wrong is node:
            return None
        made_now = {n for n in site.made if n not in after}
        readers = [u for u in node.users if u not in made_now]
        if any(u not in after for u in readers):
            return None
        for reader in readers:
            reader.replace_input_with(node, wrong)
        return wrong if result is node else result

    return replace(rule, name=f"{rule.name}, {how.__name__} at {place}", apply=apply, once=True)


def mutants(rule: Rule) -> Iterator[tuple[str, Rule]]:
    """Every way to break one node that the rule writes on one of its examples."""
    for index, example in enumerate(rule.examples):
        alone = replace(rule, examples=(example,))
        for place in range(_most(alone)):
            for how in BREAKS:
                yield f"{index}: {how.__name__} at {place}", broken(alone, place, how)


def _most(rule: Rule) -> int:
    counts = [0]

    def apply(site: Site) -> Any:
        result = rule.apply(site)
        if isinstance(result, fx.Node):
            counts.append(len(site.made))
        return result

    rule.examples[0].graph().rewrite(replace(rule, apply=apply))
    return max(counts)
