"""What metrics read of outputs of every shape, against the model's own outputs, by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import rewrite as rw
from rewrite.errors import DataError
from tests.zoo import trace

N, LENGTH, WIDTH = 4, 5, 8
Head = Callable[[nn.Module, Tensor], Any]
DRAWN = [torch.randint(0, 8, (N, LENGTH), generator=torch.Generator().manual_seed(seed))
         for seed in range(2)]
IDS = {"clean": DRAWN[0], "corrupt": (DRAWN[0] + 1 + DRAWN[1]) % 9}  # other tokens everywhere
LABELS: dict[str, Any] = {"correct": [[0, 1], [1], [2], [0]], "wrong": [2, 2, 0, 1]}


class Model(nn.Module):
    """A stream without attention, and a head that the test chooses."""

    def __init__(self, head: Head, classes: int) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.embed, self.mlp = nn.Embedding(9, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.out, self.head = nn.Linear(WIDTH, classes), head
        self.image = nn.Linear(WIDTH, classes * 6)

    def forward(self, ids: Tensor) -> Any:
        x = self.embed(ids)
        return self.head(self, x + self.mlp(x).relu())


def measured(
    head: Head, metric: rw.Metric | str, classes: int = 3, labels: Any = None
) -> tuple[Tensor, str, list[Any]]:
    """Effects of nothing important, what was read, and the model's outputs of both runs."""
    model = Model(head, classes).eval()
    parts = trace(model, {"ids": IDS["clean"][:3]}).components()
    pairs = rw.Pairs.from_tensors({run: {"ids": ids} for run, ids in IDS.items()}, labels=labels)
    nothing = rw.Hypothesis(parts, {"clean": "~(...)"})
    result = rw.evaluate(nothing, pairs, metric, batch_size=3)
    table = rw.sweep(parts, "embed", None, pairs=pairs, metric=metric)
    assert table.read == result.read and result.read in str(result) + str(table)
    with torch.no_grad():
        outputs = [model(ids) for ids in IDS.values()]
    effects = torch.tensor(result.effects)
    assert abs(table.table.effect[0] - effects.mean()) <= 1e-5  # all that matters passes `embed`
    return effects, result.read, outputs


def kl(p: Tensor, q: Tensor) -> Tensor:
    p, q = p.double().log_softmax(-1), q.double().log_softmax(-1)
    return (p.exp() * (p - q)).sum(-1)


def pooled(m: Any, x: Tensor) -> Tensor:
    return m.out(x.mean(1))


READ: list[tuple[str, Head, rw.Metric, Callable[[Any, Any], Tensor], str]] = [
    ("classes", pooled, rw.kl_divergence(), kl, "output [batch, 3]"),
    ("classes, all", pooled, rw.kl_divergence(position="all"), kl, "output [batch, 3]"),
    ("classes, kept axis", lambda m, x: m.out(x.mean(1, True)), rw.kl_divergence(),
     lambda a, b: kl(a, b)[:, 0], "output [batch, 1, 3], its only row"),
    ("tokens", lambda m, x: m.out(x), rw.kl_divergence(), lambda a, b: kl(a, b)[:, -1],
     "output [batch, seq, 3] at the last token"),
    ("tokens, all", lambda m, x: m.out(x), rw.kl_divergence(position="all"),
     lambda a, b: kl(a, b).mean(1), "output [batch, seq, 3] at all tokens"),
    ("tokens, one", lambda m, x: m.out(x), rw.kl_divergence(position=-4),
     lambda a, b: kl(a, b)[:, 1], "output [batch, seq, 3] at token -4"),
    ("time first", lambda m, x: m.out(x).transpose(0, 1), rw.kl_divergence(),
     lambda a, b: kl(a, b)[-1], "output [seq, batch, 3] at the last token"),
    ("time first, all", lambda m, x: m.out(x).transpose(0, 1), rw.kl_divergence(position="all"),
     lambda a, b: kl(a, b).mean(0), "output [seq, batch, 3] at all tokens"),
    ("channels first", lambda m, x: m.out(x).mT, rw.kl_divergence(),
     lambda a, b: kl(a.mT, b.mT)[:, -1], "output [batch, 3, seq] at the last token"),
    ("a pointer", lambda m, x: m.out(x)[..., 0], rw.kl_divergence(axes="batch classes"),
     kl, "output [batch, seq] as batch classes"),
    ("a loss too", lambda m, x: (x.mean(), m.out(x)), rw.kl_divergence(),
     lambda a, b: kl(a[1], b[1])[:, -1], "output1 [batch, seq, 3] at the last token"),
    ("two tensors", lambda m, x: (x, m.out(x)), rw.kl_divergence(output="output1"),
     lambda a, b: kl(a[1], b[1])[:, -1], "output1 [batch, seq, 3] at the last token"),
    ("another name", lambda m, x: {"scores": pooled(m, x), "x": x},
     rw.kl_divergence(output="scores"), lambda a, b: kl(a["scores"], b["scores"]),
     "scores [batch, 3]"),
    ("nested", lambda m, x: {"head": {"logits": pooled(m, x)}, "x": x}, rw.kl_divergence(),
     lambda a, b: kl(a["head"]["logits"], b["head"]["logits"]), "head.logits [batch, 3]"),
    ("an image", lambda m, x: m.image(x.mean(1)).unflatten(1, (3, 2, 3)),
     rw.kl_divergence(axes="batch classes height width", position="all"),
     lambda a, b: kl(a.movedim(1, -1), b.movedim(1, -1)).mean((1, 2)),
     "output [batch, 3, 2, 3] as batch classes height width, mean over 2, 3"),
    ("rows of queries", lambda m, x: m.image(x.mean(1)).unflatten(1, (6, 3)),
     rw.kl_divergence(axes="batch query vocab", position=4),
     lambda a, b: kl(a, b)[:, 4], "output [batch, 6, 3] as batch query vocab at 4 of 6"),
]


