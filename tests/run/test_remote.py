"""Sweeps on Ray: the numbers of one process, and nothing lost where workers die."""

from __future__ import annotations

import builtins
import os
import signal
import socket
from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import rewrite as rw
from rewrite.errors import BackendError, DataError, MissingPackage
from rewrite.measure import Batch
from rewrite.run import remote
from rewrite.run.shards import Job, Together, plan
from rewrite.run.shipping import Shipment
from rewrite.run.task import Found
from tests.zoo import VOCAB, tokens, traced

CPU = torch.device("cpu")


def pairs_of(lengths: list[int]) -> rw.Pairs:
    """Examples of these lengths, two of each."""
    made = {run: [{"input_ids": row} for length in lengths for row in tokens(2, length, seed)]
            for seed, run in enumerate(("clean", "corrupt"), start=1)}
    correct = list(torch.arange(2 * len(lengths)) + 7)
    return rw.Pairs(made, {"correct": correct, "wrong": [(c + 1) % VOCAB for c in correct]})


PAIRS = pairs_of([4, 6, 4])
CALL: dict[str, Any] = {"senders": "a0.h*", "receivers": "m0 | a1.h*.{q,k} | logits", "each": True,
                        "pairs": PAIRS}
ROWS = 4 * 10


def parts_of(family: str) -> rw.Components:
    return traced(family).parts


