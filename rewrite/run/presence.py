"""What meets nothing: positions that are empty, windows beyond every text, runs that are equal."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch

from rewrite.errors import DataError, HypothesisError
from rewrite.expand.positions import ends_of, input_of
from rewrite.ir.dag import Part, symbols_of
from rewrite.measure import Pairs
from rewrite.parts import Components
from rewrite.paths import PathSet
from rewrite.paths.pattern import Name, Within, walk
from rewrite.paths.wiring import Wiring

aten = torch.ops.aten
COMPARED = {aten.eq.Scalar, aten.ne.Scalar}


def notes_on_data(
    path_sets: Iterable[PathSet], parts: Components, pairs: Pairs, runs: Iterable[str]
) -> list[str]:
    """Notes on positions that are empty, and on runs that are equal, in some of the examples.

    >>> notes_on_data([rw.paths("m0@[5]")], parts, pairs, ["corrupt"])
    []
    >>> notes_on_data([rw.paths("m0@[50]")], parts, pairs, ["corrupt"])
    Traceback (most recent call last):
    ...
    rewrite.errors.DataError: @[50] of m0@[50] is empty in all 4 examples: input_ids has 6 positions
    write a slice of them: [0] to [5], or [-6] to [-1]

    Raises `DataError` for a position, or a window of hops, that is empty in all of them.
    """
    runs = list(dict.fromkeys(runs))
    return [*_positions(dict.fromkeys(path_sets), parts, pairs), *_equal(pairs, runs),
            *_marked(parts, pairs, runs)]


def _equal(pairs: Pairs, runs: Iterable[str]) -> Iterator[str]:
    """Notes on runs that are the reference."""
    reference = pairs.runs[pairs.reference]
    for run in dict.fromkeys(runs):
        equal = sum(all(torch.equal(value, other[name]) for name, value in one.items())
                    for one, other in zip(reference, pairs.runs[run], strict=True))
        if equal and run != pairs.reference:
            effects = "every effect is 0" if equal == len(pairs) else "their effects are 0"
            yield (f"the runs {pairs.reference} and {run} are equal in {_of(equal, pairs)}: "
                   f"{effects}")


def _marked(parts: Components, pairs: Pairs, runs: Iterable[str]) -> Iterator[str]:
    """Notes on tokens that the model itself tells apart, at an end of a text: padding, perhaps."""
    layout = parts.layout
    hidden = {layout.tokens.get(length) for length in layout.padding}
    asked = dict[str, set[float]]()
    for node in parts.graph.module.graph.nodes:
        if node.target in COMPARED and node.args[0].op == "placeholder":
            asked.setdefault(str(node.args[0].target), set()).add(node.args[1])
    for name in (name for name in layout.tokens.values() if name not in hidden):
        for token in sorted(asked.get(name, ())):
            count = sum(any(token in (example[name][0].item(), example[name][-1].item())
                            for example in each if name in example)
                        for each in zip(*(pairs.runs[run] for run in runs), strict=True))
            if count:
                yield (f"the model compares {name} with {token:g}, which begins or ends "
                       f"{_of(count, pairs)}: if it is padding, it is counted as a token here; "
                       "leave it out, or give a model that takes a mask")


def _positions(path_sets: Iterable[PathSet], parts: Components, pairs: Pairs) -> Iterator[str]:
    found = {part: each for each in path_sets for part in walk(each.pattern)}
    spots: dict[str, dict[str, PathSet]] = {}
    for part, path_set in found.items():
        if isinstance(part, Within):
            spots.setdefault(part.window, {})[""] = path_set
        elif isinstance(part, Name) and (part.at or part.port_at):
            for place, sequence in _spots(part, parts):
                spots.setdefault(f"@{place}", {})[sequence] = path_set
    for spot, asked in spots.items():
        empty = {sequence: _empty(spot, sequence, parts, pairs) for sequence in asked}
        if min(empty.values()) == len(pairs):
            raise DataError(_refusal(spot, next(iter(asked.items())), parts, pairs))
        for sequence, count in empty.items():
            if count:
                where = f" of {sequence}" * (len(empty) > 1)
                yield f"{spot}{where} is empty in {_of(count, pairs)}: no path is at it there"


def _spots(name: Name, parts: Components) -> Iterator[tuple[str, str]]:
    """The places of a name, each with the inputs whose positions they are of, as far as known."""
    wiring = Wiring.of(parts.dag)
    for symbols, here, there in wiring.placings(name):
        values = [(place, node.name) for node in parts.dag.nodes for place in here
                  if any(wiring.bits[symbol] & symbols for symbol in symbols_of(node))]
        values += [(there, port.reads) for node in parts.dag.nodes if isinstance(node, Part)
                   for port in node.ports if there and wiring.bits[port.symbol] & symbols]
        for place, value in dict.fromkeys(values):
            try:
                yield place, input_of(parts, value)
            except HypothesisError:
                continue  # said when it is expanded, if the position matters


def _empty(spot: str, sequence: str, parts: Components, pairs: Pairs) -> int:
    """In how many examples a position of an input is empty, or a window of hops."""
    sizes = _sizes(sequence, parts, pairs)
    if not spot.startswith("@"):
        return sum(map(_out_of_reach(spot), sizes))
    place = spot[1:]
    if place.startswith("["):
        low, high = ends_of(place)
        return sum(not range(size)[low:high] for size in sizes)
    given = pairs.positions.get(place)  # a call says which are missing
    return 0 if given is None else sum(
        not value.any() if value.dtype == torch.bool else not value.numel() for value in given)


def _sizes(sequence: str, parts: Components, pairs: Pairs) -> list[int]:
    """How many positions an input has in each example; without a name, the longest of all."""
    names = [sequence] if sequence else [str(node.target) for node in parts.cut.flow.sources]
    return [max(example[name].shape[0] if example[name].ndim else 1 for name in names)
            for example in pairs.runs[pairs.reference]]


def _out_of_reach(window: str) -> Callable[[int], bool]:
    """Whether no two of so many positions are as far apart as a window asks."""
    low, high = ends_of(window)
    if ":" not in window:
        high = None if low is None else low + 1
    return lambda size: (high is not None and high <= 1 - size) or (low is not None and low >= size)


def _refusal(spot: str, asked: tuple[str, PathSet], parts: Components, pairs: Pairs) -> str:
    sequence, path_set = asked
    sizes = _sizes(sequence, parts, pairs)
    least, most = min(sizes), max(sizes)
    count = f"{most}" if least == most else f"{least} to {most}"
    what = f"{spot} of {path_set} is empty in {_of(len(pairs), pairs)}"
    if not spot.startswith("@"):
        return (f"{what}: the inputs have {count} positions\nwrite a window of fewer hops: "
                f"[{1 - most}] is the furthest back")
    if spot[1] == "[":
        return (f"{what}: {sequence} has {count} positions\nwrite a slice of them: "
                f"[0] to [{most - 1}], or [{-most}] to [-1]")
    return (f"{what}: give the pairs a position of it where there is one, "
            f"positions={{{spot[1:]!r}: [...]}}, or leave it out of the paths")


def _of(count: int, pairs: Pairs) -> str:
    every = len(pairs)
    if every == 1:
        return "the only example"
    return f"{'all ' * (count == every)}{f'{count} of ' * (count < every)}{every} examples"
