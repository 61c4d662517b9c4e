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
from rewrite.world import calling

from .axes import Position, described, shown
from .batch import Batch
from .outputs import (
    IGNORED,
    every_row,
    examples,
    finite,
    mean_at,
    mean_of_rows,
    row,
    tokens,
)

if TYPE_CHECKING:
    from rewrite.ir.layout import Layout

    from .pairs import Pairs


@dataclass(frozen=True)
class Metric(ABC):
    """The `delta` of a hypothesis: one number per example, comparing two outputs.

    Outputs are logits `[batch, seq, vocab]` or `[batch, classes]`, or anything that carries them
    as `.logits`, `["logits"]` or in a tuple.  `output` names another tensor of what the model
    returns (`"start_logits"`, `"0"` of a tuple is `"output0"`).  Which of its axes are examples
    and tokens is known from the traced inputs; where it is not, `axes` says it, a word for each:
    `"batch classes height width"`.  `reads` says what is read.  Gradients flow through `effect`
    and `score`.

    Signed metrics (`absolute=False`) are the score of the hypothesis minus that of the
    reference.  Signs cancel over examples and flatter a hypothesis: the default is absolute.

    `position` is the token whose logits are read: counted from either end of the real tokens of
    each example, so that -1 (or `"last"`) is the last one that is no padding; `"all"` (or None);
    or the name of a label `[batch]` that holds one column per example.  Outputs without tokens
    have one row.

    Source: Goldowsky-Dill et al. 2023, unexplained effect.
    """

    name: str = field(init=False)
    position: Position = field(default=-1, kw_only=True)
    output: str | None = field(default=None, kw_only=True)
    axes: str | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        known = {None: "all", "last": -1}
        if self.position in known:
            object.__setattr__(self, "position", known[self.position])

    def effect(
        self, reference_output: object, hypothesis_output: object, batch: Batch
    ) -> Float[Tensor, " batch"]:
        """delta(G(x_r), G_H(x_r, x_c)) of every example, `[batch]`.

        Raises DataError if a label is missing, rows do not exist, or a value is not finite.
        """
        with calling(f"metric {self.name!r}", DataError):
            effect = self._effect(reference_output, hypothesis_output, batch)
            return finite(self.name, effect, batch)

    def score(self, output: object, batch: Batch) -> Float[Tensor, " batch"] | None:
        """How well one output does on its own, `[batch]`; None for a pure distance."""
        with calling(f"the score of metric {self.name!r}", DataError):
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
        """Which tokens of the output are read: a model need not compute the others."""
        return "last" if self.position == -1 else "all"

    def reads(self, layout: Layout) -> str:
        """What is read of the outputs of a model, in words.

        >>> logit_diff().reads(parts.layout), kl_divergence(position="all").reads(parts.layout)
        ('logits [batch, seq, 97] at the last token', 'logits [batch, seq, 97] at all tokens')

        Raises DataError where that is not plain, or where the metric cannot read it.
        """
        return described(self, layout)

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

    `correct` and `wrong` name labels `[batch]` of token ids (or classes), or `[batch, k]` of
    several, whose mean logit is taken; ids of -100 fill up shorter lists and are left out.

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
        ids = torch.cat([torch.as_tensor(value).ravel() for name in names
                         for value in pairs.labels[name]])
        if ids.is_floating_point() or ids.dtype == torch.bool:
            return None
        return tuple(ids[ids != IGNORED].unique().tolist())

    def narrowed(self, batch: Batch, columns: tuple[int, ...]) -> Batch:
        """`correct` and `wrong` count within `columns`."""
        known = torch.tensor(columns, device=batch.labels[self.correct].device)

        def moved(ids: Tensor) -> Tensor:
            return torch.searchsorted(known, ids).where(ids != IGNORED, IGNORED)

        both = {name: moved(batch.labels[name]) for name in (self.correct, self.wrong)}
        return replace(batch, labels={**batch.labels, **both})

    def _effect(self, reference: object, hypothesis: object, batch: Batch) -> Tensor:
        change = self._score(hypothesis, batch) - self._score(reference, batch)
        return change.abs() if self.absolute else change

    def _score(self, output: object, batch: Batch) -> Tensor:
        values = row(self, output, batch)
        correct, wrong = (tokens(name, values, batch) for name in (self.correct, self.wrong))
        same = _same(correct, wrong)
        if bool(same.any()):
            raise DataError(
                f"{self.correct!r} and {self.wrong!r} are the same token in examples "
                f"{examples(batch, same)}: their logit difference is always zero"
            )
        return mean_at(values, *correct) - mean_at(values, *wrong)


