"""What an experiment found: per-example effects, and estimates that follow from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rewrite.errors import DataError, FileError, MissingPackage
from rewrite.world import check_table, reading

from .attribution import attribution_columns, changes_of, draw_changes
from .check import positions
from .figures import draw_bars, draw_scatter
from .stats import Effects, Estimate, as_array, as_effects, aue, explained

if TYPE_CHECKING:
    from pandas import DataFrame

NULL = "nothing important"
MOST_DRAWS = 10**6
FILE = {"kind": str, "hypothesis": str, "metric": str, "null": str, "notes": Sequence[str],
        "bootstrap": dict, "runs": Sequence[str], "examples": list, "read": str, "reference": str}
LATER = {"n": int, "explained": dict, "aue": dict, "ate": dict}  # computed from the examples
ROW = {"index": int, "effect": float, "null_effect": float}
OPTIONAL = {"references": int, "reference_score": float, "hypothesis_score": float}


@dataclass(frozen=True, eq=False)
class Result:
    """One hypothesis measured on N examples.

    `effects[i]` is delta(G(x_r), G_H(x_r, x_c)) of example i, `null_effects[i]` the same for
    the null hypothesis, both in the unit of the metric.  `scores` and `reference_scores` say
    how well the hypothesis's and the reference's own outputs do, where the metric knows.
    `read` says what the metric reads of the outputs: which tensor, its axes, which position.
    `index` holds the examples' positions in the data set; examples with equal `references` are
    counterfactuals drawn for one input of the run `reference`.  Estimates are computed from these
    numbers when asked for, so they cannot disagree with them.

    >>> result = Result("a5.h3 -> logits", "logit_diff", effects=[1, 0], null_effects=[2, 2])
    >>> result.explained.value
    0.75

    Raises DataError for values that are missing, unequal in number or not finite.
    Source: Goldowsky-Dill, MacLeod, Sato, Arora 2023, "Localizing Model Behavior with Path
    Patching".
    """

    hypothesis: str
    metric: str
    effects: Effects
    null_effects: Effects
    null: str = NULL
    scores: Effects | None = None
    reference_scores: Effects | None = None
    index: np.ndarray | None = None
    references: np.ndarray | None = None
    reference: str = "clean"
    texts: Mapping[str, Sequence[str]] = field(default_factory=dict)
    notes: Sequence[str] = ()
    read: str = ""
    draws: int = 2000
    seed: int = 0
    level: float = 0.95

    def __post_init__(self) -> None:
        if not (0 < self.draws <= MOST_DRAWS and self.seed >= 0 and 0 < self.level < 1):
            raise DataError(f"an interval needs 1 to {MOST_DRAWS:,} draws, a seed of 0 or more and "
                            f"a level between 0 and 1; found {self._options}")
        for name in ("effects", "null_effects", "scores", "reference_scores"):
            if getattr(self, name) is not None or "effects" in name:
                object.__setattr__(self, name, as_effects(getattr(self, name), name))
        index = _integers(np.arange(self.n) if self.index is None else self.index)
        object.__setattr__(self, "index", index)
        alone = index if self.references is None else self.references
        object.__setattr__(self, "references", _integers(alone))
        object.__setattr__(self, "notes", tuple(self.notes))
        counts = {name: len(values) for name, values in self._columns().items()}
        if set(counts.values()) != {self.n}:
            raise DataError(f"every column needs one value per example; found numbers {counts}")

    @property
    def n(self) -> int:
        """Number of examples."""
        return len(self.effects)

    @cached_property
    def aue(self) -> Estimate:
        """Average unexplained effect, in the unit of the metric."""
        return aue(self.effects, **self._options)

    @cached_property
    def ate(self) -> Estimate:
        """Average total effect: the null hypothesis's AUE."""
        return aue(self.null_effects, **self._options)

    @cached_property
    def explained(self) -> Estimate:
        """Proportion explained, `1 - AUE / ATE`, with a paired interval; may be negative."""
        return explained(self.effects, self.null_effects, **self._options)

    @property
    def table(self) -> DataFrame:
        """One row per example: its index, texts, scores and effects, where known."""
        return data_frame(self._columns())

    def attribution(self) -> DataFrame:
        """Signed changes of the score, one row per reference example, sorted by their mean.

        `mean` is over the counterfactuals drawn for the example, with its interval; `least` and
        `most` are the ends.  Raises DataError for a metric without score (a distance).

        >>> pairs_of = {"scores": [3, 1, 4], "reference_scores": [1, 1, 5], "references": [0, 0, 2]}
        >>> result = Result("m0", "logit_diff", [2, 0, 1], [5, 5, 5], **pairs_of)
        >>> result.attribution()[["reference", "draws", "mean"]].values.tolist()
        [[2.0, 1.0, -1.0], [0.0, 2.0, 1.0]]

        Source: Goldowsky-Dill et al. 2023, the differences G_H(x_r, x_c) - G(x_r).
        """
        return data_frame(self._attribution(self._changes()))

    def draw_attribution(self, path: str | Path) -> Path:
        """The same as a figure: each draw a point, each reference example a row; SVG, PNG or PDF.

        Returns the path.  Raises DataError for a metric without score, FileError for another
        kind of file.
        """
        changes = self._changes()
        return draw_changes(
            path, title=self.hypothesis, metric=self.metric, columns=self._attribution(changes),
            changes=changes, references=np.asarray(self.references),
        )

    def subset(self, where: object) -> Result:
        """Only the examples of a boolean mask `[n]`, of positions, or of a slice.

        Estimates are computed anew.  Raises DataError if nothing is left.
        """
        keep = positions(where, self.n)

        def pick(values: np.ndarray | None) -> np.ndarray | None:
            return None if values is None else values[keep]

        return replace(
            self,
            effects=self.effects[keep],
            null_effects=self.null_effects[keep],
            scores=pick(self.scores),
            reference_scores=pick(self.reference_scores),
            index=np.asarray(self.index)[keep],
            references=np.asarray(self.references)[keep],
            texts={run: [lines[i] for i in keep] for run, lines in self.texts.items()},
            notes=(*self.notes, f"subset: {len(keep)} of {self.n} examples"),
        )

    def draw(self, path: str | Path) -> Path:
        """Scatter of unexplained over total effect, one point per example; SVG, PNG or PDF.

        Points on the dashed diagonal are not explained at all, points on the ground fully.
        Returns the path.  Raises FileError for another kind of file.
        """
        return draw_scatter(
            path,
            title=self.hypothesis,
            effects=self.effects,
            null_effects=self.null_effects,
            share=self.explained,
            metric=self.metric,
            null=self.null,
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON: estimates for people, examples for `from_dict`."""
        columns = self._columns()
        rows = zip(*(list(values) for values in columns.values()), strict=True)
        return {
            "kind": "result",
            "hypothesis": self.hypothesis,
            "metric": self.metric,
            "null": self.null,
            "n": self.n,
            "explained": self.explained.to_dict(),
            "aue": self.aue.to_dict(),
            "ate": self.ate.to_dict(),
            "notes": list(self.notes),
            "read": self.read,
            "bootstrap": self._options,
            "reference": self.reference,
            "runs": list(self.texts),
            "examples": [
                {name: _plain(value) for name, value in zip(columns, row, strict=True)}
                for row in rows
            ],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Result:
        """Read what `to_dict` wrote.  Raises FileError if it is something else."""
        if data.get("kind") != "result":
            raise FileError(f"expected kind 'result', found {data.get('kind')!r}")
        with reading("a result"):
            return cls._read(data)

    @classmethod
    def _read(cls, data: Mapping[str, Any]) -> Result:
        check_table(data, "a file of a result", FILE, LATER)
        check_table(data["bootstrap"], "bootstrap", {"draws": int, "seed": int, "level": float})
        examples: list[dict[str, Any]] = data["examples"]
        if not examples:
            raise DataError("there are no examples")
        texts = {f"text_{run}": str for run in data["runs"]}
        given = {name: kind for name, kind in OPTIONAL.items() if name in examples[0]}
        for i, row in enumerate(examples):
            check_table(row, f"example {i}", ROW | texts | given)

        def column(name: str) -> Any:
            return [row[name] for row in examples] if name in examples[0] else None

        return cls(
            data["hypothesis"],
            data["metric"],
            effects=column("effect"),
            null_effects=column("null_effect"),
            null=data["null"],
            scores=column("hypothesis_score"),
            reference_scores=column("reference_score"),
            index=column("index"),
            references=column("references"),
            reference=data["reference"],
            texts={run: column(f"text_{run}") for run in data["runs"]},
            notes=data["notes"],
            read=data["read"],
            **data["bootstrap"],
        )

    def __str__(self) -> str:
        lines = [
            self.hypothesis,
            f"  explained  {self.explained}",
            f"  AUE        {self.aue}",
            f"  ATE        {self.ate}",
            f"  {self.metric}, null: {self.null}, n = {self.n}",
            *([f"  of {self.read}"] if self.read else []),
        ]
        return "\n".join(lines + [f"  note: {note}" for note in self._all_notes()])

    def _repr_html_(self) -> str:
        rows = {"explained": self.explained, "AUE": self.aue, "ATE": self.ate}
        cells = "".join(
            f"<tr><th style='text-align:left'>{name}</th><td>{escape(str(value))}</td></tr>"
            for name, value in rows.items()
        )
        of = f" of {self.read}" if self.read else ""
        foot = escape(f"{self.metric}{of}, null: {self.null}, n = {self.n}")
        notes = "".join(f"<br>note: {escape(note)}" for note in self._all_notes())
        return (
            f"<table><caption><b>{escape(self.hypothesis)}</b></caption>{cells}"
            f"<tr><td colspan='2'><small>{foot}{notes}</small></td></tr></table>"
        )

    @property
    def _options(self) -> dict[str, Any]:
        return {"draws": self.draws, "seed": self.seed, "level": self.level}

    def _changes(self) -> np.ndarray:
        return changes_of(self.metric, self.scores, self.reference_scores)

    def _attribution(self, changes: np.ndarray) -> dict[str, list[Any]]:
        return attribution_columns(
            changes, np.asarray(self.references), self.texts.get(self.reference), self._options)

    def _all_notes(self) -> list[str]:
        signed = bool((self.effects < 0).any() or (self.null_effects < 0).any())
        found = [note for note in dict.fromkeys([self.explained.note, self.aue.note]) if note]
        cancel = ["effects are signed: they cancel over examples and flatter the hypothesis"]
        return [*self.notes, *found, *(cancel if signed else [])]

    def _columns(self) -> dict[str, Any]:
        columns: dict[str, Any] = {"index": self.index}
        if not np.array_equal(np.asarray(self.references), np.asarray(self.index)):
            columns["references"] = self.references
        columns |= {f"text_{run}": list(lines) for run, lines in self.texts.items()}
        columns |= {"reference_score": self.reference_scores, "hypothesis_score": self.scores}
        columns |= {"effect": self.effects, "null_effect": self.null_effects}
        return {name: values for name, values in columns.items() if values is not None}


def ladder_table(results: Sequence[Result]) -> DataFrame:
    """Hypotheses side by side: one row per result, in the order given.

    >>> ladder_table([Result("m0", "loss_diff", [1.0], [4.0])])["explained"].tolist()
    [0.75]
    """
    names = ["hypothesis", "explained", "low", "high", "aue", "ate", "n", "metric", "null"]
    rows = [
        (
            result.hypothesis,
            result.explained.value,
            result.explained.low,
            result.explained.high,
            result.aue.value,
            result.ate.value,
            result.n,
            result.metric,
            result.null,
        )
        for result in results
    ]
    return data_frame({name: [row[i] for row in rows] for i, name in enumerate(names)})


def draw_ladder(results: Sequence[Result], path: str | Path) -> Path:
    """One bar per hypothesis: proportion explained, with its interval; SVG, PNG or PDF.

        draw_ladder([direct, with_mlps, everything], "ladder.svg")

    Returns the path.  Raises DataError without results, FileError for another kind of file.
    """
    if not results:
        raise DataError("there is no result to draw; give at least one")
    shared = {
        "metric": [result.metric for result in results],
        "null": [result.null for result in results],
        "n": [str(result.n) for result in results],
        "interval": [f"{100 * result.level:.0f} %" for result in results],
    }
    said = [f"{name}: {' or '.join(dict.fromkeys(values))}" for name, values in shared.items()]
    return draw_bars(
        path,
        labels=[result.hypothesis for result in results],
        shares=[result.explained for result in results],
        caption=",  ".join(said),
    )


def data_frame(columns: Mapping[str, Any]) -> DataFrame:
    """A pandas table; MissingPackage says how to install pandas."""
    try:
        from pandas import DataFrame
    except ImportError as error:
        raise MissingPackage("tables need pandas: pip install pandas") from error
    return DataFrame(dict(columns))


def _integers(values: Any) -> np.ndarray:
    try:
        found = as_array(values, np.int64)
    except (TypeError, ValueError) as error:
        raise DataError(f"an index is one whole number per example: {error}") from error
    if found.ndim != 1:
        raise DataError(f"an index is one whole number per example, found shape {found.shape}")
    found.setflags(write=False)
    return found


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value
