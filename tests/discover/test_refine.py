"""The loop: it finds what was planted, holds pairs out, and goes on from its log."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

import rewrite as rw
from rewrite.discover import Refined, at, refine
from rewrite.discover.log import Row
from rewrite.discover.refine import halves
from rewrite.errors import DataError, FileError, InputError, UnknownName
from rewrite.paths import example_paths
from tests.run.test_sweep import pairs_of
from tests.zoo import VOCAB, tokens, traced

pytestmark = pytest.mark.xdist_group("planted")  # one process makes the fixtures

PAIRS = pairs_of(6)
OPTIONS: dict[str, Any] = {"by": "gain", "tolerance": 0.005, "candidates": ["extend", "swap"]}


def nothing() -> rw.Hypothesis:
    return rw.Hypothesis(traced("gpt2", torch.float64).parts, {"clean": "~(...)"})


@pytest.fixture(scope="module")
def log() -> Refined:
    return refine(nothing(), PAIRS, "logit_diff", steps=2, goal=1.0, **OPTIONS)


def test_the_planted_path_is_found(planted: rw.Components, differ: rw.Pairs) -> None:
    start = rw.Hypothesis(planted, {"clean": "~(...)"})
    log = refine(start, differ, "logit_diff", goal=0.99)
    (path,) = log.hypothesis.path_sets.values()
    assert rw.count_paths(path, planted.dag) == 1 == log.rows[-1].paths
    assert example_paths(path, planted.dag) == [("tokens", "embed", "a1.h2.v", "logits")]
    assert log.stopped == "the goal is reached"
    first, *rest = log.rows[1:]
    assert (first.kind, first.change) == ("extend", "a1.h2 -> logits") and first.tried == 11
    assert {row.kind for row in rest} <= {"drop", "restrict"}
    assert log.rows[-1].explained.value == pytest.approx(1, abs=1e-9)
    assert log.rows[-1].held_out is not None
    assert log.rows[-1].held_out.value == pytest.approx(1, abs=1e-9)


def test_what_is_not_needed_at_the_start_is_dropped(
    planted: rw.Components, differ: rw.Pairs
) -> None:
    start = rw.Hypothesis(planted, {"clean": "m0 | a1.h2 -> logits | a0.h1 -> logits"})
    log = refine(start, differ, "logit_diff", candidates=["extend"])
    assert {row.kind for row in log.rows[1:]} == {"drop"} and log.rows[-1].step == 0
    assert str(log.hypothesis.runs["clean"]) == "a1.h2.v -> logits"


@pytest.fixture(scope="module")
def placed() -> rw.Pairs:
    """Prompts that differ at one token, elsewhere in each, which is called S; T is the next one."""
    at = torch.tensor([0, 1, 2, 3, 0, 1, 2, 3])
    clean, corrupt = tokens(8, 6, 1), tokens(8, 6, 1)
    corrupt[torch.arange(8), at] = (clean[torch.arange(8), at] + 1) % VOCAB
    return rw.Pairs.from_tensors({"clean": {"input_ids": clean}, "corrupt": {"input_ids": corrupt}},
                                 positions={"S": at, "T": at + 1})


def test_the_named_place_of_the_difference_is_found(
    planted: rw.Components, placed: rw.Pairs, tmp_path: Path
) -> None:
    start = rw.Hypothesis(planted, {"clean": "a1.h2.v -> logits@[-1]"})
    places = at("S", "T")
    tried = rw.refinements(start, placed, "kl_divergence", candidates=[places])
    assert {row.change.what: round(row.explained.value, 9) for row in tried.rows} == {
        "a1.h2.v@S": 1, "a1.h2.v@T": 0, "a1.h2@S.v": 0, "a1.h2@T.v": 0}, "it writes at the end"
    call: dict[str, Any] = {"metric": "kl_divergence", "file": tmp_path / "log.json"}
    log = refine(start, placed, candidates=[places], **call)
    assert str(log.hypothesis.runs["clean"]) == "a1.h2.v@S -> logits@[-1]"
    assert [(row.kind, row.change) for row in log.rows[1:]] == [("at(S, T)", "a1.h2.v@S")]
    assert log.rows[-1].held_out is not None
    assert log.rows[-1].held_out.value == pytest.approx(1, abs=1e-9)
    assert refine(start, placed, candidates=[places], **call).rows == log.rows
    with pytest.raises(FileError, match=r"candidates was \['at\(S, T\)'\], now \['at\(S\)'\]"):
        refine(start, placed, candidates=[at("S")], **call)
    with pytest.raises(InputError, match="asks for positions @IO"):
        refine(start, placed, "kl_divergence", candidates=[at("S", "IO")])


def test_rows_are_what_evaluate_says(log: Refined) -> None:
    train, test = halves(PAIRS, 0.5)
    assert test is not None and log.chosen_on == log.held_out_on == 3
    for row in log.rows:
        hypothesis = rw.Hypothesis(log.hypothesis.parts, {"clean": row.important})
        wanted = rw.evaluate(hypothesis, train, "logit_diff").explained
        assert row.explained.value == pytest.approx(wanted.value, rel=1e-9, abs=1e-9)
        held_out = rw.evaluate(hypothesis, test, "logit_diff").explained
        assert row.held_out is not None
        assert row.held_out.value == pytest.approx(held_out.value, rel=1e-9, abs=1e-9)
        assert row.paths == hypothesis.count()["clean"]


def test_each_step_is_a_gain_that_drops_do_not_undo(log: Refined) -> None:
    steps = sorted({row.step for row in log.rows})
    assert steps == list(range(len(steps))) and len(steps) > 1
    last = [[row for row in log.rows if row.step == step][-1] for step in steps]
    shares = [row.explained.value for row in last]
    assert shares == sorted(shares)
    gains = np.diff([row.explained.value for row in log.rows])
    assert np.allclose(gains, [row.gain for row in log.rows[1:]])
    for step in steps[1:]:
        rows = [row for row in log.rows if row.step == step]
        assert rows[0].kind in ("extend", "swap") and {r.kind for r in rows[1:]} <= {"drop"}
        lost = rows[0].explained.value - rows[-1].explained.value
        assert lost <= min(0.005, rows[0].gain / 2) + 1e-12


def test_a_session_goes_on_from_its_file(log: Refined, tmp_path: Path) -> None:
    file = tmp_path / "new" / "log.json"
    call: dict[str, Any] = {"goal": 1.0, "file": file, **OPTIONS}
    one = refine(nothing(), PAIRS, "logit_diff", steps=1, **call)
    assert one.stopped == "all steps are used" and one.rows[-1].step == 1
    told: list[int] = []
    again = refine(nothing(), PAIRS, "logit_diff", steps=2, progress=lambda a, b: told.append(b),
                   **call)
    assert again.rows == log.rows and told
    data = json.loads(file.read_text())
    assert [Row.from_dict(row) for row in data["rows"]] == list(log.rows)
    assert data["stopped"] == log.stopped and data["kind"] == "refined"
    for change, says in (({"seed": 1}, "seed was 0, now 1"), ({"by": "gain_per_path"}, "by was"),
                         ({"tolerance": 0.1}, "tolerance was 0.005, now 0.1")):
        with pytest.raises(FileError, match=f"another session: {says}"):
            refine(nothing(), PAIRS, "logit_diff", **call | change)
    with pytest.raises(FileError, match="inputs was"):
        refine(nothing(), pairs_of(4), "logit_diff", **call)
    for text in ("hello", "[1]", '{"kind": "pairs"}'):
        file.write_text(text)
        with pytest.raises(FileError, match=r"not valid|should hold|no log"):
            refine(nothing(), PAIRS, "logit_diff", **call)
    whole = data["rows"][0]
    for rows, says in (
        ([{k: v for k, v in whole.items() if k != "tried"}], "another version.*tried"),
        ([{"step": 0}], "has no 'kind'"), (3, "by another version, or edited"),
        ([whole | {"important": "m0 ->"}], "another version.*m0 ->"), ([None], "another version"),
    ):
        file.write_text(json.dumps(data | {"rows": rows}))
        with pytest.raises(FileError, match=f"(?s){says}.*give another file, or remove this one"):
            refine(nothing(), PAIRS, "logit_diff", **call)
    (tmp_path / "blocked").write_text("")
    with pytest.raises(FileError, match="cannot be written"):
        refine(nothing(), PAIRS, "logit_diff", **call | {"file": tmp_path / "blocked" / "x.json"})


def test_what_a_log_shows(log: Refined, tmp_path: Path) -> None:
    assert list(log.table["change"]) == [row.change for row in log.rows]
    assert log.table["held_out"].notna().all() and str(log.rows[-1].important) in log.markdown()
    assert "chosen on 3 pairs, which flatters; held_out is measured on 3 others" in str(log)
    console = Console(width=160, record=True, file=StringIO())
    console.print(log.rich())
    shown = console.export_text()
    assert log.rows[1].change.split(" -> ")[0] in shown and "held out" in shown
    assert log.markdown().count("\n|") == len(log.rows) + 1 and "<pre>" in log._repr_html_()
    assert log.draw(tmp_path / "log.png").read_bytes().startswith(b"\x89PNG")


def test_nothing_is_held_out_on_request(tmp_path: Path) -> None:
    log = refine(nothing(), PAIRS, "logit_diff", steps=1, holdout=0, **OPTIONS)
    assert "the same 6 pairs, which flatters" in log.caption
    assert all(row.held_out is None for row in log.rows) and log.held_out_on == 0
    assert log.table["held_out"].isna().all()
    log.draw(tmp_path / "log.svg")


def test_it_stops_when_nothing_helps() -> None:
    log = refine(nothing(), PAIRS, "logit_diff", tolerance=0.9)
    assert len(log.rows) == 1
    assert log.stopped == "no candidate gains more than the tolerance for sure"


def test_halves_are_disjoint_and_the_same_each_time() -> None:
    pairs = pairs_of(10)

    def ids(found: rw.Pairs | None) -> set[tuple[int, ...]]:
        assert found is not None
        return {tuple(example["input_ids"].tolist()) for example in found.runs["clean"]}

    train, test = halves(pairs, 0.3)
    assert (len(train), len(test or ())) == (7, 3) and not ids(train) & ids(test)
    assert ids(halves(pairs, 0.3)[1]) == ids(test) != ids(halves(pairs, 0.3, seed=1)[1])


@pytest.mark.parametrize(("change", "says"), [
    ({"steps": 0}, "steps is a number of at least 1; found 0"),
    ({"steps": 1.5}, "steps is a number of at least 1; found 1.5"),
    ({"goal": 0}, "0 < goal <= 1; found 0"), ({"goal": 1.2}, "0 < goal <= 1; found 1.2"),
    ({"tolerance": -1}, "0 <= tolerance < 1; found -1"), ({"holdout": 1}, "0 <= holdout < 1"),
    ({"holdout": 0.01}, "of 6 pairs, a share of 0.01 cannot be held out"),
    ({"metric": None}, "say what to measure"), ({"budget": "1 kB"}, "the budget is"),
])
def test_bad_numbers(change: dict[str, Any], says: str) -> None:
    call: dict[str, Any] = {"metric": "logit_diff", **change}
    with pytest.raises(DataError, match=says):
        refine(nothing(), PAIRS, **call)


def test_candidates_that_there_are_not() -> None:
    with pytest.raises(UnknownName, match="no candidates called 'grow'"):
        refine(nothing(), PAIRS, "logit_diff", candidates=["grow"])