@pytest.mark.parametrize(("head", "metric", "by_hand", "read"), [row[1:] for row in READ],
                         ids=[row[0] for row in READ])
def test_kl_divergence(
    head: Head, metric: rw.Metric, by_hand: Callable[[Any, Any], Tensor], read: str
) -> None:
    effects, found, outputs = measured(head, metric)
    wanted = by_hand(*outputs)
    assert wanted.min() > 1e-4
    assert (effects - wanted).abs().max() <= 1e-5 * wanted.max()
    assert found == read


@pytest.mark.parametrize("head", [pooled, lambda m, x: m.out(x).transpose(0, 1)[-1]])
def test_answers_are_classes_and_may_be_several(head: Head) -> None:
    effects, _, (a, b) = measured(head, rw.logit_diff(), labels=LABELS)
    def difference(z: Tensor, i: int) -> Tensor:
        return z[i, LABELS["correct"][i]].mean() - z[i, LABELS["wrong"][i]]
    wanted = torch.stack([(difference(b, i) - difference(a, i)).abs() for i in range(N)])
    assert (effects - wanted).abs().max() <= 1e-5
    filled = {"correct": torch.tensor([[0, 1], [1, -100], [2, -100], [-100, 0]]),
              "wrong": torch.tensor([[2], [2], [0], [1]])}
    again, _, _ = measured(head, rw.logit_diff(), labels=filled)
    assert (again - effects).abs().max() <= 1e-6
    effects, _, _ = measured(head, rw.loss_diff(), labels=LABELS)
    a, b = (-z.log_softmax(-1) for z in (a, b))
    wanted = torch.stack([(b[i, c].mean() - a[i, c].mean()).abs()
                          for i, c in enumerate(LABELS["correct"])])
    assert (effects - wanted).abs().max() <= 1e-5


REFUSED: list[tuple[Head, rw.Metric, int, str]] = [
    (pooled, rw.kl_divergence(), 1, r"\[batch, 1\] holds one number.*rw.custom\(lambda"),
    (lambda m, x: m.out(x), rw.kl_divergence(), 1, r"\[batch, seq, 1\] holds one number"),
    (lambda m, x: m.out(x)[..., 0], rw.kl_divergence(), 3,
     r"classes of output \[batch, seq\].*rw.kl_divergence\(axes='batch classes'\), or measure"),
    (lambda m, x: pooled(m, x)[:, 0], rw.kl_divergence(), 3, r"output \[batch\].*rw.custom"),
    (lambda m, x: m.out(x).flatten(0, 1), rw.kl_divergence(), 3,
     r"output \[batch\*seq, 3\] has no axis of examples: wrap the model"),
    (lambda m, x: pooled(m, x) @ pooled(m, x).T, rw.kl_divergence(), 3,
     r"output \[batch, batch\] compares the examples of a batch with each other"),
    (lambda m, x: (m.out(x), x), rw.kl_divergence(), 3,
     r"output0 \[batch, seq, 3\], output1 \[batch, seq, 8\]. Say which, as in "
     r"rw.kl_divergence\(output='output0'\)"),
    (lambda m, x: {"scores": pooled(m, x)}, rw.logit_diff(absolute=False), 3,
     r"scores \[batch, 3\]. Say which, as in rw.logit_diff\(output='scores', absolute=False\)"),
    (lambda m, x: {"scores": pooled(m, x)}, rw.kl_divergence(output="score"), 3, "mean scores?"),
    (lambda m, x: m.image(x.mean(1)).unflatten(1, (6, 3)), rw.kl_divergence(), 3,
     r"output \[batch, 6, 3\].*axes='batch axis1 classes'"),
    (pooled, rw.kl_divergence(axes="batch seq classes"), 3, "name each of its 2 axes"),
    (pooled, rw.kl_divergence(axes="classes batch"), 3, "does not fit"),
    (pooled, rw.kl_divergence(position=2), 3, r"has one row.*as in rw.kl_divergence\(\)"),
    (pooled, rw.loss_diff(position="all"), 3, r"needs an output of tokens.*rw.loss_diff\(\)"),
    (lambda m, x: m.out(x), rw.loss_diff(position="all"), 3, "of example 0 is outside of the 3"),
    (lambda m, x: m.out(x).argmax(-1), rw.kl_divergence(axes="batch classes"), 3, "int64"),
    (lambda m, x: m.out(x)[:, -1:], rw.kl_divergence(position=0), 3, "one for all tokens"),
    (lambda m, x: m.out(x), rw.kl_divergence(position=7), 3, "example 0 does not have.*5 of 5"),
    (lambda m, x: m.out(x) / 0 * 0, rw.kl_divergence(), 3, r"not finite in examples \[0"),
]


