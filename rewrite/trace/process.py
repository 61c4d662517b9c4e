"""What the process holds, kept while a model is traced: random numbers, settings, logging."""

from __future__ import annotations

import logging
import os
import random
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

# How a setting is read, and how it is set.
Setting = tuple[Callable[[], Any], Callable[[Any], Any]]


@contextmanager
def process_kept() -> Iterator[None]:
    """Put back the settings of this process that a model, or its export, may change."""
    settings = _settings()
    before = [read() for read, _ in settings]
    modules = dict(sys.modules)
    logs = [(log, log.level, log.disabled, log.propagate, list(log.handlers))
            for log in _loggers()]
    with warnings.catch_warnings():
        try:
            yield
        finally:
            for (read, put), old in zip(settings, before, strict=True):
                if not _same(read(), old):
                    put(old)
            for name, module in modules.items():  # those that were imported meanwhile stay
                if sys.modules.get(name) is not module:
                    sys.modules[name] = module
            for log, level, disabled, propagate, handlers in logs:
                if log.level != level:
                    log.setLevel(level)
                log.disabled, log.propagate, log.handlers[:] = disabled, propagate, handlers


def _settings() -> list[Setting]:
    found: list[Setting] = [
        *random_states(),
        (torch.get_default_dtype, torch.set_default_dtype),
        (torch.get_default_device, torch.set_default_device),
        (torch.is_grad_enabled, torch.set_grad_enabled),
        (torch.get_deterministic_debug_mode, torch.set_deterministic_debug_mode),
        (torch.get_num_threads, torch.set_num_threads),
        (torch.is_anomaly_enabled, torch.autograd.set_detect_anomaly),
        (torch.is_autocast_cache_enabled, torch.set_autocast_cache_enabled),
        (torch.backends.mha.get_fastpath_enabled, torch.backends.mha.set_fastpath_enabled),
        (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
        (np.geterr, lambda old: np.seterr(**old)),
        (lambda: dict(os.environ), _put_environment),
        (sys.getrecursionlimit, sys.setrecursionlimit),
    ]
    for device in ("cpu", "cuda"):
        found += [
            (lambda d=device: torch.is_autocast_enabled(d),
             lambda on, d=device: torch.set_autocast_enabled(d, on)),
            (lambda d=device: torch.get_autocast_dtype(d),
             lambda kind, d=device: torch.set_autocast_dtype(d, kind)),
        ]
    found += [(lambda n=name: getattr(torch.backends.cudnn, n),
               lambda old, n=name: setattr(torch.backends.cudnn, n, old))
              for name in ("enabled", "benchmark", "deterministic")]
    sdp: Any = torch.backends.cuda
    found += [(getattr(sdp, f"{name}_sdp_enabled"), getattr(sdp, f"enable_{name}_sdp"))
              for name in ("flash", "mem_efficient", "math", "cudnn")]
    return found


def random_states() -> list[Setting]:
    """The generators of random numbers that everybody uses."""
    found: list[Setting] = [(torch.get_rng_state, torch.set_rng_state),
                            (np.random.get_state, np.random.set_state),
                            (random.getstate, random.setstate)]
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        found.append((torch.cuda.get_rng_state_all, torch.cuda.set_rng_state_all))
    return found


def drawn() -> Callable[[], bool]:
    """Whether random numbers are drawn from now on: a question to ask later."""
    before = [read() for read, _ in random_states()]
    return lambda: not all(_same(read(), old) for (read, _), old in
                           zip(random_states(), before, strict=False))


def _same(now: Any, before: Any) -> bool:
    if isinstance(now, Tensor):
        return torch.equal(now, before)
    if isinstance(now, np.ndarray):
        return bool(np.array_equal(now, before))
    if isinstance(now, (list, tuple)):
        return len(now) == len(before) and all(map(_same, now, before))
    return bool(now == before)


def _loggers() -> list[logging.Logger]:
    named = (log for log in logging.root.manager.loggerDict.values()
             if isinstance(log, logging.Logger))
    return [logging.root, *named]


def _put_environment(before: dict[str, str]) -> None:
    for name in set(os.environ) - set(before):
        del os.environ[name]
    os.environ.update(before)
