"""Sweeps over edges and nodes: the numbers of single hypotheses, within a budget, resumable."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import ttest_1samp
from torch.utils._python_dispatch import TorchDispatchMode

import rewrite as rw
from rewrite.errors import DataError, FileError, PathError, UnknownName
from rewrite.expand import Expansion, Hypothesis
from rewrite.ir.dag import Dag, Join, Part, Port, Source
from rewrite.measure.stats import aue, means
from rewrite.run import pieces
from rewrite.run.budget import as_bytes, free
from rewrite.run.evaluate import latest
from rewrite.run.execute import run_over
from rewrite.run.places import edges_asked
from rewrite.run.view import View
from tests.symbolic.counting import peak
from tests.zoo import VOCAB, tiny, tokens, traced

CPU = torch.device("cpu")


def pairs_of(count: int = 5, length: int = 6) -> rw.Pairs:
    runs = {run: {"input_ids": tokens(count, length, seed)}
            for seed, run in enumerate(("clean", "corrupt"), start=1)}
    correct = torch.arange(count) + 7
    return rw.Pairs.from_tensors(runs, {"correct": correct, "wrong": (correct + 1) % VOCAB})


PAIRS = pairs_of()
OPTIONS: dict[str, Any] = {"pairs": PAIRS, "metric": rw.logit_diff()}


def parts_of(family: str) -> rw.Components:
    return traced(family, torch.float64).parts


def same(found: pd.DataFrame, wanted: pd.DataFrame) -> bool:
    numbers = ["effect", "low", "high", "change"]
    names = ["sender", "receiver", "paths"]
    return found[names].equals(wanted[names]) and np.allclose(
        found[numbers], wanted[numbers], rtol=1e-10, atol=1e-10)


# what is patched


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_each_edge_is_a_hypothesis_of_its_own(family: str) -> None:
    parts = parts_of(family)
    found = rw.sweep(parts, "*", "*", each=True, **OPTIONS)
    rows = list(zip(found.table["sender"], found.table["receiver"], strict=True))
    assert rows == list(parts.edges)
    for row in found.table.iloc[::9].itertuples():
        alone = rw.evaluate(
            Hypothesis(parts, {"corrupt": f"{row.sender} -> {row.receiver}"}, "clean"), **OPTIONS)
        change = np.mean(np.asarray(alone.scores) - np.asarray(alone.reference_scores))
        for ours, theirs in ((row.effect, alone.aue.value), (row.low, alone.aue.low),
                             (row.high, alone.aue.high), (row.change, change)):
            assert ours == pytest.approx(theirs, rel=1e-10, abs=1e-10)


def test_edges_that_match() -> None:
    parts = parts_of("llama")
    found = rw.sweep(parts, "a0.h[0-1] | m0", "a1.h*.{q,k} | logits", each=True, **OPTIONS)
    rows = set(zip(found.table["sender"], found.table["receiver"], strict=True))
    assert rows == {(a, b) for a, b in parts.edges if a in ("a0.h0", "a0.h1", "m0") and (
        b == "logits" or (b[:2] == "a1" and b[-1] in "qk"))}
    assert len(rows) == 3 * 9
    grid = found.grid()
    assert grid.shape == (3, 9) and list(grid.index) == ["a0.h0", "a0.h1", "m0"]
    assert found.top(1)[0] in {f"{a} -> {b}" for a, b in rows}
    assert math.isnan(rw.sweep(parts, "m*", "m1 | logits", each=True, **OPTIONS)
                      .grid().loc["m1", "m1"]), "there is no such edge"


def test_nodes_are_all_paths_through_them() -> None:
    parts = parts_of("gpt2")
    found = rw.sweep(parts, "*", None, **OPTIONS)
    assert list(found.table["sender"]) == list(parts.names)
    for name in ("a0.h1", "m1", "tokens"):
        row = found.table.set_index("sender").loc[name]
        alone = rw.evaluate(Hypothesis(parts, {"corrupt": name}, "clean"), **OPTIONS)
        assert row["effect"] == pytest.approx(alone.aue.value, rel=1e-10)
    assert found.grid().shape == (2, 4)


def test_rows_are_what_names_mean(tmp_path: Path) -> None:
    parts = parts_of("llama")
    found = rw.sweep(parts, "a0.h*.{q,k} | a1.kv*.v@[-1] | a0.h[0-1].q | a0 | m1", None, **OPTIONS)
    senders = list(found.table["sender"])
    assert senders[:3] == ["a0.h0.q", "a0", "a0.h0.k"] and senders.count("a0.h0.q") == 1
    assert senders[-3:] == ["a1.kv0.v@[-1]", "a1.kv1.v@[-1]", "m1"]
    grid = found.grid()
    assert list(grid.index) == ["a0.q", "a0.k", "a1.kv.v@[-1]"] and list(grid) == [0, 1, 2, 3]
    assert grid.loc["a0.k", 2] == found.table.set_index("sender")["effect"]["a0.h2.k"]
    assert math.isnan(grid.loc["a1.kv.v@[-1]", 2]), "there are two"
    assert found.top(20) and rw.paths(" | ".join(found.top(20)))
    assert found.draw(tmp_path / "g.png").stat().st_size > 1000
    heads = rw.sweep(parts, "a0.h[0-1].v@[0]", "a1.h*", each=True, **OPTIONS)
    assert len(heads.table) == 8 and heads.grid().shape == (2, 4)
    assert heads.top(1)[0] in set(heads.table["paths"])
    assert rw.load(rw.save(heads, tmp_path / "s.json")).table.equals(heads.table)


def test_names_that_begin_alike_are_not_mistaken() -> None:
    """An edge whose names mean other edges too is refused, not patched with them."""
    dag = Dag((Source("x"), Part("m", (Port("m", "x"),)), Part("m.e", (Port("m.e", "x"),)),
               Join("r", ("m", "m.e")), Part("y", (Port("y", "r"),))), ("y",))

    parts: Any = SimpleNamespace(dag=dag, edges=dag.edges, names=dag.symbols)
    with pytest.raises(PathError, match=r"m -> y cannot be told from m\.e -> y"):
        edges_asked(parts, "*", "y")
    assert [str(a.paths) for a in edges_asked(parts, "m", "y")] == ["m -> y"], "m means both"
    assert [a.sender for a in edges_asked(parts, "m.e", "y")] == ["m.e"]


def test_intervals_are_those_of_single_results() -> None:
    effects = np.random.default_rng(0).normal(size=(4, 9))
    for row, (value, low, high) in zip(effects, means(effects), strict=True):
        one = aue(row)
        assert (value, low, high) == pytest.approx((one.value, one.low, one.high), rel=1e-12)
    assert np.isnan(means(effects[:, :1])[:, 1:]).all()


def test_discoveries_are_few_where_nothing_is_changed(tmp_path: Path) -> None:
    """Of 200 rows of noise and 20 of signal, nearly all that is found is signal; by hand."""
    rng = np.random.default_rng(0)
    changes = np.concatenate([rng.normal(0, 1, (200, 30)), rng.normal(1.5, 1, (20, 30))])
    p = np.array([ttest_1samp(row, 0)[1] for row in changes])
    table = pd.DataFrame({
        "sender": [f"a{i // 11}.h{i % 11}" for i in range(220)], "receiver": "logits",
        "effect": 0.0, "low": 0.0, "high": 0.0, "change": changes.mean(1), "p": p, "paths": ""})
    found = rw.Sweep(table, "logits", "logit_diff", 30)
    order = np.sort(p)  # Benjamini and Hochberg, by their definition
    last = max(i for i in range(220) if order[i] <= 0.05 * (i + 1) / 220)
    sure = found.discoveries()
    assert len(sure) == last + 1 and 20 <= len(sure) <= 24 < (p < 0.05).sum()
    assert set(range(200, 220)) <= set(sure.index)
    assert len(found.discoveries(method="by")) <= len(sure)
    dots = found.draw(tmp_path / "dots.svg").read_text()
    assert dots.count("fill: #737373") == 220 - len(sure)
    bare = replace(found, table=table.drop(columns="p"))
    assert "fill: #737373" not in bare.draw(tmp_path / "bare.svg").read_text()
    with pytest.raises(DataError, match="0 < rate < 1 and 'bh' or 'by', found 5"):
        found.discoveries(5)
    with pytest.raises(UnknownName, match="no column of numbers 'p'"):
        bare.top(3, "p")


def test_discoveries_need_a_sign_and_examples() -> None:
    parts = parts_of("gpt2")
    unsigned = rw.sweep(parts, pairs=pairs_of(), metric="kl_divergence")
    with pytest.raises(DataError, match="kl_divergence has no score that rises and falls"):
        unsigned.discoveries()
    with pytest.raises(DataError, match="give two examples at least"):
        rw.sweep(parts, pairs=pairs_of(1), metric="logit_diff").discoveries()
    assert str(unsigned).endswith("note: too few examples for a sure interval: 5, of 20 at least")


@pytest.mark.parametrize("columns", ["change", "effect"])
def test_the_heatmap_of_edges(columns: str, tmp_path: Path) -> None:
    found = rw.sweep(parts_of("gpt2"), "*", "m* | a1.h0 | logits", each=True, **OPTIONS)
    assert found.draw(tmp_path / "e.png", columns).read_bytes().startswith(b"\x89PNG")


# memory


class Kernels(TorchDispatchMode):
    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


def test_kernels_do_not_grow_with_the_rows_of_a_piece() -> None:
    """Metric included: more sets of the same edges are the same calls."""
    parts, counts = parts_of("gpt2"), []
    edges = [f"{a} -> {b}" for a, b in parts.edges if a[:4] == "a0.h" and b in ("m1", "a1.h2.q")]
    unions = [f"{a} | {b}" for a, b in combinations(edges, 2)]
    for asked in (edges, [*edges, *unions]):
        made = [Hypothesis(parts, {"corrupt": text}, "clean") for text in ("~(...)", *asked)]
        view = View.of(parts, PAIRS, rw.logit_diff())
        expansion = rw.expand(made, last=view.last, columns=view.columns)
        _ = expansion.together
        counted = Kernels()
        with counted:
            run_over(expansion, PAIRS, rw.logit_diff(), view, 32)
        counts.append(counted.count)
    assert len(unions) == 28 and counts[1] <= counts[0]


@pytest.mark.parametrize(("family", "dtype"), [
    ("gpt2", torch.float32), ("llama", torch.float32), ("llama", torch.bfloat16)])
def test_memory_is_predicted(family: str, dtype: torch.dtype) -> None:
    parts = traced(family, dtype).parts
    pairs = pairs_of(32, 24)
    made = [Hypothesis(parts, {"corrupt": f"{a} -> {b}"}, "clean") for a, b in parts.edges[::2]]
    expansion = rw.expand(made, last=True, columns=(1, 2, 3))
    plan = pieces.Pieces(made[:1], pairs, rw.logit_diff())
    (batch,) = pairs.batches(32)
    arguments = expansion.arguments({run: batch.inputs[run] for run in expansion.runs})
    module = expansion.together
    with torch.no_grad():
        measured = peak(lambda: module(*arguments))
    assert measured > 1e6 * dtype.itemsize
    assert plan.predict(expansion) == pytest.approx(measured, rel=0.25)


@pytest.fixture
def sizes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many hypotheses each piece has that is run, the reference included."""
    seen: list[int] = []

    def watched(expansion: Expansion, *args: Any) -> Any:
        seen.append(len(expansion.hypotheses))
        return run_over(expansion, *args)

    monkeypatch.setattr(pieces, "run_over", watched)
    return seen


