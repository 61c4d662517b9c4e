"""Sweeps on the workers of a Ray cluster (`pip install 'rewrite[ray]'`).

Workers are sent the model once, and then numbers of rows.  A job whose worker dies is run
again by another one, in halves, so that a row that cannot be done is found and named.
"""

from __future__ import annotations

import logging
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch

from rewrite.errors import BackendError, MissingPackage, RewriteError
from rewrite.ir.values import devices
from rewrite.parts import Components
from rewrite.run.budget import as_bytes
from rewrite.run.execute import Progress
from rewrite.run.pieces import Pieces, Say
from rewrite.run.shards import Job, Together, plan
from rewrite.run.shipping import Shipment
from rewrite.run.task import Found, Task

FAILURES = 3  # of one row by itself, before the sweep ends
PATIENCE = 10  # seconds, until it is said what is waited for
ANSWER = 40  # seconds, in which a cluster must have answered
AGAIN = "start the sweep again; with file=..., it goes on behind the rows that are done"
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Order:
    """What a worker needs to know beside the numbers of rows; `task` has no parts yet."""

    model: Shipment
    task: Task
    shards: Sequence[Sequence[int]]
    device: str
    threads: int | None  # of torch; None leaves what Ray decides
    beside: int  # how many workers share the memory of a machine


