"""Losses token by token, against eager PyTorch and by hand; pages and pictures of them."""

from __future__ import annotations

from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.image import imread
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch.nn.functional import cross_entropy
from transformers import PreTrainedTokenizerFast

import rewrite as rw
from rewrite.errors import DataError, FileError
from rewrite.measure import Pairs, Passage, TokenEffects, loss_diff
from rewrite.measure.tokens import token_texts
from rewrite.measure.tokens_figure import MARGIN, WIDTH, boxes
from rewrite.run import token_effects
from tests.zoo import VOCAB, logits, tokens, traced

nan = float("nan")
ODD = ("<script>", "alert('&\"')", "\n", "  ", "\t", " $x_1$", "\x00", "変" * 200, "\n    ", "end")


def passage(texts: tuple[str, ...] = ODD, draws: int = 2, seed: int = 0) -> Passage:
    rng = np.random.default_rng(seed)
    losses = rng.gamma(2, 1, (2, draws, len(texts)))
    losses[:, :, 0] = nan
    return Passage(seed, texts, *losses)


@pytest.fixture(scope="module")
def bytewise() -> PreTrainedTokenizerFast:
    """Every byte is a token, so that characters are cut; id 0 is special, as ids above 256."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {"<s>": 0} | {letter: i for i, letter in enumerate(alphabet, start=1)}
    model = Tokenizer(models.BPE(vocabulary, []))
    model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=model, bos_token="<s>")


class Spans(HTMLParser):
    """Texts and tips of a page's tokens; tags must close in order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.tokens: list[dict[str, str | None]] = []
        self.feed(page)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag != "meta":
            self.open.append(tag)
        if "data-tip" in dict(attrs):
            self.tokens.append(dict(attrs) | {"text": ""})

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "span" and self.tokens:
            self.tokens[-1]["text"] += data

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_losses_are_those_of_the_model(bytewise: PreTrainedTokenizerFast) -> None:
    """Nothing important: the hypothesis is the model on the other run's prompt."""
    zoo = traced("gpt2")
    clean, corrupt = tokens(1, 6, 1).repeat(3, 1), tokens(3, 6, 2)
    mask = torch.tensor([[0, 1, 0, 1, 1, 1]]).bool().repeat(3, 1)
    pairs = Pairs.from_tensors({"clean": {"input_ids": clean}, "corrupt": {"input_ids": corrupt}},
                               {"repeats": mask})
    nothing = rw.Hypothesis(zoo.parts, {"clean": rw.PathSet.none()}, name="nothing")
    metric = loss_diff(position="all", mask="repeats")
    seen: list[tuple[int, int]] = []
    found = token_effects(nothing, pairs, bytewise, metric, batch_size=2,
                          progress=lambda *done: seen.append(done))

    def losses(x: torch.Tensor) -> np.ndarray:
        rows = cross_entropy(logits(zoo.model, x)[:, :-1].flatten(0, 1), clean[:, 1:].flatten(),
                             reduction="none")
        return np.pad(rows.view(3, 5).double().numpy(), ((0, 0), (1, 0)))

    model, other, kept = losses(clean), losses(corrupt), mask[0].numpy()
    table = found.table
    assert table["position"].tolist() == list(range(6)) and set(table["example"]) == {0}
    assert table["token"].tolist() == list(token_texts(bytewise, clean[0].tolist()))
    for name, values in {"reference_loss": model, "hypothesis_loss": other,
                         "change": other - model, "effect": abs(other - model)}.items():
        wanted = np.where(kept, values.mean(0), nan)
        assert np.allclose(table[name], wanted, atol=1e-4, equal_nan=True), name
    assert seen == [(2, 3), (3, 3)]
    mean = rw.evaluate(nothing, pairs, metric).aue.value
    assert mean == pytest.approx(np.nanmean(found.passages[0].effect), abs=1e-5)


