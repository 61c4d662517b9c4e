"""Where does SmolLM2 know that the next word is a number?

    python examples/pretrained/next_number.py --pairs 32 --out number

"The recipe needs 3 cups of flour and" goes on with a number.  Another number in the prompt should
leave that as it is, two words in the place of the number should not.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from smollm import Setting, any_of, layer_of, start
from torch import Tensor

import rewrite as rw
from rewrite.cli import show
from rewrite.demo.study import sample
from rewrite.measure.outputs import row

PROMPTS = """
The recipe needs {} cups of flour and
He is {} years old and his sister is
She bought {} apples and
The team won {} games and lost
The house has {} bedrooms and
There were {} boys and
The cat has {} kittens and the dog has
The train was {} minutes late and the bus was
The box is {} feet long and
The farm has {} cows and
The class has {} girls and
The recipe calls for {} eggs and
The first bag weighs {} pounds and the second weighs
The shop sold {} shirts and
He ran {} miles on Monday and
The first team scored {} points and the second team scored
Tom has {} pencils and Anna has
The tower is {} meters tall and the bridge is
"""
NUMBERS = (("3", "7"), ("8", "4"))  # in the reference, and the other one
WORDS = "some nice"  # as many tokens as " 3", which is a space and a digit
SPELT = ("one two three four five six seven eight nine ten eleven twelve twenty thirty forty "
         "fifty hundred")
TOP = 12  # heads that the hypotheses name


def number_tokens(tokenizer: Any) -> list[int]:
    """Tokens that begin a number: the lone space, which only digits follow, and number words."""
    spelt = [tokenizer.encode(f" {word}", add_special_tokens=False) for word in SPELT.split()]
    return [tokenizer.convert_tokens_to_ids("Ġ"), *(ids[0] for ids in spelt if len(ids) == 1)]


def number_pairs(tokenizer: Any) -> rw.Pairs:
    """Runs `clean`, `other` (another number) and `corrupt` (words); NUM, UNIT (behind it), END."""
    texts: dict[str, list[str]] = {"clean": [], "other": [], "corrupt": []}
    places: dict[str, list[Any]] = {"NUM": [], "UNIT": [], "END": []}
    for prompt in PROMPTS.strip().splitlines():
        for number, other in NUMBERS:
            for run, text in zip(texts, (number, other, WORDS), strict=True):
                texts[run].append(prompt.format(text))
            ids = tokenizer.encode(texts["clean"][-1], add_special_tokens=False)
            at = tokenizer.convert_ids_to_tokens(ids).index(number)
            for name, place in zip(places, ([at - 1, at], at + 1, len(ids) - 1), strict=True):
                places[name].append(place)
    return rw.Pairs.from_text(tokenizer, texts, positions=places)


AT_END = rw.kl_divergence()  # reads the logits at the last token


def log_mass(tokens: list[int]) -> rw.Metric:
    """|change of the log-probability, in nats, that the next token begins a number|."""
    def score(output: Any, batch: Any) -> Tensor:
        return row(AT_END, output, batch).log_softmax(-1)[:, tokens].logsumexp(-1)

    def effect(reference: Any, hypothesis: Any, batch: Any) -> Tensor:
        return (score(hypothesis, batch) - score(reference, batch)).abs()

    return rw.custom(effect, "log_mass_of_numbers", position=-1, scores=score)


def likely(setting: Setting, pairs: rw.Pairs, metric: rw.Metric, least: float) -> rw.Pairs:
    """The pairs in which the model gives a number more than `least`; says what the runs do."""
    scores = {}
    for default in ("other", "corrupt"):
        nothing = rw.Hypothesis(setting.parts, {"clean": "~(...)"}, default, default)
        result = rw.evaluate(nothing, pairs, metric, progress=setting.step(f"scores, {default}"))
        assert result.scores is not None and result.reference_scores is not None
        scores |= {"clean": result.reference_scores, default: result.scores}
    keep = scores["clean"] > torch.tensor(least).log().item()
    for run, values in scores.items():
        mass = torch.from_numpy(values[keep]).exp()
        show.say(f"P(number) on {run}: mean {mass.mean():.3f}, from {mass.min():.3f} to "
                 f"{mass.max():.3f}, n = {len(mass)} of {len(keep)}")
    return pairs.subset(keep)


def places(setting: Setting, heads: list[str], pairs: rw.Pairs, metric: rw.Metric) -> None:
    """How much each head does by what it writes at each place, and by what it reads there."""
    asked = [f"{head}{end}" for head in heads
             for end in ("", "@NUM", "@UNIT", "@END", ".q", ".v", "@END.v@NUM", "@END.v@UNIT")]
    patched = [rw.Hypothesis(setting.parts, {"corrupt": name}, "clean", name) for name in asked]
    found = rw.evaluate(patched, pairs, metric, progress=setting.step("heads at places"))
    for result in found:
        assert result.scores is not None and result.reference_scores is not None
        change = (result.scores - result.reference_scores).mean()
        show.say(f"  {result.hypothesis:20} {change:+.3f} nats")


def main(
    pairs: Annotated[int, typer.Option(help="How many prompts.")] = 32,
    out: Annotated[Path, typer.Option(help="Where results go.")] = Path("number"),
    swept: Annotated[int, typer.Option(help="How many prompts the sweep takes.")] = 8,
) -> None:
    """Localise by heads, then test paths with positions."""
    with show.errors(), show.steps() as step:
        setting = start(out, step)
        metric = log_mass(number_tokens(setting.tokenizer))
        kept = likely(setting, number_pairs(setting.tokenizer), metric, 0.5)
        kept = kept.subset(slice(0, pairs))
        some = sample(kept, swept, lengths=2)
        nodes = setting.sweep("number_heads", None, some, metric)
        heads = nodes.top(TOP, by="change")
        places(setting, heads[:4], some, metric)
        important = hypotheses(heads, quiet_heads(nodes, heads[:2]))
        setting.ladder("number", {n: {"clean": p} for n, p in important.items()}, kept, metric)
        other = {n: {"other": p} for n, p in important.items()}
        setting.ladder("number_other", other, kept, metric)


def hypotheses(heads: list[str], least: list[str]) -> dict[str, str]:
    """From nothing to everything; `least` are two heads that do least, as a control."""
    first, two, all_of = heads[0], any_of(heads[:2]), any_of(heads)
    count = f"{len(heads)} heads"
    return {
        "nothing": "~(...)",
        first: first,
        f"{first}, values alone": f"{first}.v",
        f"{first}, values from NUM": f"{first}.v@NUM",
        f"{first}, values from NUM to UNIT": f"{first}@UNIT.v@NUM",
        f"{first}, values from NUM to END": f"{first}@END.v@NUM",
        f"two heads: {' and '.join(heads[:2])}": two,
        "all but these two heads": f"~{two}",
        f"two others: {' and '.join(least)}": any_of(least),
        "six heads": any_of(heads[:6]),
        count: all_of,
        f"{count}, writing at END": any_of(heads, "@END"),
        f"{count}, values from NUM to END": any_of(heads, "@END.v@NUM"),
        f"{count}, values from UNIT to END": any_of(heads, "@END.v@UNIT"),
        "all heads, values from NUM to END": "a*.h*@END.v@NUM",
        "all heads, values from UNIT to END": "a*.h*@END.v@UNIT",
        "all heads, values from NUM or UNIT to END": "a*.h*@END.v@NUM | a*.h*@END.v@UNIT",
        "from the tokens at NUM": "tokens@NUM",
    }


def quiet_heads(nodes: rw.Sweep, heads: list[str]) -> list[str]:
    """For each of `heads` the head of its layer with the smallest effect: a control."""
    quiet = nodes.top(len(nodes.table))[::-1]
    return [next(name for name in quiet if layer_of(name) == layer_of(head)) for head in heads]


if __name__ == "__main__":
    typer.run(main)