def test_pieces_stay_below_the_budget(sizes: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    parts, needs = parts_of("gpt2"), []
    whole = rw.sweep(parts, "a0.h*", "*", each=True, **OPTIONS)
    count = len(sizes)
    ask = pieces.Pieces.predict

    def watched(plan: pieces.Pieces, expansion: Expansion, *size: int) -> int:
        needs.append(ask(plan, expansion, *size))
        return needs[-1]

    def run(expansion: Expansion, *args: Any) -> Any:
        assert needs[-1] <= 1_000_000
        sizes.append(len(expansion.hypotheses))
        return run_over(expansion, *args)

    monkeypatch.setattr(pieces.Pieces, "predict", watched)
    monkeypatch.setattr(pieces, "run_over", run)
    found = rw.sweep(parts, "a0.h*", "*", each=True, budget="1 MB", **OPTIONS)
    assert len(sizes) - count > 1 and max(needs) > 1_000_000
    assert same(found.table, whole.table) and not found.notes


def test_a_tiny_budget_is_refused_by_the_smallest_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    """To predict what all rows need takes half a minute on a model of 135 million weights."""
    asked, ask = [], pieces.Pieces.predict

    def watched(plan: pieces.Pieces, expansion: Expansion, *size: int) -> int:
        asked.append((len(expansion.hypotheses), *size))
        return ask(plan, expansion, *size)

    monkeypatch.setattr(pieces.Pieces, "predict", watched)
    for budget in (1, "1 kB", "10 kB"):
        with pytest.raises(DataError, match=r"one hypothesis on one example needs .* kB"):
            rw.sweep(parts_of("gpt2"), "*", "*", each=True, budget=budget, **OPTIONS)
    assert asked == [(2, 1)] * 3, "the reference and one row, on one example"


def test_batches_are_cut_if_one_hypothesis_is_too_much() -> None:
    told: list[str] = []
    found = rw.sweep(parts_of("gpt2"), "a0.h1", "m1", budget=100_000, say=told.append, **OPTIONS)
    whole = rw.sweep(parts_of("gpt2"), "a0.h1", "m1", **OPTIONS)
    assert same(found.table, whole.table)
    assert told == list(found.notes) and "went on with" in told[0] and "examples" in told[0]
    with pytest.raises(DataError, match=r"one hypothesis on one example needs .* kB"):
        rw.sweep(parts_of("gpt2"), "a0.h1", "m1", budget="1 kB", **OPTIONS)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"),
                                   RuntimeError("DefaultCPUAllocator: can't allocate memory")])
