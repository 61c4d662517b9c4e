"""Commands.  Each does what the Python functions of the same name do."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from transformers.utils import logging as transformers_logging

from rewrite.cli import rules as rule_commands
from rewrite.cli import show
from rewrite.cli.plots import write_plots
from rewrite.cli.sized import axes_said, trace_sized
from rewrite.draw import draw as draw_to
from rewrite.errors import FileError, RuleError
from rewrite.expand import expand
from rewrite.files import load, read_experiment, save
from rewrite.ir.graph import Graph
from rewrite.measure import Metric, Pairs, draw_ladder, ladder_table
from rewrite.report import structure
from rewrite.run import Sweep, evaluate
from rewrite.run import sweep as sweep_over
from rewrite.trace import trace as trace_model
from rewrite.trace.axes import Dynamic

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
                  help="Path patching for any PyTorch model.")

Model = Annotated[str, typer.Argument(
    help="A folder in Hugging Face format, a .gguf file, a hub name, smollm2-135m, or the "
         "config.json of a model whose weights are not needed.")]
Out = Annotated[Path | None, typer.Option("--out", "-o", help="File or folder to write.")]


@app.callback()
def main() -> None:
    """Path patching for any PyTorch model."""
    transformers_logging.disable_progress_bar()


@app.command()
def trace(
    model: Model,
    out: Out = None,
    parts: Annotated[bool, typer.Option(help="Cut it into components.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
    length: Annotated[int | None, typer.Option(
        min=1, help="Trace with sequences of this length, which some models keep.")] = None,
    batch: Annotated[int | None, typer.Option(
        min=1, help="Trace with this many rows.")] = None,
    dynamic: Annotated[list[str] | None, typer.Option(
        help="An axis that varies, and its name: input_ids.0=batch. Repeat it; all others are "
             "fixed. none fixes all. Guessed if it is left out.")] = None,
) -> None:
    """Trace a model and print its structure report; --out FILE.graph saves it, .pt2 exports it."""
    with show.errors():
        on = show.beside if as_json else show.console
        graph = _trace(model, axes_said(dynamic), on, length, batch)
        report = structure(graph, parts=parts)
        if as_json:
            typer.echo(report.to_json())
        else:
            show.structure(report)
        if out is not None:
            wrote = graph.export(out) if out.suffix == ".pt2" else save(graph, out)
            show.say(f"wrote {wrote}", on)


@app.command()
def draw(
    what: Annotated[str, typer.Argument(help="A model, or a hypothesis file (.toml).")],
    out: Annotated[Path, typer.Option("--out", "-o")] = Path("graph.svg"),
    ops: Annotated[bool, typer.Option(help="Draw the op graph, not the components.")] = False,
    number: Annotated[int, typer.Option(help="Which hypothesis of the file.")] = 1,
) -> None:
    """Draw a model's components, its op graph, or an expanded hypothesis (.svg .png .pdf .dot)."""
    with show.errors():
        if what.endswith(".toml"):
            experiment = read_experiment(what)
            if experiment.model is None:
                raise FileError(f"{what} does not name its model, so it cannot be traced")
            if not 1 <= number <= len(experiment.hypotheses):
                raise FileError(f"{what} holds {len(experiment.hypotheses)} hypotheses, there is "
                                f"no number {number}")
            hypotheses = experiment.build(
                _trace(experiment.model, experiment.dynamic).components())
            thing = expand(hypotheses[number - 1])
        else:
            graph = _trace(what)
            thing = graph if ops else graph.components()
        show.say(f"wrote {draw_to(thing, out)}")


@app.command()
def test(
    hypothesis: Annotated[Path, typer.Argument(help="An experiment file (.toml).")],
    out: Out = None,
    plots: Annotated[Path | None, typer.Option(
        help="Folder for pictures of examples, of signed changes and of coloured texts.")] = None,
    batch_size: int = 32,
) -> None:
    """Test the hypotheses of a file on its pairs: AUE, ATE, proportion explained."""
    with show.errors():
        experiment = read_experiment(hypothesis)
        for name in ("model", "pairs", "metric"):
            if getattr(experiment, name) is None:
                raise FileError(f"{hypothesis} does not say which {name} to test with: save it "
                                "with rw.save(hypothesis, path, pairs=pairs, metric=metric)")
        assert experiment.model and experiment.pairs and experiment.metric
        graph = _trace(experiment.model, experiment.dynamic)
        show.say(f"certificate: {graph.certificate}")
        hypotheses = experiment.build(graph.components())
        with show.steps() as step:
            results = evaluate(hypotheses, experiment.pairs, experiment.metric,
                               batch_size=batch_size, say=show.say, progress=step("testing"))
        show.ladder(ladder_table(results), f"{experiment.metric}, n = {len(experiment.pairs)}")
        if out is not None:
            save(results, out / "results.json")
            draw_ladder(results, out / "ladder.svg")
            show.say(f"wrote {out / 'results.json'} and {out / 'ladder.svg'}")
        if plots is not None:
            for path in write_plots(plots, results, hypotheses, experiment.pairs,
                                    experiment.metric, experiment.model):
                show.say(f"wrote {path}")


