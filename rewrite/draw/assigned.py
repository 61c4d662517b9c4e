"""The picture of an expansion."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from rewrite.draw.dot import dot
from rewrite.draw.fold import fold
from rewrite.draw.lanes import add_lanes
from rewrite.draw.layers import Layers, layers
from rewrite.draw.mixed import sketch_expansion
from rewrite.draw.serves import serves
from rewrite.draw.sides import asked
from rewrite.draw.sketch import Item, Sketch
from rewrite.draw.text import number, parity, plural, ranges, wrap
from rewrite.errors import RewriteError
from rewrite.expand import Expansion
from rewrite.expand.product import Copy, Mixed

WIDTH = 92  # characters in a line of the caption
NAMED = 6  # so many positions and windows are named in it


def dot_of_expansion(
    exp: Expansion, *, hypothesis: int = 0, labels: int = 3, full: bool = False,
    caption: bool = True,
) -> str:
    """What one hypothesis touches; see `rewrite.draw.draw` for the options."""
    if not 0 <= hypothesis < len(exp.hypotheses):
        raise RewriteError(f"there is no hypothesis {hypothesis}: the expansion has "
                           f"{len(exp.hypotheses)}, counted from 0")
    sketch, where = folded(exp, hypothesis, labels, full)
    if caption:
        sketch = _captioned(sketch, exp, hypothesis)
    return dot(sketch, {block: f"layer {text}" for block, text in where.label.items()})


def folded(exp: Expansion, which: int, labels: int, full: bool) -> tuple[Sketch, Layers]:
    """The boxes of one hypothesis: every copy of it is in exactly one."""
    where = layers(exp.parts)
    sketch, behind = sketch_expansion(exp, which, labels)
    if not full:
        rest = frozenset(item.id for item in sketch.items if item.kind == "rest")
        sketch = fold(sketch, lambda chain: _words(chain, where), least=2, fixed=rest)
    return add_lanes(sketch, behind, where), where


def _words(chain: list[list[Item]], where: Layers) -> tuple[str, tuple[str, ...]]:
    """Title and lines of hidden layers."""
    blocks = ranges(int(where.label[items[0].block]) for items in chain)
    drawn = [item for item in chain[0] if item.kind not in ("sum", "mixture")]
    asks = ", by position" if any(item.kind == "mixture" for item in chain[0]) else ""
    single = any(item.kind == "pure" for item in drawn)
    kinds = Counter(_kind(item) + (f" {'/'.join(item.runs)}" if item.kind == "pure" else
                                   " mixed" if single else "") for item in drawn)
    each = ", ".join(f"{count} x {kind}" if count > 1 else kind for kind, count in kinds.items())
    parts = plural(sum(item.count for items in chain for item in items), "part")
    last = [item for item in chain[-1] if item.lines]
    return (f"layers {blocks}", (
        f"{parts}, {'alike in each layer' if single else 'each mixed alike'}{asks}",
        f"per layer: {each}", *((f"→ … {last[-1].lines[0]}",) if last else ())))


def _kind(item: Item) -> str:
    """`9 heads` or `MLP`, without the number of the layer."""
    if ".h" in item.title:
        return plural(item.count, "head")
    name = item.title.split(".")[0].rstrip("0123456789")
    return {"m": "MLP", "n": "norm", "i": "inner value"}.get(name, name)


def _captioned(sketch: Sketch, exp: Expansion, which: int) -> Sketch:
    hypothesis, cost = exp.hypotheses[which], exp.cost
    counts, asks = hypothesis.count(), _asked(exp, which)
    somewhere = " at some positions" if asks else ""  # a path may count for several runs
    legend = tuple((run, f"{plural(counts[run], 'path')}{somewhere}"
                    + (" (all others)" if run == hypothesis.default else ""))
                   for run in hypothesis.run_names)
    mixed = sum(len(copy.runs) > 1 for name in exp.copies for copy in exp.product.copies[name]
                if isinstance(copy, Copy))
    title = hypothesis.name + ": " if hypothesis.name else ""
    said = "; ".join(f"{run}: {paths}" for run, paths in hypothesis.runs.items())
    lines = wrap(title + said, WIDTH)
    lines.append(f"{plural(cost.nodes, 'node')} · {number(cost.copies)} copies, {number(mixed)} "
                 f"mixed · {plural(cost.calls, 'call')} · {cost.forwards:.2f} forward passes")
    if len(exp.hypotheses) > 1:
        lines[-1] += f" for {len(exp.hypotheses)} hypotheses, number {which} drawn"
    lines += asks
    certificate = exp.parts.graph.certificate
    lines += wrap(parity(certificate), WIDTH)
    return replace(sketch, legend=legend, caption=tuple(lines))


def _asked(exp: Expansion, which: int) -> list[str]:
    """A line on the positions and windows that values are mixed by, if there are any."""
    default = exp.hypotheses[which].default
    served = serves(exp.product, exp.product.roots[which], 1, default)
    drawn = [(name, index) for name, index in served
             if isinstance(exp.product.copies[name][index], Mixed)]
    said = [f"{plural(len(spelt), word)} ({', '.join(spelt[:NAMED])}"
            f"{', …' if len(spelt) > NAMED else ''})"
            for word, spelt in zip(("position", "window"), asked(exp.product, drawn, default),
                                   strict=True) if spelt]
    return [f"asks {' and '.join(said)} in {plural(len(drawn), 'mixture')}"] if said else []
