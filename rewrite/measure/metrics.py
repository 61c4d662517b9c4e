"""How far the output of a hypothesis is from the output of the reference run, per example."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from math import nan
from typing import TYPE_CHECKING, Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import cross_entropy, pad

from rewrite.errors import DataError, UnknownName, near

from .batch import Batch
from .outputs import Position, counted, every_row, finite, label, logits, mean_of_tokens, row, token

if TYPE_CHECKING:
    from .pairs import Pairs


@dataclass(frozen=True)
class Metric(ABC):
    """The `delta` of a hypothesis: one number per example, comparing two outputs.

    Outputs are logits `[batch, seq, vocab]`, or anything that carries them as `.logits`,
    `["logits"]` or in a tuple.  Gradients flow through `effect` and `score`.

    Signed metrics (`absolute=False`) are the score of the hypothesis minus that of the
    reference.  Signs cancel over examples and flatter a hypothesis: the default is absolute.

    `position` is the row of the logits that is read: counted from either end, `"all"` (or
    None), or the name of a label `[batch]` that holds one row per example.

    Source: Goldowsky-Dill et al. 2023, unexplained effect.
    """

    name: str = field(init=False)
    position: Position = field(default=-1, kw_only=True)

    def __post_init__(self) -> None:
        if self.position is None:
            object.__setattr__(self, "position", "all")

    def effect(
        self, reference_output: object, hypothesis_output: object, batch: Batch
    ) -> Float[Tensor, " batch"]:
        """delta(G(x_r), G_H(x_r, x_c)) of every example, `[batch]`.

        Raises DataError if a label is missing, rows do not exist, or a value is not finite.
        """
        return finite(self.name, self._effect(reference_output, hypothesis_output, batch), batch)

    def score(self, output: object, batch: Batch) -> Float[Tensor, " batch"] | None:
        """How well one output does on its own, `[batch]`; None for a pure distance."""
        score = self._score(output, batch)
        return None if score is None else finite(self.name, score, batch)

    @property
    def per_token(self) -> bool:
        """Whether effects are means over tokens, whose scores `token_scores` gives."""
        return False

    def token_scores(self, output: object, batch: Batch) -> Float[Tensor, "batch seq"]:
        """How well an output does at every token, nan at tokens that do not count.

        Raises DataError for a metric that has one number per example and none per token.
        """
        raise DataError(f"{self} has no value per token; use loss_diff(position='all')")

    @property
    def positions(self) -> Literal["last", "all"]:
        """Which rows of the output are read: a model need not compute the others."""
        return "last" if self.position == -1 else "all"

    def columns(self, pairs: Pairs) -> tuple[int, ...] | None:
        """Tokens whose logits are read, sorted; None if every token of the vocabulary is."""
        return None

    def narrowed(self, batch: Batch, columns: tuple[int, ...]) -> Batch:
        """The batch for logits of `columns` alone: token labels become positions in it."""
        return batch

    def to_dict(self) -> dict[str, Any]:
        """Name and options for JSON or TOML: `metric(**value.to_dict()) == value`."""
        options = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: value for name, value in options.items() if value is not None}

    def __str__(self) -> str:
        """The name, with the options that differ from their defaults."""
        changed = [
            f"{f.name}={getattr(self, f.name)!r}"
            for f in fields(self)
            if getattr(self, f.name) != f.default
        ]
        return f"{self.name}({', '.join(changed)})" if changed else self.name

    @abstractmethod
    def _effect(self, reference: object, hypothesis: object, batch: Batch) -> Tensor: ...

    def _score(self, output: object, batch: Batch) -> Tensor | None:
        return None


@dataclass(frozen=True)
class LogitDiff(Metric):
    """Change of `logit(correct) - logit(wrong)` at `position`, in logits.

    `correct` and `wrong` name labels `[batch]` of token ids.

    >>> import torch
    >>> outputs = torch.tensor([[[3.0, 1.0]]]), torch.tensor([[[2.0, 1.0]]])
    >>> ids = {"correct": torch.tensor([0]), "wrong": torch.tensor([1])}
    >>> logit_diff().effect(*outputs, Batch({"clean": {}}, torch.tensor([0]), ids, "clean"))
    tensor([1.])
    """

    name: str = field(default="logit_diff", init=False)
    correct: str = "correct"
    wrong: str = "wrong"
    absolute: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.position == "all":
            raise DataError(
                "logit_diff compares two answers at one position; for every position use "
                "kl_divergence(position='all') or loss_diff(position='all')"
            )

    def columns(self, pairs: Pairs) -> tuple[int, ...] | None:
        """The answers of all pairs."""
        names = (self.correct, self.wrong)
        if any(name not in pairs.labels for name in names):
            return None  # reported where the metric is applied
        ids = [torch.as_tensor(value).ravel() for name in names for value in pairs.labels[name]]
        return tuple(torch.cat(ids).unique().tolist())

    def narrowed(self, batch: Batch, columns: tuple[int, ...]) -> Batch:
        """`correct` and `wrong` count within `columns`."""
        known = torch.tensor(columns, device=batch.labels[self.correct].device)
        moved = {name: torch.searchsorted(known, batch.labels[name])
                 for name in (self.correct, self.wrong)}
        return replace(batch, labels={**batch.labels, **moved})

    def _effect(self, reference: object, hypothesis: object, batch: Batch) -> Tensor:
        change = self._score(hypothesis, batch) - self._score(reference, batch)
        return change.abs() if self.absolute else change

    def _score(self, output: object, batch: Batch) -> Tensor:
        values = row(output, self.position, batch)
        correct, wrong = token(self.correct, values, batch), token(self.wrong, values, batch)
        same = (correct == wrong).squeeze(1).cpu()
        if bool(same.any()):
            raise DataError(
                f"{self.correct!r} and {self.wrong!r} are the same token in examples "
                f"{batch.index[same].tolist()}: their logit difference is always zero"
            )
        return (values.gather(1, correct) - values.gather(1, wrong)).squeeze(1)


@dataclass(frozen=True)
class LossDiff(Metric):
    """Change of the cross-entropy loss of the right token, in nats.

    With a `position`, the right token is the label `correct`, `[batch]`.  With
    `position="all"` it is the next token of the reference run, at every position: differences
    are made absolute per token, then averaged over the tokens that `mask` names, a label
    `[batch, seq]` that is True at the tokens to predict (default: all but the first and
    padding).  The score is the loss.

    >>> import torch
    >>> outputs = torch.tensor([[[0.0, 0.0]]]), torch.tensor([[[50.0, 0.0]]])
    >>> ids = {"correct": torch.tensor([0])}
    >>> loss_diff().effect(*outputs, Batch({"clean": {}}, torch.tensor([0]), ids, "clean"))
    tensor([0.6931])

    Source: Goldowsky-Dill et al. 2023, |difference of loss| on a list of candidate tokens.
    """

    name: str = field(default="loss_diff", init=False)
    correct: str = "correct"
    mask: str | None = None
    absolute: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mask is not None and self.position != "all":
            raise DataError(
                f"mask={self.mask!r} chooses among all tokens; write position='all' with it"
            )

    @property
    def per_token(self) -> bool:
        """Whether losses of all tokens are compared, and not that of one answer."""
        return self.position == "all"

    def token_scores(self, output: object, batch: Batch) -> Float[Tensor, "batch seq"]:
        """Loss of every token, in nats; nan at the first and at those that do not count.

        >>> batch = Batch({"clean": {"input_ids": torch.tensor([[3, 1]])}}, torch.tensor([0]),
        ...               {}, "clean")
        >>> loss_diff(position="all").token_scores(torch.zeros(1, 2, 4), batch)
        tensor([[   nan, 1.3863]])
        """
        if not self.per_token:
            return super().token_scores(output, batch)
        losses = self._losses(output, batch)
        kept = counted(losses, self._mask(batch), batch, skip=1)
        return pad(losses.masked_fill(~kept, nan), (1, 0), value=nan)

    def _effect(self, reference: object, hypothesis: object, batch: Batch) -> Tensor:
        change = self._losses(hypothesis, batch) - self._losses(reference, batch)
        return self._mean(change.abs() if self.absolute else change, batch)

    def _score(self, output: object, batch: Batch) -> Tensor:
        return self._mean(self._losses(output, batch), batch)

    def _losses(self, output: object, batch: Batch) -> Tensor:
        """Loss of every predicted token, `[batch]` or `[batch, seq - 1]`."""
        if self.position != "all":
            values = row(output, self.position, batch)
            right = token(self.correct, values, batch).squeeze(1)
            return cross_entropy(values, right, reduction="none")
        values, ids = logits(output, batch), batch.tokens
        if ids is None or ids.shape != values.shape[:2]:
            found = "no input_ids" if ids is None else f"input_ids {list(ids.shape)}"
            raise DataError(
                "loss at every position needs input_ids of the reference run, one row of logits "
                f"each; found {found} and logits {list(values.shape)}"
            )
        predicted, right = values[:, :-1].transpose(1, 2), ids[:, 1:].to(values.device)
        return cross_entropy(predicted, right, reduction="none")

    def _mean(self, values: Tensor, batch: Batch) -> Tensor:
        if self.position != "all":
            return values
        return mean_of_tokens(values, self._mask(batch), batch, skip=1)

    def _mask(self, batch: Batch) -> Tensor | None:
        return batch.mask if self.mask is None else label(self.mask, batch)


@dataclass(frozen=True)
class KLDivergence(Metric):
    """KL(reference || hypothesis) of the next-token distributions, in nats.

    At one `position`, or with `position="all"` the mean over all tokens (not padding).  It has
    no score: a distribution is not good or bad on its own.

    >>> import torch
    >>> outputs = torch.tensor([[[0.0, 0.0]]]), torch.tensor([[[0.0, 0.0]]])
    >>> kl_divergence().effect(*outputs, Batch({"clean": {}}, torch.tensor([0]), {}, "clean"))
    tensor([0.])
    """

    name: str = field(default="kl_divergence", init=False)

    def _effect(self, reference: object, hypothesis: object, batch: Batch) -> Tensor:
        if self.position != "all":
            return _kl(*(row(out, self.position, batch) for out in (reference, hypothesis)))
        values = _kl(*every_row(reference, hypothesis, batch))
        return mean_of_tokens(values, batch.mask, batch)


@dataclass(frozen=True)
class Custom(Metric):
    """A metric that a function computes; see `custom`."""

    name: str = field()
    function: Callable[[Any, Any, Batch], Tensor]
    position: Position = field(default="all", kw_only=True)
    scores: Callable[[Any, Batch], Tensor] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.name in METRICS:
            raise DataError(f"{self.name!r} already names a metric; give yours another name")

    def to_dict(self) -> dict[str, Any]:
        """The name alone: a function cannot be written to a file."""
        return {"name": self.name}

    def __repr__(self) -> str:
        return f"custom({self.name!r})"

    def __str__(self) -> str:
        return self.name

    def _effect(self, reference: object, hypothesis: object, batch: Batch) -> Tensor:
        return self.function(reference, hypothesis, batch)

    def _score(self, output: object, batch: Batch) -> Tensor | None:
        return None if self.scores is None else self.scores(output, batch)


logit_diff, loss_diff, kl_divergence = LogitDiff, LossDiff, KLDivergence

METRICS: Mapping[str, type[Metric]] = {
    "logit_diff": LogitDiff,
    "loss_diff": LossDiff,
    "kl_divergence": KLDivergence,
}
"""Metrics that a file or a command line can name."""


def custom(
    function: Callable[[Any, Any, Batch], Tensor],
    name: str,
    *,
    position: Position = "all",
    scores: Callable[[Any, Batch], Tensor] | None = None,
) -> Metric:
    """Your own `function(reference_output, hypothesis_output, batch) -> [batch]`.

    `scores(output, batch) -> [batch]` is optional.  Say `position=-1` if only the last row of
    the output is read, so that the model need not compute the others.

    >>> custom(lambda reference, hypothesis, batch: (reference - hypothesis).norm(), "distance")
    custom('distance')

    Raises DataError if `name` is a metric already.
    """
    return Custom(name, function, scores, position=position)


def metric(name: str, **options: Any) -> Metric:
    """A metric by its name, with its options.

    >>> metric("logit_diff", absolute=False) == logit_diff(absolute=False)
    True

    Raises UnknownName for a name or an option that does not exist.
    """
    if name not in METRICS:
        raise UnknownName(f"there is no metric {name!r}; {near(name, METRICS)}")
    known = inspect.signature(METRICS[name]).parameters
    for option in options:
        if option not in known:
            raise UnknownName(f"metric {name!r} has no option {option!r}; {near(option, known)}")
    return METRICS[name](**options)


def _kl(reference: Tensor, hypothesis: Tensor) -> Tensor:
    p, q = reference.log_softmax(-1), hypothesis.log_softmax(-1)
    return (p.exp() * (p - q)).masked_fill(p.isneginf(), 0).sum(-1)  # 0 log 0 = 0
