"""What of a model's outputs is computed for a metric, and what is known of their axes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from rewrite.errors import DataError
from rewrite.ir.layout import BATCH, Layout
from rewrite.ir.padding import may_tell, with_padding
from rewrite.measure import METRICS, Batch, Metric, Pairs
from rewrite.measure.axes import axes_of
from rewrite.parts import Components
from rewrite.parts.layout import misplaced


@dataclass(frozen=True)
class View:
    """How outputs are shown to a metric.

    `last`: the last column alone is computed, for it is a token of every example; `columns`: of
    its logits, those of some tokens.  Neither changes a number.
    """

    metric: Metric
    layout: Layout
    last: bool = False
    columns: tuple[int, ...] | None = None

    @staticmethod
    def of(parts: Components, pairs: Pairs, metric: Metric) -> View:
        """The view of a metric on some pairs.

        Raises `DataError` where the metric cannot read the outputs, or padding differs by run.
        """
        if why := misplaced(parts, BATCH):
            raise DataError(f"pairs cannot be run together: {why}")
        names = {spec.name for spec in parts.graph.inputs}
        layout, given = parts.layout, list[dict[str, Tensor]]()
        # Inputs that are missing are reported where the model is called.
        if may_tell(parts.graph) and all(names <= set(x) for x in pairs.runs[pairs.reference]):
            batches = list(pairs.batches(len(pairs)))
            given = [batch.inputs[pairs.reference] for batch in batches]
            layout = with_padding(parts.graph, given)
            _check_alike(layout, batches)
        known = bool(layout.outputs)
        read = tuple(layout.outputs) if not trusts(metric) or not known else (
            axes_of(metric, layout.outputs, layout).output,)
        last = metric.positions == "last" and known and all(
            _ends_with_token(metric, layout, name, given) for name in read)
        return View(metric, layout, last, _columns(metric, layout, pairs) if last else None)

    @property
    def read(self) -> str:
        """What the metric reads, in words."""
        return self.metric.reads(self.layout) if self.layout.outputs else ""

    def of_batch(self, batch: Batch) -> Batch:
        """Examples, with what is known of the outputs as they are computed."""
        if self.last or self.narrows:
            count = None if self.columns is None else len(self.columns)
            found = replace(batch, layout=self.layout.at_last(count))
        else:
            found = replace(batch, layout=self.layout)
        return found if self.columns is None else self.metric.narrowed(found, self.columns)

    @property
    def narrows(self) -> bool:
        """Whether the last token of each example is taken from all of them, for a function."""
        return not self.last and self.metric.positions == "last" and not trusts(self.metric)

    def narrowed(
        self, names: Sequence[str], values: Sequence[Tensor], batch: Batch
    ) -> tuple[Tensor, ...]:
        """Outputs `[batch, tokens, ...]` at the last real token of each example."""
        if not self.narrows:
            return tuple(values)
        real = self.layout.real(batch.inputs[batch.reference])
        return tuple(self._at_last(name, value, real, batch)
                     for name, value in zip(names, values, strict=True))

    def _at_last(
        self, name: str, value: Tensor, real: dict[str, Tensor], batch: Batch
    ) -> Tensor:
        if not self.layout.starts_with_tokens(name):
            return value
        kept = real.get(str(self.layout.outputs[name][1]))
        if kept is None:
            return value[:, -1:]
        if not bool(kept.any(1).all()):
            bare = batch.index[~kept.any(1).cpu()].tolist()[:8]
            raise DataError(f"examples {bare} have no token that is no padding")
        steps = torch.arange(kept.shape[1], device=kept.device)
        at = steps.where(kept, -1).argmax(1)
        count = len(value) // len(kept)  # of hypotheses
        at = at.repeat(count).to(value.device)
        return value[torch.arange(len(value), device=value.device), at][:, None]


def trusts(metric: Metric) -> bool:
    """Whether a metric is of this package: it writes to nothing, and treats rows alike."""
    return type(metric) in METRICS.values()


def _ends_with_token(
    metric: Metric, layout: Layout, name: str, given: Sequence[dict[str, Tensor]]
) -> bool:
    """Whether the last column of an output is a token of every example; it may have no columns."""
    sizes = layout.outputs[name]
    if not layout.starts_with_tokens(name):
        return not trusts(metric) and layout.length_axis(sizes) is None
    if trusts(metric) and axes_of(metric, layout.outputs, layout).rows != (1,):
        return False
    length = str(sizes[1])
    real = [found[length] for inputs in given if length in (found := layout.real(inputs))]
    return all(bool(mask[:, -1:].all()) and mask.shape[1] > 0 for mask in real)


def _columns(metric: Metric, layout: Layout, pairs: Pairs) -> tuple[int, ...] | None:
    """The tokens whose logits are read, if they are columns of every output."""
    found = metric.columns(pairs)
    ends = {sizes[-1] if sizes else 0 for sizes in layout.outputs.values()}
    size = next(iter(ends))
    fits = len(ends) == 1 and isinstance(size, int) and all(
        layout.starts_with_tokens(name) for name in layout.outputs)
    if not found or not fits or not all(0 <= column < int(size) for column in found):
        return None  # what is out of range is reported where the label is read
    if trusts(metric) and (metric.axes or axes_of(metric, layout.outputs, layout).classes != 2):
        return None
    return found


def _check_alike(layout: Layout, batches: Sequence[Batch]) -> None:
    """Padding is told alike in all runs, or a path that mixes them would meet both."""
    for batch in batches:
        for told in layout.padding.values():
            for name in told:
                for run, inputs in batch.inputs.items():
                    differ = inputs[name] != batch.inputs[batch.reference][name]
                    if bool(differ.any()):
                        first = int(batch.index[differ.flatten(1).any(1)][0])
                        raise DataError(
                            f"example {first}: {name} says that other tokens are padding in run "
                            f"{run!r} than in {batch.reference!r}: give the same to all runs")