@dataclass(frozen=True)
class LossDiff(Metric):
    """Change of the cross-entropy loss of the right token, in nats.

    With a `position`, the right token (or class) is the label `correct`, `[batch]`; of several,
    `[batch, k]`, the mean of their losses is taken.  With `position="all"` it is the next token
    of the reference run, at every position: differences are made absolute per token, then
    averaged over the tokens that `mask` names, a label `[batch, seq]` that is True at the tokens
    to predict (default: all).  The first real token of an example is predicted by none, and
    padding never counts.  The score is the loss.

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
        _check_mask(self.mask, self.position)

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
        losses, kept = self._all_losses(output, batch)
        return pad(losses.masked_fill(~kept, nan), (1, 0), value=nan)

    def _effect(self, reference: object, hypothesis: object, batch: Batch) -> Tensor:
        if self.position != "all":
            change = self._score(hypothesis, batch) - self._score(reference, batch)
            return change.abs() if self.absolute else change
        (after, kept), (before, _) = (self._all_losses(output, batch)
                                      for output in (hypothesis, reference))
        change = after - before
        return mean_of_rows(change.abs() if self.absolute else change, kept)

    def _score(self, output: object, batch: Batch) -> Tensor:
        if self.position == "all":
            return mean_of_rows(*self._all_losses(output, batch))
        values = row(self, output, batch)
        return mean_at(-values.log_softmax(-1), *tokens(self.correct, values, batch))

    def _all_losses(self, output: object, batch: Batch) -> tuple[Tensor, Tensor]:
        """Loss of every token but the first, `[batch, seq - 1]`, and which of them count."""
        found, kept = every_row(self, output, batch, self.mask, predicted=True)
        values, ids = found.values, batch.ids(found.axes.length)
        if ids is None or ids.shape != values.shape[:2]:
            known = "no input_ids" if ids is None else f"input_ids {list(ids.shape)}"
            raise DataError(
                "loss at every position needs input_ids of the reference run, one row of logits "
                f"each; found {known} and logits {list(values.shape)} ({found.axes}): for one "
                "answer use loss_diff(position=-1)"
            )
        right = ids[:, 1:].to(values.device)
        outside = kept & ((right < 0) | (right >= values.shape[-1]))
        if bool(outside.any()):
            i, j = outside.nonzero()[0].tolist()
            raise DataError(f"token {int(right[i, j])} of example {int(batch.index[i])} is "
                            f"outside of the {values.shape[-1]} logits of the output")
        right = right.masked_fill(~kept, 0)
        return cross_entropy(values[:, :-1].transpose(1, 2), right, reduction="none"), kept


@dataclass(frozen=True)
class KLDivergence(Metric):
    """KL(reference || hypothesis) of the next-token distributions, in nats.

    At one `position`, or with `position="all"` the mean over all tokens (not padding), or those
    that the label `mask`, `[batch, seq]`, names.  Of outputs `[batch, classes]` it compares the
    classes.  It has no score: a distribution is not good or bad on its own.

    >>> import torch
    >>> outputs = torch.tensor([[[0.0, 0.0]]]), torch.tensor([[[0.0, 0.0]]])
    >>> kl_divergence().effect(*outputs, Batch({"clean": {}}, torch.tensor([0]), {}, "clean"))
    tensor([0.])
    """

    name: str = field(default="kl_divergence", init=False)
    mask: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_mask(self.mask, self.position)

    def _effect(self, reference: object, hypothesis: object, batch: Batch) -> Tensor:
        if self.position != "all":
            return _kl(*(row(self, output, batch) for output in (reference, hypothesis)))
        (left, kept), (right, _) = (every_row(self, output, batch, self.mask)
                                    for output in (reference, hypothesis))
        if left.values.shape != right.values.shape:
            raise DataError(
                f"both outputs must have the same rows, found {list(left.values.shape)} of the "
                f"reference and {list(right.values.shape)} of the hypothesis")
        return mean_of_rows(_kl(left.values, right.values), kept)


@dataclass(frozen=True)
class Custom(Metric):
    """A metric that a function computes; see `custom`."""

    name: str = field()
    function: Callable[[Any, Any, Batch], Tensor]
    position: Position = field(default="all", kw_only=True)
    scores: Callable[[Any, Batch], Tensor] | None = None
    version: str | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.name in METRICS:
            raise DataError(f"{self.name!r} already names a metric; give yours another name")

    def reads(self, layout: Layout) -> str:
        """What the function is given, which is all that is known of what it reads."""
        return f"what {self.name} reads of {', '.join(shown(*o) for o in layout.outputs.items())}"

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
    version: str | None = None,
) -> Metric:
    """Your own `function(reference_output, hypothesis_output, batch) -> [batch]`.

    `scores(output, batch) -> [batch]` is optional.  Say `position=-1` if only the last token is
    read: outputs `[batch, seq, ...]` are then `[batch, 1, ...]`, the last real token of each
    example, and the model need not compute the others.  Functions get copies, so that what they
    write to is not seen by anybody else; `batch.mask` is True at real tokens.

    A sweep or refinement that goes on from a file compares the code of the function, its
    defaults, and the values that it reads from around it.  Where it reads what cannot be compared
    (an open file, a lock), say which `version` it is, and change that with the function.

    >>> custom(lambda reference, hypothesis, batch: (reference - hypothesis).norm(), "distance")
    custom('distance')

    Raises DataError if `name` is a metric already.
    """
    return Custom(name, function, scores, position=position, version=version)


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


Measure = Metric | str | type[Metric] | Callable[[Any, Any, Batch], Tensor]
"""What is taken for a metric: one, its name, its class, or the function of a custom one."""


def as_metric(given: Measure) -> Metric:
    """A metric by its name or class, or what a function computes; a metric stays as it is.

    >>> as_metric(kl_divergence) == as_metric("kl_divergence")
    True
    >>> as_metric(lambda reference, hypothesis, batch: reference.logits[:, -1, 0])
    custom('custom')

    Raises DataError for anything else, and UnknownName for a name that does not exist.
    """
    if isinstance(given, Metric):
        return given
    if isinstance(given, str):
        return metric(given)
    if isinstance(given, type) and issubclass(given, tuple(METRICS.values())):
        return given()
    if isinstance(given, type) or not callable(given):
        raise DataError("say what to measure: a metric such as rw.logit_diff(), its name, or a "
                        f"function of (reference, hypothesis, batch); found {given!r}")
    name = getattr(given, "__name__", "")
    return custom(given, name if name.isidentifier() and name not in METRICS else "custom")


def _check_mask(mask: str | None, position: Position) -> None:
    if mask is not None and position != "all":
        raise DataError(f"mask={mask!r} chooses among all tokens; write position='all' with it")


def _same(left: tuple[Tensor, Tensor], right: tuple[Tensor, Tensor]) -> Tensor:
    """Whether two labels hold the same tokens, `[batch]`."""
    return _within(left, right) & _within(right, left)


def _within(label: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> Tensor:
    """Whether the tokens of a label are among those of another one."""
    (ids, kept), (others, real) = label, other
    found = ((ids[:, :, None] == others[:, None]) & real[:, None]).any(-1)
    return (found | ~kept).all(-1)


def _kl(reference: Tensor, hypothesis: Tensor) -> Tensor:
    p, q = reference.log_softmax(-1), hypothesis.log_softmax(-1)
    return (p.exp() * (p - q)).masked_fill(p.isneginf(), 0).sum(-1)  # 0 log 0 = 0
