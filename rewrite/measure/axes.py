"""Which tensor of an output a metric reads, and which of its axes are what."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from rewrite.errors import DataError, near
from rewrite.ir.layout import BATCH, LAST, Layout, Size

if TYPE_CHECKING:
    from .metrics import Metric

Position = int | str | None
"""A token: counted from either end, a label with one column per example, "last", "all" or None."""

CLASSES, SEQ = ("classes", "vocab"), "seq"
Sizes = Mapping[str, tuple[Size, ...]]


@dataclass(frozen=True)
class Axes:
    """The axes of one tensor of an output: the batch, rows (tokens, mostly), and classes.

    `length` names the tokens along the rows, `of_tokens` those that are the classes.
    """

    output: str
    sizes: tuple[Size, ...]
    batch: int
    rows: tuple[int, ...]
    classes: int
    length: str | None = None
    of_tokens: str | None = None

    def __str__(self) -> str:
        return shown(self.output, self.sizes)


def axes_of(metric: Metric, sizes: Sizes, layout: Layout) -> Axes:
    """Which tensor a metric reads, of outputs of these sizes, and what its axes are."""
    name = _chosen(metric, sizes)
    if metric.axes is not None:
        return _named_axes(metric, name, sizes[name], layout)
    own = sizes[name]
    batch = [axis for axis, size in enumerate(own) if size == BATCH]
    rows = [axis for axis, size in enumerate(own) if size == LAST or size in layout.lengths]
    rest = [axis for axis in range(len(own)) if axis not in (*batch, *rows)]
    if len(batch) != 1:
        why = ("has no axis of examples" if not batch else
               "compares the examples of a batch with each other")
        raise DataError(f"{metric} reads logits of each example, and {shown(name, own)} {why}: "
                        f"{remedy(metric, sizes, name)}")
    if not rows and len(rest) == 2 and own[rest[0]] == 1:
        rows = rest[:1]  # the model computes one row
        rest = rest[1:]
    plain = len(rest) == 1 and len(rows) <= 1 and isinstance(own[rest[0]], int)
    if plain and not rows and own[rest[0]] in layout.fixed.values():
        raise DataError(
            f"{shown(name, own)} may hold {own[rest[0]]} classes or a number for each of "
            f"{own[rest[0]]} tokens: say which, as in {call_with(metric, axes='batch classes')}; a "
            "number for each token is measured with rw.custom(function, name)")
    if plain and own[rest[0]] == 1:
        raise DataError(
            f"{shown(name, own)} holds one number, and {metric.name} compares classes: measure "
            f"it as it is, with {_difference(name, own)}")
    if not plain:
        raise DataError(f"{metric} cannot tell the classes of {shown(name, own)}: "
                        f"{remedy(metric, sizes, name)}")
    length = str(own[rows[0]]) if rows and own[rows[0]] in layout.lengths else None
    return Axes(name, own, batch[0], tuple(rows), rest[0], length)


def _chosen(metric: Metric, sizes: Sizes) -> str:
    """The output that a metric reads: the one it names, or the only one that is logits."""
    if metric.output is not None:
        if metric.output not in sizes:
            raise DataError(f"the model returns no {metric.output!r}; {near(metric.output, sizes)}")
        return metric.output
    ends = ["logits"] if "logits" in sizes else [n for n in sizes if n.endswith(".logits")]
    if not ends and all(re.fullmatch(r"output\d*", name) for name in sizes):
        ends = [name for name, own in sizes.items() if len(own) > 1] or list(sizes)
    if len(ends) == 1:
        return ends[0]
    listed = ", ".join(shown(name, own) for name, own in sizes.items())
    which = "several" if ends else "no output is called so"
    first = next((n for n in ends or sizes if sizes[n].count(BATCH) == 1), next(iter(sizes)))
    raise DataError(f"{metric} reads logits, and {which}: the model returns {listed}. Say which, "
                    f"as in {call_with(metric, output=first)}, or measure with rw.custom(function, "
                    "name)")


def _named_axes(metric: Metric, name: str, own: tuple[Size, ...], layout: Layout) -> Axes:
    """The axes as the metric's option `axes` names them."""
    words = str(metric.axes).split()
    batch = [i for i, word in enumerate(words) if word == BATCH]
    classes = [i for i, word in enumerate(words) if word in CLASSES]
    fits = len(words) == len(own) and len(batch) == len(classes) == 1 and words.count(SEQ) <= 1
    known = [i for i, size in enumerate(own) if size == BATCH]
    if not fits or (known and batch != known):
        raise DataError(
            f"axes={metric.axes!r} does not fit {shown(name, own)}: name each of its {len(own)} "
            "axes, one of them 'batch', one 'classes', 'seq' for tokens, as in "
            f"axes={_example(own)!r}")
    rows = tuple(i for i in range(len(words)) if i not in (*batch, *classes))
    length = None
    if SEQ in words:
        size = own[words.index(SEQ)]
        length = next((n for n in layout.lengths if size in (n, layout.fixed.get(n))), None)
        if size == LAST:
            length = None
        elif length is None and layout.padding:
            raise DataError(f"axis {size} of {shown(name, own)} cannot be the tokens of which "
                            f"{', '.join(next(iter(layout.padding.values())))} names padding: "
                            "give it another name than 'seq'")
    size = own[classes[0]]
    of_tokens = next((n for n in layout.lengths if size in (n, layout.fixed.get(n))), None)
    return Axes(name, own, batch[0], rows, classes[0], length, of_tokens)


