"""Files of sweeps and refinements go on only with what they were begun with."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import rewrite as rw
from rewrite import disk
from rewrite.errors import DataError, FileError
from tests.test_disk import limited

VOCAB = 11


class Net(torch.nn.Module):
    """Two layers on a stream, whose second one reads the first."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.embed = torch.nn.Embedding(VOCAB, 8)
        self.one, self.two = torch.nn.Linear(8, 8), torch.nn.Linear(8, 8)
        self.head = torch.nn.Linear(8, VOCAB)
        self.register_buffer("shift", torch.ones(8))

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        x = self.embed(input_ids)
        x = x + self.one(x).relu()
        x = x + self.two(x + self.shift).tanh()
        return self.head(x)


def parts_of(change: Callable[[Net], object] | None = None, **options: Any) -> rw.Components:
    model = Net().eval()
    with torch.no_grad():
        if change is not None:
            change(model)
    ids = {"input_ids": torch.zeros(3, 5, dtype=torch.int64)}
    return rw.trace(model.to(options.pop("dtype", None)), ids).components(**options)


def pairs_of(**changes: Any) -> rw.Pairs:
    made = torch.Generator().manual_seed(changes.pop("seed", 1))
    runs = {run: {"input_ids": torch.randint(0, VOCAB, (6, 5), generator=made)}
            for run in ("clean", "corrupt")}
    if (token := changes.pop("token", None)) is not None:
        runs["corrupt"]["input_ids"][2, 3] = token
    labels = {"correct": torch.arange(6), "wrong": torch.arange(6) + changes.pop("wrong", 2)}
    places = changes.pop("positions", {"END": [4] * 6})
    return rw.Pairs.from_tensors(runs, labels, positions=places)


def surgery(amount: float) -> rw.Components:
    graph = parts_of().graph
    node = next(name for name in graph.nodes if "tanh" in name)
    return graph.replace(node, lambda x: torch.tanh(x) * amount).components()


def metric_of(factor: float, **options: Any) -> rw.Metric:
    return rw.custom(lambda r, h, b: (h - r)[:, -1].abs().sum(-1) * factor, "mine", **options)


def bumped(name: str) -> Callable[[Net], object]:
    return lambda model: model.get_parameter(name).view(-1)[0].add_(1e-3)


PARTS, PAIRS = parts_of(), pairs_of()
CALL: dict[str, Any] = {"parts": PARTS, "pairs": PAIRS, "metric": "logit_diff"}
CHANGES: dict[str, tuple[dict[str, Any], str]] = {
    "a weight": ({"parts": parts_of(bumped("two.weight"))}, "model"),
    "a bias of the end": ({"parts": parts_of(bumped("head.bias"))}, "model"),
    "a buffer": ({"parts": parts_of(lambda m: m.shift.add_(1))}, "model"),  # type: ignore
    "surgery": ({"parts": surgery(2)}, "model"),
    "precision": ({"parts": parts_of(dtype=torch.float64)}, "model"),
    "one token": ({"pairs": pairs_of(token=0)}, "inputs"),
    "all tokens": ({"pairs": pairs_of(seed=2)}, "inputs"),
    "fewer examples": ({"pairs": PAIRS.subset([0, 1, 2, 3])}, "inputs"),
    "another order": ({"pairs": PAIRS.subset([1, 0, 2, 3, 4, 5])}, "inputs"),
    "a label": ({"pairs": pairs_of(wrong=3)}, "labels"),
    "positions": ({"pairs": pairs_of(positions={"END": [3] * 6})}, "positions"),
    "one position": ({"pairs": pairs_of(positions={"END": [4, 4, 4, 4, 4, 3]})}, "positions"),
    "another group": ({"pairs": pairs_of(positions={"END": [4] * 6, "S": [0] * 6})}, "positions"),
    "the metric": ({"metric": "kl_divergence"}, "metric"),
    "an option of it": ({"metric": rw.logit_diff(absolute=False)}, "metric"),
    "its position": ({"metric": rw.logit_diff(position=0)}, "metric"),
}
FUNCTIONS: dict[str, Callable[[], rw.Metric]] = {
    "code": lambda: rw.custom(lambda r, h, b: (h - r)[:, -1].pow(2).sum(-1), "mine"),
    "a value around it": lambda: metric_of(2.0),
    "a position": lambda: metric_of(1.0, position=-1),
    "a version": lambda: metric_of(1.0, version="2"),
    "scores": lambda: metric_of(1.0, scores=lambda o, b: o[:, -1, 0]),
}


