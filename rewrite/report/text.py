"""The report in words: rows of a label and a text, with repeats folded."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from decimal import Decimal
from itertools import groupby
from typing import TYPE_CHECKING

from rewrite.report.tally import Size
from rewrite.report.unsplit import NOT_SPLIT, SLOWER, WHOLE, Unsplit

if TYPE_CHECKING:
    from rewrite.report.structure import Input, Layer, Parity, Split, Structure

SHOWN = 8  # as many of a long list are printed; the JSON has all
_NUMBERED = re.compile(r"(.*?)(\d+)(\.[A-Za-z]\w*)?")


def lines(report: Structure) -> list[str]:
    """The whole report, one line for each row, below the name of the model."""
    title = report.name if report.origin is None else f"{report.name} ({report.origin})"
    found = rows(report)
    width = max(len(label) for label, _ in found)
    before, result = "", [title]
    for label, text in found:
        result.append(f"  {'' if label == before else label:<{width}}  {text}")
        before = label
    return result


def rows(report: Structure) -> tuple[tuple[str, str], ...]:
    """The rows: input to parity, then time, memory and versions."""
    found = [("input", _input(item)) for item in report.inputs]
    found += [("fixed", text) for item in report.inputs for text in _pinned(item)]
    found += [("holds if", text) for text in _first(report.guards)]
    found += [("outputs", ", ".join(_first(report.outputs))), ("op nodes", f"{report.nodes:,}"),
              ("parameters", _weights(report))]
    if report.buffers.count:
        found.append(("buffers", _size(report.buffers)))
    split = report.components
    found += [("components", "not asked for")] if split is None else _split(split)
    found += _export(report)
    found.append(("parity", _parity(report.parity)))
    found += [("but", text) for text in (report.parity.unequal if report.parity else ())]
    if report.seconds is not None:
        cut = "" if split is None or split.seconds is None else f", {split.seconds:.1f} s to split"
        found.append(("time", f"{report.seconds:.1f} s to trace and compare{cut}"))
    if report.memory is not None:
        found.append(("memory", f"{report.memory:,.0f} MB, the most in this process so far"))
    found.append(("versions", ", ".join(f"{k} {v}" for k, v in report.versions.items())))
    return tuple(found)


def _input(item: Input) -> str:
    dims = ", ".join(str(dim.size) for dim in item.dims)
    free = [str(dim.size) for dim in item.dims if dim.symbolic]
    sizes = f"any {' and '.join(free)}" if free else "every size fixed"
    start = f"; paths start at {item.source}" if item.source is not None else ""
    return f"{item.name}: {item.dtype} [{dims}], {sizes}{start}"


def _pinned(item: Input) -> Iterable[str]:
    for axis, dim in enumerate(item.dims):
        if dim.pinned:
            yield (f"{item.name} to {dim.size} along axis {axis}: for another size, trace again "
                   "with inputs of that size (or --length)")


def _weights(report: Structure) -> str:
    there = "" if report.weights else "; not loaded, traced without weights"
    return f"{_size(report.parameters)}{there}"


def _size(size: Size) -> str:
    number, unit = float(size.bytes), "B"
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if number < 1000 or unit == "TB":
            break
        number /= 1000
    return f"{size.count:,} ({number:.{0 if unit == 'B' else 1}f} {unit})"


def _split(split: Split) -> list[tuple[str, str]]:
    kinds = ", ".join(f"{count} {kind}" for kind, count in split.kinds.items())
    found = [("components", kinds), ("names", ", ".join(_first(fold(split.names), 24)))]
    if split.layers:
        found.append(("heads", f"{split.heads:,} heads in {len(split.layers)} attention layer"
                      f"{'s' * (len(split.layers) > 1)}"))
        found += [("heads", text) for text in _first(_layers(split.layers))]
    else:
        found.append(("heads", "none"))
    found.append(("edges", f"{split.edges:,} direct edges between {split.parts:,} parts, "
                           f"{large(split.paths)} paths"))
    return found + _unsplit(split)


def _layers(layers: Sequence[Layer]) -> list[str]:
    alike: dict[str, list[str]] = {}
    for layer in layers:
        keys = f"{layer.key_heads} key head{'s' * (layer.key_heads > 1)}"
        shared = "" if layer.key_heads == layer.heads else f", {keys}"
        ports = "" if layer.ports == ("q", "k", "v") else f", read by {', '.join(layer.ports)}"
        alike.setdefault(f"{layer.heads} heads each{shared}{ports}", []).append(layer.name)
    return [f"{', '.join(fold(names))}: {text if len(names) > 1 else text.replace(' each', '', 1)}"
            for text, names in alike.items()]


def _unsplit(split: Split) -> list[tuple[str, str]]:
    labels = {NOT_SPLIT: "not split", SLOWER: "slower", WHOLE: "not split"}
    found: dict[tuple[str, str], list[Unsplit]] = {}
    for entry in split.unsplit:
        key = (labels.get(entry.effect, "note"), re.sub(r"_?\d+", "", entry.reason))
        found.setdefault(key, []).append(entry)
    texts = [(label, _entry(entries)) for (label, _), entries in found.items()]
    if all(label != "not split" for label, _ in texts):
        whole = "no attention was found" if not split.layers else (
            "nothing: all attention that was found is split into heads")
        texts.append(("not split", whole))
    return texts


def _entry(entries: Sequence[Unsplit]) -> str:
    """Entries with the same reason as one: all components, the ops and module of the first."""
    first = entries[0]
    named = [entry.component for entry in entries if entry.component is not None]
    places = ", ".join(_first(fold(dict.fromkeys(named))))
    heads = "heads" if first.effect == NOT_SPLIT else ""
    where = " in ".join(text for text in (heads, places) if text)
    inside = next((op.module for op in first.ops if op.module), "")
    at = f" (in {inside})" if inside else ""
    again = f"; {len(entries) - 1} more like it" if len(entries) > 1 else ""
    return f"{where}{': ' if where else ''}{first.reason}{at}{again}"


def _export(report: Structure) -> list[tuple[str, str]]:
    export = report.export
    if export is None:
        return []
    found = [("export", export.method), *(("export", note) for note in _first(export.notes))]
    if export.varying:
        found.append(("sizes", export.varying))
    return found + [("tried before", f"{t.method}: {t.reason}") for t in export.tried]


def _parity(parity: Parity | None) -> str:
    if parity is None:
        return "not known: the graph was edited, it has no certificate"
    where = ", ".join(parity.shapes)
    if parity.difference is None:
        return f"not measured, there are no weights; shapes agree on {where}"
    if parity.bit_for_bit:
        return f"equals the model bit for bit on {where}{_gradients(parity)}"
    share = "" if parity.relative is None else f", {parity.relative:.1e} of the largest output"
    return (f"differs from the model by at most {parity.difference:.1e}{share}, on {where}"
            f"{_gradients(parity)}")


def _gradients(parity: Parity) -> str:
    if parity.gradients is None:
        return ""
    return ("; gradients too" if parity.gradients == 0
            else f"; gradients to {parity.gradients:.1e} of the largest")


def fold(names: Iterable[str]) -> list[str]:
    """Names that differ only in a number that counts up, as one range.

    >>> fold(["tokens", "a0", "m0", "a1", "m1", "a2", "m3"])
    ['tokens', 'a0-a2', 'm0-m1', 'm3']
    """
    groups: dict[tuple[str, str], list[int]] = {}
    for name in names:
        found = _NUMBERED.fullmatch(name)
        key = (found[1], found[3] or "") if found else (name, "-")
        groups.setdefault(key, []).extend([int(found[2])] if found else [])
    result = []
    for (stem, end), numbers in groups.items():
        if not numbers:
            result.append(stem)
        for _, run in groupby(enumerate(numbers), lambda item: item[1] - item[0]):
            ends = [f"{stem}{number}{end}" for _, number in run]
            result.append(ends[0] if len(ends) == 1 else f"{ends[0]}-{ends[-1]}")
    return result


def large(number: int) -> str:
    """A count that may have hundreds of digits.

    >>> large(676), large(2777 * 10 ** 49)
    ('676', '2.8 x 10^52')
    """
    if number < 10**9:
        return f"{number:,}"
    digits, exponent = f"{Decimal(number):.1e}".split("e+")
    return f"{digits} x 10^{exponent}"


def _first(items: Sequence[str], most: int = SHOWN) -> list[str]:
    """The first of many, and how many more there are."""
    if len(items) <= most:
        return list(items)
    return [*items[:most - 1], f"and {len(items) - most + 1} more (the JSON has all)"]