def described(metric: Metric, layout: Layout) -> str:
    """What a metric reads, in words: the tensor, its axes, and the position."""
    axes = axes_of(metric, layout.outputs, layout)
    told = f" as {metric.axes}" if metric.axes else ""
    rows = ", ".join(str(axes.sizes[axis]) for axis in axes.rows)
    where = metric.position
    if not axes.rows:
        at = ""
    elif axes.length is None and rows == "1":
        at = ", its only row"
    elif axes.length is None:
        at = f", mean over {rows}" if where == "all" else f" at {where} of {rows}"
    elif isinstance(where, str):
        at = " at all tokens" if where == "all" else f" at the token {where!r}"
    else:
        at = " at the last token" if where == -1 else f" at token {where}"
    return f"{axes}{told}{at}"


def shown(name: str, sizes: Sequence[Size]) -> str:
    """An output with its axes: `logits [batch, seq, 97]`."""
    return f"{name} [{', '.join(map(str, sizes))}]"


def call_with(metric: Metric, **changes: object) -> str:
    call = f"rw.{replace(metric, **changes)}"
    return call if call.endswith(")") else f"{call}()"


def _example(own: Sequence[Size]) -> str:
    """Words for axes: of images the classes come first, of everything else last."""
    if len(own) == 4:
        return "batch classes height width"
    words = [BATCH if size == BATCH else SEQ if isinstance(size, str) else f"axis{i}"
             for i, size in enumerate(own)]
    return " ".join([*words[:-1], CLASSES[0]])


def _difference(name: str, own: Sequence[Size]) -> str:
    keys = re.sub(r"^output", "", name).split(".")
    at = "".join(f"[{key}]" if key.isdigit() else f"[{key!r}]" for key in keys if key)
    mean = ".flatten(1).mean(1)" if len(own) > 1 else ""
    last = ", position=-1" if isinstance(own[1:2][0] if own[1:] else 0, str) else ""
    return (f"rw.custom(lambda reference, hypothesis, batch: (hypothesis{at} - reference{at}).abs()"
            f"{mean}, 'difference'{last})")


def remedy(metric: Metric, sizes: Sizes, name: str) -> str:
    """What to write instead: other axes, another output, a function of one's own."""
    own, ways = sizes[name], []
    if len(own) > 1 and own.count(BATCH) == 1:
        position = {"position": "all"} if len(own) > 3 and metric.position == -1 else {}
        ways.append("say what its axes are, as in "
                    f"{call_with(metric, axes=_example(own), **position)}")
    others = [other for other in sizes if other != name and sizes[other].count(BATCH) == 1]
    if others:
        ways.append(f"read another output, as in {call_with(metric, output=others[0])}")
    if own.count(BATCH) == 1:
        ways.append(f"measure a number of your own, as in {_difference(name, own)}")
    return ", or ".join(ways) or (
        f"wrap the model in a module that returns [batch, classes] or [batch, {SEQ}, vocab]")