def test_out_of_memory_halves_the_piece(
    error: RuntimeError, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts, left = parts_of("gpt2"), [error]
    whole = rw.sweep(parts, "a0.h*", "m* | logits", each=True, **OPTIONS)

    def failing(*args: Any) -> Any:
        if left:
            raise left.pop()
        return run_over(*args)

    monkeypatch.setattr(pieces, "run_over", failing)
    told: list[str] = []
    found = rw.sweep(parts, "a0.h*", "m* | logits", each=True, say=told.append, **OPTIONS)
    assert same(found.table, whole.table)
    assert list(found.notes) == told == [
        "12 hypotheses at once ran out of memory: went on with 6"]
    assert told[0] in str(found) and rw.Sweep.from_dict(found.to_dict()).notes == found.notes
    left.append(error)
    result = rw.evaluate(Hypothesis(parts, {"corrupt": "m0"}, "clean"), **OPTIONS)
    assert "ran out of memory" in result.notes[0]


def test_other_errors_and_hopeless_ones_are_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*args: Any) -> Any:
        raise RuntimeError(words)

    monkeypatch.setattr(pieces, "run_over", failing)
    for words, kind in (("another error", RuntimeError), ("out of memory", DataError)):
        with pytest.raises(kind, match=words):
            rw.sweep(parts_of("gpt2"), "a0.h*", "m1", **OPTIONS)