class Worker:
    """One process: the model, and for each shard what runs rows on its examples."""

    def __init__(self, order: Order) -> None:
        if order.threads is not None:
            torch.set_num_threads(order.threads)
        device = torch.device(order.device)
        budget = order.task.budget
        if budget is None:
            budget = max(1, as_bytes(None, device) // order.beside)
        self.order: Order = order
        self.task: Task = replace(order.task, parts=order.model.parts(device), budget=budget)
        self.shards: dict[int, tuple[Task, Pieces]] = {}
        self.said: list[str] = []

    def run(self, numbers: tuple[int, ...], shard: int) -> tuple[list[Found], list[str]]:
        """Rows on the examples of a shard, and what there is to say."""
        if shard not in self.shards:
            pairs = self.task.pairs.subset(self.order.shards[shard])
            task = replace(self.task, pairs=pairs)
            self.shards[shard] = task, task.pieces(self.said.append)
        self.said.clear()
        task, pieces = self.shards[shard]
        return list(task.run(numbers, pieces)), list(self.said)


_workers: dict[str, Worker] = {}  # in the processes of Ray: that of the sweep which runs now


def job(name: str, order: list[Any], numbers: tuple[int, ...], shard: int) -> Any:
    """What Ray calls; `order` holds a reference, which is followed once in each process."""
    if name not in _workers:
        import ray

        _workers.clear()
        _workers[name] = Worker(ray.get(order[0]))
    return _workers[name].run(numbers, shard)


@dataclass(frozen=True)
class Ray:
    """The backend that Ray is; `workers` run at once, by default one for each processor.

    `address` is that of a cluster ("auto", "ray://host:10001"); by default Ray starts on this
    machine and is stopped behind the sweep.  Where it runs in this process already, that is used.
    """

    workers: int | None = None
    address: str | None = None

    def run(
        self, task: Task, numbers: Sequence[int], progress: Progress | None, say: Say
    ) -> Iterator[Found]:
        """Measure rows in the order in which workers finish.

        Raises `MissingPackage` without Ray, `BackendError` where it cannot be reached, for a
        model on several devices and for a row on which workers fail again and again, and what
        the row itself raises.
        """
        if not numbers:
            return
        kind = _kind(task.parts)
        with started(self.workers, self.address) as (ray, workers):
            jobs, shards = plan(numbers, task.pairs, task.batch_size, task.chunk, workers)
            order = Order(Shipment.of(task.parts), replace(task, parts=None),  # type: ignore
                          shards, kind, *_beside(ray, kind, workers))
            sent = ray.put(order)
            gpus = int(order.device.startswith("cuda"))
            # A worker that has the model is kept, also if it holds a GPU (`max_calls`).
            remote = ray.remote(max_retries=0, max_calls=0, num_cpus=1, num_gpus=gpus)(job)
            crew = _Crew(ray, deque(jobs), {}, say, _head(ray))
            rows, done, total = Together(shards), 0, len(numbers) * len(task.pairs)
            try:
                while crew.open:
                    while crew.waiting and len(crew.running) < workers:
                        one = crew.waiting.popleft()
                        ref = remote.remote(sent.hex(), [sent], one.numbers, one.shard)
                        crew.running[ref] = one
                    one, answer = crew.next()
                    for found in answer:
                        done += len(found.numbers) * len(shards[one.shard])
                        if progress is not None:
                            progress(done, total)
                        if whole := rows.add(one.shard, found):
                            yield whole
            finally:
                for ref in crew.running:
                    ray.cancel(ref)


@dataclass
class _Crew:
    """Jobs that wait, and jobs that run."""

    ray: Any
    waiting: deque[Job]
    running: dict[Any, Job]
    say: Say
    head: tuple[str, int] | None = None  # of the cluster, if it can be asked from here
    checked: float = 0.0

    @property
    def open(self) -> bool:
        """Whether anything is left to do."""
        return bool(self.waiting or self.running)

    def next(self) -> tuple[Job, list[Found]]:
        """The next job that ends, and its rows: none, if it failed and has to run again."""
        ref = self._first()
        one = self.running.pop(ref)
        try:
            found, said = self.ray.get(ref)
        except self.ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, RewriteError):
                raise error.cause from None
            self._failed(one, error)
            return one, []
        except self.ray.exceptions.RayError as error:
            self._check_alive(error)
            self._failed(one, error)
            return one, []
        for text in said:
            self.say(text)
        return one, found

    def _first(self) -> Any:
        """The first job that ends; while none does, what is waited for is logged."""
        waited, due = 0, PATIENCE
        while True:
            found, _ = self.ray.wait(list(self.running), timeout=PATIENCE)
            self._check_head()
            if found:
                return found[0]
            waited += PATIENCE
            if waited < due:
                continue
            due = 2 * due + PATIENCE
            free = self.ray.available_resources().get("CPU", 0)
            log.warning("no job of Ray has ended for %d s: %d run, or wait until their workers "
                        "have started and a processor is theirs (%d of %d free)", waited,
                        len(self.running), free, self.ray.cluster_resources().get("CPU", 0))

    def _check_head(self) -> None:
        """Raise `BackendError` if the head of the cluster is gone: a minute later, so are we."""
        if self.head is None or time.monotonic() - self.checked < PATIENCE:
            return
        self.checked = time.monotonic()
        if not _listens(*self.head):
            raise BackendError(f"the head of the Ray cluster at {self.head[0]}:{self.head[1]} does "
                               f"not answer any more: {AGAIN}")

    def _check_alive(self, error: Exception) -> None:
        """Raise `BackendError` if Ray itself has ended here: it would end this process next."""
        mine = self.ray.get_runtime_context().get_node_id()
        dead = isinstance(error, self.ray.exceptions.LocalRayletDiedError) or any(
            node["NodeID"] == mine and not node["Alive"] for node in self.ray.nodes())
        if dead:
            raise BackendError("Ray has ended on this machine (its raylet died, which happens "
                               f"where memory runs out): {AGAIN}") from error

    def _failed(self, one: Job, error: Exception) -> None:
        again = one.again()
        if again[0].failures >= FAILURES:
            raise RowFailed(one.numbers[0], FAILURES, str(error)) from error
        self.waiting.extendleft(reversed(again))
        why = str(error).strip().splitlines()[-1 if _is_from_task(self.ray, error) else 0]
        self.say(f"a worker failed on {_rows(one)} ({why.strip()}): {_rows(one)} "
                 f"{'is' if len(one.numbers) == 1 else 'are'} run again")


class RowFailed(BackendError):
    """A row on which every worker fails; the sweep says which one it is."""

    def __init__(self, number: int, times: int, error: str) -> None:
        super().__init__(number, times, error)
        self.number, self.times, self.error = number, times, error

    def __str__(self) -> str:
        return f"row {self.number} failed on {self.times} workers: {self.error}"