def sweep(file: Path | None, **changes: Any) -> rw.Sweep:
    return rw.sweep(senders="m*@END | embed", receivers=None, file=file, **{**CALL, **changes})


def refine(file: Path | None, **changes: Any) -> Any:
    call = {**CALL, **changes}
    start = rw.Hypothesis(call.pop("parts"), {"clean": call.pop("start", "m0@END")})
    call = {"steps": 1, "by": "gain", "holdout": 0.5, **call}
    return rw.refine(start, call.pop("pairs"), call.pop("metric"), file=file, **call)


class Products(TorchDispatchMode):
    """Counts products of matrices: every forward pass of the model has some."""

    count: int = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += any(name in str(func) for name in ("mm", "linear", "matmul"))
        return func(*args, **(kwargs or {}))


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> dict[Any, Path]:
    """Files of measurements with the metric of `CALL`, and with a function."""
    folder, found = tmp_path_factory.mktemp("begun"), {}
    for name, run in (("sweep", sweep), ("refine", refine)):
        for kind, metric in (("", CALL["metric"]), ("own", metric_of(1.0))):
            found[run, kind] = folder / f"{name}{kind}"
            run(found[run, kind], metric=metric)
    return found


@pytest.mark.parametrize("run", [sweep, refine])
@pytest.mark.parametrize("what", CHANGES)
def test_a_single_change_is_refused(run: Any, what: str, begun: dict[Any, Path]) -> None:
    file = begun[run, ""]
    before, (change, name) = file.read_bytes(), CHANGES[what]
    with pytest.raises(FileError, match=rf"another (sweep|session): (.*; )?{name} was .*, now "):
        run(file, **change)
    assert file.read_bytes() == before


@pytest.mark.parametrize("run", [sweep, refine])
@pytest.mark.parametrize("what", FUNCTIONS)
def test_a_change_of_a_function_is_refused(run: Any, what: str, begun: dict[Any, Path]) -> None:
    file = begun[run, "own"]
    with pytest.raises(FileError, match=r"code of the metric was .*, now "):
        run(file, metric=FUNCTIONS[what]())


@pytest.mark.parametrize("run", [sweep, refine])
@pytest.mark.parametrize("kind", ["", "own"])
def test_nothing_changed_is_nothing_run(run: Any, kind: str, begun: dict[Any, Path]) -> None:
    metric, parts = metric_of(1.0) if kind else "logit_diff", parts_of()
    assert not parts.dag.motion.mixes_examples(), "asked once of a graph, by running it"
    with Products() as counted:
        again = run(begun[run, kind], metric=metric, parts=parts, batch_size=2, chunk=2,
                    pairs=rw.Pairs.from_dict(pairs_of().to_dict()))
        assert not counted.count
        fresh = run(None, metric=metric, parts=parts)
        assert counted.count
    assert str(again.table) == str(fresh.table)


def test_settings_that_change_numbers(begun: dict[Any, Path]) -> None:
    was = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        with pytest.raises(FileError, match="precision was matmul highest, now matmul medium"):
            sweep(begun[sweep, ""])
    finally:
        torch.set_float32_matmul_precision(was)
    head, _, rest = begun[sweep, ""].read_text().partition("\n")
    changed = json.loads(head) | {"versions": "rewrite 0.0, torch 1.0"}
    file = disk.write(begun[sweep, ""].with_name("older"), f"{json.dumps(changed)}\n{rest}")
    with pytest.raises(FileError, match=r"versions was rewrite 0.0, torch 1.0, now rewrite"):
        sweep(file)


def test_a_metric_that_cannot_be_compared(tmp_path: Path) -> None:
    with threading.Lock() as held:
        assert held
    guard = threading.Lock()

    def guarded(reference: Any, hypothesis: Any, batch: Any) -> torch.Tensor:
        with guard:
            return (hypothesis - reference)[:, -1].abs().sum(-1)

    assert len(sweep(None, metric=guarded).table)
    for run in (sweep, refine):
        with pytest.raises(DataError, match=r"guard of function of metric 'guarded' is a lock.*"
                                            r"rw.custom\(function, 'guarded', version='1'\)"):
            run(tmp_path / "rows", metric=guarded)
    named = rw.custom(guarded, "guarded", version="1")
    assert sweep(tmp_path / "rows", metric=named).table.equals(
        sweep(tmp_path / "rows", metric=named).table)