def test_budgets() -> None:
    assert as_bytes("2GB", CPU) == 2 * 10**9 and as_bytes("1.5 MiB", CPU) == 3 * 2**19
    assert as_bytes(17, CPU) == 17 and as_bytes("2gb", CPU) == 2 * 10**9
    assert 0 < as_bytes(None, CPU) <= free(CPU)
    for wrong in ("much", "2 XB", 0, -1, "1.2.3", ""):
        with pytest.raises(DataError, match="a budget is"):
            as_bytes(wrong, CPU)


# files


class Stop(KeyboardInterrupt):
    """What the border lets through."""


def test_an_interrupted_sweep_goes_on(tmp_path: Path, sizes: list[int]) -> None:
    parts, file = parts_of("gpt2"), tmp_path / "new" / "sweep.jsonl"
    call: dict[str, Any] = {"each": True, "chunk": 20, **OPTIONS}
    whole = rw.sweep(parts, "*", "*", **call)
    pieces_of_whole = len(sizes)

    def stop(done: int, total: int) -> None:
        if done > total / 2:
            raise Stop

    with pytest.raises(Stop):
        rw.sweep(parts, "*", "*", file=file, progress=stop, **call)
    kept = file.read_text().splitlines()
    assert 20 < len(kept) < len(parts.edges) and json.loads(kept[0])["rows"] == len(parts.edges)
    file.write_text(file.read_text() + '{"sender": "a0')  # the power failed here
    sizes.clear()
    told: list[int] = []
    found = rw.sweep(parts, "*", "*", file=file, progress=lambda a, b: told.append(a), **call)
    assert same(found.table, whole.table) and 0 < len(sizes) < pieces_of_whole
    assert told[0] > told[-1] / 2, "what was done counts"
    sizes.clear()
    assert same(rw.sweep(parts, "*", "*", file=file, **call).table, whole.table) and not sizes