def same(found: rw.Sweep, wanted: rw.Sweep) -> bool:
    """Values to rounding; ends and p come from resampled ratios of small differences."""
    sure = ["low", "high", "p"]
    for table in (found.table, wanted.table):
        assert (table["low"] <= table["effect"]).all() and (table["effect"] <= table["high"]).all()
    width = (wanted.table["high"] - wanted.table["low"]).max()
    pd.testing.assert_frame_equal(found.table[sure], wanted.table[sure], rtol=1e-2,
                                  atol=width / 100)
    return pd.testing.assert_frame_equal(found.table.drop(columns=sure),
                                         wanted.table.drop(columns=sure),
                                         rtol=1e-5, atol=1e-6) is None


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Ray on this machine, as a sweep starts it, for all sweeps of these tests."""
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'rewrite[ray]'")
    from rewrite.run.remote import started

    with started(2, None) as (ray, workers):
        assert workers == 2
        yield ray


def dying(flag: Path) -> rw.Metric:
    """A metric that ends its process where `flag` does not exist: the first time, if it can be."""

    def effect(reference: Any, hypothesis: Any, batch: Batch) -> torch.Tensor:
        if not flag.exists():
            if flag.parent.exists():
                flag.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return (reference.logits - hypothesis.logits)[:, -1].abs().amax(-1)

    return rw.custom(effect, "distance")


@pytest.mark.xdist_group("ray")
def test_a_worker_dies_and_nothing_is_lost(cluster: Any, tmp_path: Path) -> None:
    parts, flag, file = parts_of("gpt2"), tmp_path / "flag", tmp_path / "s.jsonl"
    told: list[str] = []
    at: list[tuple[int, int]] = []
    found = rw.sweep(parts, **CALL, metric=dying(flag), backend="ray", workers=2, chunk=10,
                     file=file, say=told.append, progress=lambda *a: at.append(a))
    assert flag.exists() and len(told) == 1 and "a worker failed on " in told[0]
    assert list(found.notes) == told
    wanted = rw.sweep(parts, **CALL, metric=dying(flag))
    assert same(found, wanted) and len(found.table) == ROWS
    lines = file.read_text().splitlines()
    assert len(lines) == 1 + ROWS, "no row is written twice"
    assert at == sorted(at) and at[-1] == (ROWS * 6,) * 2
    file.write_text("\n".join([*lines[:5], *lines[9:], ""]))  # four rows in the middle are missing
    at.clear()
    again = rw.sweep(parts, **CALL, metric=dying(flag), file=file, progress=lambda *a: at.append(a))
    assert same(again, wanted) and at[0][0] > at[-1][0] - 4 * 6


@pytest.mark.xdist_group("ray")
def test_what_a_row_raises(cluster: Any, tmp_path: Path) -> None:
    def wrong(reference: Any, hypothesis: Any, batch: Batch) -> torch.Tensor:
        raise ValueError("no such thing")

    parts = parts_of("gpt2")
    call: dict[str, Any] = {"pairs": PAIRS, "backend": "ray", "workers": 1}
    with pytest.raises(DataError, match=r"metric 'wrong' raises ValueError at .*no such thing"):
        rw.sweep(parts, "a0.h0 | a0.h1", "m0", **call, metric=rw.custom(wrong, "wrong"))
    with pytest.raises(DataError, match="one hypothesis on one example needs"):
        rw.sweep(parts, "a0.h0", "m0", **call, metric="kl_divergence", budget="1 kB")
    with pytest.raises(BackendError, match=r"(?s)a0\.h0 -> m0 failed on 3 workers"):
        rw.sweep(parts, "a0.h0", "m0", **call, metric=dying(tmp_path / "never" / "flag"))


def test_what_is_asked_wrongly(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = parts_of("gpt2")
    call: dict[str, Any] = {"pairs": PAIRS, "metric": "logit_diff"}
    with pytest.raises(BackendError, match=r"no backend 'rai'; did you mean ray\?"):
        rw.sweep(parts, **call, backend="rai")
    with pytest.raises(DataError, match="workers is an option of Ray: write backend='ray'"):
        rw.sweep(parts, **call, workers=2)
    with pytest.raises(DataError, match="address is an option of Ray"):
        rw.sweep(parts, **call, address="auto")
    with pytest.raises(DataError, match="at least 1 worker, found 0"):
        rw.sweep(parts, **call, backend="ray", workers=0)
    real = builtins.__import__

    def without(name: str, *args: Any, **options: Any) -> Any:
        if name == "ray":
            raise ImportError("No module named 'ray'")
        return real(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingPackage, match=r"pip install 'rewrite\[ray\]'"):
        rw.sweep(parts, **call, backend="ray")


# what is sent


@pytest.mark.parametrize("family", ["gpt2", "llama", "bert"])
def test_models_arrive_bit_for_bit(family: str) -> None:
    parts = parts_of(family)
    ids = {"input_ids": tokens(3, 7)}
    sent = Shipment.of(parts)
    again = sent.parts(CPU)
    assert torch.equal(again(**ids).logits, parts(**ids).logits)
    assert type(again(**ids)) is type(parts(**ids)) and again.notes == parts.notes
    whole = sum(held.data.nbytes for held in {id(w.data): w for w in
                                              sent.weights.values()}.values())
    model = {p.data_ptr(): p.nbytes for p in parts.graph.module.parameters()}
    assert whole <= 1.1 * sum(model.values()), "shared weights are sent once"


def test_weights_are_not_copied() -> None:
    parts = parts_of("gpt2")
    sent = Shipment.of(parts)
    name, weight = next((n, p) for n, p in parts.graph.module.named_parameters())
    assert sent.weights[name].data.ctypes.data == weight.data_ptr()
    assert sent.weights[name].tensor(CPU).data_ptr() == weight.data_ptr()
    held = sent.weights[name].data
    held.flags.writeable = False  # as in the common memory of Ray
    assert sent.weights[name].tensor(CPU).data_ptr() == weight.data_ptr()


@pytest.mark.parametrize("granularity", [None, "module"])
def test_types_and_granularity_arrive(granularity: str | None) -> None:
    parts = traced("gpt2", torch.bfloat16).graph.components(granularity=granularity)
    again, ids = Shipment.of(parts).parts(CPU), {"input_ids": tokens(2, 5)}
    assert again.names == parts.names and again.granularity == granularity
    assert again.graph.dtype == torch.bfloat16
    assert torch.equal(again(**ids).logits, parts(**ids).logits)


def test_other_parts_are_an_error() -> None:
    sent = replace(Shipment.of(parts_of("gpt2")), names=("tokens",))
    with pytest.raises(BackendError, match="has other parts here"):
        sent.parts(CPU)


# how it is cut


@settings(derandomize=True, max_examples=60, deadline=None)
@given(rows=st.integers(1, 40), lengths=st.lists(st.integers(3, 5), min_size=1, max_size=5),
       batch_size=st.integers(1, 4), chunk=st.integers(1, 30), workers=st.integers(1, 6),
       seed=st.integers(0, 99))
def test_every_row_meets_every_example_once(
    rows: int, lengths: list[int], batch_size: int, chunk: int, workers: int, seed: int
) -> None:
    pairs = pairs_of(lengths)
    numbers = list(range(100, 100 + rows))
    jobs, shards = plan(numbers, pairs, batch_size, chunk, workers)
    assert sorted(i for shard in shards for i in shard) == list(range(len(pairs)))
    assert all(0 < len(job.numbers) <= chunk for job in jobs)
    assert len(jobs) >= min(2 * workers, rows)
    cells = [(n, job.shard) for job in jobs for n in job.numbers]
    assert len(cells) == len(set(cells)) == rows * len(shards)

    order, together, whole = np.random.default_rng(seed), Together(shards), {}
    jobs = [half for job in jobs for half in (job.again() if order.random() < 0.3 else [job])]
    for at in order.permutation(len(jobs)):
        job = jobs[at]
        values = np.array([[1000.0 * n + i for i in shards[job.shard]] for n in job.numbers])
        found = together.add(job.shard, Found(job.numbers, values, -values))
        if found is not None:
            assert not set(found.numbers) & set(whole)
            whole |= dict(zip(found.numbers, found.effects, strict=True))
            assert np.array_equal(found.changes, -found.effects)
    assert set(whole) == set(numbers) and not together.waiting
    assert all(list(whole[n]) == [1000.0 * n + i for i in range(len(pairs))] for n in numbers)


def test_a_job_that_failed_is_halved_and_a_row_is_counted() -> None:
    assert Job((4, 5, 6), 1).again() == [Job((4,), 1), Job((5, 6), 1)]
    assert Job((4,), 1, 1).again() == [Job((4,), 1, 2)]


@pytest.mark.parametrize("address", ["127.0.0.1:9", "ray://127.0.0.1:9", "nobody.invalid:6379"])
def test_an_address_at_which_nobody_listens(address: str) -> None:
    """Ray itself waits for minutes there, and may end the process."""
    with pytest.raises(OSError, match=r"refused|known|resolution"):
        remote._check_reached(address)


def test_an_address_at_which_somebody_else_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray")
    monkeypatch.setattr(remote, "ANSWER", 3)
    server = socket.create_server(("127.0.0.1", 0))
    with server, pytest.raises(OSError, match="no answer in 3 s"):
        remote._check_reached(f"127.0.0.1:{server.getsockname()[1]}")


def test_what_is_waited_for_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    answers = iter([([], ["job"])] * 3 + [(["job"], [])])
    waits: list[float] = []

    def wait(jobs: Any, timeout: float) -> Any:
        waits.append(timeout)
        return next(answers)

    ray = SimpleNamespace(wait=wait, available_resources=lambda: {"CPU": 1.0},
                          cluster_resources=lambda: {"CPU": 4.0})
    running: dict[Any, Any] = {"job": None}
    crew = remote._Crew(ray, deque(), running, print)
    assert crew._first() == "job" and waits == [10] * 4
    assert [record.getMessage() for record in caplog.records] == [
        f"no job of Ray has ended for {seconds} s: 1 run, or wait until their workers have "
        "started and a processor is theirs (1 of 4 free)" for seconds in (10, 30)]


def test_a_head_that_is_gone_is_an_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        context = SimpleNamespace(gcs_address=address)
        ray = SimpleNamespace(get_runtime_context=lambda: context,
                              wait=lambda jobs, timeout: (jobs, []))
        running: dict[Any, Any] = {"job": None}
        crew = remote._Crew(ray, deque(), running, print, remote._head(ray))
        assert crew.head and crew._first() == "job"
    assert crew._first() == "job", "it is not asked again at once"
    crew.checked = 0.0
    with pytest.raises(BackendError, match=rf"head .* at {address} does not answer any more"):
        crew._first()
    assert remote._head(ray) is None, "what cannot be reached from here is not watched"


def test_ray_that_ended_here_is_an_error() -> None:
    """A raylet that died ends the process that drives it, some seconds after the first error."""

    class Lost(Exception):
        """What Ray raises where its own raylet is gone."""

    def crew(alive: bool) -> remote._Crew:
        context = SimpleNamespace(get_node_id=lambda: "here")
        return remote._Crew(SimpleNamespace(
            exceptions=SimpleNamespace(LocalRayletDiedError=Lost),
            get_runtime_context=lambda: context,
            nodes=lambda: [{"NodeID": "here", "Alive": alive},
                           {"NodeID": "there", "Alive": False}]), deque(), {}, print)

    crew(True)._check_alive(ValueError())
    for alive, error in ((False, ValueError()), (True, Lost())):
        with pytest.raises(BackendError, match=r"Ray has ended on this machine .*with file=.*"):
            crew(alive)._check_alive(error)
