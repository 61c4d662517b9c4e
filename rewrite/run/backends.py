"""Backends by name: where the rows of a sweep are computed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from rewrite.errors import BackendError, DataError, near
from rewrite.run.execute import Progress
from rewrite.run.pieces import Say
from rewrite.run.remote import Ray
from rewrite.run.task import Backend, Found, Local, Task
from rewrite.world import calling

BACKENDS = ("local", "ray")


def backend_of(backend: str | Backend, workers: int | None, address: str | None) -> Backend:
    """A backend by its name, with its options; what one of your own gives is checked.

    >>> backend_of("ray", 2, None)
    Ray(workers=2, address=None)

    Raises `BackendError` for a name that does not exist, `DataError` for options of another.
    """
    if workers is not None and workers < 1:
        raise DataError(f"there must be at least 1 worker, found {workers}")
    if backend == "ray":
        return Ray(workers, address)
    if workers is not None or address is not None:
        option = "workers" if workers is not None else "address"
        raise DataError(f"{option} is an option of Ray: write backend='ray' with it")
    if backend == "local":
        return Local()
    if isinstance(backend, str):
        raise BackendError(f"there is no backend {backend!r}; {near(backend, BACKENDS)}")
    return Own(backend)


@dataclass(frozen=True)
class Own:
    """A backend of the user: each row once, a number for each example, and errors of ours."""

    backend: Backend

    def run(
        self, task: Task, numbers: Sequence[int], progress: Progress | None, say: Say
    ) -> Iterator[Found]:
        """What the backend measures."""
        left, n = set(numbers), len(task.pairs)
        with calling("the backend", BackendError):
            for found in self.backend.run(task, numbers, progress, say):
                shape = (len(found.numbers), n)
                if not left.issuperset(found.numbers) or len(set(found.numbers)) < shape[0]:
                    raise BackendError(f"the backend gave the rows {found.numbers}, and each row "
                                       "that is asked for is given once")
                for values in (found.effects, found.changes):
                    if np.shape(values) != shape:
                        raise BackendError(f"the backend gave numbers {np.shape(values)}, and "
                                           f"[rows, examples] are {shape}")
                left -= set(found.numbers)
                yield found
        if left:
            raise BackendError(f"the backend left {len(left)} of {len(numbers)} rows out")