def test_rows_without_a_score_are_kept(tmp_path: Path) -> None:
    call: dict[str, Any] = {"pairs": PAIRS, "metric": "kl_divergence", "file": tmp_path / "s.jsonl"}
    first = rw.sweep(parts_of("gpt2"), "a1.h*", **call)
    again = rw.sweep(parts_of("gpt2"), "a1.h*", **call)
    assert np.isnan(first.table["change"].to_numpy()).all()
    pd.testing.assert_frame_equal(first.table, again.table)


def test_a_file_of_another_sweep(tmp_path: Path) -> None:
    parts, file = parts_of("gpt2"), tmp_path / "s.jsonl"
    rw.sweep(parts, "a1.h*", file=file, **OPTIONS)
    others: list[tuple[str, dict[str, Any]]] = [
        (r"metric was logit_diff, now kl_divergence", {"metric": "kl_divergence"}),
        (r"senders was a1.h\*, now m\*", {"senders": "m*"}),
        (r"receivers was logits, now m1", {"receivers": "m1", "senders": "a0.h*"}),
        (r"inputs was \w+, now \w+", {"pairs": pairs_of(4)}),
        (r"model was \w+, now \w+", {"parts": rw.trace(tiny("gpt2")).components()}),
        (r"each was False, now True", {"each": True}),
    ]
    for says, change in others:
        call = {"parts": parts, "senders": "a1.h*", "receivers": "logits", **OPTIONS, **change}
        with pytest.raises(FileError, match=says):
            rw.sweep(file=file, **call)
    for text in ("hello\n", '{"kind": "pairs"}\n', "[1]\n", "notes", '{"kind": "pai'):
        file.write_text(text)
        with pytest.raises(FileError, match="is no file of a sweep"):
            rw.sweep(parts, "a1.h*", file=file, **OPTIONS)
        assert file.read_text() == text, "what is no sweep is left alone"
    with pytest.raises(FileError, match=r"cannot (hold|be)"):
        rw.sweep(parts, "a1.h*", file=tmp_path, **OPTIONS)


