"""Every law of the design on one family: what is asserted in tests and listed in the docs."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

import rewrite as rw
from rewrite.ir.graph import unmet
from rewrite.trace.examples import default_inputs
from tests.models.direct import Frozen
from tests.models.edges import blocks, edges, senders
from tests.models.family import Family
from tests.models.partition import misplaced
from tests.models.patching import Hand, copies_of_node_patching
from tests.zoo import Traced

CLOSE = 1e-4  # single precision, random weights of size 0.3, relative to the largest output


@dataclass
class Row:
    """What was found: figures, and the laws that failed with what was seen."""

    name: str
    seconds: float = 0.0
    nodes: int = 0
    heads: int = 0
    expected: int = 0
    trace_error: float = float("nan")
    parts_error: float = float("nan")
    direct_error: float = float("nan")  # of direct edges to the outputs, over those with an oracle
    blocks: int = 0  # MLPs, mixtures of experts and mixers
    blocks_expected: int = 0
    known: dict[str, str] = field(default_factory=dict)  # laws that are known not to hold, and why
    no_oracle: tuple[str, ...] = ()  # direct edges that hooks say nothing of, and why
    method: str = ""
    fixed: bool = False
    notes: tuple[str, ...] = ()
    passed: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)


def runs(family: Family, model: nn.Module, graph: rw.Graph) -> list[dict[str, Tensor]]:
    """Two random inputs of a batch and lengths that the graph was not traced with."""
    examples = dict(family.inputs) or default_inputs(model)
    for longer in (3, 2, 4, 6, -2):
        made = _sized(examples, graph, longer)
        if unmet(graph.guards, {name: tuple(x.shape) for name, x in made[0].items()}) is None:
            return made
    raise AssertionError(f"no other length is allowed: {graph.guards}")


def _sized(
    examples: Mapping[str, Tensor], graph: rw.Graph, longer: int
) -> list[dict[str, Tensor]]:
    made = []
    for seed in (1, 2):
        draw = torch.Generator().manual_seed(seed)
        shared = torch.Generator().manual_seed(7)
        inputs = {}
        for spec in graph.inputs:
            value = examples[spec.name]
            context = "mask" in spec.name or "position" in spec.name
            for axis, dim in enumerate(spec.shape):
                size = 4 if axis == 0 else value.shape[axis] + longer
                if isinstance(dim, str):
                    index = torch.randint(0, value.shape[axis], (size,),
                                          generator=shared if context else draw)
                    value = value.index_select(axis, index)
            if value.is_floating_point() and not context:
                value = torch.randn(value.shape, generator=draw, dtype=value.dtype)
            elif value.dtype == torch.int64 and not context:
                flat = value.flatten()
                value = flat[torch.randint(0, flat.numel(), value.shape, generator=draw)]
            inputs[spec.name] = value.contiguous()
        made.append(inputs)
    return made


def examine(family: Family, known: Traced | None = None) -> Row:
    """Trace, split, expand and check one family; `known` if it is traced already."""
    row = Row(family.name)
    model = known.model if known else family.build()
    row.expected, row.blocks_expected = family.heads(model.config), family.blocks(model.config)
    start = time.process_time()  # other processes do not count
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        graph = known.graph if known else rw.trace(model, dict(family.inputs) or None)
    row.seconds = time.process_time() - start
    assert graph.certificate is not None
    row.method, row.nodes = graph.certificate.method, len(graph.nodes)
    row.fixed = "length fixed" in row.method
    parts = known.parts if known else graph.components()
    row.heads, row.notes = len(parts.heads), parts.notes
    at = _At(model, graph, parts, *runs(family, model, graph))
    for law, check in LAWS.items():
        try:
            check(at, row)
            row.passed.append(law)
            if law in family.known:
                row.failed[law] = "it holds: say no longer why it does not"
        except AssertionError as error:
            seen = " ".join(str(error).split())[:200] or "differs"
            if law in family.known:
                row.known[law] = f"{family.known[law]} ({seen})"
            else:
                row.failed[law] = seen
        except Exception as error:  # a crash is a failed law too, and the others still run
            row.failed[law] = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    return row


@dataclass
class _At:
    model: nn.Module
    graph: rw.Graph
    parts: rw.Components
    clean: dict[str, Tensor]
    corrupt: dict[str, Tensor]

    @cached_property
    def hand(self) -> Hand:
        """Patches by hand."""
        return Hand(self.parts, self.clean, self.corrupt)

    @cached_property
    def frozen(self) -> Frozen:
        """The original model with its layers frozen by hooks."""
        return Frozen(self.model, lambda: self.eager(self.clean), lambda: self.eager(self.corrupt))

    def eager(self, inputs: Mapping[str, Tensor]) -> list[Tensor]:
        """The model's own outputs, in the order of the graph's."""
        from rewrite.trace.flat import Flat

        flat = Flat(self.model, tuple(inputs))
        flat.outputs = self.graph.outputs
        with torch.no_grad():
            return list(flat(*inputs.values()))

    def expanded(self, paths: Any) -> tuple[rw.Expansion, list[Tensor]]:
        """The expansion of a hypothesis, and its outputs."""
        exp = rw.expand(rw.Hypothesis(self.parts, {"clean": paths}))
        given = {"clean": self.clean, "corrupt": self.corrupt}
        with torch.no_grad():
            return exp, list(exp.module(*exp.arguments({r: given[r] for r in exp.runs})))


def distance(found: list[Tensor], wanted: list[Tensor]) -> float:
    """Largest difference over all outputs, each relative to its largest entry."""
    worst = 0.0
    for a, b in zip(found, wanted, strict=True):
        assert a.shape == b.shape, f"shape {tuple(a.shape)} instead of {tuple(b.shape)}"
        a, b = a.detach(), b.detach()
        if a.numel() and not torch.equal(a, b):
            gap = (a.double() - b.double()).abs().nan_to_num(float("inf")).max()
            worst = max(worst, float(gap / b.double().abs().max().clamp_min(1e-6)))
    return worst


def _trace_is_the_model(at: _At, row: Row) -> None:
    found = [list(at.graph.flat(**inputs)) for inputs in (at.clean, at.corrupt)]
    wanted = [at.eager(inputs) for inputs in (at.clean, at.corrupt)]
    row.trace_error = max(distance(f, w) for f, w in zip(found, wanted, strict=True))
    assert row.trace_error <= 1e-5, f"differs by {row.trace_error:.1e}"
    assert distance(wanted[0], wanted[1]) > 1e-4, "two inputs give the same outputs"


def _gradients_reach(at: _At, row: Row) -> None:
    parameters = {n: p for n, p in at.model.named_parameters() if p.requires_grad}

    def gradients(outputs: list[Tensor]) -> dict[str, Tensor]:
        weights = [torch.linspace(-1, 1, o.numel()).view(o.shape) for o in outputs]
        total = sum((o * w).sum() for o, w in zip(outputs, weights, strict=True)
                    if o.is_floating_point() and o.requires_grad)
        grads = torch.autograd.grad(total, list(parameters.values()), allow_unused=True)
        return {n: g for n, g in zip(parameters, grads, strict=True) if g is not None}

    from rewrite.trace.flat import Flat

    flat = Flat(at.model, tuple(at.clean))
    flat.outputs = at.graph.outputs
    wanted = gradients(list(flat(*at.clean.values())))
    found = gradients(list(at.parts.module(*(at.clean[s.name] for s in at.graph.inputs))))
    assert wanted and found.keys() == wanted.keys(), (
        f"gradients missing for {sorted(wanted.keys() ^ found.keys())[:3]}")
    scale = max(float(g.abs().max()) for g in wanted.values())
    worst = max(float((found[n] - wanted[n]).abs().max()) for n in wanted) / scale
    assert worst <= 5e-3, f"gradients differ by {worst:.1e}"


def _every_head(at: _At, row: Row) -> None:
    assert row.heads == row.expected, f"{row.heads} of {row.expected}; {'; '.join(row.notes)[:120]}"
    for head in at.parts.heads:
        ports = {port.symbol.rpartition(".")[2]: port for port in at.parts.dag[head].ports}
        assert {"k", "v"} <= set(ports), f"{head} has ports {sorted(ports)}"


def _parts_are_the_model(at: _At, row: Row) -> None:
    found = list(at.parts.module(*(at.clean[s.name] for s in at.graph.inputs)))
    row.parts_error = distance([f.detach() for f in found], at.eager(at.clean))
    assert row.parts_error <= CLOSE, f"differs by {row.parts_error:.1e}"


def _partition(at: _At, row: Row) -> None:
    """Every weight is in one part, and there are as many parts as the configuration says."""
    row.blocks = len(blocks(at.parts))
    wrong = misplaced(at.model, at.parts, lambda: at.eager(at.corrupt), at.frozen.layers())
    assert not wrong, f"{len(wrong)} weights: {'; '.join(wrong[:3])}"
    assert row.blocks == row.blocks_expected, (
        f"{row.blocks} of {row.blocks_expected} MLPs or mixers")


def _direct(at: _At, row: Row) -> None:
    """A head, and an MLP, alone through the stream: what hooks on the original model give."""
    base, worst, said, missing = at.eager(at.corrupt), 0.0, [], []
    for sender in senders(at.parts, at.frozen):
        if sender.wanted is None:
            missing.append(sender.reason)
            continue
        paths = edges(at.parts, sender, at.frozen)
        found = base if paths is None else at.expanded(paths)[1]
        gap = distance(found, sender.wanted)
        worst = max(worst, gap)
        if gap > CLOSE:
            said.append(f"{sender.parts[0]}: differs by {gap:.1e}, its effect is "
                        f"{distance(base, sender.wanted):.1e}")
    row.direct_error, row.no_oracle = worst, tuple(missing)
    assert not said, "; ".join(said)


def _one_run(at: _At, row: Row) -> None:
    exp, found = at.expanded("...")
    calls = sum(c.region is not None for c in at.parts.components.values())
    assert exp.cost.calls == calls, f"{exp.cost.calls} calls instead of {calls}"
    gap = distance(found, at.eager(at.clean))
    # Sums of products with letters are spelt as matrix products, which add in another order.
    spelt = any("einsum" in str(node.target) for node in at.graph.module.graph.nodes)
    assert gap <= (CLOSE if spelt else row.trace_error), f"differs by {gap:.1e}"


def _patched(at: _At) -> str:
    """A head in the middle, or another part that is neither a source nor an output."""
    fixed = {*at.parts.dag.outputs, *at.parts.dag.sources}
    inner = [n for n in at.parts.names if n not in fixed and n in at.hand.calls]
    heads = [n for n in at.parts.heads if n in inner]
    chosen = heads or inner
    assert chosen, "there is nothing between input and output"
    return chosen[len(chosen) // 3]


def _node_patching(at: _At, row: Row) -> None:
    name = _patched(at)
    exp, found = at.expanded(name)
    wanted = at.hand.through(name)
    assert (gap := distance(found, wanted)) <= CLOSE, f"{name}: differs by {gap:.1e}"
    expected = copies_of_node_patching(at.parts, name)
    assert exp.copies == expected, f"{name}: copies differ"


def _path_patching(at: _At, row: Row) -> None:
    start = _patched(at)
    hand = at.hand
    path, ports = [start], []
    for _ in range(2):
        onward = [symbol for writer, symbol in at.parts.edges if writer == path[-1]]
        onward = [s for s in onward if _part_of(at, s) in hand.calls and not any(
            other.startswith(f"{s}.") for other in at.parts.dag.symbols)]  # a group's name
        if not onward:
            break
        ports.append(onward[len(onward) // 2])
        path.append(_part_of(at, ports[-1]))
    if not ports:  # all that reads it shares its name with others
        return _node_patching(at, row)
    _, found = at.expanded(" -> ".join([start, *ports]))
    wanted = hand.along(path, ports)
    assert (gap := distance(found, wanted)) <= CLOSE, (
        f"{' -> '.join([start, *ports])}: differs by {gap:.1e}")


def _part_of(at: _At, symbol: str) -> str:
    return next(n.name for n in at.parts.dag.nodes if any(
        port.symbol == symbol for port in getattr(n, "ports", ())))


def _stacked(at: _At, row: Row) -> None:
    """Two hypotheses at once, stacked: what the literal module gives; or the reason why not."""
    name = _patched(at)
    exp = rw.expand([rw.Hypothesis(at.parts, {"clean": p}) for p in (name, "...")])
    given = {"clean": at.clean, "corrupt": at.corrupt}
    arguments = exp.arguments({r: given[r] for r in exp.runs})
    if exp.not_stacked:
        assert any(word in exp.not_stacked for word in ("batch", "copies")), exp.not_stacked
        return
    with torch.no_grad():
        found, wanted = exp.stacked(*arguments), exp.module(*arguments)
    gap = max(distance(list(f), list(w)) for f, w in zip(found, wanted, strict=True))
    assert gap <= CLOSE, f"differs by {gap:.1e}"


def _cost(at: _At, row: Row) -> None:
    name = _patched(at)
    exp = rw.expand(rw.Hypothesis(at.parts, {"clean": f"{name} -> ..."}))
    assert exp.product.states <= 4 and exp.seconds < 1, f"{exp.product.states} states"


LAWS: dict[str, Callable[[_At, Row], None]] = {
    "trace": _trace_is_the_model, "gradients": _gradients_reach, "heads": _every_head,
    "parts": _parts_are_the_model, "partition": _partition, "direct": _direct,
    "one run": _one_run, "node patching": _node_patching, "path patching": _path_patching,
    "stacked": _stacked, "cost": _cost,
}