@pytest.mark.parametrize("change", [
    {"sender": "m1"}, {"paths": "m9"}, {"receiver": "m1"}, {"row": 7}, {"row": -1}])
def test_rows_are_compared_by_name(
    change: dict[str, Any], tmp_path: Path, begun: dict[Any, Path]
) -> None:
    lines = begun[sweep, ""].read_text().splitlines()
    lines[1] = json.dumps(json.loads(lines[1]) | change)
    file = disk.write(tmp_path / "rows", "\n".join(lines) + "\n")
    with pytest.raises(FileError, match=r"line 2 is row"):
        sweep(file)
    twice = [*begun[sweep, ""].read_text().splitlines()]
    twice.append(json.dumps(json.loads(twice[1]) | {"effect": 77}))
    with pytest.raises(FileError, match=r"line 5 has other numbers for row"):
        sweep(disk.write(tmp_path / "rows", "\n".join(twice) + "\n"))


def test_every_cut_of_a_file_goes_on(tmp_path: Path, begun: dict[Any, Path]) -> None:
    whole, file = begun[sweep, ""].read_bytes(), tmp_path / "rows"
    table, cut = sweep(None).table, tmp_path / "rows.cut"
    for size in random.Random(0).sample(range(len(whole)), 12):
        file.write_bytes(whole[:size])
        kept = whole[:size].count(b"\n") - 1
        cut.unlink(missing_ok=True)
        found = sweep(file)
        assert found.table.equals(table)
        assert file.read_bytes() == whole, "rows are in order where one process wrote them"
        beyond = whole[:size].rpartition(b"\n")[2]
        if cut.exists():
            assert cut.read_bytes() == beyond + b"\n" and kept >= 0
            assert any("rows.cut" in note for note in found.notes)
        else:
            assert kept < 0 or not beyond or beyond + b"\n" in whole


def test_a_cut_file_is_left_alone_where_nothing_fits(
    tmp_path: Path, begun: dict[Any, Path]
) -> None:
    whole = begun[sweep, ""].read_bytes()[:-20]
    file = disk.write(tmp_path / "rows", whole)
    code = ("from pathlib import Path; from tests.run.test_resumption import sweep\n"
            "sweep(Path(sys.argv[1]))")
    done = limited(code, str(file), limit=len(whole) - 40)
    assert "FileError" in done.stderr, done.stderr
    rows = [json.loads(line) for line in whole.splitlines()[:-1]]
    left = file.read_bytes()
    assert [json.loads(line) for line in left.splitlines()[:len(rows)]] == rows
    assert sweep(file).table.equals(sweep(None).table), "and goes on where there is room"


@contextmanager
def holding(file: Path) -> Iterator[subprocess.Popen[str]]:
    code = ("import sys; from rewrite import disk\n"
            "with disk.lock(sys.argv[1]): print('held', flush=True); sys.stdin.read()")
    with subprocess.Popen([sys.executable, "-c", code, str(file)], stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        yield other


def test_two_processes_on_one_file(tmp_path: Path) -> None:
    for run in (sweep, refine):
        file = tmp_path / run.__name__
        with holding(file) as other:
            with pytest.raises(FileError, match=rf"being written by process {other.pid} on .*: "
                                                r"wait for it, or give another file"):
                run(file)
            other.send_signal(signal.SIGKILL)
            other.wait()
        assert len(run(file).table), "the lock of a process that was killed is open"
        assert not list(tmp_path.glob(".*.lock"))


def test_two_threads_on_one_file(tmp_path: Path) -> None:
    file, errors, counted = tmp_path / "rows", [], []

    def one() -> None:
        try:
            counted.append(sweep(file, say=lambda _: time.sleep(0.01)))
        except FileError as error:
            errors.append(str(error))

    with disk.lock(file):
        threads = [threading.Thread(target=one) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(errors) == 2 and not counted
    one()
    assert len(counted) == 1 and len(file.read_text().splitlines()) == 1 + len(counted[0].table)


def test_a_log_keeps_its_notes(tmp_path: Path) -> None:
    noted = replace(PAIRS, notes=("a note of the pairs",))
    first = refine(tmp_path / "log", pairs=noted)
    assert refine(tmp_path / "log").notes == first.notes
