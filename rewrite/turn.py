"""Threads take turns where graphs are made; any number of them run at a time.

torch follows a model by exchanging methods of `nn.Module` and settings of the whole process;
values without entries belong to modes that are entered and left like a stack; and what is
worked out for a graph is kept with it for all who use it.  None of this is safe among threads,
and all of it is Python, which threads take turns at anyhow.
"""

from __future__ import annotations

import functools
import os
import types
from collections.abc import Callable
from threading import RLock
from typing import Any, Generic, Self, TypeVar, overload

TURN = RLock()
# A process that is forked while another thread has its turn would wait for ever.
os.register_at_fork(before=TURN.acquire, after_in_parent=TURN.release,
                    after_in_child=TURN.release)
F = TypeVar("F", bound=Callable[..., Any])
Value = TypeVar("Value")


def alone(what: F) -> F:
    """One thread at a time is inside such a function, or inside the methods of such a class.

    >>> alone(len)("abc")
    3
    """
    if isinstance(what, type):
        for name, method in list(vars(what).items()):
            if isinstance(method, types.FunctionType) and (
                    not name.startswith("_") or name == "__contains__"):
                setattr(what, name, alone(method))
        return what  # type: ignore[return-value]
    turn = TURN

    def waits(*args: Any, **kwargs: Any) -> Any:
        with turn:
            return what(*args, **kwargs)

    if isinstance(what, types.FunctionType):  # with the names of its own module, for doctests
        waits = types.FunctionType(waits.__code__, what.__globals__, what.__name__, None,
                                   waits.__closure__)
    return functools.update_wrapper(waits, what)  # type: ignore[return-value]


class once(Generic[Value]):
    """A property that is worked out once, by one thread.

    `functools.cached_property` has a lock of its own in some versions of Python, and two locks
    that are taken in either order make threads wait for each other.
    """

    def __init__(self, work: Callable[[Any], Value]) -> None:
        self.work = work
        functools.update_wrapper(self, work)  # type: ignore[arg-type]

    @overload
    def __get__(self, owner: None, kind: type) -> Self: ...
    @overload
    def __get__(self, owner: object, kind: type) -> Value: ...
    def __get__(self, owner: Any, kind: type) -> Any:
        if owner is None:
            return self
        name, known = self.work.__name__, vars(owner)
        if name not in known:
            with TURN:
                if name not in known:
                    known[name] = self.work(owner)
        return known[name]