def test_token_scores_by_hand() -> None:
    data = Pairs.from_tensors({run: {"input_ids": torch.tensor([[0, 1, 1], [1, 0, 0]])}
                               for run in ("clean", "corrupt")})
    batch = next(data.batches())
    even = loss_diff(position="all").token_scores(torch.zeros(2, 3, 2), batch)
    assert torch.allclose(even, torch.tensor([[nan, 2.0, 2], [nan, 2, 2]]).log(), equal_nan=True)
    with pytest.raises(DataError, match=r"kl_divergence has no value per token; use loss_diff"):
        rw.kl_divergence().token_scores(torch.zeros(2, 3, 2), batch)
    with pytest.raises(DataError, match="no value per token"):
        loss_diff().token_scores(torch.zeros(2, 3, 2), batch)


def test_tokens_are_what_they_add(bytewise: PreTrainedTokenizerFast) -> None:
    text = "a é\n “b"
    ids = bytewise(text)["input_ids"]
    whole = "\N{REPLACEMENT CHARACTER}"
    assert token_texts(bytewise, ids) == ("a", " ", whole, "é", "\n", " ", whole, whole, "“", "b")
    assert token_texts(bytewise, [0, *ids[:2]]) == ("<s>", "a", " ")


def test_words_without_decoder_still_add_up(tokenizer: PreTrainedTokenizerFast) -> None:
    ids = tokenizer("When Mary ran")["input_ids"]
    assert "".join(token_texts(tokenizer, ids)) == tokenizer.decode(ids)


def test_means_over_draws_by_hand() -> None:
    found = Passage(4, ("a", "b"), [[1.0, nan], [1.0, 3.0]], [[2.0, nan], [0.0, 5.0]])
    assert (found.effect.tolist(), found.change.tolist(), found.draws) == ([1, 2], [0, 2], 2)
    assert found.summary == "example 4: mean effect 1.500 over 2 tokens, 2 counterfactuals"


def test_the_page_holds_every_token_in_order(tmp_path: Path) -> None:
    effects = TokenEffects("a<5> & b", "loss_diff", [passage(), passage(("x", " y"), 1, 1)])
    text = effects.draw(tmp_path / "new" / "x.html").read_text()
    page = Spans(text)
    shown = [token["text"] for token in page.tokens]
    assert shown == ["<script>", "alert('&\"')", "↵\n", "␣␣", "⇥", " $x_1$", "\\x00", "変" * 200,
                     "↵\n    ", "end", "x", " y"]
    assert "script" not in page.tags and "<h1>a&lt;5&gt; &amp; b</h1>" in text
    assert not any(link in text for link in ("src=", "href=", "http"))
    first, last, of = page.tokens[0], page.tokens[-1], effects.passages[1]
    assert first["class"] == "t off" and "does not count" in str(first["data-tip"])
    assert last["data-tip"] == (
        f"' y', position 1\nloss of the model {of.reference[0, 1]:.3f}\nunder the hypothesis "
        f"{of.hypothesis[0, 1]:.3f}\nchange {of.change[1]:+.3f}\n"
        f"unexplained effect {of.effect[1]:.3f}")


def test_hue_is_the_sign_and_strength_the_effect(tmp_path: Path) -> None:
    up = Passage(0, ("a", "b", "c"), [[1.0, 1, 1]], [[3.0, -1, 1]])
    page = Spans(TokenEffects("m0", "loss_diff", [up]).draw(tmp_path / "x.html").read_text())
    styles = [token["style"] for token in page.tokens]
    assert styles == ["background:#D55E00;color:#111111", "background:#0072B2;color:#FFFFFF",
                      "background:#FFFFFF;color:#111111"]


def test_the_picture_shows_the_colours(tmp_path: Path) -> None:
    up = Passage(0, ("a long word", " b"), [[1.0, 1.0]], [[3.0, -1.0]])
    effects = TokenEffects("m0 -> logits", "loss_diff", [up, passage()])
    pixels = (imread(effects.subset([0]).draw(tmp_path / "x.png")) * 255).round()
    for color in ((213, 94, 0), (0, 114, 178)):
        assert (pixels[..., :3] == color).all(-1).sum() > 500
    long = imread(effects.draw(tmp_path / "y.png"))
    assert long.shape[1] == pixels.shape[1] and long.shape[0] > pixels.shape[0]
    svg = effects.draw(tmp_path / "y.svg").read_text()
    assert svg == effects.draw(tmp_path / "z.svg").read_text()


