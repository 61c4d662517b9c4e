"""The picture of an expansion."""

from __future__ import annotations

from dataclasses import replace

from rewrite.draw.dot import dot
from rewrite.draw.fold import fold
from rewrite.draw.lanes import add_lanes
from rewrite.draw.layers import Layers, layers
from rewrite.draw.mixed import sketch_expansion
from rewrite.draw.sketch import Item, Sketch
from rewrite.draw.text import number, plural, ranges, wrap
from rewrite.errors import RewriteError
from rewrite.expand import Expansion

WIDTH = 92  # characters in a line of the caption


def dot_of_expansion(
    exp: Expansion, *, hypothesis: int = 0, labels: int = 3, full: bool = False,
    caption: bool = True,
) -> str:
    """What one hypothesis touches; see `rewrite.draw.draw` for the options."""
    if not 0 <= hypothesis < len(exp.hypotheses):
        raise RewriteError(f"there is no hypothesis {hypothesis}: the expansion has "
                           f"{plural(len(exp.hypotheses), 'hypothesis')[:-2]}es, counted from 0")
    where = layers(exp.parts)
    sketch, behind = sketch_expansion(exp, hypothesis, labels)
    sketch = replace(sketch, runs=exp.hypotheses[hypothesis].run_names)
    if not full:
        rest = frozenset(item.id for item in sketch.items if item.kind == "rest")
        sketch = fold(sketch, lambda chain: _words(chain, where), least=3, fixed=rest)
    sketch = add_lanes(sketch, behind, where)
    if caption:
        sketch = _captioned(sketch, exp, hypothesis)
    return dot(sketch, {block: f"layer {text}" for block, text in where.label.items()})


def _words(chain: list[list[Item]], where: Layers) -> tuple[str, tuple[str, ...]]:
    """Title and lines of hidden layers."""
    blocks = ranges(int(where.label[items[0].block]) for items in chain)
    parts = sum(item.count for items in chain for item in items)
    heads = sum(item.count for item in chain[0] if item.kind == "heads")
    others = [item.title.rstrip("0123456789") for item in chain[0] if item.kind == "part"]
    each = ([plural(heads, "head")] if heads else []) + [
        {"m": "MLP"}.get(name, "norm" if name.startswith("n") else name) for name in others]
    last = [item for item in chain[-1] if item.lines]
    return (f"layers {blocks}",
            (f"{plural(parts, 'part')}, each mixed alike", f"per layer: {', '.join(each)}",
             *(("→ … " + last[-1].lines[0],) if last else ())))


def _captioned(sketch: Sketch, exp: Expansion, which: int) -> Sketch:
    hypothesis, cost = exp.hypotheses[which], exp.cost
    counts = hypothesis.count()
    legend = tuple((run, f"{plural(counts[run], 'path')}"
                    + (" (all others)" if run == hypothesis.default else ""))
                   for run in hypothesis.run_names)
    mixed = sum(len(item.runs) > 1 and item.count for item in sketch.items)
    title = hypothesis.name + ": " if hypothesis.name else ""
    said = "; ".join(f"{run}: {paths}" for run, paths in hypothesis.runs.items())
    lines = wrap(title + said, WIDTH)
    lines.append(f"{plural(cost.nodes, 'node')} · {number(cost.copies)} copies, {number(mixed)} "
                 f"mixed · {plural(cost.calls, 'call')} · {cost.forwards:.2f} forward passes")
    if len(exp.hypotheses) > 1:
        lines[-1] += f" for {len(exp.hypotheses)} hypotheses, number {which} drawn"
    certificate = exp.parts.graph.certificate
    lines += wrap(f"parity: {certificate or 'not measured'}", WIDTH)
    return replace(sketch, legend=legend, caption=tuple(lines))
