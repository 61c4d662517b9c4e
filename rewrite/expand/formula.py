"""An expansion as equations that a person can read."""

from __future__ import annotations

from rewrite.expand.product import Copy, Product
from rewrite.ir.dag import Join, Part


def formula(product: Product, runs: tuple[str, ...]) -> str:
    """One line for each mixed copy: what it reads, with single-run values named by their run.

    `m5__mix1 = m5(embed[clean] + a0[corrupt] + ...)`: runs of equal terms are folded.
    """
    lines = []
    for node in product.dag.nodes:
        if not isinstance(node, Part):
            continue
        for copy in product.copies[node.name]:
            if len(copy.runs) > 1:
                lines.append(_line(product, node, copy))
    return "\n".join(lines)


def _line(product: Product, node: Part, copy: Copy) -> str:
    terms = {p.symbol: _sum(product, p.reads, i)
             for p, i in zip(node.ports, copy.reads, strict=True)}
    name = f"{node.name}#{copy.index}" if len(product.copies[node.name]) > 1 else node.name
    if len(set(terms.values())) == 1:
        return f"{name} = {node.name}({next(iter(terms.values()))})"
    shown = ", ".join(f"{symbol.rpartition('.')[2]}: {value}" for symbol, value in terms.items())
    return f"{name} = {node.name}({shown})"


def _sum(product: Product, name: str, index: int) -> str:
    terms: list[tuple[str, str]] = []
    stack = [(name, index)]
    while stack:
        current, which = stack.pop()
        node, copy = product.dag[current], product.copies[current][which]
        if len(copy.runs) == 1 and isinstance(node, Join):
            terms.append((f"{current}", f"[{next(iter(copy.runs))}]"))
        elif isinstance(node, Join):
            stack.extend(reversed(list(zip(node.terms, copy.reads, strict=True))))
        elif len(copy.runs) == 1:
            terms.append((current, f"[{next(iter(copy.runs))}]"))
        else:
            several = len(product.copies[current]) > 1
            terms.append((current, f"#{copy.index}" if several and copy.runs else ""))
    return " + ".join(f"{name}{mark}" for name, mark in terms)