def test_lines_wrap_and_lose_nothing() -> None:
    words = tuple(f" word{i}" for i in range(60))
    found = list(boxes(words + ODD))
    assert max(box.left + box.width for box in found) <= WIDTH - 2 * MARGIN
    assert [box.token for box in found] == sorted(box.token for box in found)
    shown = "".join(box.text for box in found)
    assert shown.startswith("".join(words) + "<script>") and shown.count("変") == 200
    for box, after in pairwise(found):
        joined = box.line == after.line and after.left == pytest.approx(box.left + box.width)
        assert joined or (after.line > box.line and after.left == 0)


@pytest.mark.parametrize("reference, hypothesis, message", [
    ([[1.0]], [[1.0]], r"losses \[draw, token\] of 2 tokens are needed, found \[1, 1\]"),
    ([[1.0, 2.0]], [[1.0, 2.0]] * 2, r"found \[1, 2\] of the model and \[2, 2\]"),
    ([1.0, 2.0], [1.0, 2.0], r"found \[2\]"),
    (np.ones((0, 2)), np.ones((0, 2)), r"found \[0, 2\]"),
    ([[1.0, np.inf]], [[1.0, 2.0]], "losses are not finite"),
    ([[nan, nan]], [[nan, 1.0]], "no token counts"),
])
def test_losses_that_do_not_fit_are_refused(reference, hypothesis, message) -> None:
    with pytest.raises(DataError, match=f"example 7: .*{message}"):
        Passage(7, ("a", "b"), reference, hypothesis)


def test_what_cannot_be_shown_is_refused(
    bytewise: PreTrainedTokenizerFast, tmp_path: Path,
) -> None:
    zoo = traced("gpt2")
    ids = {run: {"input_ids": tokens(2, 4, seed)} for seed, run in enumerate(("clean", "corrupt"))}
    pairs = Pairs.from_tensors(ids)
    paths = rw.Hypothesis(zoo.parts, {"clean": "m0"})
    with pytest.raises(DataError, match="logit_diff gives one number per example and none per"):
        token_effects(paths, pairs, bytewise, rw.logit_diff())
    with pytest.raises(DataError, match="texts need the tokenizer of the model, found None"):
        token_effects(paths, pairs, None)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="reads a run 'other'"):
        token_effects(rw.Hypothesis(zoo.parts, {"clean": "m0"}, "other"), pairs, bytewise)
    with pytest.raises(DataError, match="no text to show"):
        TokenEffects("m0", "loss_diff", [])
    with pytest.raises(FileError, match=r"\.svg, \.png or \.pdf"):
        TokenEffects("m0", "loss_diff", [passage()]).draw(tmp_path / "x.gif")
    lines = TokenEffects("m0", "loss_diff", [passage(("\n",) * 1200)])
    with pytest.raises(DataError, match=r"fill 1200 lines, .* choose some with .subset"):
        lines.draw(tmp_path / "x.png")
    (tmp_path / "file").touch()
    with pytest.raises(FileError, match="cannot be written"):
        lines.draw(tmp_path / "file" / "x.html")
    assert VOCAB < 256  # every id of the model is a byte


def test_named_positions_are_those_of_the_pairs(bytewise: PreTrainedTokenizerFast) -> None:
    """What reads the other run at one position changes nothing before it."""
    zoo, last = traced("gpt2"), torch.tensor([3, 3])
    pairs = Pairs.from_tensors(
        {run: {"input_ids": tokens(2, 6, seed)} for seed, run in enumerate(("clean", "corrupt"))},
        positions={"S": last})
    paths = rw.Hypothesis(zoo.parts, {"clean": "~a0.h1@S"})
    effect = token_effects(paths, pairs, bytewise).passages[0].effect
    assert np.allclose(effect[1:4], 0, atol=1e-5) and effect[4:].max() > 1e-3
