"""Data: examples with one input per run, and what the right answer to each is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from rewrite.errors import DataError, FileError
from rewrite.world import check_table, reading

from .batch import Batch
from .check import as_labels, as_positions, as_tensor, check_runs, check_same
from .check import positions as chosen
from .text import SpecialTokens, Tokenizer, answer_tokens, check_lengths, token_ids

FILE = {"kind": str, "reference": str, "dtypes": dict[str, str], "label_dtypes": dict[str, str],
        "examples": list}
RECORD = {"texts": dict[str, str], "answers": dict[str, str], "labels": dict,
          "inputs": dict[str, dict]}


@dataclass(frozen=True, eq=False)
class Pairs:
    """N examples, each with one input per run: a sample of the distribution D.

    `runs[run][i]` holds the inputs of example `i` without a batch axis.  Examples may differ
    in length; the runs of one example may not, since a path carries the activations of one
    run to the positions of another.  `labels[name][i]` says what is right (or wrong) for
    example `i`.  `positions[name][i]` says where the position `@name` of a path is: an integer,
    several, or a mask of its tokens.  `reference` is the run whose output a hypothesis should
    reproduce.  `notes` say what was done to texts; results repeat them.

    >>> ids = {"clean": {"input_ids": torch.tensor([[1, 2]])},
    ...        "corrupt": {"input_ids": torch.tensor([[1, 3]])}}
    >>> Pairs.from_tensors(ids, labels={"correct": torch.tensor([4])})
    Pairs(1 example, runs: clean, corrupt, reference: clean, labels: correct)

    Source: Goldowsky-Dill, MacLeod, Sato, Arora 2023, "Localizing Model Behavior with Path
    Patching": the joint distribution of reference and counterfactual inputs.
    """

    runs: Mapping[str, Sequence[Mapping[str, Tensor]]]
    labels: Mapping[str, Sequence[Tensor]] = field(default_factory=dict)
    reference: str = "clean"
    texts: Mapping[str, Sequence[str]] = field(default_factory=dict)
    answers: Mapping[str, Sequence[str]] = field(default_factory=dict)
    positions: Mapping[str, Sequence[Tensor]] = field(default_factory=dict)
    notes: Sequence[str] = ()

    def __post_init__(self) -> None:
        check_runs(self.runs, self.reference)
        columns = (self.labels, self.texts, self.answers, self.positions)
        for name, values in chain.from_iterable(column.items() for column in columns):
            if len(values) != len(self):
                raise DataError(
                    f"{name!r} has {len(values)} values for {len(self)} examples; give one each"
                )
        for run, examples in self.runs.items():
            for i, example in enumerate(examples):
                check_same(i, self.reference, self.runs[self.reference][i], run, example)

    @classmethod
    def from_text(
        cls,
        tokenizer: Tokenizer,
        texts: Mapping[str, Sequence[str] | str],
        answers: Mapping[str, Sequence[str | Sequence[str]] | str] | None = None,
        reference: str = "clean",
        *,
        positions: Mapping[str, Sequence[Any]] | None = None,
        add_special_tokens: bool | None = None,
    ) -> Pairs:
        """Tokenise one list of texts per run; `answers` become labels of one token each.

        An answer may be a list of several, which count alike (`logit_diff` takes their mean).
        `add_special_tokens=None` leaves the tokenizer's habit, but for texts that begin (or end)
        with the special tokens already: they get no second ones, and `notes` say so.  Say False
        if the tokenizer appends an end token, or the last row predicts what follows that; say
        True to have them added to every text.  No text is padded.

            Pairs.from_text(
                tokenizer,
                {"clean": ["Mary ran to"], "corrupt": ["John ran to"]},
                answers={"correct": [" Mary"], "wrong": [" John"]},
            )

        Raises DataError where the texts of one example differ in number of tokens, where an
        answer is not exactly one known token, and where lists are empty or differ in length.
        """
        check_runs(texts, reference)
        for name, lines in {**texts, **(answers or {})}.items():
            if isinstance(lines, str):
                raise DataError(f"{name!r} is one text; write a list of texts: [{lines!r}]")
        special = SpecialTokens.of(tokenizer) if add_special_tokens is None else None
        notes = () if special is None else special.notes(tokenizer, texts)
        ids = {
            run: [token_ids(tokenizer, text, add_special_tokens, special) for text in lines]
            for run, lines in texts.items()
        }
        check_lengths(tokenizer, texts, ids, reference)
        answers = answers or {}
        labels = {
            name: [answer_tokens(tokenizer, name, i, word) for i, word in enumerate(words)]
            for name, words in answers.items()
        }
        return cls(
            {run: [{"input_ids": torch.tensor(x)} for x in rows] for run, rows in ids.items()},
            {name: [torch.tensor(token) for token in tokens] for name, tokens in labels.items()},
            reference,
            {run: tuple(lines) for run, lines in texts.items()},
            {name: tuple(w if isinstance(w, str) else " | ".join(w) for w in words)
             for name, words in answers.items()},
            as_positions(positions),
            notes,
        )

    @classmethod
    def from_tensors(
        cls,
        runs: Mapping[str, Mapping[str, Tensor]],
        labels: Mapping[str, Tensor | Sequence[Any]] | None = None,
        reference: str = "clean",
        positions: Mapping[str, Any] | None = None,
    ) -> Pairs:
        """From `runs[run][input]` and `labels[name]`, tensors whose first axis is the example.

            Pairs.from_tensors({"clean": {"x": x_r}, "corrupt": {"x": x_c}})

        A label may be a list that holds several tokens for each example, not equally many.

        Raises DataError where runs differ in inputs, shapes or dtypes; says which and how.
        """
        split: dict[str, list[dict[str, Tensor]]] = {}
        for run, inputs in runs.items():
            if single := [name for name, value in inputs.items() if value.ndim == 0]:
                raise DataError(f"input {single[0]!r} of run {run!r} is one number; its first "
                                "axis must be the example")
            counts = {name: len(value) for name, value in inputs.items()}
            if len(set(counts.values())) != 1:
                raise DataError(
                    f"inputs of run {run!r} need one equal first axis, the example; found {counts}"
                )
            rows = zip(*(value.unbind(0) for value in inputs.values()), strict=True)
            split[run] = [dict(zip(inputs, row, strict=True)) for row in rows]
        kept = {name: as_labels(name, value) for name, value in (labels or {}).items()}
        return cls(split, kept, reference, positions=as_positions(positions))

    def __len__(self) -> int:
        return len(self.runs[self.reference])

    @property
    def run_names(self) -> tuple[str, ...]:
        """Names of the runs, in the order given."""
        return tuple(self.runs)

    def batches(self, batch_size: int = 32) -> Iterator[Batch]:
        """Every example once, in batches of equal shapes: `inputs[run][name]` is `[batch, ...]`.

        `Batch.index` restores the original order: `effects[batch.index] = ...`.
        """
        if batch_size < 1:
            raise DataError(f"batch_size must be at least 1, found {batch_size}")
        groups: dict[object, list[int]] = {}
        for i in range(len(self)):
            groups.setdefault(self._shapes(i), []).append(i)
        for group in groups.values():
            for start in range(0, len(group), batch_size):
                yield self._batch(group[start : start + batch_size])

    def subset(self, where: object) -> Pairs:
        """Only the examples of a boolean mask `[n]`, of positions, or of a slice; in that order.

        Raises DataError if nothing is left or a position does not exist.
        """
        keep = chosen(where, len(self))

        def pick(columns: Mapping[str, Sequence[Any]]) -> dict[str, list[Any]]:
            return {name: [values[i] for i in keep] for name, values in columns.items()}

        return Pairs(
            pick(self.runs),
            pick(self.labels),
            self.reference,
            pick(self.texts),
            pick(self.answers),
            pick(self.positions),
            self.notes,
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain lists and strings for JSON, one record per example; `from_dict` reads it back."""
        first = self.runs[self.reference][0]
        dtypes = {name: _dtype_name(value) for name, value in first.items()}
        label_dtypes = {name: _dtype_name(values[0]) for name, values in self.labels.items()}
        records: list[dict[str, Any]] = []
        for i in range(len(self)):
            inputs = {
                run: {name: value.tolist() for name, value in examples[i].items()}
                for run, examples in self.runs.items()
            }
            places = {name: values[i].tolist() for name, values in self.positions.items()}
            records.append(
                {
                    "texts": {run: values[i] for run, values in self.texts.items()},
                    "answers": {name: values[i] for name, values in self.answers.items()},
                    "labels": {name: values[i].tolist() for name, values in self.labels.items()},
                    "inputs": inputs,
                }
                | ({"positions": places} if places else {})
            )
        return {
            "kind": "pairs",
            "reference": self.reference,
            "dtypes": dtypes,
            "label_dtypes": label_dtypes,
            "examples": records,
        } | ({"notes": list(self.notes)} if self.notes else {})

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Pairs:
        """Read what `to_dict` wrote.  Raises FileError if it is something else."""
        if data.get("kind") != "pairs":
            raise FileError(f"expected kind 'pairs', found {data.get('kind')!r}")
        with reading("pairs"):
            return cls._read(data)

    @classmethod
    def _read(cls, data: Mapping[str, Any]) -> Pairs:
        check_table(data, "a file of pairs", FILE, {"notes": Sequence[str]})
        records = data["examples"]
        if not records:
            raise DataError("there are no examples; write at least one")
        has_positions = {"positions": dict} if "positions" in records[0] else {}
        for i, record in enumerate(records):
            check_table(record, f"example {i}", RECORD | has_positions)
            for key, values in record.items():
                if values.keys() != records[0][key].keys():
                    raise FileError(f"example {i} has the {key} {', '.join(values)}, example 0 has "
                                    f"{', '.join(records[0][key])}")
        dtypes, label_dtypes = data["dtypes"], data["label_dtypes"]
        if label_dtypes.keys() != records[0]["labels"].keys():
            raise FileError(f"label_dtypes name {', '.join(label_dtypes)}, the examples have the "
                            f"labels {', '.join(records[0]['labels'])}")

        def column(key: str, name: str) -> list[Any]:
            return [record[key][name] for record in records]

        runs = {
            run: [
                {name: as_tensor(value, dtypes[name]) for name, value in inputs.items()}
                for inputs in column("inputs", run)
            ]
            for run in records[0]["inputs"]
        }
        labels = {
            name: [as_tensor(value, dtype) for value in column("labels", name)]
            for name, dtype in label_dtypes.items()
        }
        texts = {run: column("texts", run) for run in records[0]["texts"]}
        answers = {name: column("answers", name) for name in records[0]["answers"]}
        places = {name: column("positions", name) for name in records[0].get("positions", {})}
        return cls(runs, labels, data["reference"], texts, answers, as_positions(places),
                   tuple(data.get("notes", ())))

    def __repr__(self) -> str:
        count = f"{len(self)} example{'s' if len(self) > 1 else ''}"
        runs, labels = ", ".join(self.runs), ", ".join(self.labels) or "none"
        return f"Pairs({count}, runs: {runs}, reference: {self.reference}, labels: {labels})"

    def _shapes(self, i: int) -> tuple[object, ...]:
        inputs = self.runs[self.reference][i]
        labels = tuple(values[i].shape for values in self.labels.values())
        places = tuple(values[i].shape for values in self.positions.values())
        return tuple((name, value.shape) for name, value in inputs.items()), labels, places

    def _batch(self, index: list[int]) -> Batch:
        inputs = {
            run: {
                name: torch.stack([examples[i][name] for i in index]) for name in examples[index[0]]
            }
            for run, examples in self.runs.items()
        }
        labels = {
            name: torch.stack([values[i] for i in index]) for name, values in self.labels.items()
        }
        places = {name: torch.stack([values[i] for i in index])
                  for name, values in self.positions.items()}
        return Batch(inputs, torch.tensor(index), labels, self.reference, places)


def _dtype_name(value: Tensor) -> str:
    return str(value.dtype).removeprefix("torch.")
