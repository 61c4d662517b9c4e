"""Backends by name: where the rows of a sweep are computed."""

from __future__ import annotations

from rewrite.errors import BackendError, DataError, near
from rewrite.run.remote import Ray
from rewrite.run.task import Backend, Local

BACKENDS = ("local", "ray")


def backend_of(backend: str | Backend, workers: int | None, address: str | None) -> Backend:
    """A backend by its name, with its options; one of your own stays as it is.

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
    return backend