def test_a_file_of_another_version(tmp_path: Path) -> None:
    parts, file = parts_of("gpt2"), tmp_path / "s.jsonl"
    whole = rw.sweep(parts, "a1.h*", file=file, **OPTIONS)
    text = file.read_text()
    head, row, *rest = text.splitlines()

    def without(line: str, *names: str, **more: Any) -> str:
        return json.dumps({k: v for k, v in json.loads(line).items() if k not in names} | more)

    for lines, says in (
        ([without(head, "positions"), row], "it does not say its positions"),
        ([head, row, without(row, "row")], r"line 3 is no row of a sweep, it has no row\n"),
        ([head, without(row, "low", effect="big")], "effect is 'big', it has no low"),
        ([head, "hello", row], "line 2 is no row of a sweep, it is 'hello'"),
        ([head, "[1, 2]"], r"it is '\[1, 2\]'\nremove the line to have its row measured again"),
    ):
        file.write_text("\n".join([*lines, ""]))
        with pytest.raises(FileError, match=says):
            rw.sweep(parts, "a1.h*", file=file, **OPTIONS)
    file.write_text("\n".join([head, *rest, ""]))
    assert same(rw.sweep(parts, "a1.h*", file=file, **OPTIONS).table, whole.table)
    file.write_text(text[: len(head) // 2])  # the power failed at once
    assert same(rw.sweep(parts, "a1.h*", file=file, **OPTIONS).table, whole.table)


def test_weights_that_changed_are_another_model(tmp_path: Path) -> None:
    model: Any = tiny("gpt2")
    parts = rw.trace(model).components()
    rw.sweep(parts, "a1.h*", file=tmp_path / "s.jsonl", **OPTIONS)
    with torch.no_grad():
        model.transformer.h[0].mlp.c_fc.weight[3, 4] += 1e-3
    with pytest.raises(FileError, match="model was"):
        rw.sweep(parts, "a1.h*", file=tmp_path / "s.jsonl", **OPTIONS)


# many hypotheses


def test_many_hypotheses_are_evaluated_in_pieces(sizes: list[int]) -> None:
    parts = parts_of("gpt2")
    made = [Hypothesis(parts, {"corrupt": f"{a} -> {b}"}, "clean") for a, b in parts.edges[::6]]
    mixed = made[::2] + made[1::2][::-1]
    whole = rw.evaluate(mixed, **OPTIONS)
    sizes.clear()
    for found, wanted in zip(rw.evaluate(mixed, chunk=4, **OPTIONS), whole, strict=True):
        assert found.hypothesis == wanted.hypothesis
        np.testing.assert_allclose(found.effects, wanted.effects, rtol=1e-10, atol=1e-10)
    assert max(sizes) == 6 and len(sizes) == -(-len(made) // 4)
    assert sorted(mixed, key=latest) == sorted(made, key=latest)
    where = {symbol: i for i, symbol in enumerate(parts.dag.symbols)}
    readers = [where[h.describe().split(" -> ")[1]] for h in sorted(mixed, key=latest)]
    assert readers == sorted(readers)


def test_bad_input() -> None:
    parts = parts_of("gpt2")
    with pytest.raises(PathError, match="each edge by itself ends at a receiver"):
        rw.sweep(parts, "a0.h*", "m1 -> logits", each=True, **OPTIONS)
    with pytest.raises(UnknownName, match="no receiver is called 'm7'"):
        rw.sweep(parts, "a0.h*", "m7", each=True, **OPTIONS)
    with pytest.raises(PathError, match="no edge goes from"):
        rw.sweep(parts, "a1.h*", "m0", each=True, **OPTIONS)
    with pytest.raises(PathError, match=r"a sender is a name, .* found .a0 -> m0."):
        rw.sweep(parts, "a0 -> m0", None, **OPTIONS)
    with pytest.raises(DataError, match="chunk must be at least 1"):
        rw.sweep(parts, "a0.h*", chunk=0, **OPTIONS)
    with pytest.raises(DataError, match="reads a run 'corupt'"):
        rw.sweep(parts, "a0.h*", patch="corupt", **OPTIONS)
