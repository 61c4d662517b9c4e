"""Train the model of this example on English text out of packages.

    python -m examples.induction.train --out trained

In the first half of training every other sequence says a passage twice, so that induction pays
sooner; the second half is text as it was written.  The learning rate rises, stays until induction
heads have formed and no longer change, or until most steps are done, and falls to zero.
Interrupted training goes on where it was when the same command is typed again.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from jaxtyping import Int
from rich.progress import Progress, TextColumn
from torch import Tensor

from examples.induction.data import (
    batches,
    documents,
    new_tokenizer,
    pieces,
    save_held_out,
    say_twice,
    shuffled,
    stream,
    tokenizer,
)
from examples.induction.model import Shape, Transformer
from examples.induction.scores import Scores, draw, losses, measure
from examples.induction.sources import SOURCES
from rewrite.errors import FileError


@dataclass(frozen=True)
class Recipe:
    """Everything that the result depends on, apart from the text."""

    seed: int = 0
    steps: int = 4000
    batch: int = 8
    shorter: tuple[tuple[int, int], ...] = ((300, 2),)
    rate: float = 2e-3
    matrix_rate: float = 0.02
    warm_up: int = 50
    cool_down: int = 800
    decay: float = 0.01
    every: int = 100
    formed: float = 0.6
    stable: float = 0.03
    patience: int = 8
    measured: int = 64
    repeated_until: int = 2000

    def factor(self, step: int, falls_from: int) -> float:
        """Learning rate at a step, in parts of the highest."""
        return min(1.0, (step + 1) / self.warm_up, 1 - (step - falls_from) / self.cool_down)

    def shortened(self, step: int) -> int:
        """In how many parts the sequences are cut at a step: short ones come first."""
        return next((parts for end, parts in self.shorter if step < end), 1)

    def has_settled(self, history: list[Scores]) -> bool:
        """Whether the best induction head is formed and has been as good for a while."""
        recent = [scores.best for scores in history[-self.patience:]]
        return (len(recent) == self.patience and min(recent) >= self.formed
                and max(recent) - recent[0] <= self.stable)


@dataclass
class State:
    """Training between two steps; all of it goes into a checkpoint."""

    model: Transformer
    optimizers: list[torch.optim.Optimizer]
    draw: torch.Generator
    history: list[Scores]
    step: int
    falls_from: int
    seconds: float

    def save(self, file: Path, recipe: Recipe) -> None:
        """Write a checkpoint; an interruption leaves the one before it."""
        partial = file.with_suffix(".partial")
        torch.save({
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "draw": self.draw.get_state(), "step": self.step, "falls_from": self.falls_from,
            "seconds": self.seconds, "recipe": asdict(recipe),
            "history": [asdict(scores) for scores in self.history]}, partial)
        partial.replace(file)


def fresh(shape: Shape, recipe: Recipe) -> State:
    """A random model before its first step."""
    torch.manual_seed(recipe.seed)
    model = Transformer(shape)
    matrices = [weight for name, weight in model.named_parameters() if "attention" in name]
    others = [weight for name, weight in model.named_parameters() if "attention" not in name]
    optimizers = [
        torch.optim.Muon(matrices, lr=recipe.matrix_rate, weight_decay=recipe.decay),
        torch.optim.AdamW(others, lr=recipe.rate, betas=(0.9, 0.98), weight_decay=recipe.decay),
    ]
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["highest"] = group["lr"]
    return State(model, optimizers, torch.Generator().manual_seed(recipe.seed), [], 0,
                 recipe.steps - recipe.cool_down, 0.0)


def resumed(file: Path, shape: Shape, recipe: Recipe) -> State:
    """The state of a checkpoint.

    Raises `FileError` if it was made by another recipe.
    """
    saved: dict[str, Any] = torch.load(file)
    if saved["recipe"] != asdict(recipe):
        changed = [name for name, value in asdict(recipe).items() if saved["recipe"][name] != value]
        raise FileError(f"{file} was made with another {', '.join(changed)}; type the same options "
                        "again, or another --out")
    state = fresh(shape, recipe)
    state.model.load_state_dict(saved["model"])
    for optimizer, kept in zip(state.optimizers, saved["optimizers"], strict=True):
        optimizer.load_state_dict(kept)
    state.draw.set_state(saved["draw"])
    state.history = [Scores(**scores) for scores in saved["history"]]
    state.step, state.falls_from, state.seconds = (
        saved["step"], saved["falls_from"], saved["seconds"])
    return state


def train(
    state: State, recipe: Recipe, tokens: Int[Tensor, " tokens"],
    held: Int[Tensor, "sequences length"], checkpoint: Path,
) -> Iterator[State]:
    """Train until induction has settled and the learning rate is zero; yields after each step."""
    if not state.history:
        state.history.append(measure(state.model, held))
    while state.step < min(recipe.steps, state.falls_from + recipe.cool_down):
        start = time.perf_counter()
        factor = recipe.factor(state.step, state.falls_from)
        for group in (group for one in state.optimizers for group in one.param_groups):
            group["lr"] = group["highest"] * factor
        parts = recipe.shortened(state.step)
        length = state.model.shape.context // parts + 1
        taken = batches(tokens, recipe.batch * parts, length, state.draw)
        if state.step < recipe.repeated_until:
            say_twice(taken[::2], state.draw)
        with torch.autocast("cpu", torch.bfloat16):
            loss = losses(state.model, taken).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(state.model.parameters(), 1.0)
        for optimizer in state.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        state.step += 1
        if state.step % recipe.every == 0:
            state.history.append(measure(state.model, held, state.step))
            if state.step < state.falls_from and recipe.has_settled(state.history):
                state.falls_from = state.step
        state.seconds += time.perf_counter() - start
        if state.step % recipe.every == 0:
            state.save(checkpoint, recipe)
        yield state


def recipe(**options: Any) -> Recipe:
    """A recipe with some fields changed; the fall takes at most a fifth of all steps."""
    made = Recipe(**options)
    return replace(made, cool_down=min(made.cool_down, max(1, made.steps // 5)))


def texts(file: Path | None) -> tuple[list[str], list[str]]:
    """Documents to train on and documents held out, of a file or of the packages."""
    if file is None:
        return documents(False, progress=typer.echo), documents(True, progress=typer.echo)
    if not file.is_file():
        raise FileError(f"there is no text file {file}")
    found = [part.strip() for part in file.read_text().split("\n\n") if part.strip()]
    return [part for i, part in enumerate(found) if i % 10], found[::10]


def prepared(
    file: Path | None, out: Path, shape: Shape, recipe: Recipe
) -> tuple[Int[Tensor, " tokens"], Int[Tensor, "sequences length"]]:
    """Tokens to train on, and held-out sequences to measure on; makes the vocabulary first."""
    shown, hidden = texts(file)
    vocabulary = out / "tokenizer.json"
    if not vocabulary.is_file():
        new_tokenizer(shown, shape.vocabulary).save(str(vocabulary))
    made = tokenizer(vocabulary)
    tokens, held = stream(shown, made), pieces(hidden, made, shape.context + 1)
    if not len(held) or len(tokens) <= shape.context:
        raise FileError(f"too little text for sequences of {shape.context} tokens: {len(tokens)} "
                        f"tokens to train on and {len(held)} held-out sequences")
    return tokens, shuffled(held)[:recipe.measured].long()


def report(state: State, recipe: Recipe, tokens: int, file: Path | None) -> dict[str, Any]:
    """What `scores.json` holds."""
    packages = {name: {"package": source.package, "version": source.version,
                       "index": source.index, "sha256": source.sha256}
                for name, source in SOURCES.items()}
    return {
        "recipe": asdict(recipe), "shape": asdict(state.model.shape),
        "steps": state.step, "falls_from": state.falls_from, "seconds": round(state.seconds),
        "tokens_seen": state.step * recipe.batch * state.model.shape.context,
        "tokens_of_text": tokens,
        "text": packages if file is None else str(file),
        "versions": {name: version(name) for name in ("torch", "tokenizers")},
        "final": asdict(state.history[-1]), "history": [asdict(s) for s in state.history],
    }


def rounded(value: Any) -> Any:
    """Numbers with four digits, which is more than they mean."""
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [rounded(item) for item in value]
    return round(value, 4) if isinstance(value, float) else value


app = typer.Typer(add_completion=False)


@app.command()
def main(
    out: Annotated[Path, typer.Option(help="folder for what is made")] = Path("trained"),
    seed: int = 0, steps: int = Recipe.steps, batch: int = Recipe.batch, rate: float = Recipe.rate,
    every: Annotated[int, typer.Option(help="steps between two measurements")] = Recipe.every,
    text: Annotated[Path | None, typer.Option(help="a file instead of the packages")] = None,
    vocabulary: int = Shape.vocabulary, context: int = Shape.context,
    threads: int = 1,
) -> None:
    """Train, and write model.safetensors, tokenizer.json, scores.json and scores.png."""
    torch.set_num_threads(threads)
    out.mkdir(parents=True, exist_ok=True)
    shape = Shape(vocabulary, context)
    chosen = recipe(seed=seed, steps=steps, batch=batch, rate=rate, every=every)
    tokens, held = prepared(text, out, shape, chosen)
    checkpoint = out / "checkpoint.pt"
    state = resumed(checkpoint, shape, chosen) if checkpoint.is_file() else fresh(shape, chosen)
    with Progress(*Progress.get_default_columns(), TextColumn("{task.fields[at]}")) as progress:
        task = progress.add_task("training", total=steps, completed=state.step, at="")
        for _ in train(state, chosen, tokens, held, checkpoint):
            last = state.history[-1]
            progress.update(task, completed=state.step, at=(
                f"loss {last.loss:.3f}  again {last.second_half:.2f}  induction {last.best:.2f}"))
    state.model.save(out / "model.safetensors")
    made = rounded(report(state, chosen, len(tokens), text))
    (out / "scores.json").write_text(json.dumps(made) + "\n")
    draw(state.history, out / "scores.png", chosen.repeated_until)
    if text is None:
        save_held_out(out / "held_out.safetensors", tokenizer(out / "tokenizer.json"))


if __name__ == "__main__":
    app()