def _rows(one: Job) -> str:
    return f"{len(one.numbers)} row{'s' * (len(one.numbers) > 1)}"


def _is_from_task(ray: Any, error: Exception) -> bool:
    return isinstance(error, ray.exceptions.RayTaskError)


def _kind(parts: Components) -> str:
    """The kind of device that a worker needs; raises `BackendError` if one is not enough."""
    first, *others = devices(parts.graph.module)
    if others:
        found = ", ".join(map(str, (first, *others)))
        raise BackendError(f"the weights of {parts.graph.name} are on several devices ({found}), "
                           "and a worker of Ray holds one: leave out backend='ray', and the "
                           "sweep runs on all of them")
    return first.type


def _beside(ray: Any, kind: str, workers: int) -> tuple[int | None, int]:
    """The threads of a worker, and how many workers share a machine."""
    sizes = [node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"]]
    beside = max(1, min(workers, int(max(sizes, default=1))))
    threads = max(1, (os.cpu_count() or 1) // workers) if len(sizes) == 1 else None
    return threads, 1 if kind == "cuda" else beside


def _place(address: str) -> tuple[str, int] | None:
    """Host and port of an address that names them."""
    found = re.fullmatch(r"(\[[^]]+\]|[^:/]+):(\d+)", address)
    return (found[1].strip("[]"), int(found[2])) if found else None


def _listens(host: str, port: int) -> bool:
    """Whether anybody takes calls there."""
    try:
        socket.create_connection((host, port), timeout=PATIENCE).close()
    except OSError:
        return False
    return True


def _head(ray: Any) -> tuple[str, int] | None:
    """Where the head of the cluster is, if it can be reached from this machine."""
    found = _place(str(getattr(ray.get_runtime_context(), "gcs_address", "")))
    return found if found and _listens(*found) else None


def _check_reached(address: str) -> None:
    """Raise `OSError` where no Ray answers: it would wait for minutes, and end this process.

    So a process of its own tries first, unless nothing listens there at all.
    """
    if found := _place(address.removeprefix("ray://")):
        socket.create_connection(found, timeout=PATIENCE).close()
    code = "import sys, ray; ray.init(address=sys.argv[1], log_to_driver=False); ray.shutdown()"
    try:
        done = subprocess.run([sys.executable, "-c", code, address], capture_output=True, text=True,
                              check=False, timeout=ANSWER)
    except subprocess.TimeoutExpired as error:
        raise OSError(f"no answer in {ANSWER} s") from error
    if done.returncode:
        raise OSError((done.stderr.strip().splitlines() or ["it ends the process"])[-1])


@contextmanager
def _patience(what: str) -> Iterator[None]:
    """Log what is waited for, if it takes long."""
    timer = threading.Timer(PATIENCE, log.warning, ("%s, since %d s", what, PATIENCE))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


@contextmanager
def started(workers: int | None, address: str | None) -> Iterator[tuple[Any, int]]:
    """Ray, and how many workers may run; what was started is stopped in the end."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is told to anybody
    try:
        import ray
    except ImportError as error:
        raise MissingPackage("backend='ray' needs Ray: pip install 'rewrite[ray]'") from error
    ours = not ray.is_initialized()
    if ours:
        address = address or os.environ.get("RAY_ADDRESS") or "local"
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        if address == "local":
            options |= {"num_cpus": workers, "include_dashboard": False}
        absent = "start it by `ray start --head`, or leave the address out to start it here"
        try:
            with _patience(f"Ray at {address!r} is started or looked for"):
                if address != "local":
                    _check_reached(address)
                ray.init(address=address, **options)
        except (OSError, RuntimeError, ValueError) as error:
            raise BackendError(f"there is no Ray at {address!r} ({error}): {absent}") from error
    try:
        yield ray, workers or max(1, int(ray.cluster_resources().get("CPU", 1)))
    finally:
        if ours:
            ray.shutdown()
