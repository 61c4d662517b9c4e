"""Draw the pictures of docs/plots.md: python docs/make_plots.py (SmolLM2-135M, two minutes)."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

from transformers import AutoTokenizer

import rewrite as rw
from rewrite.demo import ioi_pairs
from rewrite.run import token_effects
from rewrite.trace.packaged import folder

IMAGES = Path(__file__).parent / "images"
TEXT = ("Dr. Elena Vasquez-Ortiz opened the letter from Brentwood Harbour.\n\nInside was a map. "
        "Dr. Elena Vasquez-Ortiz had waited years for news from Brentwood Harbour.")
DRAWS = 8


def draws(clean: Sequence[str], corrupt: Sequence[str], count: int, each: int) -> tuple[
        list[str], list[str]]:
    """`count` reference prompts, each with `each` counterfactuals drawn from all others."""
    draw = random.Random(0)
    chosen = draw.sample(sorted(set(clean)), count)
    left = [text for text in chosen for _ in range(each)]
    return left, [other for _ in chosen for other in draw.sample(list(corrupt), each)]


def main() -> None:
    """Write plots_attribution.png and plots_text.png."""
    words = AutoTokenizer.from_pretrained(folder("smollm2-135m"))
    parts = rw.trace("smollm2-135m").components()

    some = ioi_pairs(words)
    longest = max(some.batches(len(some)), key=len).index.tolist()  # prompts of one length
    same = some.subset(longest)
    groups = {text: i for i, text in enumerate(same.texts["clean"])}
    left, right = draws(same.texts["clean"], same.texts["corrupt"], 12, DRAWS)
    answers = {name: [same.answers[name][groups[text]] for text in left] for name in same.answers}
    pairs = rw.Pairs.from_text(words, {"clean": left, "corrupt": right}, answers)
    heads = rw.Hypothesis(parts, {"clean": "a*.h* -> logits"}, name="all heads, direct path")
    heads_result = rw.evaluate(heads, pairs, rw.logit_diff())
    print(heads_result, heads_result.attribution(), sep="\n")
    heads_result.draw_attribution(IMAGES / "plots_attribution.png")

    ids = words(TEXT)["input_ids"]
    shuffle = random.Random(0)
    other = [words.decode(shuffle.sample(ids, len(ids))) for _ in range(200)]
    fits = [text for text in other if len(words(text)["input_ids"]) == len(ids)][:DRAWS]
    repeats = rw.Pairs.from_text(words, {"clean": [TEXT] * len(fits), "corrupt": fits})
    late = rw.Hypothesis(parts, {"clean": "~a[15-29].h*"},
                         name="all paths but those through attention of layers 15 to 29")
    effects = token_effects(late, repeats, words)
    effects.draw(IMAGES / "plots_text.png")
    print(effects.table.nlargest(8, "effect"))


if __name__ == "__main__":
    main()