@pytest.mark.parametrize(("head", "metric", "classes", "message"), REFUSED)
def test_what_cannot_be_read_is_an_error(
    head: Head, metric: rw.Metric, classes: int, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        measured(head, metric, classes, LABELS)


@pytest.mark.parametrize(("labels", "message"), [
    ({"correct": [0, 1, 7, 0]}, "'correct' of example 2 is 7, outside of 0..2"),
    ({"correct": [0, -1, 2, 0]}, "'correct' of example 1 is -1, outside of 0..2"),
    ({"correct": torch.rand(N, 2)}, r"list of them; found float32 \[2\] in example 0"),
    ({"correct": torch.ones(N, 2, 2).long()}, r"found int64 \[2, 2\] in example 0"),
    ({"correct": [[0], [-100], [1], [1]]}, r"'correct' is empty in examples \[1\]"),
    ({"correct": [[0], [], [1], [0]]}, r"'correct' .* example 1"),
    ({"correct": [[2, 1], [1], [2], [0]], "wrong": [[1, 2], [2], [0], [1]]},
     r"same token in examples \[0\]"),
    ({"correct": ["a", "b", "c", "d"]}, "'correct' must be numbers"),
    ({"correct": torch.tensor(3)}, "'correct' is one number"),
])
def test_labels_that_are_no_classes(labels: Any, message: str) -> None:
    for head in (pooled, lambda m, x: m.out(x)):
        with pytest.raises(DataError, match=message):
            measured(head, rw.logit_diff(), labels=LABELS | labels)


def test_a_length_that_is_as_long_as_the_classes_is_asked_for() -> None:
    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.place = nn.Embedding(9, 4), nn.Parameter(torch.rand(LENGTH, 4))
            self.out = nn.Linear(4, LENGTH)

        def forward(self, ids: Tensor) -> Tensor:
            return self.out((self.embed(ids) + self.place).mean(1))

    model = Fixed().eval()
    parts = trace(model, {"ids": IDS["clean"][:3]}).components()
    pairs = rw.Pairs.from_tensors({run: {"ids": ids} for run, ids in IDS.items()})
    nothing = rw.Hypothesis(parts, {"clean": "~(...)"})
    with pytest.raises(DataError, match="may hold 5 classes or a number for each of 5 tokens"):
        rw.evaluate(nothing, pairs, "kl_divergence")
    found = rw.evaluate(nothing, pairs, rw.kl_divergence(axes="batch classes"))
    with torch.no_grad():
        wanted = kl(*(model(ids) for ids in IDS.values()))
    assert (torch.tensor(found.effects) - wanted).abs().max() <= 1e-6


def test_functions_that_write_change_no_number() -> None:
    def clean(r: Any, h: Any, b: Any) -> Tensor:
        return (r - h)[:, -1].abs().sum(-1) * b.labels["wrong"]

    def writes(r: Tensor, h: Tensor, b: Any) -> Tensor:
        found = clean(r, h, b)
        r.zero_()
        h.numpy()[:] = 7
        b.labels["wrong"] += 1
        b.inputs["clean"]["ids"].fill_(0)
        b.labels.clear()
        return found

    def score(output: Tensor, b: Any) -> Tensor:
        return output.mul_(2).sum((1, 2)) / 2

    parts = trace(Model(lambda m, x: m.out(x), 3).eval(), {"ids": IDS["clean"][:3]}).components()
    pairs = rw.Pairs.from_tensors({run: {"ids": ids} for run, ids in IDS.items()},
                                  labels={"wrong": torch.tensor([1, 2, 3, 4])})
    hypotheses = [rw.Hypothesis(parts, {"clean": name}) for name in ("m0", "embed -> output")]
    for position in ("all", -1):
        bad = rw.custom(writes, "bad", position=position, scores=score)
        good = rw.custom(clean, "good", position=position, scores=lambda x, b: x.sum((1, 2)))
        for x, y in zip(rw.evaluate(hypotheses, pairs, bad), rw.evaluate(hypotheses, pairs, good),
                        strict=True):
            assert (x.effects == y.effects).all() and (x.null_effects == y.null_effects).all()
            assert x.scores is not None and abs(x.scores - y.scores).max() <= 1e-5
        assert (rw.sweep(parts, "*", "output", pairs=pairs, metric=bad).table.effect
                == rw.sweep(parts, "*", "output", pairs=pairs, metric=good).table.effect).all()