@app.command()
def sweep(
    what: Annotated[str, typer.Argument(
        help="An experiment file (.toml) that names model, pairs and metric, or a model.")],
    senders: Annotated[str, typer.Option(help="Names with globs, joined by |.")] = "a*.h*",
    receivers: Annotated[str, typer.Option(
        help='Names or patterns, joined by |; "" patches all paths through each sender.'
    )] = "logits",
    each: Annotated[bool, typer.Option("--each", help="Every edge by itself.")] = False,
    pairs: Annotated[Path | None, typer.Option(help="Pairs to use (.json), for a model.")] = None,
    metric: Annotated[str | None, typer.Option(help="Metric to use.")] = None,
    batch_size: Annotated[int, typer.Option(min=1)] = 32,
    chunk: Annotated[int, typer.Option(min=1, help="The most rows at once.")] = 300,
    budget: Annotated[str | None, typer.Option(
        help="Memory that may be used, such as 2GB; half of what is free by default.")] = None,
    file: Annotated[Path | None, typer.Option(
        help="Write rows here as they are found, and go on from here.")] = None,
    backend: Annotated[str, typer.Option(help="local, or ray: many processes.")] = "local",
    workers: Annotated[int | None, typer.Option(
        help="How many processes of Ray; one for each processor by default.")] = None,
    address: Annotated[str | None, typer.Option(
        help="A cluster of Ray: auto, ray://host:10001.")] = None,
    out: Out = None,
) -> None:
    """Patch the direct edge from each sender to the receivers, one at a time."""
    with show.errors():
        name, dynamic, found, measure = _to_sweep(what, pairs, metric)
        parts = _trace(name, dynamic).components()
        with show.steps() as step:
            result = sweep_over(
                parts, senders, receivers or None, pairs=found, metric=measure, each=each,
                batch_size=batch_size, chunk=chunk, budget=budget, file=file, say=show.say,
                backend=backend, workers=workers, address=address,
                progress=step(f"{senders} -> {receivers}" if receivers else senders))
        largest = result.table.nlargest(20, "effect")
        show.table(largest, f"largest of {len(result.table)}", folds="paths")
        if out is not None:
            show.say(f"wrote {save(result, out)}" if out.suffix == ".json"
                     else f"wrote {result.draw(out, 'effect' if _unsigned(result) else 'change')}")


def _to_sweep(
    what: str, pairs: Path | None, metric: str | None
) -> tuple[str, Dynamic | None, Pairs, Metric | str]:
    """Model, its axes, pairs and metric: of a file, or of the options, which go before."""
    found = read_experiment(what) if what.endswith(".toml") else None
    name = found.model if found else what
    given = load(pairs) if pairs else found and found.pairs
    measure = metric or (found and found.metric)
    if not (name and isinstance(given, Pairs) and measure):
        raise FileError(f"{what} must name model, pairs and metric, or be a model with --pairs "
                        "FILE.json (written by rw.save(pairs, path)) and --metric NAME")
    return name, found.dynamic if found else None, given, measure


def _unsigned(result: Sweep) -> bool:
    """Whether the metric has no score whose change could be drawn."""
    return bool(result.table["change"].isna().any())


@app.command()
def rules(
    names: Annotated[list[str] | None, typer.Argument(help="Names of rules; all if left out.")]
        = None,
    prove: Annotated[bool, typer.Option("--prove", help="Prove each one now.")] = False,
    on: Annotated[str | None, typer.Option(
        "--on", help="A model to apply the named rules to; prints each step.")] = None,
    at: Annotated[str | None, typer.Option("--at", help="Only at nodes of this name (glob).")]
        = None,
    out: Out = None,
) -> None:
    """List the rewrite rules, prove them, or apply some to a model (--out draws the change)."""
    with show.errors():
        found = rule_commands.named(names or ())
        if on is None:
            show.table(rule_commands.listed(found, prove), folds="equation")
            return
        if not names:
            raise RuleError("say which rules to apply: rewrite rules open_attention --on MODEL")
        rule_commands.applied(_trace(on), found, at, out)


@app.command()
def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder.")] = Path("demo-output"),
    model: str = "smollm2-135m",
    heads: Annotated[int, typer.Option(help="How many heads each sweep chooses.")] = 6,
) -> None:
    """Explain indirect object identification in a pretrained model, from end to end."""
    from rewrite.demo import run_demo

    with show.errors(), show.steps() as step:
        report = run_demo(out, model=model, heads=heads, say=show.say, table=show.ladder, step=step)
    show.say(f"open {report}")


def _trace(
    model: str, dynamic: Dynamic | None = None, on: Console = show.console,
    length: int | None = None, batch: int | None = None,
) -> Graph:
    with show.steps(on) as step:
        done = step(f"tracing {model}")
        if length is None and batch is None:
            graph = trace_model(model, dynamic=dynamic)
        else:
            graph = trace_sized(model, length, batch, dynamic)
        done(1, 1)
    return graph
